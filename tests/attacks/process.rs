//! What the server's process uses, as Linux tells it.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Past this the server is killed, so that it does not take the machine's memory.
const CAP_BYTES: u64 = 3 << 30;

const PERIOD: Duration = Duration::from_millis(10);

/// Anonymous resident memory in bytes, or `None` when the process has ended.
pub(crate) fn anonymous_bytes(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:"))?;
    Some(1024 * line.split_whitespace().nth(1)?.parse::<u64>().ok()?)
}

/// CPU time in seconds, of all running threads; 0 when the process has ended.
pub(crate) fn cpu_seconds(process: u32) -> f64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) else { return 0.0 };
    let ns: u64 = threads
        // A thread may end in the meantime.
        .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
        .map(|times| times.split(' ').next().unwrap().parse::<u64>().unwrap())
        .sum();
    ns as f64 / 1e9
}

/// Follows CPU time, in cores.
pub(crate) struct CpuWatch {
    process: u32,
    began: Instant,
    seconds: f64,
}

impl CpuWatch {
    pub(crate) fn start(process: u32) -> Self {
        Self { process, began: Instant::now(), seconds: cpu_seconds(process) }
    }

    /// The cores that were busy since the start, or the last call; 0 if the process has ended.
    pub(crate) fn take_cores(&mut self) -> f64 {
        let before = std::mem::replace(self, Self::start(self.process));
        let used = (self.seconds - before.seconds).max(0.0);
        used / before.began.elapsed().as_secs_f64()
    }
}

#[derive(Default)]
struct Shared {
    peak: AtomicU64,
    stop: AtomicBool,
    killed: AtomicBool,
}

/// A thread that follows the memory of the server.
pub(crate) struct MemoryWatch {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl MemoryWatch {
    pub(crate) fn start(process: u32) -> Self {
        let shared = Arc::<Shared>::default();
        let seen = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !seen.stop.load(Relaxed) {
                let Some(bytes) = anonymous_bytes(process) else { return };
                seen.peak.fetch_max(bytes, Relaxed);
                if bytes > CAP_BYTES {
                    seen.killed.store(true, Relaxed);
                    let _ = kill(Pid::from_raw(process.try_into().unwrap()), Signal::SIGKILL);
                    return;
                }
                thread::sleep(PERIOD);
            }
        });
        Self { shared, thread }
    }

    /// The most since the last call.
    pub(crate) fn take_peak(&self) -> u64 {
        self.shared.peak.swap(0, Relaxed)
    }

    /// Whether the process was killed here.
    pub(crate) fn has_killed(&self) -> bool {
        self.shared.killed.load(Relaxed)
    }

    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().unwrap();
    }
}
