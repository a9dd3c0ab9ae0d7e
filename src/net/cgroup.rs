//! The cgroups that the process is in, of either version, and those above them.

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// A version of cgroups. A hybrid machine has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// The folder of a cgroup, with the files that set its limits.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Folder {
    pub(super) version: Version,
    path: PathBuf,
}

impl Folder {
    /// Reads a file of this cgroup, if there is one.
    pub(super) fn read(&self, file: &str) -> Option<String> {
        read_to_string(self.path.join(file)).ok()
    }
}

/// Returns the folders of the cgroups that limit this process with a controller, such as `memory`, and of
/// all above them, as far as they are mounted.
pub(super) fn folders(controller: &str) -> Vec<Folder> {
    folders_in(controller, "/proc/self/cgroup", "/proc/self/mountinfo")
}

fn folders_in(
    controller: &str,
    cgroups: impl AsRef<Path>,
    mounts: impl AsRef<Path>,
) -> Vec<Folder> {
    let (Ok(cgroups), Ok(mounts)) = (read_to_string(cgroups), read_to_string(mounts)) else {
        return Vec::new();
    };
    let mounts: Vec<_> = mounts.lines().filter_map(|line| Mount::parse(line, controller)).collect();
    let hierarchies = cgroups.lines().filter_map(|line| Hierarchy::parse(line, controller));
    hierarchies.flat_map(|hierarchy| hierarchy.folders(&mounts)).collect()
}

/// A hierarchy of cgroups that has the controller, as in a line of `/proc/self/cgroup`.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy<'a> {
    version: Version,
    path: &'a str,
}

impl<'a> Hierarchy<'a> {
    /// Parses `0::/path` (version 2), or `4:cpu,memory:/path` (version 1).
    fn parse(line: &'a str, controller: &str) -> Option<Self> {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let version = match (id, controllers) {
            ("0", "") => Version::V2,
            _ if controllers.split(',').any(|name| name == controller) => Version::V1,
            _ => return None,
        };
        Some(Self { version, path })
    }

    /// Returns the folders of the cgroup and of those above it, as far as they are mounted.
    fn folders(&self, mounts: &[Mount]) -> Vec<Folder> {
        let version = self.version;
        let mounts = mounts.iter().filter(|mount| mount.version == version);
        let paths = mounts.flat_map(|mount| mount.folders(self.path));
        paths.map(|path| Folder { version, path }).collect()
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
    fn parse(line: &str, controller: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        let version = match (system.next()?, system.nth(1)?) {
            ("cgroup2", _) => Version::V2,
            ("cgroup", options) if options.split(',').any(|name| name == controller) => Version::V1,
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

/// A machine of a unit test: its files, and the mount lines of its hierarchies.
#[cfg(test)]
pub(super) mod fake {
    use std::fs::{create_dir_all, write};

    use super::Folder;

    pub(in crate::net) const V2: &str =
        "31 23 0:28 / {}/v2 rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    /// Returns what `read` reads from the folders of a process, on a machine with these lines in
    /// `/proc/self`, where `{}` is the folder of the cgroups' files.
    pub(in crate::net) fn read<T>(
        controller: &str,
        cgroups: &str,
        mounts: &str,
        files: &[(&str, &str)],
        read: impl FnOnce(&[Folder]) -> T,
    ) -> T {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        for (file, text) in files {
            let file = dir.path().join(file);
            create_dir_all(file.parent().unwrap()).unwrap();
            write(file, text).unwrap();
        }
        let [cgroup_file, mount_file] = ["cgroup", "mountinfo"].map(|name| dir.path().join(name));
        write(&cgroup_file, cgroups).unwrap();
        write(&mount_file, mounts.replace("{}", root)).unwrap();
        read(&super::folders_in(controller, &cgroup_file, &mount_file))
    }
}
