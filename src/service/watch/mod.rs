//! Delivers mark-read events to watchers. A process reads the log once for all of them, and not at all
//! while nobody watches.
//!
//! A watcher that comes back names its position. What it missed comes from a ring of recent events, or
//! from the store if it was away for longer.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{interval, sleep, timeout};
use tracing::Instrument;

use self::backlog::Backlog;
use self::state::{State, Watcher};
use crate::domain::{AHEAD_MAX_SECONDS, Event, Position, Quota, ReadOutcome, UserId};
use crate::store::{Entries, EventLog, LogBounds, StoreError};
use crate::telemetry::metrics;

mod backlog;
mod state;

/// Interval of heartbeats (`docs/contract.md`, "gRPC").
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Longest wait of one read of the log's tail, and how much longer its reply may take.
const TAIL_WAIT: Duration = Duration::from_secs(1);
const TAIL_GRACE: Duration = Duration::from_secs(5);

/// Longest time of a read of many entries: the first is of up to 60 MB.
const BULK_READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the log is still read after the last watcher has left.
const UNWATCHED_MAX: Duration = Duration::from_secs(60);

/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Events that are read at the start, for watchers that come back.
const RING_START_EVENTS: usize = 10_000;

/// Updates that wait for a watcher. With one more it is too slow.
const QUEUE_MAX_UPDATES: usize = 512;

/// Entries of one read of the tail after which the reading may be far behind.
const TAIL_READ_ENTRIES: usize = 1000;

/// Entries read for a watcher that cost one of its read quota, and how many are read before it pays.
const ENTRIES_OF_A_READ: usize = 1000;
const UNPAID_MAX_ENTRIES: usize = 10 * ENTRIES_OF_A_READ;

/// An update for a watcher.
#[derive(Clone, Debug)]
pub enum Update {
    /// An event in which the watcher is the reader or the recipient.
    Event(Event),
    /// No event: the log has reached this position.
    Heartbeat(Position),
    /// Events may be lost. The watch goes on with the oldest entry.
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
    /// The position is ahead of the store's clock.
    Ahead,
    /// The store failed.
    Store(StoreError),
}

/// Reads the event log and delivers it to subscriptions.
pub struct Hub {
    log: Arc<dyn EventLog>,
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
    /// Creates a hub, which delivers nothing until [`Self::run`].
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        let backlog = Arc::new(Backlog::new(Arc::clone(&log)));
        let (state, arrived, reading) = Default::default();
        Self { log, state, backlog, arrived, reading }
    }

    /// Reads the log and delivers it, for ever. It pauses while nobody watches, since each server reads
    /// the events of all servers.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).send_heartbeats());
        tokio::spawn(Arc::clone(&self.backlog).run());
        loop {
            while self.state().watching == 0 {
                self.arrived.notified().await;
            }
            if let Err(error) = self.follow().await {
                tracing::debug!(cause = ?error.to_string(), "the event log cannot be read");
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn send_heartbeats(self: Arc<Self>) {
        let mut interval = interval(HEARTBEAT_INTERVAL);
        loop {
            interval.tick().await;
            let mut state = self.state();
            if let Some(tail) = state.tail {
                state.send_all(&Update::Heartbeat(tail));
            }
        }
    }

    /// Reads from the tail on, until the store fails or nobody has watched for a while.
    async fn follow(&self) -> Result<(), StoreError> {
        let mut tail = self.resume(&self.bounds().await?).await?;
        while !self.stop_if_unwatched() {
            let read = self.log.wait_for_entries(tail, TAIL_WAIT);
            let entries = within(TAIL_WAIT + TAIL_GRACE, read).await?;
            if entries.count >= TAIL_READ_ENTRIES {
                // So far behind that entries may have been trimmed before they were read.
                let bounds = self.bounds().await?;
                if bounds.may_have_lost(tail) {
                    tail = self.resume(&bounds).await?;
                    continue;
                }
            }
            tail = self.state().publish(entries, tail);
        }
        Ok(())
    }

    /// Ends the watchers whose queues are more than half full, since memory is nearly used up.
    pub fn end_slow_watchers(&self) {
        self.state().end_slow();
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        within(TAIL_GRACE, self.log.bounds()).await
    }

    /// Stops reading if nobody has watched for a while. Returns whether it did.
    fn stop_if_unwatched(&self) -> bool {
        let mut state = self.state();
        let unwatched = state.unwatched_since.filter(|_| state.watching == 0);
        if unwatched.is_none_or(|since| since.elapsed() < UNWATCHED_MAX) {
            return false;
        }
        state.tail = None;
        state.ring = VecDeque::new();
        // With the lock held, so that a watcher that arrives now waits for the next start.
        self.reading.send_replace(false);
        true
    }

    /// Returns the position to read on from: at first after the newest entry; later the tail, or before the
    /// oldest entry if the tail cannot be resumed without a gap.
    async fn resume(&self, bounds: &LogBounds) -> Result<Position, StoreError> {
        let known = self.state().tail;
        if let Some(tail) = known {
            if !bounds.may_have_lost(tail) {
                return Ok(tail);
            }
            let mut state = self.state();
            let start = bounds.start();
            (state.tail, state.floor) = (Some(start), start);
            state.ring.clear();
            metrics::count_watch_gaps(state.watchers.values().map(Vec::len).sum());
            state.send_all(&Update::Gap);
            return Ok(start);
        }
        let newest = self.log.newest_entries(RING_START_EVENTS);
        let Entries { events, span: read, .. } = within(BULK_READ_TIMEOUT, newest).await?;
        let (floor, tail) = read.unwrap_or((bounds.end(), bounds.end()));
        {
            let mut state = self.state();
            (state.tail, state.floor, state.ring) = (Some(tail), floor, events.into());
        }
        self.reading.send_replace(true);
        Ok(tail)
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
        let bounds = self.log.bounds().await.map_err(WatchError::Store)?;
        if after.entry().ms > bounds.now_ms.saturating_add(AHEAD_MAX_SECONDS * 1000) {
            return Err(WatchError::Ahead);
        }
        let mut position = after;
        if after != Position::START && bounds.may_have_lost(after) {
            metrics::count_watch_gaps(1);
            let _ = watcher.updates.try_send(Update::Gap);
            position = bounds.start();
        }
        // In the current span, since it belongs to the call and so to its trace.
        tokio::spawn(Arc::clone(self).run_catch_up(user, watcher, position).in_current_span());
        Ok(())
    }

    /// Catches up until the watcher is registered or has left. Whole thousands of entries that were read
    /// for it are paid in either case.
    async fn run_catch_up(self: Arc<Self>, user: UserId, watcher: Watcher, position: Position) {
        let updates = watcher.updates.clone();
        let mut unpaid = 0;
        tokio::select! {
            ended = self.catch_up(user, watcher, position, &mut unpaid) => {
                if let Err(last) = ended {
                    let _ = updates.send(last).await;
                }
            }
            () = updates.closed() => {}
        }
        drop(updates);
        let _ = self.pay(user, &mut unpaid).await;
    }

    /// Sends a watcher what it missed, then registers it without a gap in between. The error is the
    /// watch's last update.
    async fn catch_up(
        &self,
        user: UserId,
        watcher: Watcher,
        mut position: Position,
        unpaid: &mut usize,
    ) -> Result<(), Update> {
        loop {
            let in_ring = {
                let mut state = self.state();
                let missed = state.missed(user, position, QUEUE_MAX_UPDATES + 1);
                match missed {
                    Some(missed)
                        if *unpaid < ENTRIES_OF_A_READ
                            && missed.len() <= watcher.updates.capacity() =>
                    {
                        for event in missed {
                            let _ = watcher.updates.try_send(Update::Event(event));
                        }
                        state.register(user, watcher);
                        return Ok(());
                    }
                    missed => missed,
                }
            };
            let payable = if in_ring.is_some() { ENTRIES_OF_A_READ } else { UNPAID_MAX_ENTRIES };
            if *unpaid >= payable {
                self.pay(user, unpaid).await?;
            }
            let missed = if let Some(missed) = in_ring {
                position = missed.last().map_or(position, |event| event.position);
                missed
            } else {
                let piece = self.backlog.read(user, position).await.map_err(Update::Failed)?;
                if piece.gap {
                    metrics::count_watch_gaps(1);
                    let _ = watcher.updates.send(Update::Gap).await;
                }
                *unpaid += piece.entries;
                // If there is nothing more, the ring has all there is.
                position = piece.reached.unwrap_or_else(|| self.state().floor.max(position));
                piece.events
            };
            for event in missed {
                // It fails once the watcher has left, which ends the task.
                let _ = watcher.updates.send(Update::Event(event)).await;
            }
        }
    }

    /// Takes one of the watcher's read quota for each thousand entries that were read for it.
    async fn pay(&self, user: UserId, unpaid: &mut usize) -> Result<(), Update> {
        let reads = *unpaid / ENTRIES_OF_A_READ;
        if reads == 0 {
            return Ok(());
        }
        *unpaid %= ENTRIES_OF_A_READ;
        let reads = u64::try_from(reads).unwrap_or(u64::MAX);
        match within(BULK_READ_TIMEOUT, self.log.take_reads(user, reads)).await {
            Ok(ReadOutcome::Served { .. }) => Ok(()),
            Ok(ReadOutcome::OverQuota { quota, retry_after }) => {
                Err(Update::OverQuota { quota, retry_after })
            }
            Err(error) => Err(Update::Failed(error)),
        }
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
