//! The memory that the process may use: its own setting, and the limits of its cgroups, of either version.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// From here on a limit of version 1 means none: the kernel's "unlimited" is the greatest multiple of a
/// page in 63 bits.
const UNLIMITED: u64 = 1 << 62;

/// A limit, and what set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimit {
    /// The limit, in bytes.
    pub bytes: u64,
    /// What set it.
    pub source: LimitSource,
}

/// What sets a memory limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// `--memory-limit`.
    Flag,
    /// A cgroup of the process, or one above it.
    Cgroup,
    /// The machine has no more. It counts only where the flag asks for more.
    Machine,
}

impl MemoryLimit {
    /// Returns the least of `--memory-limit` and the limits of all cgroups of the process, or `None` if
    /// there is none.
    pub fn find(flag: Option<u64>) -> Option<Self> {
        let cgroup = cgroup_limit("/proc/self/cgroup", "/proc/self/mountinfo");
        Self::least(flag, cgroup, machine_bytes())
    }

    fn least(flag: Option<u64>, cgroup: Option<u64>, machine: Option<u64>) -> Option<Self> {
        let machine = machine.filter(|_| flag.is_some());
        [(flag, LimitSource::Flag), (cgroup, LimitSource::Cgroup), (machine, LimitSource::Machine)]
            .into_iter()
            .filter_map(|(bytes, source)| Some(Self { bytes: bytes?, source }))
            .min_by_key(|limit| limit.bytes)
    }
}

/// Returns the memory of the machine.
fn machine_bytes() -> Option<u64> {
    let page = read_to_string("/proc/meminfo").ok()?;
    kib_of(&page, "MemTotal:").map(|kib| kib * 1024)
}

/// Returns the number in a line such as `MemTotal:  16 kB`.
pub(super) fn kib_of(page: &str, name: &str) -> Option<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns the least limit of the cgroups that a process is in, and of all above them.
fn cgroup_limit(cgroups: impl AsRef<Path>, mounts: impl AsRef<Path>) -> Option<u64> {
    let (cgroups, mounts) = (read_to_string(cgroups).ok()?, read_to_string(mounts).ok()?);
    let mounts: Vec<_> = mounts.lines().filter_map(Mount::parse).collect();
    let hierarchies = cgroups.lines().filter_map(Hierarchy::parse);
    hierarchies.flat_map(|hierarchy| hierarchy.limits(&mounts)).min()
}

/// A hierarchy of cgroups that limits memory, as in a line of `/proc/self/cgroup`.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy<'a> {
    version: Version,
    path: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

impl Version {
    fn limit_file(self) -> &'static str {
        match self {
            Self::V1 => "memory.limit_in_bytes",
            Self::V2 => "memory.max",
        }
    }
}

impl<'a> Hierarchy<'a> {
    /// Parses `0::/path` (version 2), or `4:cpu,memory:/path` (version 1).
    fn parse(line: &'a str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match (id, controllers) {
            ("0", "") => Version::V2,
            _ if controllers.split(',').any(|name| name == "memory") => Version::V1,
            _ => return None,
        };
        Some(Self { version, path })
    }

    /// Returns the limits of the cgroup and of those above it, as far as they are mounted.
    fn limits(&self, mounts: &[Mount]) -> Vec<u64> {
        let mounts = mounts.iter().filter(|mount| mount.version == self.version);
        mounts.flat_map(|mount| mount.folders(self.path)).filter_map(|at| self.limit(&at)).collect()
    }

    fn limit(&self, folder: &Path) -> Option<u64> {
        // `max` is not a number.
        let limit = read_to_string(folder.join(self.version.limit_file())).ok()?;
        limit.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
    }
}

/// A mounted hierarchy, as in a line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The cgroup that is mounted.
    root: PathBuf,
    /// Where it is mounted.
    point: PathBuf,
}

impl Mount {
    /// Parses `36 35 98:0 <root> <mount point> <options> … - <type> <source> <super options>`.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let version = match (system.next()?, system.nth(1)?) {
            ("cgroup2", _) => Version::V2,
            ("cgroup", options) if options.split(',').any(|name| name == "memory") => Version::V1,
            _ => return None,
        };
        let mut mount = mount.split(' ').skip(3).map(unescape);
        Some(Self { version, root: mount.next()?, point: mount.next()? })
    }

    /// Returns the folders of a cgroup and of those above it. In a container, the cgroup may be outside of
    /// what is mounted, which then is the container's own.
    fn folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let inside = Path::new(cgroup).strip_prefix(&self.root).unwrap_or(Path::new(""));
        let inside: PathBuf =
            if inside.components().all(|part| matches!(part, Component::Normal(_))) {
                inside.to_owned()
            } else {
                PathBuf::new()
            };
        inside.ancestors().map(|above| self.point.join(above)).collect()
    }
}

/// Replaces `\040` and its like, as mountinfo writes spaces, tabs, line feeds and backslashes.
fn unescape(path: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    escapes.iter().fold(path.to_owned(), |path, (from, to)| path.replace(from, to)).into()
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;

    /// A machine with these lines in `/proc/self`, where `{}` is the folder of the cgroups' files.
    fn limit(cgroups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        for (file, limit) in files {
            let file = dir.path().join(file);
            create_dir_all(file.parent().unwrap()).unwrap();
            write(file, limit).unwrap();
        }
        let [cgroup_file, mount_file] = ["cgroup", "mountinfo"].map(|name| dir.path().join(name));
        write(&cgroup_file, cgroups).unwrap();
        write(&mount_file, mounts.replace("{}", root)).unwrap();
        cgroup_limit(&cgroup_file, &mount_file)
    }

    const V2: &str = "31 23 0:28 / {}/v2 rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    const V1: &str = "35 31 0:32 / {}/v1 rw,relatime - cgroup cgroup rw,memory\n";

    #[test]
    fn the_least_limit_of_all_ancestors_counts() {
        let files = [
            ("v2/memory.max", "max\n"),
            ("v2/a/memory.max", "3000\n"),
            ("v2/a/b/memory.max", "5000\n"),
            ("v2/a/b/c/memory.max", "max\n"),
            ("v2/a/b/d/memory.max", "1\n"),
        ];
        assert_eq!(limit("0::/a/b/c\n", V2, &files), Some(3000));
        assert_eq!(limit("0::/\n", V2, &files), None);
        let files = [
            ("v1/memory.limit_in_bytes", "9223372036854771712\n"),
            ("v1/a/memory.limit_in_bytes", "4000\n"),
            ("v1/a/b/memory.limit_in_bytes", "4611686018427387904\n"),
        ];
        assert_eq!(limit("4:cpu,memory:/a/b\n", V1, &files), Some(4000));
        assert_eq!(limit("4:memory:/\n", V1, &files), None);
    }

    #[test]
    fn both_versions_count_where_both_are_mounted() {
        let files = [("v2/a/memory.max", "7000"), ("v1/b/memory.limit_in_bytes", "6000")];
        let cgroups = "9:name=systemd:/x\n4:memory:/b\n1:cpu:/c\n0::/a\n";
        assert_eq!(limit(cgroups, &format!("{V1}{V2}"), &files), Some(6000));
        assert_eq!(limit(cgroups, V2, &files), Some(7000));
        // A hybrid machine mounts version 2 without the memory controller: there is no file.
        let files = [("v1/b/memory.limit_in_bytes", "6000"), ("v2/a/cgroup.procs", "")];
        assert_eq!(limit(cgroups, &format!("{V2}{V1}"), &files), Some(6000));
    }

    #[test]
    fn in_a_container_what_is_mounted_is_its_own() {
        let mount = "35 31 0:32 /pod/one {}/a\\040b rw - cgroup cgroup rw,memory\n";
        let files = [("a b/memory.limit_in_bytes", "6000"), ("a b/in/memory.limit_in_bytes", "50")];
        assert_eq!(limit("4:memory:/pod/one\n", mount, &files), Some(6000));
        assert_eq!(limit("4:memory:/pod/one/in\n", mount, &files), Some(50));
        assert_eq!(limit("4:memory:/elsewhere\n", mount, &files), Some(6000));
        assert_eq!(limit("4:memory:/pod/one/../../in\n", mount, &files), Some(6000));
    }

    #[test]
    fn the_least_of_the_flag_and_the_cgroups_counts() {
        let source = |flag, cgroup, machine| {
            MemoryLimit::least(flag, cgroup, machine).map(|limit| (limit.bytes, limit.source))
        };
        assert_eq!(source(None, None, Some(9)), None);
        assert_eq!(source(Some(5), None, Some(9)), Some((5, LimitSource::Flag)));
        assert_eq!(source(Some(5), Some(5), Some(9)), Some((5, LimitSource::Flag)));
        assert_eq!(source(Some(5), Some(4), Some(9)), Some((4, LimitSource::Cgroup)));
        assert_eq!(source(None, Some(10), Some(9)), Some((10, LimitSource::Cgroup)));
        assert_eq!(source(Some(10), None, Some(9)), Some((9, LimitSource::Machine)));
    }
}
