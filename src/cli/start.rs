//! Warnings at the start about bounds that the system cannot hold, with the figure that it can.

use std::fs::read_to_string;

use crate::net::memory::{LimitSource, MemoryLimit};

/// File descriptors besides the connections of calls: the operators' port, Redis, files, and what the
/// runtimes need.
const RESERVED_DESCRIPTORS: u64 = 128;

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
}
