//! What is known of one log: where the reading is, and the ring of recent events.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::lag::Place;
use crate::domain::{EntryId, Event, Position, UserId};
use crate::store::{Entries, LogBounds, Loss, Losses};

/// How much later than a restart the store may know of the same loss, or that it was greater.
const SAME_LOSS_MAX: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct LogState {
    /// Position up to which the log was read; `None` while it is not read.
    pub(super) tail: Option<Position>,
    /// Where the reading goes on. It differs from `tail` in an empty log, whose position is not one of an
    /// entry.
    read_to: Position,
    /// Counts the beginnings: those of the reading, and those after gaps.
    pub(super) generation: u64,
    /// Losses of the log that is read, of which all watchers heard.
    pub(super) losses: Losses,
    /// Entries of the log when its bounds were read last.
    length: u64,
    /// The last restart, unless the reading was begun since.
    restart: Option<Restart>,
    /// All events after `floor`, up to `tail`.
    pub(super) ring: VecDeque<Event>,
    pub(super) floor: Position,
    /// Events that the ring keeps.
    pub(super) ring_max: usize,
    /// When the reading had last reached the end of the log.
    pub(super) current_at: Option<Instant>,
    /// For how long the reading has stood still, as it was measured last.
    pub(super) lag: Duration,
}

/// A restart of the reading with the oldest entry of a log, of which all watchers heard.
struct Restart {
    at: Instant,
    /// The generation that it began.
    generation: u64,
    /// The oldest entry, once there was one.
    oldest: Option<EntryId>,
}

/// Where the reading was at some time.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) is_reading: bool,
    pub(super) read_to: Position,
    pub(super) generation: u64,
    /// Entries of the log, about.
    pub(super) length: u64,
}

/// What a check of the log found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Checked {
    /// The generation to which the bounds belong.
    pub(super) generation: u64,
    /// Whether entries may be lost to all watchers.
    pub(super) is_gap: bool,
}

impl LogState {
    pub(super) fn new(ring_max: usize) -> Self {
        Self { ring_max, ..Self::default() }
    }

    /// Returns where the reading is.
    pub(super) fn view(&self) -> View {
        let Self { read_to, generation, length, .. } = *self;
        View { is_reading: self.tail.is_some(), read_to, generation, length }
    }

    /// Returns the place of a watcher that has heard of everything.
    pub(super) fn place(&self) -> Place {
        let Self { read_to, losses, generation, .. } = *self;
        Place { position: read_to, losses, generation }
    }

    /// Returns a position as watchers resume from it: that of an empty log is not one of an entry.
    pub(super) fn resumable(&self, position: Position) -> Position {
        self.tail.filter(|_| position == self.read_to).unwrap_or(position)
    }

    /// Begins the reading with the newest entries.
    pub(super) fn begin(&mut self, newest: Entries, bounds: &LogBounds) {
        let (floor, end) = newest.span.unwrap_or((bounds.start(), bounds.start()));
        self.read_to = end;
        self.tail = Some(newest.span.map_or(bounds.end(), |(_, end)| end));
        (self.floor, self.ring) = (floor, newest.events.into());
        (self.losses, self.length) = (bounds.losses(), bounds.length);
        self.generation += 1;
        self.restart = None;
        self.current_at = Some(Instant::now());
    }

    /// Ends the reading.
    pub(super) fn end_reading(&mut self) {
        self.tail = None;
        self.ring = VecDeque::new();
    }

    /// Compares the log with the one that is read: its bounds, after a view of the reading. If one of these losses
    /// shows, it is a gap for all watchers. Of another log, or of one that was trimmed, the reading goes on with
    /// the oldest entry; if single entries were removed it goes on where it is.
    pub(super) fn check(&mut self, losses: &[Loss], view: &View, bounds: &LogBounds) -> Checked {
        // Nothing follows from bounds that are older than the last beginning.
        if !self.is_current(view) {
            return Checked { generation: view.generation, is_gap: false };
        }
        self.length = bounds.length;
        if self.has_heard_of_loss(view, bounds) {
            self.take_over_loss(bounds);
        }
        let loss = bounds.loss(view.read_to, &self.losses);
        let is_gap = loss != Loss::Nothing && losses.contains(&loss);
        match loss {
            Loss::Removed if is_gap => self.note_removal(bounds),
            Loss::Trimmed | Loss::Log if is_gap => self.restart(bounds),
            _ => {}
        }
        Checked { generation: self.generation, is_gap }
    }

    /// Returns whether the reading was not begun again since a view of it.
    pub(super) fn is_current(&self, view: &View) -> bool {
        view.is_reading && self.generation == view.generation
    }

    /// Returns whether what is lost by these bounds is the loss for which the reading was restarted: it was
    /// found here before the store knew all of it. Everything since has been read if the log still begins where
    /// it did.
    fn has_heard_of_loss(&self, view: &View, bounds: &LogBounds) -> bool {
        self.restart.as_ref().is_some_and(|restart| {
            restart.at.elapsed() < SAME_LOSS_MAX && restart.oldest == bounds.oldest
        }) && !bounds.trimmed
            && !bounds.is_another(view.read_to)
    }

    /// Takes over what the store knows now of a loss of which watchers have heard.
    fn take_over_loss(&mut self, bounds: &LogBounds) {
        self.losses.gap_before = bounds.gap_before;
        // An empty log's position depends on it.
        if bounds.length == 0 {
            self.tail = Some(bounds.end());
        }
    }

    /// Returns whether the reading was restarted after a generation.
    pub(super) fn has_restarted_since(&self, generation: u64) -> bool {
        self.restart.as_ref().is_some_and(|restart| restart.generation > generation)
    }

    /// Goes on after the removal of single entries. A read that is under way is dropped, and watchers that
    /// catch up compare their places.
    fn note_removal(&mut self, bounds: &LogBounds) {
        self.losses = bounds.losses();
        self.generation += 1;
    }

    fn restart(&mut self, bounds: &LogBounds) {
        let start = bounds.start();
        (self.read_to, self.floor) = (start, start);
        self.tail = Some(if bounds.length == 0 { bounds.end() } else { start });
        self.losses = bounds.losses();
        self.generation += 1;
        let (at, generation) = (Instant::now(), self.generation);
        self.restart = Some(Restart { at, generation, oldest: bounds.oldest });
        self.ring.clear();
    }

    /// Notes that entries are published: those of this span.
    pub(super) fn note_span(&mut self, start: Position) {
        if let Some(Restart { oldest: oldest @ None, .. }) = &mut self.restart {
            *oldest = Some(start.entry().after());
        }
    }

    /// Stores an event.
    pub(super) fn push(&mut self, event: Event) {
        self.ring.push_back(event);
        self.reach(event.position);
    }

    /// Notes that everything up to a position was read, and drops what the ring does not keep.
    pub(super) fn reach(&mut self, end: Position) {
        (self.read_to, self.tail) = (end, Some(end));
        while self.ring.len() > self.ring_max {
            self.floor = self.ring.pop_front().map_or(self.floor, |event| event.position);
        }
    }

    /// Returns whether the ring has everything after a position.
    pub(super) fn reaches_back_to(&self, position: Position) -> bool {
        position >= self.floor && self.tail.is_some()
    }

    /// Returns a user's first events after a position to which the ring reaches back.
    pub(super) fn missed(&self, user: UserId, position: Position, limit: usize) -> Vec<Event> {
        let first = self.ring.partition_point(|event| event.position <= position);
        let missed = self.ring.range(first..).filter(|event| concerns(event, user));
        missed.take(limit).copied().collect()
    }
}

pub(super) fn concerns(event: &Event, user: UserId) -> bool {
    event.mark.reader == user || event.mark.recipient == user
}
