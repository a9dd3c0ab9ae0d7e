//! One partition's log, with what reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

use super::backlog::Backlog;
use super::join_all::join_all;
use super::lag::{Absence, Origin, Place};
use super::{BOUNDS_TIMEOUT, Hub, WatchError, within};
use crate::chance::watch;
use crate::domain::{AHEAD_MAX_SECONDS, Start};
use crate::store::{EventLog, LogBounds, Resumption, StoreError};

/// How long a watch that opens waits for one of several logs. It goes on without those that take longer.
const OPENING_MAX: Duration = Duration::from_millis(500);

/// Time between two looks whether any log is read.
const READING_INTERVAL: Duration = Duration::from_millis(20);

/// The log of a partition.
pub(super) struct Feed {
    pub(super) log: Arc<dyn EventLog>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) health: watch::Sender<Health>,
    bounds: SharedBounds,
}

/// Whether a log is read, and whether its last read failed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Health {
    pub(super) is_reading: bool,
    pub(super) is_failing: bool,
}

/// Reads of a log's bounds that callers share who come at the same time.
#[derive(Default)]
struct SharedBounds {
    /// How many were begun.
    begun: AtomicU64,
    /// The last one and its number. Held by whoever reads.
    last: Mutex<Option<(u64, Result<LogBounds, StoreError>)>>,
}

impl SharedBounds {
    /// Reads the bounds, or takes those of a read that was begun since this call.
    async fn read(&self, log: &dyn EventLog) -> Result<LogBounds, StoreError> {
        let known = self.begun.load(Ordering::Relaxed);
        let mut last = self.last.lock().await;
        if let Some((number, bounds)) = &*last
            && *number > known
        {
            return bounds.clone();
        }
        let number = 1 + self.begun.fetch_add(1, Ordering::Relaxed);
        let bounds = log.bounds().await;
        *last = Some((number, bounds.clone()));
        bounds
    }
}

impl Feed {
    pub(super) fn new(log: Arc<dyn EventLog>, reads: Arc<Semaphore>) -> Self {
        let backlog = Arc::new(Backlog::new(Arc::clone(&log), reads));
        Self { log, backlog, health: watch::Sender::default(), bounds: SharedBounds::default() }
    }
}

impl Hub {
    pub(super) async fn bounds(&self, log: usize) -> Result<LogBounds, StoreError> {
        within(BOUNDS_TIMEOUT, self.logs[log].log.bounds()).await
    }

    /// Returns whether a log can be read now, as far as is known. The only one always counts as such.
    pub(super) fn is_served(&self, log: usize) -> bool {
        let Health { is_reading, is_failing } = *self.logs[log].health.borrow();
        self.logs.len() == 1 || (is_reading && !is_failing)
    }

    /// Waits until the log is read. Of several logs, until one is read, and for a moment for each other.
    pub(super) async fn await_logs(&self) {
        if let [only] = &self.logs[..] {
            let _ = only.health.subscribe().wait_for(|health| health.is_reading).await;
            return;
        }
        let all = join_all(self.logs.iter().map(async |feed| {
            let is_known = |health: &Health| health.is_reading || health.is_failing;
            let _ = feed.health.subscribe().wait_for(is_known).await;
        }));
        let _ = timeout(OPENING_MAX, all).await;
        while !self.logs.iter().any(|feed| feed.health.borrow().is_reading) {
            sleep(READING_INTERVAL).await;
        }
    }

    /// Waits for a read of one of several logs as long as the reading of that log does not fail.
    pub(super) async fn unless_absent<T>(
        &self,
        log: usize,
        read: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let mut health = self.logs[log].health.subscribe();
        let is_absent = |health: &Health| self.logs.len() > 1 && health.is_failing;
        tokio::select! {
            biased;
            read = read => read,
            _ = health.wait_for(is_absent) => {
                Err(StoreError::unavailable("the log cannot be read now"))
            }
        }
    }

    /// Finds out where a watcher goes on in a log. Returns whether it may have missed entries that are lost.
    pub(super) async fn open(
        &self,
        absence: Absence,
        is_call: bool,
    ) -> Result<(Place, bool), WatchError> {
        let Absence { log, from } = absence;
        let start = match from {
            Origin::Place(place) => return Ok((place, false)),
            Origin::Start(start) => start,
        };
        let Feed { log: events, bounds, .. } = &self.logs[log];
        let view = self.state().logs[log].view();
        let read = bounds.read(&**events);
        let bounds =
            if self.logs.len() == 1 { read.await } else { within(OPENING_MAX, read).await };
        let bounds = bounds.map_err(WatchError::Store)?;
        let latest_ms = bounds.latest_ms().saturating_add(AHEAD_MAX_SECONDS * 1000);
        if let Start::After(position) = start
            && is_call
            && position.entry().ms > latest_ms
        {
            return Err(WatchError::Ahead);
        }
        let mut state = self.state();
        // The ring may be of another log than the bounds.
        let generation = state.check(log, &view, &bounds);
        let resumption = match start {
            Start::After(position) => bounds.resume(position),
            Start::At(ms) => bounds.resume_at(ms),
            Start::Unknown => Resumption::Gap(state.logs[log].view().read_to),
        };
        let (position, is_gap) = match resumption {
            Resumption::Complete(position) => (position, false),
            Resumption::Gap(position) => (position, true),
        };
        Ok((Place { position, losses: bounds.losses(), generation }, is_gap))
    }
}
