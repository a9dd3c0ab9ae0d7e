//! The order of deliveries: one at a time for each conversation and user, each lane for itself.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::receiver::Failure;
use crate::domain::{EntryId, UserId};
use crate::telemetry::Traceparent;

/// What has to stay in order: the events of a conversation for one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneKey {
    pub(super) reader: UserId,
    pub(super) recipient: UserId,
    pub(super) for_user: UserId,
}

/// A delivery that waits for its turn, or is attempted.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) entry: EntryId,
    /// When the event happened, in milliseconds since 1970.
    pub(super) created_ms: u64,
    pub(super) payload: Bytes,
    pub(super) traceparent: Option<Traceparent>,
    /// Attempts that began and had an outcome.
    pub(super) attempts: u32,
    /// Why the last attempt failed, if one did.
    pub(super) failure: Option<Box<Failure>>,
}

/// The deliveries of a feed.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    all: HashMap<LaneKey, Lane>,
    /// Lanes whose first delivery may begin, the longest-waiting first.
    ready: VecDeque<LaneKey>,
    /// Lanes whose first delivery is attempted again at a time.
    waiting: BTreeSet<(Instant, LaneKey)>,
}

#[derive(Debug)]
struct Lane {
    first: Item,
    /// Of most lanes empty, which costs no allocation.
    rest: VecDeque<Item>,
    state: LaneState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LaneState {
    Ready,
    /// An attempt, or the writing of a dead letter, is under way.
    Busy,
    Waiting(Instant),
}

impl Lanes {
    /// Adds a delivery at the end of its lane.
    pub(super) fn add(&mut self, key: LaneKey, item: Item) {
        match self.all.entry(key) {
            Entry::Occupied(lane) => lane.into_mut().rest.push_back(item),
            Entry::Vacant(lane) => {
                lane.insert(Lane { first: item, rest: VecDeque::new(), state: LaneState::Ready });
                self.ready.push_back(key);
            }
        }
    }

    /// Makes ready what is due. Returns when the next lane will be.
    pub(super) fn wake(&mut self, now: Instant) -> Option<Instant> {
        while let Some((due, key)) = self.waiting.first().copied() {
            if due > now {
                return Some(due);
            }
            self.waiting.pop_first();
            if let Some(lane) = self.all.get_mut(&key) {
                lane.state = LaneState::Ready;
                self.ready.push_back(key);
            }
        }
        None
    }

    /// Returns the next delivery that may begin.
    pub(super) fn next(&self) -> Option<(LaneKey, &Item)> {
        let key = self.ready.front()?;
        self.all.get(key).map(|lane| (*key, &lane.first))
    }

    /// Takes the delivery that [`Self::next`] returned. Its lane stands still until it is decided.
    pub(super) fn begin(&mut self) -> Option<(LaneKey, &Item)> {
        let key = self.ready.pop_front()?;
        let lane = self.all.get_mut(&key)?;
        lane.state = LaneState::Busy;
        Some((key, &lane.first))
    }

    /// Returns the delivery of a lane that is under way.
    pub(super) fn current(&mut self, key: LaneKey) -> Option<&mut Item> {
        let lane = self.all.get_mut(&key).filter(|lane| lane.state == LaneState::Busy)?;
        Some(&mut lane.first)
    }

    /// Ends the delivery of a lane that is under way, and lets the next one begin.
    pub(super) fn finish(&mut self, key: LaneKey) -> Option<Item> {
        let Entry::Occupied(mut lane) = self.all.entry(key) else { return None };
        match lane.get_mut().rest.pop_front() {
            Some(next) => {
                lane.get_mut().state = LaneState::Ready;
                self.ready.push_back(key);
                Some(std::mem::replace(&mut lane.get_mut().first, next))
            }
            None => Some(lane.remove().first),
        }
    }

    /// Attempts the delivery of a lane that is under way again, at a time.
    pub(super) fn retry(&mut self, key: LaneKey, at: Instant) {
        if let Some(lane) = self.all.get_mut(&key) {
            lane.state = LaneState::Waiting(at);
            self.waiting.insert((at, key));
        }
    }

    /// Makes waiting lanes due earlier. `due` returns the new time, if there is one.
    pub(super) fn hasten(&mut self, mut due: impl FnMut(&Item) -> Option<Instant>) {
        let waiting = std::mem::take(&mut self.waiting);
        for (at, key) in waiting {
            let Some(lane) = self.all.get_mut(&key) else { continue };
            let at = due(&lane.first).map_or(at, |early| early.min(at));
            lane.state = LaneState::Waiting(at);
            self.waiting.insert((at, key));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(conversation: u64) -> LaneKey {
        let user = |id: u64| UserId::try_from(id).unwrap();
        LaneKey { reader: user(1), recipient: user(conversation), for_user: user(conversation) }
    }

    fn item(number: u64) -> Item {
        Item {
            entry: EntryId { ms: number, count: 0 },
            created_ms: number,
            payload: Bytes::new(),
            traceparent: None,
            attempts: 0,
            failure: None,
        }
    }

    fn begin_all(lanes: &mut Lanes) -> Vec<u64> {
        std::iter::from_fn(|| lanes.begin().map(|(_, item)| item.entry.ms)).collect()
    }

    #[test]
    fn a_lane_has_one_delivery_at_a_time_in_order_and_others_go_on() {
        let mut lanes = Lanes::default();
        for number in 1..=6 {
            lanes.add(key(number % 2 + 10), item(number));
        }
        assert_eq!(begin_all(&mut lanes), [1, 2]);
        assert_eq!(lanes.finish(key(11)).map(|item| item.entry.ms), Some(1));
        assert_eq!(begin_all(&mut lanes), [3]);
        lanes.finish(key(11));
        assert_eq!(begin_all(&mut lanes), [5]);
        lanes.finish(key(11));
        assert_eq!(begin_all(&mut lanes), [0; 0]);
        assert!(lanes.current(key(11)).is_none());
        lanes.finish(key(10));
        assert_eq!(begin_all(&mut lanes), [4]);
    }

    #[test]
    fn a_delivery_that_failed_comes_again_before_those_behind_it() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let second = Duration::from_secs(1);
        lanes.add(key(10), item(1));
        lanes.add(key(10), item(2));
        lanes.begin();
        lanes.current(key(10)).unwrap().attempts += 1;
        lanes.retry(key(10), now + second);
        assert_eq!(lanes.wake(now), Some(now + second));
        assert!(lanes.next().is_none());
        assert_eq!(lanes.wake(now + second), None);
        assert_eq!(lanes.next().map(|(_, item)| (item.entry.ms, item.attempts)), Some((1, 1)));
    }

    #[test]
    fn waiting_lanes_are_hastened_but_never_delayed() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let seconds = Duration::from_secs;
        for (lane, wait) in [(10, 100), (11, 1), (12, 100)] {
            lanes.add(key(lane), item(lane));
            lanes.begin();
            lanes.retry(key(lane), now + seconds(wait));
        }
        lanes.hasten(|item| (item.entry.ms != 12).then_some(now + seconds(5)));
        assert_eq!(lanes.wake(now + seconds(1)), Some(now + seconds(5)));
        assert_eq!(begin_all(&mut lanes), [11]);
        assert_eq!(lanes.wake(now + seconds(5)), Some(now + seconds(100)));
        assert_eq!(begin_all(&mut lanes), [10]);
    }
}
