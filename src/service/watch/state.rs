//! Who watches, and what was told of late.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Update;
use crate::domain::{EntryId, Event, UserId};
use crate::store::Entries;
use crate::telemetry::metrics;

/// Events that are kept for those who come back.
const RING_MAX_EVENTS: usize = 100_000;

#[derive(Default)]
pub(super) struct State {
    /// Who watches or is about to, and since when nobody does.
    pub(super) wanted: usize,
    pub(super) unwanted_since: Option<Instant>,
    /// How far the stream was read; nothing where it is not read.
    pub(super) tail: Option<EntryId>,
    /// All events behind `floor`, up to `tail`.
    pub(super) ring: VecDeque<Event>,
    pub(super) floor: EntryId,
    pub(super) watchers: HashMap<UserId, Vec<Watcher>>,
    watchers_ever: u64,
}

pub(super) struct Watcher {
    pub(super) id: u64,
    pub(super) updates: mpsc::Sender<Update>,
}

impl State {
    /// Somebody comes, whom this ID is given.
    pub(super) fn enter(&mut self) -> u64 {
        self.wanted += 1;
        self.watchers_ever += 1;
        self.watchers_ever
    }

    /// Somebody goes, who may be registered.
    pub(super) fn leave(&mut self, user: UserId, id: u64) {
        self.wanted -= 1;
        self.unwanted_since = Some(Instant::now());
        self.unregister(user, id);
    }

    pub(super) fn register(&mut self, user: UserId, watcher: Watcher) {
        // It may have gone while it was caught up.
        if !watcher.updates.is_closed() {
            self.watchers.entry(user).or_default().push(watcher);
            metrics::count_watchers(1);
        }
    }

    fn unregister(&mut self, user: UserId, id: u64) {
        let Some(watchers) = self.watchers.get_mut(&user) else { return };
        let before = watchers.len();
        watchers.retain(|watcher| watcher.id != id);
        metrics::count_watchers(-i32::from(watchers.len() < before));
        if watchers.is_empty() {
            self.watchers.remove(&user);
        }
    }

    /// Keeps events and tells of them; says how far the stream was read.
    pub(super) fn publish(&mut self, entries: Entries, tail: EntryId) -> EntryId {
        for event in entries.events {
            self.ring.push_back(event);
            let Event { mark, .. } = event;
            self.tell(mark.reader, &Update::Event(event));
            if mark.recipient != mark.reader {
                self.tell(mark.recipient, &Update::Event(event));
            }
        }
        while self.ring.len() > RING_MAX_EVENTS {
            self.floor = self.ring.pop_front().map_or(self.floor, |event| event.id);
        }
        let tail = entries.span.map_or(tail, |(_, last)| last);
        self.tail = Some(tail);
        tail
    }

    /// A user's events behind this place; nothing where the ring does not go back so far.
    pub(super) fn missed(&self, user: UserId, place: EntryId) -> Option<Vec<Event>> {
        if place < self.floor || self.tail.is_none() {
            return None;
        }
        let behind = self.ring.partition_point(|event| event.id <= place);
        Some(self.ring.range(behind..).filter(|event| concerns(event, user)).copied().collect())
    }

    /// Tells a user's watchers. One that has no room is too slow: it gets what waits, and its end.
    pub(super) fn tell(&mut self, user: UserId, update: &Update) {
        let Some(watchers) = self.watchers.get_mut(&user) else { return };
        let before = watchers.len();
        watchers.retain(|watcher| watcher.updates.try_send(update.clone()).is_ok());
        let gone = i32::try_from(before - watchers.len()).unwrap_or(i32::MAX);
        metrics::count_watchers(-gone);
        if watchers.is_empty() {
            self.watchers.remove(&user);
        }
    }

    pub(super) fn tell_all(&mut self, update: &Update) {
        let users: Vec<_> = self.watchers.keys().copied().collect();
        for user in users {
            self.tell(user, update);
        }
    }
}

pub(super) fn concerns(event: &Event, user: UserId) -> bool {
    event.mark.reader == user || event.mark.recipient == user
}
