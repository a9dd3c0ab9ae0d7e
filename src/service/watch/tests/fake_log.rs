//! A simulated log of events.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::{position, user};
use crate::domain::{EntryId, Event, Mark, Position, Quota, ReadOutcome, UserId};
use crate::simulation::Simulation;
use crate::store::{Entries, EventLog, LogBounds, ReadQuotas, StoreError};

/// A log of which a test decides what it holds, and when its reads return or fail. Its entries are
/// numbered from 1: the ID of an entry is its number in milliseconds.
#[derive(Default)]
pub(super) struct FakeLog {
    state: Mutex<LogState>,
    changed: Notify,
    /// Whether reads of what a watcher missed wait, with what they have read.
    pub(super) held: watch::Sender<bool>,
    /// Lets reads of the bounds go on that wait with what they have read.
    bounds_releases: Notify,
    /// Decides how late reads and their answers are.
    delays: Option<Simulation>,
}

#[derive(Default)]
struct LogState {
    events: VecDeque<Event>,
    last: u64,
    trimmed: bool,
    gap_before: EntryId,
    max_removed: EntryId,
    is_holding_bounds: bool,
    mode: Mode,
    reads: Vec<(Read, Instant)>,
    /// Reads that are left to each watcher, and what each has paid.
    left: Option<u64>,
    paid: HashMap<UserId, u64>,
    entry_bytes: Option<usize>,
    /// Most entries that each read of what a watcher missed may have.
    limits: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Answers,
    Fails,
    Hangs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Wait,
    Entries,
    Newest,
    Span,
}

/// The clock of the log, in milliseconds.
pub(super) const NOW_MS: u64 = 1_000_000;

/// The size of an entry: that of one without user objects.
const ENTRY_BYTES: usize = 370;

/// Most entries of one read.
const READ_MAX_ENTRIES: usize = 1000;

/// Longest delay of a read, and of its answer.
const DELAY_MAX_MS: u64 = 30;

impl FakeLog {
    /// Creates a log whose reads and answers are late.
    pub(super) fn late(simulation: &Simulation) -> Self {
        Self { delays: Some(simulation.clone()), ..Self::default() }
    }

    fn state(&self) -> MutexGuard<'_, LogState> {
        self.state.lock().unwrap()
    }

    /// Appends events of a reader and a recipient.
    pub(super) fn publish(&self, count: u64, reader: u64, recipient: u64) {
        let mut state = self.state();
        for _ in 0..count {
            state.last += 1;
            let number = state.last;
            let (reader, recipient) = (user(reader), user(recipient));
            let mark = Mark { reader, recipient, last_read_event_id: number.try_into().unwrap() };
            let position = position(number);
            state.events.push_back(Event { position, mark, created_ms: number });
        }
        self.changed.notify_one();
    }

    /// Removes all but the newest entries.
    pub(super) fn trim(&self, kept: usize) {
        let mut state = self.state();
        let removed = state.events.len() - kept;
        state.events.drain(..removed);
        state.trimmed = true;
    }

    /// Removes the oldest entries if there are more than so many, as the stream's limit does.
    pub(super) fn limit(&self, most: usize) {
        if self.state().events.len() > most {
            self.trim(most);
        }
    }

    /// Removes an entry that is not the oldest.
    pub(super) fn erase(&self, number: u64) {
        let mut state = self.state();
        state.events.retain(|event| event.position != position(number));
        state.max_removed = state.max_removed.max(EntryId { ms: number, count: 0 });
        state.trimmed = true;
    }

    /// Holds the next read of the bounds, with what it reads.
    pub(super) fn hold_bounds(&self) {
        self.state().is_holding_bounds = true;
    }

    /// Lets the read that is held go on.
    pub(super) fn release_bounds(&self) {
        self.bounds_releases.notify_one();
    }

    /// Removes everything, as a flush does. The next entry has the number after this one.
    pub(super) fn flush(&self, last: u64) {
        let mut state = self.state();
        state.events.clear();
        (state.last, state.trimmed, state.max_removed) = (last, false, EntryId::ZERO);
    }

    /// Gives the next entry the number after this one.
    pub(super) fn advance_to(&self, last: u64) {
        let mut state = self.state();
        assert!(last >= state.last);
        state.last = last;
    }

    /// Loses the newest entries, as a failover does.
    pub(super) fn lose(&self, count: u64) {
        let mut state = self.state();
        for _ in 0..count {
            state.events.pop_back();
            state.last -= 1;
        }
    }

    /// Sets the greatest entry that is known to be lost.
    pub(super) fn set_gap_before(&self, lost: u64) {
        self.state().gap_before = EntryId { ms: lost, count: 0 };
    }

    /// Returns the number of the newest entry.
    pub(super) fn last(&self) -> u64 {
        self.state().last
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.state().mode = mode;
        self.changed.notify_one();
    }

    pub(super) fn reads(&self) -> Vec<(Read, Instant)> {
        self.state().reads.clone()
    }

    pub(super) fn count_reads(&self, of: Read) -> usize {
        self.reads().iter().filter(|(read, _)| *read == of).count()
    }

    pub(super) fn last_read(&self) -> Instant {
        self.reads().last().unwrap().1
    }

    /// Returns when the tail was read last.
    pub(super) fn last_wait(&self) -> Instant {
        let reads = self.reads();
        reads.iter().rfind(|(read, _)| *read == Read::Wait).unwrap().1
    }

    /// Sets the reads that are left to each watcher.
    pub(super) fn set_left(&self, left: u64) {
        self.state().left = Some(left);
    }

    /// Returns the reads that a watcher has paid.
    pub(super) fn paid(&self, watcher: UserId) -> u64 {
        self.state().paid.get(&watcher).copied().unwrap_or_default()
    }

    pub(super) fn set_entry_bytes(&self, bytes: usize) {
        self.state().entry_bytes = Some(bytes);
    }

    pub(super) fn limits(&self) -> Vec<usize> {
        self.state().limits.clone()
    }

    fn note(&self, read: Read) {
        self.state().reads.push((read, Instant::now()));
    }

    async fn delay(&self) {
        if let Some(simulation) = &self.delays {
            simulation.pause(DELAY_MAX_MS).await;
        }
    }

    async fn answer(&self) -> Result<(), StoreError> {
        self.delay().await;
        let mode = self.state().mode;
        match mode {
            Mode::Answers => Ok(()),
            Mode::Fails => Err(StoreError::unavailable("the test says so")),
            Mode::Hangs => std::future::pending().await,
        }
    }

    fn after(&self, after: Position, limit: usize) -> Entries {
        let state = self.state();
        let first = state.events.partition_point(|event| event.position <= after);
        let read = entries(state.events.range(first..).take(limit.min(READ_MAX_ENTRIES)));
        let bytes = read.count * state.entry_bytes.unwrap_or(ENTRY_BYTES);
        Entries { bytes, ..read }
    }
}

fn entries<'a>(events: impl Iterator<Item = &'a Event>) -> Entries {
    let events: Vec<_> = events.copied().collect();
    let span = events.first().zip(events.last());
    let span = span.map(|(first, last)| (first.position.entry().before().into(), last.position));
    let count = events.len();
    Entries { events, span, count, bytes: count * ENTRY_BYTES }
}

#[async_trait::async_trait]
impl EventLog for FakeLog {
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        self.note(Read::Wait);
        let until = Instant::now() + wait;
        loop {
            self.answer().await?;
            let entries = self.after(after, limit);
            let changed = timeout_at(until, self.changed.notified());
            if entries.span.is_some() || changed.await.is_err() {
                self.delay().await;
                return Ok(entries);
            }
        }
    }

    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError> {
        self.note(Read::Entries);
        self.state().limits.push(limit);
        self.answer().await?;
        let entries = self.after(after, limit);
        let _ = self.held.subscribe().wait_for(|held| !held).await;
        self.delay().await;
        Ok(entries)
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        self.note(Read::Newest);
        self.answer().await?;
        let newest = {
            let state = self.state();
            let first = state.events.len().saturating_sub(limit);
            entries(state.events.range(first..))
        };
        self.delay().await;
        Ok(newest)
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        self.note(Read::Span);
        self.answer().await?;
        let (bounds, is_held) = {
            let mut state = self.state();
            (state.bounds(), std::mem::take(&mut state.is_holding_bounds))
        };
        if is_held {
            self.bounds_releases.notified().await;
        }
        self.delay().await;
        Ok(bounds)
    }
}

#[async_trait::async_trait]
impl ReadQuotas for FakeLog {
    async fn take_reads(&self, watcher: UserId, reads: u64) -> Result<ReadOutcome<()>, StoreError> {
        self.answer().await?;
        let mut state = self.state();
        let left = state.left;
        let paid = state.paid.entry(watcher).or_default();
        let served = left.map_or(reads, |left| reads.min(left - *paid));
        *paid += served;
        let quota = Quota { limit: *paid, remaining: 0, reset_at_ms: NOW_MS };
        Ok(if served < reads {
            ReadOutcome::OverQuota { quota, retry_after: Duration::from_secs(60) }
        } else {
            ReadOutcome::Served { read: (), quota }
        })
    }
}

impl LogState {
    fn bounds(&self) -> LogBounds {
        LogBounds {
            oldest: self.events.front().map(|event| event.position.entry()),
            newest: self.events.back().map(|event| event.position.entry()),
            last_id: EntryId { ms: self.last, count: 0 },
            max_removed: self.max_removed,
            gap_before: self.gap_before,
            trimmed: self.trimmed,
            length: u64::try_from(self.events.len()).unwrap(),
            now_ms: NOW_MS,
        }
    }
}
