//! Delivers a feed: one task, for as long as its lease is held.
//!
//! Everything that is under way is a future of this task, so that dropping it ends all attempts at once. No
//! entry is acknowledged before each of its deliveries arrived, or its dead letter was written.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::buffer::{Buffer, Memory};
use self::read::{Batch, ReadFrom};
use super::Context;
use super::doorbell::Doorbell;
use super::endpoint::Endpoint;
use super::lanes::{LaneKey, Lanes};
use super::lease::Validity;
use super::receiver::Attempt;
use super::retry::StorePauses;
use crate::chance::random;
use crate::domain::EntryId;
use crate::store::StoreError;
use crate::store::relay::{DeadLetter, Lease, Leased};

mod attempt;
mod begin;
mod buffer;
mod outcomes;
mod read;
mod status;
mod stop;

pub(super) use self::status::FeedStatus;

/// Most entries of one read, and bytes after which it stops.
const READ_MAX_ENTRIES: usize = 256;
const READ_BYTES: usize = 512 * 1024;

/// Least time between two reads of new entries that do not fill one: under load each has several.
const READ_SPACING: Duration = Duration::from_millis(2);

/// Time between two notes of attempts.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// Least time between two reads of all pending entries, which are made when the store has others than the feed.
const RECHECK_SPACING: Duration = Duration::from_secs(5);

/// Entries that are done and not acknowledged at which no attempt begins: so many arrive twice at most if the
/// store goes away, beside those that are in flight.
const UNACKNOWLEDGED_MAX: usize = 256;

/// Longest time of one operation of the store.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Outcomes that are handled before the feed begins more.
const OUTCOMES_AT_ONCE: usize = 256;

/// A feed as its delivery begins.
pub(super) struct FeedStart {
    pub(super) lease: Lease,
    /// When the call was sent that acquired the lease.
    pub(super) sent: Instant,
    /// The last entry that was read by an earlier owner.
    pub(super) position: EntryId,
    /// Entries that this process was done with before, and could not acknowledge.
    pub(super) done: BTreeSet<EntryId>,
}

/// A feed as its delivery has ended.
#[derive(Debug, Default)]
pub(super) struct FeedEnd {
    /// Whether the lease was given back. Otherwise it is another's, or may be.
    pub(super) is_released: bool,
    /// Entries that are done, and not acknowledged as far as is known.
    pub(super) done: BTreeSet<EntryId>,
}

/// Something that was under way has ended.
enum Outcome {
    Attempted(LaneKey, Attempt),
    /// The lease was over when the attempt was to begin.
    NotAttempted(LaneKey),
    /// No body can be made of its payload.
    Undeliverable(LaneKey),
    Read(ReadFrom, Result<Leased<Batch>, StoreError>),
    Renewed(Instant, Result<Leased<()>, StoreError>),
    Acknowledged(Result<Leased<()>, StoreError>),
    Noted(Vec<(EntryId, u32)>, Result<Leased<()>, StoreError>),
    LetterWritten(Result<(), StoreError>),
}

/// The lease is lost.
struct Lost;

/// A dead letter that is to be written.
struct Letter {
    entry: EntryId,
    /// The lane that it holds up, if it is a delivery's.
    lane: Option<LaneKey>,
    content: DeadLetter,
    reason: &'static str,
}

/// An operation of the store of which one at a time is under way.
#[derive(Default)]
struct Operation {
    is_running: bool,
    /// Not before this time.
    not_before: Option<Instant>,
    pauses: StorePauses,
}

impl Operation {
    /// Returns whether it may begin now.
    fn may_begin(&self, now: Instant) -> bool {
        !self.is_running && self.not_before.is_none_or(|at| at <= now)
    }

    /// Returns when it may begin, if it only waits for that.
    fn begins_at(&self) -> Option<Instant> {
        self.not_before.filter(|_| !self.is_running)
    }

    fn succeed(&mut self) {
        (self.is_running, self.not_before) = (false, None);
        self.pauses.succeed();
    }

    fn fail(&mut self, now: Instant) {
        self.is_running = false;
        self.not_before = Some(now + self.pauses.fail());
    }
}

/// A feed whose lease this process holds.
pub(super) struct Feed {
    context: Arc<Context>,
    endpoint: Arc<Endpoint>,
    doorbell: Arc<Doorbell>,
    status: Arc<FeedStatus>,
    lease: Lease,
    validity: Validity,
    is_renewing: bool,
    /// The last entry that was read, as far as it is known.
    position: EntryId,
    read_from: ReadFrom,
    /// When all pending entries may be read again.
    recheck_at: Instant,
    reading: Operation,
    /// Bytes that a read under way may add.
    reading_bytes: usize,
    memory: Memory,
    buffer: Buffer,
    lanes: Lanes,
    letters: VecDeque<Letter>,
    writing: Operation,
    acknowledging: Operation,
    noting: Operation,
    /// Attempts under way.
    attempts: usize,
    /// A place for an attempt, or the wait for one.
    place: Option<OwnedSemaphorePermit>,
    place_wait: Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
    /// Closings of the circuit that the lanes have heard of.
    closings: u64,
    running: FuturesUnordered<BoxFuture<'static, Outcome>>,
}

impl Feed {
    /// Creates the feed of a lease that was acquired.
    pub(super) fn new(
        context: Arc<Context>,
        endpoint: Arc<Endpoint>,
        doorbell: Arc<Doorbell>,
        start: FeedStart,
    ) -> Self {
        let FeedStart { lease, sent, position, done } = start;
        let closings = endpoint.closings();
        let memory = Memory::new(Arc::clone(&context.held_bytes));
        Self {
            context,
            endpoint,
            doorbell,
            status: Arc::default(),
            lease,
            validity: Validity::new(sent),
            is_renewing: false,
            position,
            read_from: ReadFrom::Pending(EntryId::ZERO),
            recheck_at: Instant::now(),
            reading: Operation::default(),
            reading_bytes: 0,
            memory,
            buffer: Buffer::new(done),
            lanes: Lanes::default(),
            letters: VecDeque::new(),
            writing: Operation::default(),
            acknowledging: Operation::default(),
            noting: Operation::default(),
            attempts: 0,
            place: None,
            place_wait: None,
            closings,
            running: FuturesUnordered::new(),
        }
    }

    pub(super) fn status(&self) -> Arc<FeedStatus> {
        Arc::clone(&self.status)
    }

    /// Delivers until the lease is lost, or until `stop` has a time: then what is under way may finish until
    /// that time.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<Option<Instant>>) -> FeedEnd {
        let mut changes = self.endpoint.changes();
        let mut timer = Box::pin(sleep_until(Instant::now()));
        loop {
            let now = Instant::now();
            if !self.validity.holds(now) {
                return self.lose();
            }
            let stop_at = *stop.borrow_and_update();
            if stop_at.is_some_and(|at| now >= at || self.is_finished()) {
                return self.release().await;
            }
            let wake_at = self.begin(now, stop_at);
            if timer.deadline() != wake_at {
                timer.as_mut().reset(wake_at);
            }
            self.status.set_held(self.buffer.len());
            self.memory.set(self.buffer.bytes() + self.reading_bytes);
            let ended = tokio::select! {
                biased;
                result = stop.changed() => result.map_err(|_| Lost),
                _ = changes.changed() => {
                    self.hear_of_changes();
                    Ok(())
                }
                place = wait_for_place(&mut self.place_wait) => {
                    (self.place_wait, self.place) = (None, place);
                    Ok(())
                }
                Some(outcome) = self.running.next() => self.take(outcome),
                () = &mut timer => Ok(()),
            };
            if ended.is_err() {
                return self.lose();
            }
        }
    }

    fn lose(mut self) -> FeedEnd {
        FeedEnd { is_released: false, done: self.buffer.take_done() }
    }

    /// Takes an outcome, and those that are there already.
    fn take(&mut self, outcome: Outcome) -> Result<(), Lost> {
        self.handle(outcome)?;
        for _ in 1..OUTCOMES_AT_ONCE {
            match self.running.next().now_or_never() {
                Some(Some(outcome)) => self.handle(outcome)?,
                _ => break,
            }
        }
        Ok(())
    }

    /// Makes waiting lanes due soon after the circuit closed: not all at once.
    fn hear_of_changes(&mut self) {
        let closings = self.endpoint.closings();
        if closings != self.closings {
            self.closings = closings;
            let (now, max_attempts) = (Instant::now(), self.context.config.max_attempts);
            self.lanes.hasten(|item| {
                // A time that the receiver asked for stays.
                let is_free =
                    item.failure.as_ref().is_none_or(|failure| failure.retry_after.is_none());
                (is_free && super::retry::may_hasten(item.attempts, max_attempts))
                    .then(|| now + Duration::from_secs(1).mul_f64(random()))
            });
        }
    }
}

async fn wait_for_place(
    wait: &mut Option<BoxFuture<'static, Result<OwnedSemaphorePermit, AcquireError>>>,
) -> Option<OwnedSemaphorePermit> {
    match wait {
        // The semaphore is never closed.
        Some(wait) => wait.await.ok(),
        None => std::future::pending().await,
    }
}

/// Bounds an operation of the store.
async fn within<T>(
    time: Duration,
    operation: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let late = |_| Err(StoreError::unavailable("no answer in time"));
    timeout(time, operation).await.unwrap_or_else(late)
}
