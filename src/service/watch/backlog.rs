//! Shared reads of what watchers missed. The log is read for all who wait: each read serves every
//! watcher whose position it passes. One read of a log runs at a time, a few of all logs, and the store and this
//! process have a pause after it, for marks.
//!
//! A watcher asks for one piece at a time, so whoever does not take its events, or has hung up, holds up
//! nobody and causes no read.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep};
use tracing::{Instrument, Span};

use super::lag::Place;
use super::log_state::concerns;
use super::{BULK_READ_TIMEOUT, within};
use crate::domain::{Event, Position, UserId};
use crate::store::{Entries, EventLog, LogBounds, Loss, ReadSize, StoreError};

/// Most entries of a read.
const READ_MAX_ENTRIES: usize = 500;

/// Interval at which it is checked that somebody still waits for a read.
const LEFT_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a read keeps others from being begun: a log that hangs does not hold up the other ones.
const READ_TURN: Duration = Duration::from_secs(1);

/// Bytes of a read to aim at, by the entries of the read before.
const READ_BYTES: usize = 256 * 1024;

/// Events that a read may deliver to all watchers together, by the reads before, so that a crowd does
/// not keep the process from marks.
const READ_EVENTS: usize = 500;

/// The pause after a read: as long as the read took, and twice what this process and the client take for
/// an event (about 5 µs where they share two CPUs).
const PAUSE_PER_EVENT: Duration = Duration::from_micros(10);
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Watchers that wait for what they missed.
pub(super) struct Backlog {
    log: Arc<dyn EventLog>,
    /// The right to read, which is shared with other logs.
    reads: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
    /// Notified when a watcher arrives.
    arrived: Notify,
}

#[derive(Default)]
struct Waiting {
    requests: Vec<Request>,
    last_turn: u64,
}

/// A watcher that waits for the events after its position.
struct Request {
    user: UserId,
    place: Place,
    /// Orders requests by how long their users wait since they were last served.
    turn: u64,
    /// The span of its call. A read is a part of the first call that it is for.
    span: Span,
    reply: oneshot::Sender<Result<Piece, StoreError>>,
}

/// What one read found.
struct Read {
    entries: Entries,
    /// The log's bounds, after the entries were read.
    bounds: LogBounds,
}

/// What one read has for a watcher.
#[derive(Debug)]
pub(super) struct Piece {
    /// The watcher's events.
    pub(super) events: Vec<Event>,
    /// The position up to which the log was read; `None` if there is nothing after the watcher's.
    pub(super) reached: Option<Position>,
    /// Entries that were read for the watcher.
    pub(super) entries: usize,
    /// The loss that the watcher may have had before these events. If the log is another one, the events may be of
    /// either.
    pub(super) loss: Loss,
    /// The log's bounds, after the read.
    pub(super) bounds: LogBounds,
}

/// Whose turn it is, in this order, again and again. Short backlogs are served first, but only by half
/// of the reads; the hindmost, whose reads meet the others on their way, by a quarter; and by another
/// quarter who waits longest, so that nobody waits for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Foremost,
    Hindmost,
    Longest,
}

const TURNS: [Turn; 4] = [Turn::Foremost, Turn::Hindmost, Turn::Foremost, Turn::Longest];

/// Chooses the number of entries of a read.
struct Pace {
    size: ReadSize,
    /// How many entries of a thousand concern a watcher, about.
    concerning: usize,
}

impl Backlog {
    pub(super) fn new(log: Arc<dyn EventLog>, reads: Arc<Semaphore>) -> Self {
        let (waiting, arrived) = Default::default();
        Self { log, reads, waiting, arrived }
    }

    /// Returns a user's events after a position, as far as one read goes. Dropping the future withdraws
    /// the request.
    pub(super) async fn read(&self, user: UserId, place: Place) -> Result<Piece, StoreError> {
        let (reply, piece) = oneshot::channel();
        self.waiting().push(user, place, reply);
        self.arrived.notify_one();
        // The sender is dropped only when the process exits.
        piece.await.unwrap_or_else(|gone| Err(StoreError::unavailable(gone)))
    }

    /// Serves requests, for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let size = ReadSize::new(READ_MAX_ENTRIES, READ_BYTES);
        let mut pace = Pace { size, concerning: 0 };
        let mut turns = TURNS.into_iter().cycle();
        loop {
            let turn = turns.next().unwrap_or(Turn::Longest);
            while self.waiting().requests.is_empty() {
                self.arrived.notified().await;
            }
            let mut permit = self.reads.acquire().await.ok();
            let Some((start, crowd, span)) = self.waiting().next(turn) else { continue };
            let began = Instant::now();
            let mut read = pin!(self.read_after(start, pace.limit(crowd)).instrument(span));
            let read = loop {
                tokio::select! {
                    biased;
                    read = &mut read => break Some(read),
                    // A store that hangs does not hold up those who come when all others have left.
                    () = self.all_have_left(start) => break None,
                    () = sleep(READ_TURN), if permit.is_some() => permit = None,
                }
            };
            let Some(read) = read else { continue };
            let delivered = self.waiting().serve(start, &read);
            if let Ok(read) = &read {
                pace.adapt(&read.entries, crowd, delivered);
            }
            let events = u32::try_from(delivered).unwrap_or(u32::MAX);
            let pause = began.elapsed() + PAUSE_PER_EVENT.saturating_mul(events);
            sleep(pause.clamp(PAUSE_MIN, PAUSE_MAX)).await;
        }
    }

    /// Reads entries, and then the log's bounds: the trimming overtakes slow watchers, each at a position
    /// of its own.
    async fn read_after(&self, after: Position, limit: usize) -> Result<Read, StoreError> {
        let entries = within(BULK_READ_TIMEOUT, self.log.entries(after, limit)).await?;
        let bounds = within(BULK_READ_TIMEOUT, self.log.bounds()).await?;
        Ok(Read { entries, bounds })
    }

    /// Waits until nobody waits any more for what comes after a position.
    async fn all_have_left(&self, after: Position) {
        while self.waiting().has_any(after) {
            sleep(LEFT_CHECK_INTERVAL).await;
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn push(
        &mut self,
        user: UserId,
        place: Place,
        reply: oneshot::Sender<Result<Piece, StoreError>>,
    ) {
        self.last_turn += 1;
        let (turn, span) = (self.last_turn, Span::current());
        self.requests.push(Request { user, place, turn, span, reply });
    }

    /// Returns the position to read on from, how many wait there, and the span of the first of them. Whoever
    /// has left is dropped.
    fn next(&mut self, turn: Turn) -> Option<(Position, usize, Span)> {
        self.requests.retain(|request| !request.reply.is_closed());
        let positions = self.requests.iter().map(|request| request.place.position);
        let start = match turn {
            Turn::Foremost => positions.max(),
            Turn::Hindmost => positions.min(),
            Turn::Longest => self
                .requests
                .iter()
                .min_by_key(|request| request.turn)
                .map(|first| first.place.position),
        }?;
        let mut there = self.requests.iter().filter(|request| request.place.position == start);
        let first = there.next()?;
        Some((start, 1 + there.count(), first.span.clone()))
    }

    fn has_any(&self, after: Position) -> bool {
        self.requests
            .iter()
            .any(|request| request.place.position == after && !request.reply.is_closed())
    }

    /// Answers the requests that a read passes. Returns how many events that delivers.
    fn serve(&mut self, start: Position, read: &Result<Read, StoreError>) -> usize {
        let passes = |after: Position| match read.as_ref().map(|read| read.entries.span) {
            Ok(Some((_, end))) => (start..end).contains(&after),
            // There is nothing after this position.
            Ok(None) => after >= start,
            Err(_) => true,
        };
        let (met, left): (Vec<_>, Vec<_>) =
            self.requests.drain(..).partition(|request| passes(request.place.position));
        self.requests = left;
        let served: HashSet<UserId> =
            met.iter().filter(|one| one.place.position == start).map(|one| one.user).collect();
        // A user with many backlogs does not have more turns than one with a single backlog.
        for request in self.requests.iter_mut().filter(|one| served.contains(&one.user)) {
            self.last_turn += 1;
            request.turn = self.last_turn;
        }
        let mut delivered = 0;
        for request in met {
            let piece = read.as_ref().map_err(StoreError::clone);
            let piece = piece.map(|read| Piece::new(read, &request, start));
            delivered += piece.as_ref().map_or(0, |piece| piece.events.len());
            let _ = request.reply.send(piece);
        }
        delivered
    }
}

impl Piece {
    /// Takes out of a read what a watcher needs. One that joined on the way needs a part of it.
    fn new(read: &Read, request: &Request, start: Position) -> Self {
        let Read { entries, bounds } = read;
        let &Request { user, place, .. } = request;
        let after = place.position;
        let first = entries.events.partition_point(|event| event.position <= after);
        let later = entries.events.get(first..).unwrap_or_default();
        let events = later.iter().filter(|event| concerns(event, user)).copied().collect();
        let reached = entries.span.map(|(_, end)| end);
        let entries = if after == start { entries.count } else { later.len() };
        Self { events, reached, entries, loss: place.loss(bounds), bounds: *bounds }
    }
}

impl Pace {
    /// Returns how many entries to read for a crowd at one position.
    fn limit(&self, crowd: usize) -> usize {
        let events_of_thousand = (crowd * self.concerning).max(1);
        self.size.entries().min(READ_EVENTS * 1000 / events_of_thousand).max(1)
    }

    /// Learns from a read what the next one may bring.
    fn adapt(&mut self, read: &Entries, crowd: usize, delivered: usize) {
        if read.count == 0 {
            return;
        }
        self.size.adapt(read);
        let concerning = 1000 * delivered / (read.count * crowd.max(1));
        self.concerning = concerning.max(self.concerning * 9 / 10).min(1000);
    }
}
