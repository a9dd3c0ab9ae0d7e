//! How far a watcher is behind in each log.

use std::collections::VecDeque;

use super::TAIL_READ_ENTRIES;
use super::log_state::LogState;
use crate::domain::{EntryId, Event, Position, Start};
use crate::store::{LogBounds, Loss, Losses};

/// How much later than the oldest event that is still to be sent another one may be. Whoever resumes after an
/// event of one log resumes in the others 60 s earlier: nothing older may be left to send there.
const SLICE_MS: u64 = 30_000;

/// Where a watcher is that catches up: a position in one log, and when the ring had the events of that log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Losses of the log of which the watcher heard.
    pub(super) losses: Losses,
    pub(super) generation: u64,
}

/// A log that could not be read when a watcher came or caught up.
#[derive(Clone, Copy, Debug)]
pub(super) struct Absence {
    pub(super) log: usize,
    pub(super) from: Origin,
}

/// Where a watcher goes on in a log.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    /// As it asked; not compared with the log yet.
    Start(Start),
    /// Where it was.
    Place(Place),
}

/// What a watcher has to catch up in one log.
#[derive(Debug)]
pub(super) struct Lag {
    pub(super) log: usize,
    /// Up to where the log was read for it.
    pub(super) place: Place,
    /// Up to where the watcher was sent everything.
    pub(super) sent: Position,
    /// Events that were read and not sent yet.
    pub(super) found: VecDeque<Event>,
    /// Whether these are all that there are.
    pub(super) is_at_end: bool,
}

/// What a watcher misses, by the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum InRing {
    /// It is in the ring.
    All,
    /// The ring does not go back that far.
    TooOld,
    /// The ring was begun again.
    Restarted,
}

impl Place {
    /// The same position, before anything was lost.
    #[cfg(test)]
    pub(super) fn new(position: Position) -> Self {
        Self { position, losses: Losses::default(), generation: 0 }
    }

    /// Returns what the watcher may have lost by the log's bounds. One that starts at the beginning wants what
    /// there is.
    pub(super) fn loss(&self, bounds: &LogBounds) -> Loss {
        match bounds.loss(self.position, &self.losses) {
            Loss::Trimmed | Loss::Removed if self.position == Position::START => Loss::Nothing,
            loss => loss,
        }
    }
}

impl Origin {
    /// Returns the position to resume from later; `None` if nobody knows.
    pub(super) fn position(&self) -> Option<Position> {
        match self {
            Self::Start(Start::After(position)) => Some(*position),
            Self::Start(Start::At(ms)) => {
                Some(EntryId { ms: ms.saturating_sub(1), count: 0 }.into())
            }
            Self::Start(Start::Unknown) => None,
            // It saw an empty log, and has to hear of what is lost there.
            Self::Place(place) => Some(place.position.max(Position::EMPTY)),
        }
    }
}

impl Lag {
    pub(super) fn new(log: usize, place: Place) -> Self {
        let found = VecDeque::new();
        Self { log, place, sent: place.position, found, is_at_end: false }
    }

    /// Returns whether the ring has what the watcher was not sent yet.
    pub(super) fn in_ring(&self, log: &LogState) -> InRing {
        let known = (self.place.generation, self.place.losses.gap_before);
        if (log.generation, log.losses.gap_before) != known {
            InRing::Restarted
        } else if log.reaches_back_to(self.sent) {
            InRing::All
        } else {
            InRing::TooOld
        }
    }

    /// Goes on elsewhere, with nothing found yet.
    pub(super) fn move_to(&mut self, position: Position) {
        (self.place.position, self.sent) = (position, position);
        self.found.clear();
        self.is_at_end = false;
    }

    /// Takes what the ring has, up to a number of events.
    pub(super) fn take_from_ring(&mut self, found: Vec<Event>, limit: usize, end: Position) {
        self.is_at_end = found.len() < limit;
        let last = found.last().map_or(self.place.position, |event| event.position);
        self.place.position = if self.is_at_end { end.max(last) } else { last };
        self.found = found.into();
    }

    /// Takes what was read up to a position; of many events only so many.
    pub(super) fn take_from_store(
        &mut self,
        mut found: Vec<Event>,
        reached: Position,
        limit: usize,
    ) {
        self.is_at_end = false;
        found.truncate(limit);
        let last = found.last().map(|event| event.position);
        self.place.position = last.filter(|_| found.len() == limit).unwrap_or(reached);
        self.found = found.into();
    }

    /// Returns the time before which the watcher has nothing to receive any more; `None` if it has nothing to
    /// receive at all.
    fn reached_ms(&self) -> Option<u64> {
        match self.found.front() {
            Some(event) => Some(event.position.entry().ms),
            None if self.is_at_end => None,
            None => Some(self.place.position.entry().ms),
        }
    }
}

/// Takes the events that are to be sent next, in order, each with the index of its lag. Of several logs these
/// are from a short time, so that each event is a place to resume from.
pub(super) fn take_slice(lags: &mut [Lag]) -> Vec<(usize, Event)> {
    let reached = lags.iter().filter_map(Lag::reached_ms).min().filter(|_| lags.len() > 1);
    let until_ms = reached.unwrap_or(u64::MAX).saturating_add(SLICE_MS);
    let mut slice = Vec::new();
    for (at, lag) in lags.iter_mut().enumerate() {
        let later = lag.found.partition_point(|event| event.position.entry().ms <= until_ms);
        slice.extend(lag.found.drain(..later).map(|event| (at, event)));
    }
    sort_by_time(&mut slice);
    slice
}

/// Sorts events of several logs by their time. Those of one log stay in order.
pub(super) fn sort_by_time<T>(events: &mut [(T, Event)]) {
    events.sort_by_key(|(_, event)| event.position.entry().ms);
}

/// Returns how many events a watcher that is behind in so many logs is sent from the ring of each at a time.
pub(super) fn ring_limit(logs: usize) -> usize {
    1 + (TAIL_READ_ENTRIES / logs.max(1)).max(16)
}
