//! The watchers of a process, and the ring of recent events.

use std::collections::{HashMap, VecDeque};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Update;
use crate::domain::{Event, Position, UserId};
use crate::store::Entries;
use crate::telemetry::metrics::{self, Bound};

/// Events that are kept for watchers that come back.
const RING_MAX_EVENTS: usize = 100_000;

#[derive(Default)]
pub(super) struct State {
    /// Watchers, including those that are not registered yet, and since when there are none.
    pub(super) watching: usize,
    pub(super) unwatched_since: Option<Instant>,
    /// Position up to which the log was read; `None` while it is not read.
    pub(super) tail: Option<Position>,
    /// All events after `floor`, up to `tail`.
    pub(super) ring: VecDeque<Event>,
    pub(super) floor: Position,
    pub(super) watchers: HashMap<UserId, Vec<Watcher>>,
    last_id: u64,
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

    /// Stores and sends events. Returns the position up to which the log was read.
    pub(super) fn publish(&mut self, entries: Entries, tail: Position) -> Position {
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
        let tail = entries.span.map_or(tail, |(_, end)| end);
        self.tail = Some(tail);
        tail
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
