//! Bounds that the system sets to the flags, with a warning that says what holds.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::net::memory::{LimitSource, MemoryLimit};

/// File descriptors besides the connections of calls: 64 connections of the operators' port, those to
/// a collector and for a JWK set, files, and what the runtimes need.
const RESERVED_DESCRIPTORS: u64 = 122;

/// File descriptors of each worker thread but the first: its runtime's.
const WORKER_DESCRIPTORS: u64 = 6;

/// File descriptors of each connection to Redis: its own, and that of the one that replaces it.
const REDIS_CONNECTION_DESCRIPTORS: u64 = 2;

/// Memory that an idle connection takes after its first call (`docs/performance.md`).
const IDLE_CONNECTION_BYTES: u64 = 23_000;

/// Raises the limit of file descriptors as far as `--max-connections` needs. Returns how many connections
/// may be open: fewer if the hard limit is lower, with a warning, so that the operators' port and Redis
/// can always be reached.
pub(super) fn fit_descriptors(
    connections: usize,
    worker_threads: usize,
    redis_connections: usize,
) -> usize {
    let reserved = reserved_descriptors(worker_threads, redis_connections);
    let Some(limit) = raise_descriptors(connections, reserved) else { return connections };
    let fit = connections_that_fit(limit, reserved);
    if fit < connections {
        tracing::warn!(
            "--max-connections needs more file descriptors than the limit of {limit} (ulimit -Hn): \
             at most {fit} connections are open at a time"
        );
    }
    fit.min(connections)
}

fn reserved_descriptors(worker_threads: usize, redis_connections: usize) -> u64 {
    let workers = u64::try_from(worker_threads.saturating_sub(1)).unwrap_or(u64::MAX);
    let redis = u64::try_from(redis_connections).unwrap_or(u64::MAX);
    RESERVED_DESCRIPTORS
        .saturating_add(workers.saturating_mul(WORKER_DESCRIPTORS))
        .saturating_add(redis.saturating_mul(REDIS_CONNECTION_DESCRIPTORS))
}

/// Raises the soft limit of file descriptors as far as needed and allowed. Returns it; `None` is no limit.
fn raise_descriptors(connections: usize, reserved: u64) -> Option<u64> {
    let needed = u64::try_from(connections).unwrap_or(u64::MAX).saturating_add(reserved);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let soft = current.filter(|soft| *soft < needed)?;
    let raised = maximum.map_or(needed, |hard| hard.min(needed));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => Some(raised),
        Err(_) => Some(soft),
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

/// Returns how many connections a limit of descriptors allows. Of a very low one they get half.
fn connections_that_fit(descriptors: u64, reserved: u64) -> usize {
    let reserve = reserved.min(descriptors / 2);
    usize::try_from(descriptors - reserve).unwrap_or(usize::MAX)
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
    fn connections_leave_a_reserve_of_descriptors() {
        for (descriptors, worker_threads, redis_connections, connections) in [
            (20_000, 1, 3, 19_872),
            (20_000, 16, 18, 19_752),
            (20_000, 16, 82, 19_624),
            (1024, 1, 3, 896),
            (1024, 4, 6, 872),
            (256, 1, 3, 128),
            (100, 1, 3, 50),
            (0, 1, 3, 0),
        ] {
            let reserved = reserved_descriptors(worker_threads, redis_connections);
            let fit = connections_that_fit(descriptors, reserved);
            assert_eq!(fit, connections, "{descriptors}, {worker_threads}, {redis_connections}");
        }
    }

    #[test]
    fn idle_connections_are_held_against_the_memory() {
        assert_eq!(idle_connections_that_fit(10_000, 287_500_000), None);
        assert_eq!(idle_connections_that_fit(10_001, 287_500_000), Some(6_250));
        assert_eq!(idle_connections_that_fit(10_000, 64 << 20), Some(1_458));
        assert_eq!(idle_connections_that_fit(usize::MAX, u64::MAX / 2), Some(u64::MAX / 92_000));
    }
}
