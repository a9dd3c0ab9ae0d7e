//! Reads the end of the log, once for all watchers, and checks that it is still the same log.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, interval, sleep, sleep_until};

use super::state::View;
use super::{BULK_READ_TIMEOUT, HEARTBEAT_INTERVAL, Hub, TAIL_READ_ENTRIES, Update, within};
use crate::domain::Position;
use crate::store::{Entries, LogBounds, ReadSize, StoreError};
use crate::telemetry::{LogThrottle, metrics};

/// Bytes of a read to aim at, by the read before.
const TAIL_READ_BYTES: usize = 4 * 1024 * 1024;

/// Longest wait of one read, and how much longer its reply may take.
const TAIL_WAIT: Duration = Duration::from_secs(1);
const TAIL_GRACE: Duration = Duration::from_secs(5);

/// How long the log is still read after the last watcher has left.
const UNWATCHED_MAX: Duration = Duration::from_secs(60);

/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long reads fail before the log says so: the supervisor reports a Redis that is away.
const FAILING_MAX: Duration = Duration::from_secs(10);

/// Events that are read at the start, for watchers that come back.
const RING_START_EVENTS: usize = 10_000;

/// Time between two checks of the log.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a check, in its durations, if that is longer.
const PAUSE_OF_CHECKS: u32 = 10;

/// Longest pause after a full read, in which watchers that read make room for the next one, and time between
/// two looks at their queues.
const DRAIN_MAX: Duration = Duration::from_millis(100);
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// Experience of earlier reads: their size, failures, and foreign entries.
struct Reads {
    size: ReadSize,
    failing_since: Option<Instant>,
    failures: LogThrottle,
    /// Entries of other programs that no log line has counted yet.
    foreign: usize,
    foreign_lines: LogThrottle,
}

impl Hub {
    /// Reads the log and delivers it, for ever. It pauses while nobody watches, since each server reads
    /// the events of all servers.
    pub async fn run(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).send_heartbeats());
        tokio::spawn(Arc::clone(&self.backlog).run());
        tokio::spawn(Arc::clone(&self).run_checks());
        let mut reads = Reads::new();
        loop {
            while self.state().watching == 0 {
                self.arrived.notified().await;
            }
            if let Err(error) = self.follow(&mut reads).await {
                reads.note_failure(&error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn send_heartbeats(self: Arc<Self>) {
        let mut interval = interval(HEARTBEAT_INTERVAL);
        loop {
            interval.tick().await;
            let mut state = self.state();
            if let Some(tail) = state.tail {
                state.send_all(&Update::Heartbeat(tail));
            }
        }
    }

    /// Reads from the tail on, until the store fails or nobody has watched for a while.
    async fn follow(&self, reads: &mut Reads) -> Result<(), StoreError> {
        self.begin(reads).await?;
        while !self.stop_if_unwatched() {
            let (view, limit) = (self.state().view(), reads.size.entries());
            let read = self.log.wait_for_entries(view.read_to, limit, TAIL_WAIT);
            let entries = within(TAIL_WAIT + TAIL_GRACE, read).await?;
            reads.note(&entries);
            let count = entries.count;
            // So far behind, of so short a log, that entries may have been trimmed before they were read.
            let half = usize::try_from(view.length / 2).unwrap_or(usize::MAX);
            if count > 0 && count >= limit.min(half) {
                let bounds = self.bounds().await?;
                self.state().check_all(&view, &bounds);
            }
            self.state().publish(entries, &view);
            if count >= limit {
                self.let_watchers_read(reads.size.entries()).await;
            }
        }
        Ok(())
    }

    /// Reads the newest entries, or goes on where the reading was, unless entries may be lost there.
    async fn begin(&self, reads: &mut Reads) -> Result<(), StoreError> {
        let view = self.state().view();
        let bounds = self.bounds().await?;
        if view.is_reading {
            self.state().check_all(&view, &bounds);
            return Ok(());
        }
        let newest = self.log.newest_entries(RING_START_EVENTS);
        let newest = within(BULK_READ_TIMEOUT, newest).await?;
        reads.note(&newest);
        self.state().begin(newest, &bounds);
        self.reading.send_replace(true);
        Ok(())
    }

    /// Stops reading if nobody has watched for a while. Returns whether it did.
    fn stop_if_unwatched(&self) -> bool {
        let mut state = self.state();
        if state.unwatched_for().is_none_or(|time| time < UNWATCHED_MAX) {
            return false;
        }
        state.end_reading();
        // With the lock held, so that a watcher that arrives now waits for the next start.
        self.reading.send_replace(false);
        true
    }

    /// Waits for a moment if a watcher's queue has no room for another full read: only reads come faster
    /// than clients that read. Those that do not are waited for until their queues are full.
    async fn let_watchers_read(&self, updates: usize) {
        let began = Instant::now();
        while began.elapsed() < DRAIN_MAX && self.state().has_crowded_queue(updates) {
            sleep(DRAIN_INTERVAL).await;
        }
    }

    /// Checks the log, for ever, also while its reads hang or fail.
    async fn run_checks(self: Arc<Self>) {
        let mut standstill = Standstill::default();
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            next = Instant::now() + CHECK_INTERVAL;
            let (view, unwatched_for) = {
                let state = self.state();
                (state.view(), state.unwatched_for())
            };
            if unwatched_for.is_some_and(|time| time >= UNWATCHED_MAX || !view.is_reading) {
                standstill = Standstill::default();
                metrics::set_watch_tail_lag(Duration::ZERO);
                continue;
            }
            let began = Instant::now();
            let bounds = self.bounds().await.ok();
            if let Some(bounds) = &bounds {
                // Entries of many megabytes at the ends of the stream make a look expensive for the store.
                next = next.max(Instant::now() + began.elapsed() * PAUSE_OF_CHECKS);
                self.state().check(&view, bounds);
            }
            metrics::set_watch_tail_lag(standstill.measure(&view, bounds.as_ref()));
        }
    }
}

impl Reads {
    fn new() -> Self {
        let size = ReadSize::new(TAIL_READ_ENTRIES, TAIL_READ_BYTES);
        let (failures, foreign_lines) = Default::default();
        Self { size, failing_since: None, failures, foreign: 0, foreign_lines }
    }

    /// Learns from a read, and counts the entries that are no events.
    fn note(&mut self, read: &Entries) {
        self.size.adapt(read);
        self.failing_since = None;
        let foreign = read.count.saturating_sub(read.events.len());
        if foreign == 0 {
            return;
        }
        metrics::count_foreign_entries(foreign);
        self.foreign += foreign;
        if self.foreign_lines.permit().is_some() {
            let entries = std::mem::take(&mut self.foreign);
            tracing::warn!(entries, "entries of the stream are no mark-read events: skipped");
        }
    }

    fn note_failure(&mut self, error: &StoreError) {
        // Entries may be too large to be read in time.
        self.size.shrink();
        let cause = error.to_string();
        tracing::debug!(?cause, "the event log cannot be read");
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= FAILING_MAX && self.failures.permit().is_some() {
            tracing::warn!(?cause, "watchers hear nothing: the event log cannot be read");
        }
    }
}

/// Measures for how long the reading has stood still while there was something to read.
#[derive(Default)]
pub(super) struct Standstill {
    /// Where the reading stands; `None` if it has reached the end of the log.
    halt: Option<Halt>,
}

/// A place where the reading stands before the end of the log.
#[derive(Clone, Copy)]
struct Halt {
    is_reading: bool,
    read_to: Position,
    since: Instant,
}

impl Standstill {
    /// Returns the time, by one look at the reading and then at the log. While the log's bounds cannot be read,
    /// there may be something to read.
    pub(super) fn measure(&mut self, view: &View, bounds: Option<&LogBounds>) -> Duration {
        let has_reached_end = |bounds: &LogBounds| {
            bounds.newest.is_none_or(|newest| Position::from(newest) <= view.read_to)
        };
        // Before the first read somebody waits for it.
        let is_behind = !view.is_reading || !bounds.is_some_and(has_reached_end);
        // A restart at the same place is not progress.
        let &View { is_reading, read_to, .. } = view;
        self.halt = match self.halt {
            _ if !is_behind => None,
            Some(halt) if (halt.is_reading, halt.read_to) == (is_reading, read_to) => Some(halt),
            _ => Some(Halt { is_reading, read_to, since: Instant::now() }),
        };
        self.halt.map_or(Duration::ZERO, |halt| halt.since.elapsed())
    }
}
