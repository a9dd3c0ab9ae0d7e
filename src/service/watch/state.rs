//! The watchers of a process, and what it knows of each log.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::Update;
use super::lag::Absence;
use super::log_state::{LogState, View};
use crate::chance::{RandomState, watch};
use crate::domain::{Event, UserId, WatchPosition};
use crate::store::{Entries, LogBounds, Loss};
use crate::telemetry::metrics::{self, Bound};

/// Events that are kept for watchers that come back, of all logs.
const RING_MAX_EVENTS: usize = 100_000;

/// How far the reading of one log may be behind that of another before events alone are no longer places to
/// resume from: half of the time by which the other partitions resume earlier, since clocks differ too.
const UNEVEN_MAX: Duration = Duration::from_secs(30);

/// Updates that may wait for a watcher that is sent a heartbeat with a list of all logs: 24 bytes for each log, up to
/// 24 KB.
const LISTS_QUEUED_MAX: usize = 8;

pub(super) struct State {
    /// Watchers, including those that are not registered yet, and since when there are none.
    pub(super) watching: usize,
    unwatched_since: Option<Instant>,
    /// True while there are watchers.
    pub(super) is_watched: watch::Sender<bool>,
    pub(super) watchers: HashMap<UserId, Vec<Watcher>, RandomState>,
    pub(super) logs: Box<[LogState]>,
    last_id: u64,
}

pub(super) struct Watcher {
    pub(super) id: u64,
    pub(super) updates: mpsc::Sender<Update>,
    /// Sent if the queue is full.
    pub(super) overflow: oneshot::Sender<()>,
    /// The logs that could not be read when it came. It hears of all others.
    pub(super) absences: Box<[Absence]>,
    /// Whether its last event is followed by a heartbeat, and so its end of the queue knows its place.
    has_place: bool,
}

/// How a watcher gets the place to resume from after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Following {
    /// The event is one.
    Nothing,
    /// A heartbeat with the position of all logs is queued.
    Heartbeat,
    /// Its end of the queue makes the heartbeat of the last one.
    OfPlace,
}

impl Watcher {
    pub(super) fn new(
        id: u64,
        updates: mpsc::Sender<Update>,
        overflow: oneshot::Sender<()>,
    ) -> Self {
        Self { id, updates, overflow, absences: Box::default(), has_place: false }
    }

    /// Returns what follows the next event to be sent. A list of all logs is queued for the first of such events only,
    /// and not again until the watcher has read all.
    pub(super) fn follow(&mut self, is_needed: bool) -> Following {
        let has_read_all = self.updates.capacity() == self.updates.max_capacity();
        let is_needed = is_needed || (self.has_place && !has_read_all);
        match (is_needed, std::mem::replace(&mut self.has_place, is_needed)) {
            (false, _) => Following::Nothing,
            (true, false) => Following::Heartbeat,
            (true, true) => Following::OfPlace,
        }
    }

    /// Queues an event and what follows it. Returns whether there was room.
    pub(super) fn try_send_event(
        &mut self,
        partition: Option<u16>,
        event: Event,
        is_uneven: bool,
        position: impl FnOnce(&[Absence]) -> WatchPosition,
    ) -> bool {
        let following = self.follow(is_uneven || !self.absences.is_empty());
        let is_followed = following == Following::OfPlace;
        let mut has_room =
            self.updates.try_send(Update::Event { partition, event, is_followed }).is_ok();
        if has_room && following == Following::Heartbeat {
            let heartbeat = Update::Heartbeat(position(&self.absences));
            has_room = self.updates.try_send(heartbeat).is_ok();
        }
        has_room
    }

    fn hears_of(&self, log: usize) -> bool {
        self.absences.iter().all(|absence| absence.log != log)
    }
}

impl State {
    pub(super) fn new(logs: usize) -> Self {
        let ring_max = RING_MAX_EVENTS / logs.max(1);
        let (watching, unwatched_since, is_watched, watchers, last_id) = Default::default();
        let logs = (0..logs).map(|_| LogState::new(ring_max)).collect();
        Self { watching, unwatched_since, is_watched, watchers, logs, last_id }
    }

    /// Counts a watcher that arrives, and returns its ID.
    pub(super) fn enter(&mut self) -> u64 {
        self.watching += 1;
        self.is_watched.send_replace(true);
        self.last_id += 1;
        self.last_id
    }

    /// Removes a watcher, registered or not.
    pub(super) fn leave(&mut self, user: UserId, id: u64) {
        self.watching -= 1;
        self.is_watched.send_replace(self.watching > 0);
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

    pub(super) fn unregister(&mut self, user: UserId, id: u64) -> Option<Watcher> {
        let watchers = self.watchers.get_mut(&user)?;
        let at = watchers.iter().position(|watcher| watcher.id == id)?;
        let watcher = watchers.remove(at);
        metrics::add_watchers(-1);
        if watchers.is_empty() {
            self.watchers.remove(&user);
        }
        Some(watcher)
    }

    pub(super) fn watcher(&self, user: UserId, id: u64) -> Option<&Watcher> {
        self.watchers.get(&user)?.iter().find(|watcher| watcher.id == id)
    }

    /// Returns for how long nobody has watched; `None` while somebody does.
    pub(super) fn unwatched_for(&self) -> Option<Duration> {
        (self.watching == 0)
            .then(|| self.unwatched_since.map_or(Duration::ZERO, |since| since.elapsed()))
    }

    /// Returns the partition of a log's events; `None` if it is the only one.
    pub(super) fn partition(&self, log: usize) -> Option<u16> {
        u16::try_from(log).ok().filter(|_| self.logs.len() > 1)
    }

    /// Returns the position up to which each log was read, for whoever has received everything but some absent
    /// logs.
    pub(super) fn position(&self, absences: &[Absence]) -> WatchPosition {
        position(&self.logs, absences)
    }

    /// Compares a log with the one that is read: its bounds, after a view of the reading. If it is another
    /// one, all watchers get a gap, and the reading goes on with the oldest entry. Returns the generation to
    /// which the bounds belong.
    pub(super) fn check(&mut self, log: usize, view: &View, bounds: &LogBounds) -> u64 {
        self.check_for(&[Loss::Log], log, view, bounds)
    }

    /// Does the same, also if entries were removed before they were read. If these are single ones, the reading
    /// goes on where it is.
    pub(super) fn check_all(&mut self, log: usize, view: &View, bounds: &LogBounds) {
        self.check_for(&[Loss::Log, Loss::Trimmed, Loss::Removed], log, view, bounds);
    }

    fn check_for(&mut self, losses: &[Loss], log: usize, view: &View, bounds: &LogBounds) -> u64 {
        let checked = self.logs[log].check(losses, view, bounds);
        if checked.is_gap {
            self.send_gaps(log);
        }
        checked.generation
    }

    /// Notes for how long the reading of a log has stood still. Returns the longest time of all logs.
    pub(super) fn note_lag(&mut self, log: usize, lag: Duration) -> Duration {
        self.logs[log].lag = lag;
        self.logs.iter().map(|log| log.lag).max().unwrap_or_default()
    }

    /// Returns whether the reading of one of several logs is so far behind that only a heartbeat is a place to
    /// resume from.
    pub(super) fn is_uneven(&self) -> bool {
        let now = Instant::now();
        let is_behind =
            |log: &LogState| log.current_at.is_none_or(|at| now.duration_since(at) > UNEVEN_MAX);
        self.logs.len() > 1 && self.logs.iter().any(is_behind)
    }

    /// Stores and sends events that were read, unless the reading was begun again meanwhile.
    pub(super) fn publish(&mut self, log: usize, entries: Entries, view: &View) {
        let generation = self.logs[log].generation;
        let Some((start, end)) = entries.span.filter(|_| generation == view.generation) else {
            return;
        };
        self.logs[log].note_span(start);
        let is_uneven = self.is_uneven();
        for event in entries.events {
            self.logs[log].push(event);
            let Event { mark, .. } = event;
            self.send_event(mark.reader, log, event, is_uneven);
            if mark.recipient != mark.reader {
                self.send_event(mark.recipient, log, event, is_uneven);
            }
        }
        self.logs[log].reach(end);
    }

    /// Returns whether a watcher's queue has no room for so many updates.
    pub(super) fn has_crowded_queue(&self, updates: usize) -> bool {
        self.watchers.values().flatten().any(|watcher| watcher.updates.capacity() < updates)
    }

    /// Sends an event to a user's watchers. While they cannot resume from it alone, a heartbeat follows.
    fn send_event(&mut self, user: UserId, log: usize, event: Event, is_uneven: bool) {
        let partition = self.partition(log);
        let Self { watchers, logs, .. } = self;
        end(watchers, user, Bound::WatchQueue, |watcher| {
            let position = |absences: &[Absence]| position(logs, absences);
            watcher.hears_of(log) && !watcher.try_send_event(partition, event, is_uneven, position)
        });
    }

    /// Sends an update to a user's watchers that hear of a log. One whose queue is full is too slow: it still
    /// receives what is queued, then its end; if it does not read, its end at once.
    fn send(&mut self, user: UserId, log: usize, update: &Update) {
        end(&mut self.watchers, user, Bound::WatchQueue, |watcher| {
            watcher.hears_of(log) && watcher.updates.try_send(update.clone()).is_err()
        });
    }

    fn send_gaps(&mut self, log: usize) {
        let hearers = self.watchers.values().flatten().filter(|watcher| watcher.hears_of(log));
        metrics::count_watch_gaps(hearers.count());
        for user in self.users() {
            self.send(user, log, &Update::Gap);
        }
    }

    /// Sends the position of all logs to all watchers. Of several logs that is a list, which a watcher does not get
    /// while it has others to read.
    pub(super) fn send_heartbeats(&mut self) {
        if self.watchers.is_empty() {
            return;
        }
        let users = self.users();
        let Self { watchers, logs, .. } = self;
        let of_all = position(logs, &[]);
        let has_lists = logs.len() > 1;
        for user in users {
            end(watchers, user, Bound::WatchQueue, |Watcher { updates, absences, .. }| {
                if has_lists && updates.max_capacity() - updates.capacity() > LISTS_QUEUED_MAX {
                    return false;
                }
                let own = || position(logs, absences);
                let position = if absences.is_empty() { of_all.clone() } else { own() };
                updates.try_send(Update::Heartbeat(position)).is_err()
            });
        }
    }

    /// Ends watchers whose queues are more than half full, as if they were too slow.
    pub(super) fn end_slow(&mut self) {
        for user in self.users() {
            end(&mut self.watchers, user, Bound::Memory, |Watcher { updates, .. }| {
                updates.capacity() < updates.max_capacity() / 2
            });
        }
    }

    fn users(&self) -> Vec<UserId> {
        self.watchers.keys().copied().collect()
    }
}

/// Returns the position up to which each log was read, for whoever has received everything but some absent logs.
fn position(logs: &[LogState], absences: &[Absence]) -> WatchPosition {
    if let ([log], []) = (logs, absences) {
        return WatchPosition::Log(log.tail.unwrap_or_default());
    }
    let mut tails: Vec<_> = logs.iter().map(|log| log.tail).collect();
    for Absence { log, from } in absences {
        tails[*log] = from.position();
    }
    WatchPosition::All(tails.into())
}

/// Ends some of a user's watches.
fn end(
    all: &mut HashMap<UserId, Vec<Watcher>, RandomState>,
    user: UserId,
    bound: Bound,
    is_ended: impl FnMut(&mut Watcher) -> bool,
) {
    let Some(watchers) = all.get_mut(&user) else { return };
    for watcher in watchers.extract_if(.., is_ended) {
        metrics::add_watchers(-1);
        // The receiver may have left just now.
        if watcher.overflow.send(()).is_ok() {
            metrics::count_refused(bound);
        }
    }
    if watchers.is_empty() {
        all.remove(&user);
    }
}
