//! Delivers mark-read events to watchers. A process reads the log of each partition once for all of them, and
//! not at all while nobody watches.
//!
//! A watcher that comes back names its position. What it missed comes from a ring of recent events, or
//! from the store if it was away for longer. It hears of the logs that can be read while others cannot, and of
//! those once they are back.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use self::catch_up::CatchUp;
use self::feed::Feed;
use self::lag::{Absence, Origin};
use self::state::{State, Watcher};
pub use self::subscription::Subscription;
use self::tail::Lines;
use crate::domain::{Event, Quota, Start, UserId, WatchPosition};
use crate::store::{EventLog, ReadQuotas, Store, StoreError};

mod backlog;
mod catch_up;
mod feed;
mod join_all;
mod lag;
mod log_state;
mod state;
mod subscription;
mod tail;

/// Interval of heartbeats (`docs/contract.md`, "gRPC").
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Longest time of a read of the log's bounds.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time of a read of many entries.
const BULK_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Reads for watchers that come back that may be under way at the same time, each of another log.
const BACKLOG_READS_MAX: usize = 4;

/// Most entries of one read of the tail, or of one read of each log's.
const TAIL_READ_ENTRIES: usize = 1000;

/// Updates that wait for a watcher. With one more it is too slow. One read of the tail fits twice, since
/// the events of a burst may all be for one watcher: a server that stood still for a second must not take one
/// that reads for a slow one. An update has 72 bytes, so a full queue has 144 KB, and a few lists of all logs.
const QUEUE_MAX_UPDATES: usize = 2 * TAIL_READ_ENTRIES;

/// An update for a watcher.
#[derive(Clone, Debug)]
pub enum Update {
    /// An event in which the watcher is the reader or the recipient.
    Event {
        /// Its partition; `None` if there is only one.
        partition: Option<u16>,
        /// The event.
        event: Event,
        /// Whether a heartbeat follows, which [`Subscription`] makes of the last one and of the events since.
        is_followed: bool,
    },
    /// No event: the logs have reached this position.
    Heartbeat(WatchPosition),
    /// Events of a log may be lost. The watch goes on with its oldest entry, or where it is if single ones were
    /// removed.
    Gap,
    /// The watch ends: the read quota does not cover the entries that were read for it.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// Time until the window ends.
        retry_after: Duration,
    },
    /// The watch ends, since the store failed.
    Failed(StoreError),
}

/// Why a watch could not be opened.
#[derive(Clone, Debug)]
pub enum WatchError {
    /// The position is ahead of the store's clock and of every position that was ever given.
    Ahead,
    /// The store failed.
    Store(StoreError),
}

/// Reads the event logs and delivers them to subscriptions.
pub struct Hub {
    logs: Box<[Feed]>,
    quotas: Arc<dyn ReadQuotas>,
    state: Mutex<State>,
    lines: Lines,
}

impl Hub {
    /// Creates a hub on the logs of a store. It delivers nothing until [`Self::run`].
    pub fn new(store: &Arc<dyn Store>) -> Self {
        Self::on(Arc::clone(store).logs(), Arc::<dyn Store>::clone(store))
    }

    fn on(logs: Vec<Arc<dyn EventLog>>, quotas: Arc<dyn ReadQuotas>) -> Self {
        let state = Mutex::new(State::new(logs.len()));
        let reads = Arc::new(Semaphore::new(logs.len().min(BACKLOG_READS_MAX)));
        let logs = logs.into_iter().map(|log| Feed::new(log, Arc::clone(&reads))).collect();
        Self { logs, quotas, state, lines: Lines::default() }
    }

    /// Returns how many partitions have a log.
    pub fn partitions(&self) -> usize {
        self.logs.len()
    }

    /// Ends the watchers whose queues are more than half full, since memory is nearly used up.
    pub fn end_slow_watchers(&self) {
        self.state().end_slow();
    }

    /// Opens a watch for a user, from now on or from a place in each log.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    pub async fn watch(
        self: &Arc<Self>,
        user: UserId,
        after: Option<Vec<Start>>,
    ) -> Result<Subscription, WatchError> {
        let (updates, receiver) = mpsc::channel(QUEUE_MAX_UPDATES);
        let (overflow, overflow_receiver) = oneshot::channel();
        let id = self.state().enter();
        let subscription = Subscription {
            hub: Arc::clone(self),
            user,
            id,
            updates: receiver,
            overflow: Some(overflow_receiver),
            overflowed: false,
            place: None,
            follows: false,
        };
        // The first watcher waits for the first read, within its call's deadline.
        self.await_logs().await;
        let watcher = Watcher::new(id, updates, overflow);
        match after {
            Some(starts) => self.attach_after(user, watcher, starts).await?,
            None => self.attach_now(user, watcher)?,
        }
        Ok(subscription)
    }

    fn attach_now(self: &Arc<Self>, user: UserId, mut watcher: Watcher) -> Result<(), WatchError> {
        let mut state = self.state();
        let is_unread = |log: &usize| state.logs[*log].tail.is_none();
        let unread = (0..state.logs.len()).filter(is_unread);
        let absences = unread.map(|log| Absence { log, from: Origin::Start(Start::Unknown) });
        watcher.absences = absences.collect();
        if watcher.absences.len() == state.logs.len() {
            let error = StoreError::unavailable("the event log was not read yet");
            return Err(WatchError::Store(error));
        }
        // The queue is still empty.
        let _ = watcher.updates.try_send(Update::Heartbeat(state.position(&watcher.absences)));
        let (id, absences) = (watcher.id, watcher.absences.to_vec());
        state.register(user, watcher);
        drop(state);
        if !absences.is_empty() {
            CatchUp { absences, ..CatchUp::new(self, user, id) }.spawn();
        }
        Ok(())
    }

    async fn attach_after(
        self: &Arc<Self>,
        user: UserId,
        watcher: Watcher,
        starts: Vec<Start>,
    ) -> Result<(), WatchError> {
        let absence = |(log, start)| Absence { log, from: Origin::Start(start) };
        let absences = starts.into_iter().enumerate().map(absence).collect();
        let catch_up = CatchUp::new(self, user, watcher.id);
        let mut catch_up = CatchUp { watcher: Some(watcher), absences, ..catch_up };
        catch_up.open(true).await?;
        catch_up.spawn();
        Ok(())
    }

    fn partition(&self, log: usize) -> Option<u16> {
        u16::try_from(log).ok().filter(|_| self.logs.len() > 1)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads within a limit. For reads that belong to no call, whose deadline would end them: a connection
/// that hangs may never answer.
async fn within<T>(
    limit: Duration,
    read: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    timeout(limit, read).await.unwrap_or_else(|late| Err(StoreError::unavailable(late)))
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
