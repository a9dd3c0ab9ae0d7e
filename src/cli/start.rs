//! Warnings at the start about bounds that the system cannot hold, with the figure that it can.

use std::fs::read_to_string;

use crate::net::memory::{LimitSource, MemoryLimit};

/// File descriptors besides the connections of calls: the operators' port, Redis, files, and what the
/// runtimes need.
const RESERVED_DESCRIPTORS: u64 = 128;

/// Memory that an idle connection takes after its first call (`docs/performance.md`).
const IDLE_CONNECTION_BYTES: u64 = 40_000;

/// Warns if there are fewer file descriptors than connections may be open.
pub(super) fn warn_about_descriptors(connections: usize) {
    let limit = read_to_string("/proc/self/limits").ok().as_deref().and_then(open_files);
    let Some(limit) = limit else { return };
    if let Some(connections) = connections_that_fit(connections, limit) {
        tracing::warn!(
            "--max-connections needs more file descriptors than the limit of {limit} (ulimit -n): \
             {connections} would fit"
        );
    }
}

/// Warns if `--memory-limit` is more than there is.
pub(super) fn warn_about_memory(flag: Option<u64>, limit: Option<MemoryLimit>) {
    let Some(MemoryLimit { bytes, source }) = limit else { return };
    let source = match source {
        LimitSource::Flag => return,
        LimitSource::Cgroup => "its cgroup allows",
        LimitSource::Machine => "the machine has",
    };
    if flag.is_some() {
        tracing::warn!("--memory-limit is more than {source}: the limit is {bytes} bytes");
    }
}

/// Warns if memory cannot hold as many idle connections as may be open.
pub(super) fn warn_about_connection_memory(connections: usize, limit: Option<MemoryLimit>) {
    let Some(MemoryLimit { bytes, .. }) = limit else { return };
    if let Some(connections) = idle_connections_that_fit(connections, bytes) {
        tracing::warn!(
            "--max-connections idle connections need more memory than the limit of {bytes} bytes: \
             {connections} would fit into half of it"
        );
    }
}

/// Returns the soft limit in a page as `/proc/self/limits`; `None` if there is none.
fn open_files(page: &str) -> Option<u64> {
    let line = page.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Returns how many connections fit into a limit of descriptors, if that is fewer than wanted.
fn connections_that_fit(wanted: usize, descriptors: u64) -> Option<u64> {
    let fit = descriptors.saturating_sub(RESERVED_DESCRIPTORS);
    u64::try_from(wanted).is_ok_and(|wanted| wanted > fit).then_some(fit)
}

/// Returns how many idle connections fit into half of a limit of memory, if as many as wanted do not even
/// fit into the part in which calls are accepted, four fifths.
fn idle_connections_that_fit(wanted: usize, memory_bytes: u64) -> Option<u64> {
    let wanted = u64::try_from(wanted).unwrap_or(u64::MAX);
    let is_too_little = wanted.saturating_mul(IDLE_CONNECTION_BYTES) > memory_bytes / 5 * 4;
    is_too_little.then_some(memory_bytes / 2 / IDLE_CONNECTION_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_found() {
        let page = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             96447                96447                processes \n\
                    Max open files            1024                 1048576              files     \n";
        assert_eq!(open_files(page), Some(1024));
        assert_eq!(open_files("Max open files            unlimited   unlimited   files"), None);
        assert!(open_files(&read_to_string("/proc/self/limits").unwrap()).is_some());
    }

    #[test]
    fn the_figure_that_fits_leaves_a_reserve() {
        assert_eq!(connections_that_fit(10_000, 1024), Some(896));
        assert_eq!(connections_that_fit(896, 1024), None);
        assert_eq!(connections_that_fit(897, 1024), Some(896));
        assert_eq!(connections_that_fit(1, 100), Some(0));
    }

    #[test]
    fn idle_connections_are_held_against_the_memory() {
        assert_eq!(idle_connections_that_fit(10_000, 500_000_000), None);
        assert_eq!(idle_connections_that_fit(10_001, 500_000_000), Some(6_250));
        assert_eq!(idle_connections_that_fit(10_000, 64 << 20), Some(838));
        assert_eq!(idle_connections_that_fit(usize::MAX, u64::MAX / 2), Some(u64::MAX / 160_000));
    }
}
