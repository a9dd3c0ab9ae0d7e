//! The memory of requests that are still incomplete, bounded for all callers together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::Refusal;
use crate::telemetry::metrics::{self, Bound};

/// Memory for incomplete requests, if the process's limit allows it.
const DEFAULT_MAX_BYTES: usize = 32 * 1024 * 1024;

/// The share of the process's limit that incomplete requests may use, as its denominator.
const SHARE_OF_LIMIT: u64 = 16;

/// Counts the bytes of incomplete requests. Clones share the count.
#[derive(Clone, Debug)]
pub struct RequestBytes {
    used: Arc<AtomicUsize>,
    max: usize,
}

impl RequestBytes {
    /// Creates a budget of 32 MiB, or a sixteenth of the process's memory limit if that is less.
    pub fn new(memory_limit: Option<u64>) -> Self {
        let share = memory_limit.and_then(|limit| usize::try_from(limit / SHARE_OF_LIMIT).ok());
        let max = share.map_or(DEFAULT_MAX_BYTES, |share| share.min(DEFAULT_MAX_BYTES));
        Self { used: Arc::default(), max }
    }

    /// Begins the count of a request.
    pub fn begin(&self) -> HeldBytes {
        HeldBytes { budget: self.clone(), held: 0 }
    }
}

/// The bytes of one incomplete request. Dropping it gives them back.
#[derive(Debug)]
pub struct HeldBytes {
    budget: RequestBytes,
    held: usize,
}

impl HeldBytes {
    /// Takes more bytes.
    ///
    /// # Errors
    ///
    /// [`Refusal::Overloaded`], which is counted, if all requests together hold too many.
    pub fn add(&mut self, bytes: usize) -> Result<(), Refusal> {
        let RequestBytes { used, max } = &self.budget;
        let before = used.fetch_add(bytes, Ordering::Relaxed);
        self.held += bytes;
        if before + bytes <= *max {
            return Ok(());
        }
        metrics::count_refused(Bound::RequestBytes);
        self.release();
        Err(Refusal::Overloaded)
    }

    /// Gives the bytes back.
    pub fn release(&mut self) {
        if self.held > 0 {
            self.budget.used.fetch_sub(self.held, Ordering::Relaxed);
            self.held = 0;
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_share_a_budget_and_give_it_back() {
        let budget = RequestBytes::new(Some(16 * 100));
        let [mut first, mut second] = [budget.begin(), budget.begin()];
        assert_eq!(first.add(60), Ok(()));
        assert_eq!(second.add(40), Ok(()));
        assert_eq!(second.add(1), Err(Refusal::Overloaded));
        // What was refused holds nothing more.
        assert_eq!(first.add(40), Ok(()));
        drop(first);
        assert_eq!(second.add(100), Ok(()));
    }

    #[test]
    fn the_budget_is_32_mib_or_a_sixteenth_of_the_limit() {
        let max = |limit| RequestBytes::new(limit).max;
        assert_eq!(max(None), 32 << 20);
        assert_eq!(max(Some(8 << 30)), 32 << 20);
        assert_eq!(max(Some(64 << 20)), 4 << 20);
    }
}
