//! Delivers mark-read events to watchers. A process reads the log once for all of them, and not at all
//! while nobody watches.
//!
//! A watcher that comes back names its position. What it missed comes from a ring of recent events, or
//! from the store if it was away for longer.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tracing::Instrument;

use self::backlog::Backlog;
use self::catch_up::Place;
use self::state::{State, Watcher};
use crate::domain::{AHEAD_MAX_SECONDS, Event, Position, Quota, UserId};
use crate::store::{EventLog, LogBounds, ReadQuotas, Resumption, Store, StoreError};
use crate::telemetry::metrics;

mod backlog;
mod catch_up;
mod state;
mod tail;

/// Interval of heartbeats (`docs/contract.md`, "gRPC").
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Longest time of a read of the log's bounds.
const BOUNDS_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time of a read of many entries.
const BULK_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Most entries of one read of the tail.
const TAIL_READ_ENTRIES: usize = 1000;

/// Updates that wait for a watcher. With one more it is too slow. One read of the tail fits twice, since
/// the events of a burst may all be for one watcher: a server that stood still for a second must not take one
/// that reads for a slow one. An update has 72 bytes, so a full queue has 144 KB.
const QUEUE_MAX_UPDATES: usize = 2 * TAIL_READ_ENTRIES;

/// An update for a watcher.
#[derive(Clone, Debug)]
pub enum Update {
    /// An event in which the watcher is the reader or the recipient.
    Event(Event),
    /// No event: the log has reached this position.
    Heartbeat(Position),
    /// Events may be lost. The watch goes on with the oldest entry, or where it is if single ones were removed.
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

/// Reads the event log and delivers it to subscriptions.
pub struct Hub {
    log: Arc<dyn EventLog>,
    quotas: Arc<dyn ReadQuotas>,
    state: Mutex<State>,
    backlog: Arc<Backlog>,
    /// Notified when a watcher arrives.
    arrived: Notify,
    /// True while the log is read.
    reading: watch::Sender<bool>,
}

/// The updates for one watcher. Dropping it ends the watch.
pub struct Subscription {
    hub: Arc<Hub>,
    user: UserId,
    id: u64,
    updates: mpsc::Receiver<Update>,
    /// Ready if the queue was full. Otherwise the sender is dropped.
    overflow: Option<oneshot::Receiver<()>>,
    overflowed: bool,
}

impl Hub {
    /// Creates a hub on the logs of a store. It delivers nothing until [`Self::run`].
    pub fn new(store: &Arc<dyn Store>) -> Self {
        let log = Arc::clone(store).logs().swap_remove(0);
        Self::on(log, Arc::<dyn Store>::clone(store))
    }

    fn on(log: Arc<dyn EventLog>, quotas: Arc<dyn ReadQuotas>) -> Self {
        let backlog = Arc::new(Backlog::new(Arc::clone(&log)));
        let (state, arrived, reading) = Default::default();
        Self { log, quotas, state, backlog, arrived, reading }
    }

    /// Ends the watchers whose queues are more than half full, since memory is nearly used up.
    pub fn end_slow_watchers(&self) {
        self.state().end_slow();
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        within(BOUNDS_TIMEOUT, self.log.bounds()).await
    }

    /// Opens a watch for a user, from now on or after a position.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    pub async fn watch(
        self: &Arc<Self>,
        user: UserId,
        after: Option<Position>,
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
        };
        self.arrived.notify_one();
        // The first watcher waits for the first read, within its call's deadline.
        let _ = self.reading.subscribe().wait_for(|reading| *reading).await;
        let watcher = Watcher { id, updates, overflow };
        match after {
            Some(after) => self.attach_after(user, watcher, after).await?,
            None => self.attach_now(user, watcher)?,
        }
        Ok(subscription)
    }

    fn attach_now(&self, user: UserId, watcher: Watcher) -> Result<(), WatchError> {
        let mut state = self.state();
        let tail = state.tail.ok_or_else(|| {
            WatchError::Store(StoreError::unavailable("the event log was not read yet"))
        })?;
        // The queue is still empty.
        let _ = watcher.updates.try_send(Update::Heartbeat(tail));
        state.register(user, watcher);
        Ok(())
    }

    async fn attach_after(
        self: &Arc<Self>,
        user: UserId,
        watcher: Watcher,
        after: Position,
    ) -> Result<(), WatchError> {
        let view = self.state().view();
        let bounds = self.log.bounds().await.map_err(WatchError::Store)?;
        let latest_ms = bounds.latest_ms().saturating_add(AHEAD_MAX_SECONDS * 1000);
        if after.entry().ms > latest_ms {
            return Err(WatchError::Ahead);
        }
        // The ring may be of another log than the bounds.
        let generation = self.state().check(&view, &bounds);
        let position = match bounds.resume(after) {
            Resumption::Complete(position) => position,
            Resumption::Gap(position) => {
                metrics::count_watch_gaps(1);
                let _ = watcher.updates.try_send(Update::Gap);
                position
            }
        };
        let place = Place { position, losses: bounds.losses(), generation };
        // In the current span, since it belongs to the call and so to its trace.
        tokio::spawn(Arc::clone(self).run_catch_up(user, watcher, place).in_current_span());
        Ok(())
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

impl Subscription {
    /// Receives the next update; `None` if the watcher is too slow to receive more.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// Polls for the next update, as [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        self.updates.poll_recv(cx)
    }

    /// Ready if the watcher is too slow. What is queued for it is dropped: for one that does not read.
    pub fn poll_overflow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(overflow) = &mut self.overflow
            && let Poll::Ready(sent) = Pin::new(overflow).poll(cx)
        {
            self.overflow = None;
            self.overflowed = sent.is_ok();
            if self.overflowed {
                self.updates.close();
                while self.updates.try_recv().is_ok() {}
            }
        }
        if self.overflowed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns the position up to which the watcher has received everything, as far as that is more than
    /// its last update says.
    pub fn position(&self) -> Option<Position> {
        let state = self.hub.state();
        let mut watchers = state.watchers.get(&self.user).into_iter().flatten();
        // Not while it catches up. With the lock held, since events are queued with it.
        let is_current = watchers.any(|watcher| watcher.id == self.id) && self.updates.is_empty();
        state.tail.filter(|_| is_current)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state().leave(self.user, self.id);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
