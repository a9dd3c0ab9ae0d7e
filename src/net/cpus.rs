//! The number of worker threads: the setting, or the CPUs that the process may use.

use std::num::NonZero;
use std::thread::available_parallelism;

use super::cgroup::{self, Folder, Version};

/// Most worker threads. Each has a connection to Redis, whose one thread cannot serve more.
pub const WORKER_THREADS_MAX: usize = 16;

/// A number of worker threads, and what set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerCount {
    /// The number, from 1 to [`WORKER_THREADS_MAX`].
    pub threads: usize,
    /// What set it, for the log.
    pub source: &'static str,
}

impl WorkerCount {
    /// Returns the setting; without one, the CPUs that the least quota of the process's cgroups allows. A
    /// process without a quota shares its machine with others, such as Redis: it gets one thread.
    pub fn find(flag: Option<usize>) -> Self {
        let quota = least_quota(&cgroup::folders("cpu"));
        Self::choose(flag, quota, available_parallelism().map_or(1, NonZero::get))
    }

    /// `affinity` is the number of CPUs on which the process may run.
    fn choose(flag: Option<usize>, quota: Option<usize>, affinity: usize) -> Self {
        let (threads, source) = match (flag, quota) {
            (Some(threads), _) => (threads, "--worker-threads"),
            (None, Some(quota)) if affinity < quota => (affinity, "CPU affinity"),
            (None, Some(quota)) => (quota, "CPU quota"),
            (None, None) => (1, "no CPU quota"),
        };
        Self { threads: threads.clamp(1, WORKER_THREADS_MAX), source }
    }
}

/// Returns the least quota of these cgroups, in CPUs, rounded down.
fn least_quota(folders: &[Folder]) -> Option<usize> {
    folders.iter().filter_map(quota_of).min()
}

fn quota_of(folder: &Folder) -> Option<usize> {
    let (quota, period) = match folder.version {
        Version::V1 => (folder.read("cpu.cfs_quota_us")?, folder.read("cpu.cfs_period_us")?),
        Version::V2 => {
            let limit = folder.read("cpu.max")?;
            let (quota, period) = limit.split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
    };
    // Without a quota it is -1 or `max`.
    let (quota, period): (usize, usize) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    quota.checked_div(period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::cgroup::fake::{V2, read};

    const V1: &str = "32 31 0:29 / {}/v1 rw,relatime - cgroup cgroup rw,cpu,cpuacct\n";

    fn quota(cgroups: &str, mounts: &str, files: &[(&str, &str)]) -> Option<usize> {
        read("cpu", cgroups, mounts, files, least_quota)
    }

    #[test]
    fn a_quota_of_version_2_is_rounded_down() {
        for (limit, cpus) in [
            ("max 100000\n", None),
            ("200000 100000\n", Some(2)),
            ("150000 100000\n", Some(1)),
            ("299999 100000\n", Some(2)),
            ("50000 100000\n", Some(0)),
            ("400000 50000\n", Some(8)),
            ("100000 0\n", None),
            ("100000\n", None),
            ("", None),
        ] {
            assert_eq!(quota("0::/a\n", V2, &[("v2/a/cpu.max", limit)]), cpus, "{limit:?}");
        }
    }

    #[test]
    fn a_quota_of_version_1_is_rounded_down() {
        for (quota_us, period_us, cpus) in [
            ("-1\n", "100000\n", None),
            ("250000\n", "100000\n", Some(2)),
            ("1000000\n", "500000\n", Some(2)),
            ("50000\n", "100000\n", Some(0)),
            ("250000\n", "0\n", None),
        ] {
            let files =
                [("v1/a/cpu.cfs_quota_us", quota_us), ("v1/a/cpu.cfs_period_us", period_us)];
            assert_eq!(quota("2:cpu,cpuacct:/a\n", V1, &files), cpus, "{quota_us}/{period_us}");
        }
        assert_eq!(quota("2:cpu:/a\n", V1, &[("v1/a/cpu.cfs_quota_us", "250000\n")]), None);
    }

    #[test]
    fn the_least_quota_of_all_ancestors_counts() {
        let files = [
            ("v2/a/cpu.max", "300000 100000\n"),
            ("v2/a/b/cpu.max", "500000 100000\n"),
            ("v2/a/b/c/cpu.max", "max 100000\n"),
            ("v2/a/b/d/cpu.max", "100000 100000\n"),
        ];
        assert_eq!(quota("0::/a/b/c\n", V2, &files), Some(3));
        assert_eq!(quota("0::/\n", V2, &files), None);
    }

    #[test]
    fn both_versions_count_where_both_are_mounted() {
        let files = [
            ("v2/a/cpu.max", "700000 100000\n"),
            ("v1/b/cpu.cfs_quota_us", "600000\n"),
            ("v1/b/cpu.cfs_period_us", "100000\n"),
        ];
        let cgroups = "4:memory:/x\n3:cpuset:/y\n2:cpu,cpuacct:/b\n0::/a\n";
        assert_eq!(quota(cgroups, &format!("{V1}{V2}"), &files), Some(6));
        assert_eq!(quota(cgroups, V2, &files), Some(7));
        assert_eq!(quota(cgroups, V1, &files), Some(6));
        assert_eq!(quota(cgroups, "", &files), None);
    }

    #[test]
    fn the_flag_counts_then_the_quota_then_one() {
        let choose = |flag, quota, affinity| {
            let WorkerCount { threads, source } = WorkerCount::choose(flag, quota, affinity);
            (threads, source)
        };
        assert_eq!(choose(None, None, 64), (1, "no CPU quota"));
        assert_eq!(choose(None, Some(0), 64), (1, "CPU quota"));
        assert_eq!(choose(None, Some(4), 64), (4, "CPU quota"));
        assert_eq!(choose(None, Some(4), 2), (2, "CPU affinity"));
        assert_eq!(choose(None, Some(64), 64), (16, "CPU quota"));
        assert_eq!(choose(Some(3), Some(1), 1), (3, "--worker-threads"));
    }
}
