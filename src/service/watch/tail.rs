//! Reads the end of each log, once for all watchers, and checks that it is still the same log.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, interval, sleep, sleep_until};

use super::feed::Health;
use super::log_state::View;
use super::{BULK_READ_TIMEOUT, HEARTBEAT_INTERVAL, Hub, TAIL_READ_ENTRIES, within};
use crate::domain::Position;
use crate::store::{Entries, LogBounds, ReadSize, StoreError};
use crate::telemetry::{LogThrottle, metrics};

/// Bytes of a read to aim at, by the read before.
const TAIL_READ_BYTES: usize = 4 * 1024 * 1024;

/// Fewest entries and bytes of a read of one of many logs.
const TAIL_READ_MIN_ENTRIES: usize = 16;
const TAIL_READ_MIN_BYTES: usize = 256 * 1024;

/// Longest wait of one read, and how much longer its reply may take.
const TAIL_WAIT: Duration = Duration::from_secs(1);
const TAIL_GRACE: Duration = Duration::from_secs(5);

/// How long the log is still read after the last watcher has left.
const UNWATCHED_MAX: Duration = Duration::from_secs(60);

/// Pause after a failed read.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// How long reads fail before the log says so: the supervisor reports a Redis that is away.
const FAILING_MAX: Duration = Duration::from_secs(10);

/// Events of all logs that are read at the start, for watchers that come back.
const RING_START_EVENTS: usize = 10_000;

/// Time between two checks of the log.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The pause after a check, in its durations, if that is longer.
const PAUSE_OF_CHECKS: u32 = 10;

/// Longest pause after a full read, in which watchers that read make room for the next one, and time between
/// two looks at their queues.
const DRAIN_MAX: Duration = Duration::from_millis(100);
const DRAIN_INTERVAL: Duration = Duration::from_millis(10);

/// What is logged of the reads of all logs.
#[derive(Default)]
pub(super) struct Lines {
    failures: LogThrottle,
    /// Entries of other programs that no log line has counted yet.
    foreign: AtomicUsize,
    skips: LogThrottle,
}

/// Experience of earlier reads of a log.
struct Reads {
    size: ReadSize,
    failing_since: Option<Instant>,
}

impl Hub {
    /// Reads the logs and delivers them, for ever. It pauses while nobody watches, since each server reads
    /// the events of all servers.
    pub async fn run(self: Arc<Self>) {
        for (log, feed) in self.logs.iter().enumerate() {
            tokio::spawn(Arc::clone(&feed.backlog).run());
            tokio::spawn(Arc::clone(&self).run_checks(log));
            tokio::spawn(Arc::clone(&self).read_log(log));
        }
        self.send_heartbeats().await;
    }

    async fn read_log(self: Arc<Self>, log: usize) {
        let mut reads = Reads::new(self.logs.len());
        let mut is_watched = self.state().is_watched.subscribe();
        loop {
            if !*is_watched.borrow_and_update() {
                self.note_health(log, |health| health.is_failing = false);
                if is_watched.wait_for(|is_watched| *is_watched).await.is_err() {
                    return pending().await;
                }
            }
            if let Err(error) = self.follow(log, &mut reads).await {
                self.note_health(log, |health| health.is_failing = true);
                reads.note_failure(&self.lines, self.partition(log), &error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    fn note_health(&self, log: usize, note: impl FnOnce(&mut Health)) {
        self.logs[log].health.send_modify(note);
    }

    async fn send_heartbeats(self: Arc<Self>) {
        let mut interval = interval(HEARTBEAT_INTERVAL);
        loop {
            interval.tick().await;
            self.state().send_heartbeats();
        }
    }

    /// Reads from the tail on, until the store fails or nobody has watched for a while.
    async fn follow(&self, log: usize, reads: &mut Reads) -> Result<(), StoreError> {
        self.begin(log, reads).await?;
        while !self.stop_if_unwatched(log) {
            let (view, limit) = (self.state().logs[log].view(), reads.size.entries());
            let read = self.logs[log].log.wait_for_entries(view.read_to, limit, TAIL_WAIT);
            let entries = within(TAIL_WAIT + TAIL_GRACE, read).await?;
            reads.note(&self.lines, &entries);
            let count = entries.count;
            // So far behind, of so short a log, that entries may have been trimmed before they were read.
            let half = usize::try_from(view.length / 2).unwrap_or(usize::MAX);
            if count > 0 && count >= limit.min(half) {
                let bounds = self.bounds(log).await?;
                self.state().check_all(log, &view, &bounds);
            }
            {
                let mut state = self.state();
                state.publish(log, entries, &view);
                if count < limit {
                    state.logs[log].current_at = Some(Instant::now());
                }
            }
            if count >= limit {
                self.let_watchers_read(reads.size.entries().saturating_mul(self.logs.len())).await;
            }
        }
        Ok(())
    }

    /// Reads the newest entries, or goes on where the reading was, unless entries may be lost there.
    async fn begin(&self, log: usize, reads: &mut Reads) -> Result<(), StoreError> {
        let view = self.state().logs[log].view();
        let bounds = self.bounds(log).await?;
        if view.is_reading {
            self.state().check_all(log, &view, &bounds);
        } else {
            let newest = self.logs[log].log.newest_entries(RING_START_EVENTS / self.logs.len());
            let newest = within(BULK_READ_TIMEOUT, newest).await?;
            reads.note(&self.lines, &newest);
            self.state().logs[log].begin(newest, &bounds);
        }
        self.note_health(log, |health| *health = Health { is_reading: true, is_failing: false });
        Ok(())
    }

    /// Stops reading if nobody has watched for a while. Returns whether it did.
    fn stop_if_unwatched(&self, log: usize) -> bool {
        let mut state = self.state();
        if state.unwatched_for().is_none_or(|time| time < UNWATCHED_MAX) {
            return false;
        }
        state.logs[log].end_reading();
        // With the lock held, so that a watcher that arrives now waits for the next start.
        self.note_health(log, |health| health.is_reading = false);
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

    /// Checks a log, for ever, also while its reads hang or fail.
    async fn run_checks(self: Arc<Self>, log: usize) {
        let mut standstill = Standstill::default();
        let mut next = Instant::now();
        loop {
            sleep_until(next).await;
            next = Instant::now() + CHECK_INTERVAL;
            let (view, unwatched_for) = {
                let state = self.state();
                (state.logs[log].view(), state.unwatched_for())
            };
            if unwatched_for.is_some_and(|time| time >= UNWATCHED_MAX || !view.is_reading) {
                standstill = Standstill::default();
                metrics::set_watch_tail_lag(self.state().note_lag(log, Duration::ZERO));
                continue;
            }
            let began = Instant::now();
            let bounds = self.bounds(log).await.ok();
            if let Some(bounds) = &bounds {
                // Entries of many megabytes at the ends of the stream make a look expensive for the store.
                next = next.max(Instant::now() + began.elapsed() * PAUSE_OF_CHECKS);
                self.state().check(log, &view, bounds);
            }
            let lag = standstill.measure(&view, bounds.as_ref());
            metrics::set_watch_tail_lag(self.state().note_lag(log, lag));
        }
    }
}

impl Reads {
    /// Creates it for one of so many logs, whose reads together fit a watcher's queue.
    fn new(logs: usize) -> Self {
        let entries = (TAIL_READ_ENTRIES / logs).max(TAIL_READ_MIN_ENTRIES);
        let bytes = (TAIL_READ_BYTES / logs).max(TAIL_READ_MIN_BYTES);
        Self { size: ReadSize::new(entries, bytes), failing_since: None }
    }

    /// Learns from a read, and counts the entries that are no events.
    fn note(&mut self, lines: &Lines, read: &Entries) {
        self.size.adapt(read);
        self.failing_since = None;
        let foreign = read.count.saturating_sub(read.events.len());
        if foreign == 0 {
            return;
        }
        metrics::count_foreign_entries(foreign);
        lines.foreign.fetch_add(foreign, Ordering::Relaxed);
        if lines.skips.permit().is_some() {
            let entries = lines.foreign.swap(0, Ordering::Relaxed);
            tracing::warn!(entries, "entries of the stream are no mark-read events: skipped");
        }
    }

    fn note_failure(&mut self, lines: &Lines, partition: Option<u16>, error: &StoreError) {
        // Entries may be too large to be read in time.
        self.size.shrink();
        let cause = error.to_string();
        tracing::debug!(partition, ?cause, "the event log cannot be read");
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= FAILING_MAX && lines.failures.permit().is_some() {
            tracing::warn!(
                partition,
                ?cause,
                "watchers hear nothing: the event log cannot be read"
            );
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
