//! The order of deliveries: one at a time for each conversation and user, each lane for itself.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use bytes::Bytes;
use tokio::time::Instant;

use super::receiver::Failure;
use crate::domain::{EntryId, UserId};
use crate::telemetry::Traceparent;

/// Key of events that have to stay in order: those of a conversation for one user.
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
    /// Lanes whose first delivery may begin, the longest-waiting first: those in which it was never
    /// attempted, and the others.
    fresh: VecDeque<LaneKey>,
    repeated: VecDeque<LaneKey>,
    /// Deliveries that began since one of a repeated lane did.
    fresh_in_a_row: u32,
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

/// How many fresh lanes go before a repeated one that waits: a backlog does not keep those from their turn.
const FRESH_IN_A_ROW: u32 = 3;

/// Which ready lane comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preference {
    /// Fresh and repeated ones in turns.
    Turns,
    /// A repeated one only if there is no fresh one.
    Fresh,
}

impl Lanes {
    /// Adds a delivery at the end of its lane. If the lane is new, it begins at a time, or at once.
    pub(super) fn add(&mut self, key: LaneKey, item: Item, begin_at: Option<Instant>) {
        match self.all.entry(key) {
            Entry::Occupied(lane) => lane.into_mut().rest.push_back(item),
            Entry::Vacant(lane) => {
                let attempts = item.attempts;
                let state = begin_at.map_or(LaneState::Ready, LaneState::Waiting);
                lane.insert(Lane { first: item, rest: VecDeque::new(), state });
                match begin_at {
                    Some(at) => drop(self.waiting.insert((at, key))),
                    None => self.push_ready(key, attempts),
                }
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
                let attempts = lane.first.attempts;
                self.push_ready(key, attempts);
            }
        }
        None
    }

    fn push_ready(&mut self, key: LaneKey, attempts: u32) {
        if attempts == 0 { self.fresh.push_back(key) } else { self.repeated.push_back(key) }
    }

    fn is_fresh_next(&self, preference: Preference) -> bool {
        let is_turn = preference == Preference::Fresh || self.fresh_in_a_row < FRESH_IN_A_ROW;
        !self.fresh.is_empty() && (is_turn || self.repeated.is_empty())
    }

    /// Returns the next delivery that may begin.
    pub(super) fn next(&self, preference: Preference) -> Option<(LaneKey, &Item)> {
        let is_fresh = self.is_fresh_next(preference);
        let key = if is_fresh { self.fresh.front() } else { self.repeated.front() }?;
        self.all.get(key).map(|lane| (*key, &lane.first))
    }

    /// Takes the delivery that [`Self::next`] returned. Its lane stands still until it is decided.
    pub(super) fn begin(&mut self, preference: Preference) -> Option<(LaneKey, &Item)> {
        let key = if self.is_fresh_next(preference) {
            self.fresh_in_a_row = self.fresh_in_a_row.saturating_add(1);
            self.fresh.pop_front()
        } else {
            self.fresh_in_a_row = 0;
            self.repeated.pop_front()
        }?;
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
                let (attempts, lane) = (next.attempts, lane.get_mut());
                lane.state = LaneState::Ready;
                let finished = std::mem::replace(&mut lane.first, next);
                self.push_ready(key, attempts);
                Some(finished)
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
        std::iter::from_fn(|| lanes.begin(Preference::Turns).map(|(_, item)| item.entry.ms))
            .collect()
    }

    #[test]
    fn a_lane_has_one_delivery_at_a_time_in_order_and_others_go_on() {
        let mut lanes = Lanes::default();
        for number in 1..=6 {
            lanes.add(key(number % 2 + 10), item(number), None);
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
        lanes.add(key(10), item(1), None);
        lanes.add(key(10), item(2), None);
        lanes.begin(Preference::Turns);
        lanes.current(key(10)).unwrap().attempts += 1;
        lanes.retry(key(10), now + second);
        assert_eq!(lanes.wake(now), Some(now + second));
        assert!(lanes.next(Preference::Turns).is_none());
        assert_eq!(lanes.wake(now + second), None);
        assert_eq!(
            lanes.next(Preference::Turns).map(|(_, item)| (item.entry.ms, item.attempts)),
            Some((1, 1))
        );
    }

    #[test]
    fn fresh_lanes_come_first_and_repeated_ones_have_their_turns() {
        let mut lanes = Lanes::default();
        for number in 1..=10 {
            let attempts = u32::from(number <= 3);
            lanes.add(key(number + 10), Item { attempts, ..item(number) }, None);
        }
        assert_eq!(lanes.next(Preference::Fresh).map(|(_, item)| item.entry.ms), Some(4));
        assert_eq!(begin_all(&mut lanes), [4, 5, 6, 1, 7, 8, 9, 2, 10, 3]);
        for number in 1..=10 {
            lanes.current(key(number + 10)).unwrap().attempts += u32::from(number == 10);
            lanes.retry(key(number + 10), Instant::now());
        }
        lanes.wake(Instant::now());
        let begin = |_| lanes.begin(Preference::Fresh).map(|(_, item)| item.attempts);
        let attempts: Vec<_> = (0..10).filter_map(begin).collect();
        assert_eq!(attempts, [0, 0, 0, 0, 0, 0, 1, 1, 1, 1]);
    }

    #[test]
    fn waiting_lanes_are_hastened_but_never_delayed() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let seconds = Duration::from_secs;
        for (lane, wait) in [(10, 100), (11, 1), (12, 100)] {
            lanes.add(key(lane), item(lane), None);
            lanes.begin(Preference::Turns);
            lanes.retry(key(lane), now + seconds(wait));
        }
        lanes.hasten(|item| (item.entry.ms != 12).then_some(now + seconds(5)));
        assert_eq!(lanes.wake(now + seconds(1)), Some(now + seconds(5)));
        assert_eq!(begin_all(&mut lanes), [11]);
        assert_eq!(lanes.wake(now + seconds(5)), Some(now + seconds(100)));
        assert_eq!(begin_all(&mut lanes), [10]);
    }

    #[test]
    fn a_lane_may_begin_with_a_wait() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let later = now + Duration::from_secs(1);
        lanes.add(key(10), item(1), Some(later));
        lanes.add(key(10), item(2), None);
        assert_eq!((lanes.wake(now), begin_all(&mut lanes).len()), (Some(later), 0));
        lanes.wake(later);
        assert_eq!(begin_all(&mut lanes), [1]);
    }
}
