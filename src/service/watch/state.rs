//! The watchers of a process, and the ring of recent events.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Update;
use crate::domain::{EntryId, Event, Position, UserId};
use crate::store::{Entries, LogBounds, Loss, Losses};
use crate::telemetry::metrics::{self, Bound};

/// Events that are kept for watchers that come back.
const RING_MAX_EVENTS: usize = 100_000;

/// How much later than a restart the store may know of the same loss, or that it was greater.
const SAME_LOSS_MAX: Duration = Duration::from_secs(5);

#[derive(Default)]
pub(super) struct State {
    /// Watchers, including those that are not registered yet, and since when there are none.
    pub(super) watching: usize,
    pub(super) unwatched_since: Option<Instant>,
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
    pub(super) watchers: HashMap<UserId, Vec<Watcher>>,
    last_id: u64,
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

pub(super) struct Watcher {
    pub(super) id: u64,
    pub(super) updates: mpsc::Sender<Update>,
    /// Sent if the queue is full.
    pub(super) overflow: oneshot::Sender<()>,
}

impl State {
    /// Counts a watcher that arrives, and returns its ID.
    pub(super) fn enter(&mut self) -> u64 {
        self.watching += 1;
        self.last_id += 1;
        self.last_id
    }

    /// Removes a watcher, registered or not.
    pub(super) fn leave(&mut self, user: UserId, id: u64) {
        self.watching -= 1;
        self.unwatched_since = Some(Instant::now());
        self.unregister(user, id);
    }

    pub(super) fn register(&mut self, user: UserId, watcher: Watcher) {
        // It may have left while it caught up.
        if !watcher.updates.is_closed() {
            self.watchers.entry(user).or_default().push(watcher);
            metrics::add_watchers(1);
        }
    }

    fn unregister(&mut self, user: UserId, id: u64) {
        let Some(watchers) = self.watchers.get_mut(&user) else { return };
        let before = watchers.len();
        watchers.retain(|watcher| watcher.id != id);
        metrics::add_watchers(-i32::from(watchers.len() < before));
        if watchers.is_empty() {
            self.watchers.remove(&user);
        }
    }

    /// Returns for how long nobody has watched; `None` while somebody does.
    pub(super) fn unwatched_for(&self) -> Option<Duration> {
        (self.watching == 0)
            .then(|| self.unwatched_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Returns where the reading is.
    pub(super) fn view(&self) -> View {
        let State { read_to, generation, length, .. } = *self;
        View { is_reading: self.tail.is_some(), read_to, generation, length }
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
    }

    /// Ends the reading.
    pub(super) fn end_reading(&mut self) {
        self.tail = None;
        self.ring = VecDeque::new();
    }

    /// Compares the log with the one that is read: its bounds, after a view of the reading. If it is another
    /// one, all watchers get a gap, and the reading goes on with the oldest entry. Returns the generation to
    /// which the bounds belong.
    pub(super) fn check(&mut self, view: &View, bounds: &LogBounds) -> u64 {
        self.check_for(&[Loss::Log], view, bounds)
    }

    /// Does the same, also if entries were removed before they were read. If these are single ones, the reading
    /// goes on where it is.
    pub(super) fn check_all(&mut self, view: &View, bounds: &LogBounds) {
        self.check_for(&[Loss::Log, Loss::Trimmed, Loss::Removed], view, bounds);
    }

    fn check_for(&mut self, losses: &[Loss], view: &View, bounds: &LogBounds) -> u64 {
        // Nothing follows from bounds that are older than the last beginning.
        if !self.is_current(view) {
            return view.generation;
        }
        self.length = bounds.length;
        if self.has_heard_of_loss(view, bounds) {
            self.take_over_loss(bounds);
        }
        match bounds.loss(view.read_to, &self.losses) {
            loss if !losses.contains(&loss) => {}
            Loss::Nothing => {}
            Loss::Removed => self.note_removal(bounds),
            Loss::Trimmed | Loss::Log => self.restart(bounds),
        }
        self.generation
    }

    /// Returns whether the reading was not begun again since a view of it.
    fn is_current(&self, view: &View) -> bool {
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
        self.send_gaps();
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
        self.send_gaps();
    }

    fn send_gaps(&mut self) {
        metrics::count_watch_gaps(self.watchers.values().map(Vec::len).sum());
        self.send_all(&Update::Gap);
    }

    /// Stores and sends events that were read, unless the reading was begun again meanwhile.
    pub(super) fn publish(&mut self, entries: Entries, view: &View) {
        let Some((start, end)) = entries.span.filter(|_| self.generation == view.generation) else {
            return;
        };
        if let Some(Restart { oldest: oldest @ None, .. }) = &mut self.restart {
            *oldest = Some(start.entry().after());
        }
        for event in entries.events {
            self.ring.push_back(event);
            let Event { mark, .. } = event;
            self.send(mark.reader, &Update::Event(event));
            if mark.recipient != mark.reader {
                self.send(mark.recipient, &Update::Event(event));
            }
        }
        while self.ring.len() > RING_MAX_EVENTS {
            self.floor = self.ring.pop_front().map_or(self.floor, |event| event.position);
        }
        (self.read_to, self.tail) = (end, Some(end));
    }

    /// Returns whether a watcher's queue has no room for so many updates.
    pub(super) fn has_crowded_queue(&self, updates: usize) -> bool {
        self.watchers.values().flatten().any(|watcher| watcher.updates.capacity() < updates)
    }

    /// Returns a user's first events after a position; `None` if the ring does not go back that far.
    pub(super) fn missed(
        &self,
        user: UserId,
        position: Position,
        limit: usize,
    ) -> Option<Vec<Event>> {
        if position < self.floor || self.tail.is_none() {
            return None;
        }
        let first = self.ring.partition_point(|event| event.position <= position);
        let missed = self.ring.range(first..).filter(|event| concerns(event, user));
        Some(missed.take(limit).copied().collect())
    }

    /// Sends an update to a user's watchers. One whose queue is full is too slow: it still receives what
    /// is queued, then its end; if it does not read, its end at once.
    pub(super) fn send(&mut self, user: UserId, update: &Update) {
        let is_full = |watcher: &mut Watcher| watcher.updates.try_send(update.clone()).is_err();
        self.end(user, Bound::WatchQueue, is_full);
    }

    /// Ends watchers whose queues are more than half full, as if they were too slow.
    pub(super) fn end_slow(&mut self) {
        let users: Vec<_> = self.watchers.keys().copied().collect();
        for user in users {
            self.end(user, Bound::Memory, |Watcher { updates, .. }| {
                updates.capacity() < updates.max_capacity() / 2
            });
        }
    }

    /// Ends some of a user's watches.
    fn end(&mut self, user: UserId, bound: Bound, is_ended: impl FnMut(&mut Watcher) -> bool) {
        let Some(watchers) = self.watchers.get_mut(&user) else { return };
        for watcher in watchers.extract_if(.., is_ended) {
            metrics::add_watchers(-1);
            // The receiver may have left just now.
            if watcher.overflow.send(()).is_ok() {
                metrics::count_refused(bound);
            }
        }
        if watchers.is_empty() {
            self.watchers.remove(&user);
        }
    }

    pub(super) fn send_all(&mut self, update: &Update) {
        let users: Vec<_> = self.watchers.keys().copied().collect();
        for user in users {
            self.send(user, update);
        }
    }
}

pub(super) fn concerns(event: &Event, user: UserId) -> bool {
    event.mark.reader == user || event.mark.recipient == user
}
