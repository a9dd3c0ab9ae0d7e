//! The memory that the process may use: its own setting, and the limits of its cgroups, of either version.

use std::fs::read_to_string;

use crate::net::cgroup::{self, Folder, Version};

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
        let cgroup = least_limit(&cgroup::folders("memory"));
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

/// Returns the least limit of these cgroups.
fn least_limit(folders: &[Folder]) -> Option<u64> {
    folders.iter().filter_map(limit_of).min()
}

fn limit_of(folder: &Folder) -> Option<u64> {
    // `max` is not a number.
    let limit = folder.read(match folder.version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    })?;
    limit.trim().parse().ok().filter(|bytes| *bytes < UNLIMITED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::cgroup::fake::{V2, read};

    fn limit(cgroups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<u64> {
        read("memory", cgroups, mounts, files, least_limit)
    }

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
