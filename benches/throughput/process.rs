//! The CPU time and memory of a process on Linux.

use std::fs;

/// CPU time in seconds, of all running threads.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let ns: u64 = threads
        // A thread may end in the meantime.
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .map(|times| times.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    ns as f64 / 1e9
}

/// Resident memory, in bytes.
pub(crate) fn rss_bytes(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    1024 * kib
}
