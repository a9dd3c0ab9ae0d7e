//! Keeps log lines that callers can cause from flooding the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Permits one line a minute.
#[derive(Debug, Default)]
pub struct LogThrottle {
    last_permitted: Mutex<Option<Instant>>,
    suppressed: AtomicU64,
}

impl LogThrottle {
    const INTERVAL: Duration = Duration::from_secs(60);

    /// Returns how many lines were suppressed since the last one, or `None` if this one is too.
    pub fn permit(&self) -> Option<u64> {
        let mut last = self.last_permitted.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < Self::INTERVAL) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        *last = Some(Instant::now());
        Some(self.suppressed.swap(0, Ordering::Relaxed))
    }
}
