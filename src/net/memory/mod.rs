//! The memory governor: holds the process's memory against its limit, and raises the pressure before the
//! kernel ends the process.
//!
//! It measures what the process itself has allocated (anonymous resident memory), never the usage of its
//! cgroup, which counts the page cache and neighbours.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, Read, Seek};
use std::thread;
use std::time::Duration;

use self::limit::kib_of;
pub use self::limit::{LimitSource, MemoryLimit};
use super::pressure::{MemoryPressure, Pressure};
use crate::telemetry::{LogThrottle, metrics};

mod limit;

/// Shares of the limit, in percent, past which the pressure rises, and under which it falls again.
const HIGH: Threshold = Threshold { rises: 80, falls: 75 };
const CRITICAL: Threshold = Threshold { rises: 90, falls: 85 };

/// Longest and shortest time between two measurements. One takes 30 µs.
const INTERVAL_MAX: Duration = Duration::from_millis(100);
const INTERVAL_MIN: Duration = Duration::from_millis(5);

/// Time between two measurements without a limit, which only a metric shows.
const UNLIMITED_INTERVAL: Duration = Duration::from_secs(5);

/// How fast memory may grow without an overshoot: on one core the kernel hands out, and clears, about this
/// many bytes a millisecond.
const GROWTH_BYTES_PER_MS: u64 = 2 * 1024 * 1024;

/// Size of a block that is given back under pressure. mimalloc returns pages to the system a second after
/// they were freed, but only looks when a large block is freed, which may not happen while every call is
/// refused.
const NUDGE_BYTES: usize = 8 * 1024 * 1024;

#[derive(Clone, Copy)]
struct Threshold {
    rises: u64,
    falls: u64,
}

impl Threshold {
    /// Returns whether memory is past the threshold, if it `was` before.
    fn is_past(self, used: u64, limit: u64, was: bool) -> bool {
        let percent = if was { self.falls } else { self.rises };
        used > limit / 100 * percent
    }
}

/// Returns the pressure of memory in use, after another pressure.
fn next_pressure(used: u64, limit: u64, before: Pressure) -> Pressure {
    if CRITICAL.is_past(used, limit, before >= Pressure::Critical) {
        Pressure::Critical
    } else if HIGH.is_past(used, limit, before >= Pressure::High) {
        Pressure::High
    } else {
        Pressure::Normal
    }
}

/// Returns how long memory may be left unmeasured: at most half of what it takes to reach the pressure.
fn interval(used: u64, limit: u64) -> Duration {
    let left = (limit / 100 * HIGH.rises).saturating_sub(used);
    Duration::from_millis(left / GROWTH_BYTES_PER_MS / 2).clamp(INTERVAL_MIN, INTERVAL_MAX)
}

/// Measures memory for ever, on a thread of its own, so that a busy runtime does not delay it.
///
/// # Errors
///
/// If memory cannot be measured, as on a system without `/proc`.
pub fn start(limit: Option<MemoryLimit>, pressure: MemoryPressure) -> io::Result<()> {
    let mut meter = Meter::open()?;
    meter.measure()?;
    let governor = move || run(&mut meter, limit, &pressure);
    thread::Builder::new().name("memory".to_owned()).spawn(governor)?;
    Ok(())
}

fn run(meter: &mut Meter, limit: Option<MemoryLimit>, pressure: &MemoryPressure) {
    let log = LogThrottle::default();
    metrics::set_memory_limit(limit.map_or(0, |limit| limit.bytes));
    loop {
        // It could be measured at the start; what fails later is tried again.
        let used = meter.measure().unwrap_or_default();
        metrics::set_memory_used(used);
        let Some(limit) = limit else {
            thread::sleep(UNLIMITED_INTERVAL);
            continue;
        };
        let before = pressure.now();
        let now = next_pressure(used, limit.bytes, before);
        if pressure.set(now) {
            tell(&log, now, used, limit);
        }
        if now > Pressure::Normal {
            drop(black_box(Vec::<u8>::with_capacity(NUDGE_BYTES)));
        }
        thread::sleep(interval(used, limit.bytes));
    }
}

/// Logs a change of the pressure, at most once a minute.
fn tell(log: &LogThrottle, pressure: Pressure, used_bytes: u64, limit: MemoryLimit) {
    let Some(suppressed) = log.permit() else { return };
    let limit_bytes = limit.bytes;
    match pressure {
        Pressure::Normal => {
            tracing::info!(used_bytes, limit_bytes, suppressed, "memory: calls are accepted again");
        }
        Pressure::High => tracing::warn!(
            used_bytes,
            limit_bytes,
            suppressed,
            "memory: past 80 % of the limit, new calls and connections are refused"
        ),
        Pressure::Critical => tracing::error!(
            used_bytes,
            limit_bytes,
            suppressed,
            "memory: past 90 % of the limit, idle connections and slow streams are ended"
        ),
    }
}

/// Reads the process's anonymous memory.
struct Meter {
    status: File,
    page: String,
}

impl Meter {
    fn open() -> io::Result<Self> {
        Ok(Self { status: File::open("/proc/self/status")?, page: String::new() })
    }

    /// Returns the anonymous resident memory, in bytes.
    fn measure(&mut self) -> io::Result<u64> {
        self.page.clear();
        self.status.rewind()?;
        self.status.read_to_string(&mut self.page)?;
        let kib = kib_of(&self.page, "RssAnon:").ok_or(io::ErrorKind::Unsupported)?;
        Ok(kib * 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pressure_rises_at_80_and_90_percent_and_falls_later() {
        use Pressure::{Critical, High, Normal};
        for (used, before, after) in [
            (800, Normal, Normal),
            (801, Normal, High),
            (751, High, High),
            (750, High, Normal),
            (900, High, High),
            (901, High, Critical),
            (901, Normal, Critical),
            (851, Critical, Critical),
            (850, Critical, High),
            (751, Critical, High),
            (750, Critical, Normal),
        ] {
            assert_eq!(next_pressure(used, 1000, before), after, "{used} after {before:?}");
        }
    }

    #[test]
    fn memory_is_measured_more_often_near_the_limit() {
        const MIB: u64 = 1024 * 1024;
        let limit = 1000 * MIB;
        assert_eq!(interval(100 * MIB, limit), INTERVAL_MAX);
        assert_eq!(interval(700 * MIB, limit), Duration::from_millis(25));
        assert_eq!(interval(799 * MIB, limit), INTERVAL_MIN);
        assert_eq!(interval(2000 * MIB, limit), INTERVAL_MIN);
    }

    #[test]
    fn what_is_measured_is_what_was_allocated() {
        let mut meter = Meter::open().unwrap();
        let before = meter.measure().unwrap();
        let block = black_box(vec![1u8; 64 << 20]);
        let grown = meter.measure().unwrap() - before;
        assert!((60 << 20..200 << 20).contains(&grown), "{grown}");
        drop(block);
    }
}
