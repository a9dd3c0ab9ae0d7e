//! Progress of a feed, for warnings.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a feed that holds entries may get none of them done before it is reported.
const STANDSTILL_MAX: Duration = Duration::from_secs(60);

/// Progress of a feed.
#[derive(Debug)]
pub(in crate::relay) struct FeedStatus {
    held: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    progress_at: Instant,
    failure: Option<String>,
}

impl Default for FeedStatus {
    fn default() -> Self {
        let state = State { progress_at: Instant::now(), failure: None };
        Self { held: AtomicUsize::new(0), state: Mutex::new(state) }
    }
}

impl FeedStatus {
    /// Sets how many entries it holds.
    pub(super) fn set_held(&self, entries: usize) {
        if self.held.swap(entries, Ordering::Relaxed) == 0 && entries > 0 {
            self.note_progress();
        }
    }

    /// Notes that an entry was done.
    pub(super) fn note_progress(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.progress_at = Instant::now();
    }

    /// Notes what the last attempt failed with.
    pub(super) fn note_failure(&self, failure: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.failure = Some(failure.to_owned());
    }

    /// Returns for how long nothing was done, if that is long, and the last failure.
    pub(in crate::relay) fn standstill(&self) -> Option<(Duration, Option<String>)> {
        if self.held.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let still = state.progress_at.elapsed();
        (still >= STANDSTILL_MAX).then(|| (still, state.failure.clone()))
    }
}
