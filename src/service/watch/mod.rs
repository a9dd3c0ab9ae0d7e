//! Who is told of events as they come: one tail of the stream a process, however many watch, and none
//! where nobody does.
//!
//! A watcher that comes back says where it was. What it missed is taken from a ring of recent events,
//! or where it was away for longer, from the store. `state` has the ring and the watchers.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{interval, sleep, timeout};
use tracing::Instrument;

use self::state::{State, Watcher, concerns};
use crate::domain::{EntryId, Event, UserId};
use crate::store::{Entries, Store, StoreError, StreamSpan};
use crate::telemetry::metrics;

mod state;

/// How often watchers are told how far the stream is: CONTRACT section 4.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);

/// How long one read of the tail waits, and how much longer its answer may take.
const TAIL_WAIT: Duration = Duration::from_secs(1);
const TAIL_GRACE: Duration = Duration::from_secs(5);

/// How long the stream is still read when nobody watches any more.
const UNWATCHED_MAX: Duration = Duration::from_secs(60);

/// How long nothing is read after the store failed.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Events that are read at the start, for those who come back.
const RING_START_EVENTS: usize = 10_000;

/// Updates that wait for a watcher; with one more it is too slow.
const QUEUE_MAX_UPDATES: usize = 512;

/// Entries of one read of what a watcher missed, and how many such reads run at once.
const BACKLOG_READ_ENTRIES: usize = 1000;
const BACKLOG_READS_MAX: usize = 4;

/// How far ahead of the store's clock a place may be, in milliseconds.
const AHEAD_MAX_MS: u64 = 60_000;

/// What a watcher is told.
#[derive(Clone, Debug)]
pub enum Update {
    /// An event in which it is the reader or the recipient.
    Event(Event),
    /// Nothing: the stream is as far as this.
    Heartbeat(EntryId),
    /// Events may be lost; it goes on with the oldest.
    Gap,
    /// It ends: the store cannot be asked.
    Failed(StoreError),
}

/// Why nobody is told.
#[derive(Clone, Debug)]
pub enum WatchError {
    /// The place is ahead of the store's clock.
    Ahead,
    /// The store cannot be asked.
    Store(StoreError),
}

/// Tells watchers of the stream's events.
pub struct Hub {
    store: Arc<dyn Store>,
    state: Mutex<State>,
    backlog_reads: Semaphore,
    /// Somebody began to watch.
    wanted: Notify,
    /// Whether the stream is read.
    started: watch::Sender<bool>,
}

/// What one watcher receives, until it is dropped.
pub struct Watching {
    hub: Arc<Hub>,
    user: UserId,
    id: u64,
    updates: mpsc::Receiver<Update>,
}

impl Hub {
    /// A hub on this store, which tells nothing until it is kept.
    pub fn new(store: Arc<dyn Store>) -> Self {
        let backlog_reads = Semaphore::new(BACKLOG_READS_MAX);
        let (state, wanted, started) = Default::default();
        Self { store, state, backlog_reads, wanted, started }
    }

    /// Reads the stream and tells of it, for ever. While nobody watches it is not read: each server
    /// reads what all of them write.
    pub async fn keep(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).beat());
        loop {
            while self.state().wanted == 0 {
                self.wanted.notified().await;
            }
            if let Err(error) = self.follow().await {
                tracing::debug!(cause = ?error.to_string(), "the stream cannot be read");
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn beat(self: Arc<Self>) {
        let mut interval = interval(HEARTBEAT_INTERVAL);
        loop {
            interval.tick().await;
            let mut state = self.state();
            if let Some(tail) = state.tail {
                state.tell_all(&Update::Heartbeat(tail));
            }
        }
    }

    /// Reads from where the tail is, until the store fails, or nobody has watched for a while.
    async fn follow(&self) -> Result<(), StoreError> {
        let mut tail = self.resume(&self.store.stream_span().await?).await?;
        while !self.rests() {
            let read = self.store.next_entries(tail, TAIL_WAIT);
            let entries = timeout(TAIL_WAIT + TAIL_GRACE, read).await;
            let entries = entries.unwrap_or_else(|late| Err(StoreError::unavailable(late)))?;
            if entries.events.len() >= BACKLOG_READ_ENTRIES {
                // So far behind that entries may have been removed before they were read.
                let span = self.store.stream_span().await?;
                if may_have_lost(tail, &span) {
                    tail = self.resume(&span).await?;
                    continue;
                }
            }
            tail = self.state().publish(entries, tail);
        }
        Ok(())
    }

    /// Forgets the stream where nobody has watched for a while.
    fn rests(&self) -> bool {
        let mut state = self.state();
        let unwatched = state.unwanted_since.filter(|_| state.wanted == 0);
        if unwatched.is_none_or(|since| since.elapsed() < UNWATCHED_MAX) {
            return false;
        }
        state.tail = None;
        state.ring = VecDeque::new();
        // With the lock held: whoever comes now waits until it is read again.
        self.started.send_replace(false);
        true
    }

    /// Where to read on. At first that is the newest entry; later, where the tail was, or where that
    /// cannot be had without a gap, the oldest.
    async fn resume(&self, span: &StreamSpan) -> Result<EntryId, StoreError> {
        let known = self.state().tail;
        if let Some(tail) = known {
            if !may_have_lost(tail, span) {
                return Ok(tail);
            }
            let mut state = self.state();
            let place = span.before_oldest();
            (state.tail, state.floor) = (Some(place), place);
            state.ring.clear();
            metrics::count_watch_gaps(state.watchers.values().map(Vec::len).sum());
            state.tell_all(&Update::Gap);
            return Ok(place);
        }
        let Entries { events, span: read } = self.store.newest_entries(RING_START_EVENTS).await?;
        let nothing = span.last_given.max(EntryId::FIRST);
        let (floor, tail) = read.map_or((nothing, nothing), |(first, last)| (first.before(), last));
        {
            let mut state = self.state();
            (state.tail, state.floor, state.ring) = (Some(tail), floor, events.into());
        }
        self.started.send_replace(true);
        Ok(tail)
    }

    /// Watches for a user: from now on, or from behind this place, which is where it was.
    ///
    /// # Errors
    ///
    /// [`WatchError`].
    pub async fn watch(
        self: &Arc<Self>,
        user: UserId,
        after: Option<EntryId>,
    ) -> Result<Watching, WatchError> {
        let (updates, receiver) = mpsc::channel(QUEUE_MAX_UPDATES);
        let id = self.state().enter();
        let watching = Watching { hub: Arc::clone(self), user, id, updates: receiver };
        self.wanted.notify_one();
        // At first there is nothing to watch yet; the caller's time is the limit.
        let _ = self.started.subscribe().wait_for(|started| *started).await;
        let Some(after) = after else {
            let mut state = self.state();
            let tail = state.tail.ok_or_else(|| {
                WatchError::Store(StoreError::unavailable("the stream was not read yet"))
            })?;
            // The queue is empty still.
            let _ = updates.try_send(Update::Heartbeat(tail));
            state.register(user, Watcher { id, updates });
            drop(state);
            return Ok(watching);
        };
        let span = self.store.stream_span().await.map_err(WatchError::Store)?;
        if after.ms > span.now_ms.saturating_add(AHEAD_MAX_MS) {
            return Err(WatchError::Ahead);
        }
        let mut place = after;
        if after != EntryId::ZERO && may_have_lost(after, &span) {
            metrics::count_watch_gaps(1);
            let _ = updates.try_send(Update::Gap);
            place = span.before_oldest();
        }
        let hub = Arc::clone(self);
        let watcher = Watcher { id, updates };
        // It belongs to the call, and so to its trace.
        let catch_up = async move { hub.catch_up(user, watcher, place).await }.in_current_span();
        tokio::spawn(catch_up);
        Ok(watching)
    }

    /// Tells a watcher what it missed, then registers it, and misses nothing in between.
    async fn catch_up(&self, user: UserId, watcher: Watcher, mut place: EntryId) {
        loop {
            let missed = {
                let mut state = self.state();
                match state.missed(user, place) {
                    Some(missed) if missed.len() <= watcher.updates.capacity() => {
                        for event in missed {
                            let _ = watcher.updates.try_send(Update::Event(event));
                        }
                        state.register(user, watcher);
                        return;
                    }
                    missed => missed,
                }
            };
            let (missed, reached) = match missed {
                Some(missed) => {
                    let reached = missed.last().map_or(place, |event| event.id);
                    (missed, reached)
                }
                None => match self.read_missed(user, place).await {
                    Ok(read) => read,
                    Err(error) => {
                        let _ = watcher.updates.send(Update::Failed(error)).await;
                        return;
                    }
                },
            };
            for event in missed {
                if watcher.updates.send(Update::Event(event)).await.is_err() {
                    return;
                }
            }
            place = reached;
        }
    }

    /// A user's events behind this place, as far as one read goes, and how far that is.
    async fn read_missed(
        &self,
        user: UserId,
        place: EntryId,
    ) -> Result<(Vec<Event>, EntryId), StoreError> {
        let _permit = self.backlog_reads.acquire().await.map_err(StoreError::unavailable)?;
        let mut entries = self.store.entries(place, BACKLOG_READ_ENTRIES).await?;
        // Where there is nothing more, the ring has all that there is.
        let reached = entries.span.map_or_else(|| self.state().floor.max(place), |(_, last)| last);
        entries.events.retain(|event| concerns(event, user));
        Ok((entries.events, reached))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held cannot have left it half changed: nothing in it panics.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether entries behind this place may be gone: it is before the oldest and some were removed, or
/// it is of another stream than this.
fn may_have_lost(place: EntryId, span: &StreamSpan) -> bool {
    (span.removed && place < span.before_oldest()) || place > span.last_given.max(EntryId::FIRST)
}

impl Watching {
    /// The next update; nothing where the watcher is too slow to be told more.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// The same, for a stream.
    pub fn poll_next(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Update>> {
        self.updates.poll_recv(cx)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.hub.state().leave(self.user, self.id);
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}
