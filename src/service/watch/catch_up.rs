//! Sends a watcher what it missed, until it is one of those who hear of new events.
//!
//! Of several logs it gets the oldest events first, whichever log has them: a watcher resumes after the last
//! event that it received, and in the other logs a minute before that one's time.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::sleep;
use tracing::Instrument;

use super::join_all::join_all;
use super::lag::{self, Absence, InRing, Lag, Origin, Place};
use super::state::{Following, State, Watcher};
use super::{
    BULK_READ_TIMEOUT, Hub, QUEUE_MAX_UPDATES, TAIL_READ_ENTRIES, Update, WatchError, within,
};
use crate::domain::{Position, ReadOutcome, UserId, WatchPosition};
use crate::store::{Loss, StoreError};
use crate::telemetry::metrics;

/// Entries read for a watcher that cost one of its read quota, and how many are read before it pays.
const ENTRIES_OF_A_READ: usize = 1000;
const UNPAID_MAX_ENTRIES: usize = 10 * ENTRIES_OF_A_READ;

/// Logs that are read at the same time for one watcher: those in which it is furthest behind.
const READS_MAX: usize = 8;

/// Time between two looks at logs that could not be read.
const ABSENCE_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A watcher that catches up.
pub(super) struct CatchUp {
    pub(super) hub: Arc<Hub>,
    pub(super) user: UserId,
    pub(super) id: u64,
    /// Absent once it is registered.
    pub(super) watcher: Option<Watcher>,
    /// Logs in which it catches up.
    pub(super) lags: Vec<Lag>,
    /// The other ones.
    pub(super) absences: Vec<Absence>,
    /// Entries that were read for it from all logs, and that it has not paid yet.
    pub(super) unpaid: usize,
}

/// What a watcher needs before it can be sent more: indices of its lags.
#[derive(Default)]
struct Needs {
    /// Those of logs that were begun again.
    comparisons: Vec<usize>,
    /// Those of which the ring does not go back far enough.
    reads: Vec<usize>,
    /// Whether the watcher cannot resume from an event alone.
    is_uneven: bool,
}

impl CatchUp {
    /// Creates it for a watcher that is registered, with nothing to catch up.
    pub(super) fn new(hub: &Arc<Hub>, user: UserId, id: u64) -> Self {
        let (watcher, lags, absences, unpaid) = Default::default();
        Self { hub: Arc::clone(hub), user, id, watcher, lags, absences, unpaid }
    }

    /// Runs it as a task, in the current span, since it belongs to the call and so to its trace.
    pub(super) fn spawn(self) {
        tokio::spawn(self.run().in_current_span());
    }

    /// Catches up until the watcher is registered for all logs, or has left. Whole thousands of entries that
    /// were read for it are paid in either case.
    async fn run(mut self) {
        loop {
            if let Some(updates) = self.watcher.as_ref().map(|watcher| watcher.updates.clone()) {
                let ended = tokio::select! {
                    biased;
                    () = updates.closed() => Ok(false),
                    ended = self.catch_up(&updates) => ended.map(|()| true),
                };
                match ended {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(last) => {
                        let _ = updates.send(last).await;
                        break;
                    }
                }
            }
            if self.absences.is_empty() || !self.await_absent_logs().await {
                break;
            }
        }
        self.watcher = None;
        let _ = self.pay().await;
    }

    /// Finds out where the watcher goes on in the logs that can be read now. Without a call that waits for it,
    /// no position is refused.
    pub(super) async fn open(&mut self, is_call: bool) -> Result<(), WatchError> {
        let hub = Arc::clone(&self.hub);
        let is_served = |absence: &Absence| hub.is_served(absence.log);
        let (served, absences) =
            std::mem::take(&mut self.absences).into_iter().partition(is_served);
        self.absences = absences;
        let served: Vec<Absence> = served;
        let opening = served.iter().map(|absence| hub.open(*absence, is_call));
        let opened = join_all(opening).await;
        let (mut is_gap, mut failure) = (false, None);
        for (absence, opened) in served.into_iter().zip(opened) {
            match opened {
                Ok((place, is_lost)) => {
                    is_gap |= is_lost;
                    self.lags.push(Lag::new(absence.log, place));
                }
                Err(WatchError::Store(error)) => {
                    failure = Some(error);
                    self.absences.push(absence);
                }
                Err(ahead) => return Err(ahead),
            }
        }
        if is_call && self.lags.is_empty() {
            let unknown = || StoreError::unavailable("no event log can be read");
            return Err(WatchError::Store(failure.unwrap_or_else(unknown)));
        }
        if is_gap {
            self.send_gap().await;
        }
        Ok(())
    }

    async fn send_gap(&self) {
        metrics::count_watch_gaps(1);
        if let Some(watcher) = &self.watcher {
            // It fails once the watcher has left, which ends the task.
            let _ = watcher.updates.send(Update::Gap).await;
        }
    }

    /// Sends a watcher what it missed, then registers it without a gap in between. The error is the
    /// watch's last update.
    async fn catch_up(&mut self, updates: &Sender<Update>) -> Result<(), Update> {
        loop {
            let Some(needs) = self.look() else { return Ok(()) };
            let Needs { comparisons, reads, is_uneven } = needs;
            let limit = if reads.is_empty() { ENTRIES_OF_A_READ } else { UNPAID_MAX_ENTRIES };
            if self.unpaid >= limit {
                self.pay().await?;
            }
            let is_waiting = comparisons.is_empty() && reads.is_empty();
            let mut failed = self.compare(&comparisons).await?;
            failed.extend(self.read(&reads).await?);
            let has_sent = self.send(updates, is_uneven).await;
            self.give_up(failed);
            if is_waiting && !has_sent {
                // Until it has taken what came before, and there is the room that [`Self::join`] needs.
                let _ = updates.reserve_many(TAIL_READ_ENTRIES + 1).await;
            }
        }
    }

    /// Registers the watcher if the rings have what it missed. Otherwise takes from them what there is, and
    /// returns what else it needs.
    fn look(&mut self) -> Option<Needs> {
        let hub = Arc::clone(&self.hub);
        let mut state = hub.state();
        let mut needs = Needs { is_uneven: state.is_uneven(), ..Needs::default() };
        let mut is_near = true;
        for (at, lag) in self.lags.iter().enumerate() {
            let in_ring = lag.in_ring(&state.logs[lag.log]);
            is_near &= in_ring == InRing::All;
            match in_ring {
                InRing::Restarted if lag.found.is_empty() => needs.comparisons.push(at),
                InRing::TooOld if lag.found.is_empty() => needs.reads.push(at),
                _ => {}
            }
        }
        if is_near && self.join(&mut state, needs.is_uneven) {
            return None;
        }
        needs.reads.sort_by_key(|at| self.lags[*at].sent.entry().ms);
        needs.reads.truncate(READS_MAX);
        let limit = lag::ring_limit(self.lags.len());
        for lag in &mut self.lags {
            let log = &state.logs[lag.log];
            if lag.found.is_empty() && lag.in_ring(log) == InRing::All {
                let found = log.missed(self.user, lag.place.position, limit);
                lag.take_from_ring(found, limit, log.view().read_to);
            }
        }
        Some(needs)
    }

    /// Registers the watcher if its queue has room for what it missed and for what the next read of the tail
    /// brings, and it owes nothing. Returns whether it did.
    fn join(&mut self, state: &mut State, is_uneven: bool) -> bool {
        let mut missed = Vec::new();
        for (at, lag) in self.lags.iter().enumerate() {
            let limit = TAIL_READ_ENTRIES + 1 - missed.len();
            let of_log = state.logs[lag.log].missed(self.user, lag.sent, limit);
            missed.extend(of_log.into_iter().map(|event| (at, event)));
            if missed.len() > TAIL_READ_ENTRIES {
                return false;
            }
        }
        // With a heartbeat after the first of them.
        let updates = missed.len() + 1;
        let has_room =
            |watcher: &mut Watcher| updates + TAIL_READ_ENTRIES <= watcher.updates.capacity();
        let owes = self.unpaid >= ENTRIES_OF_A_READ;
        let Some(mut watcher) = self.watcher.take_if(|watcher| !owes && has_room(watcher)) else {
            return false;
        };
        watcher.absences = self.absences.clone().into();
        lag::sort_by_time(&mut missed);
        for (at, event) in missed {
            self.lags[at].sent = event.position;
            let partition = state.partition(self.lags[at].log);
            watcher.try_send_event(partition, event, is_uneven, |_| self.position(state));
        }
        self.lags.clear();
        state.register(self.user, watcher);
        true
    }

    /// Returns the position up to which the watcher was sent everything.
    fn position(&self, state: &State) -> WatchPosition {
        let mut all: Vec<Option<Position>> = vec![None; state.logs.len()];
        for Lag { log, sent, .. } in &self.lags {
            all[*log] = Some(state.logs[*log].resumable(*sent));
        }
        for Absence { log, from } in &self.absences {
            all[*log] = from.position();
        }
        WatchPosition::All(all.into())
    }

    /// Compares the log with the one that a lag is of, for each of these lags. Returns those whose logs cannot
    /// be read now.
    async fn compare(&mut self, lags: &[usize]) -> Result<Vec<usize>, Update> {
        let compared = join_all(lags.iter().map(|&at| {
            let Lag { log, place, .. } = self.lags[at];
            let hub = Arc::clone(&self.hub);
            async move { hub.unless_absent(log, hub.compare(log, place)).await }
        }));
        let (mut is_gap, mut failed) = (false, Vec::new());
        for (&at, compared) in lags.iter().zip(compared.await) {
            match compared {
                Ok((place, is_lost)) => {
                    is_gap |= is_lost;
                    self.lags[at].move_to(place.position);
                    self.lags[at].place = place;
                }
                Err(error) => failed.push(self.absent(at, error)?),
            }
        }
        if is_gap {
            self.send_gap().await;
        }
        Ok(failed)
    }

    /// Reads what is too old for the ring, for each of these lags. Returns those whose logs cannot be read now.
    async fn read(&mut self, lags: &[usize]) -> Result<Vec<usize>, Update> {
        let user = self.user;
        let pieces = join_all(lags.iter().map(|&at| {
            let Lag { log, place, .. } = self.lags[at];
            let hub = Arc::clone(&self.hub);
            // What comes while this read, or another log's, is under way may have left the ring by its end.
            let floor = hub.state().logs[log].floor;
            let backlog = &self.hub.logs[log].backlog;
            async move { (floor, hub.unless_absent(log, backlog.read(user, place)).await) }
        }));
        let (mut is_gap, mut failed) = (false, Vec::new());
        for (&at, (floor, piece)) in lags.iter().zip(pieces.await) {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    failed.push(self.absent(at, error)?);
                    continue;
                }
            };
            self.unpaid += piece.entries;
            is_gap |= piece.loss != Loss::Nothing;
            let limit = self.room();
            let lag = &mut self.lags[at];
            lag.place.losses = piece.bounds.losses();
            if piece.loss == Loss::Log {
                lag.move_to(piece.bounds.start());
                continue;
            }
            // If there was nothing more, the ring had all there was.
            let reached = piece.reached.unwrap_or_else(|| floor.max(lag.place.position));
            lag.take_from_store(piece.events, reached, limit);
        }
        if is_gap {
            self.send_gap().await;
        }
        Ok(failed)
    }

    /// Returns how many more events may be kept until they are sent: any number of one log, which are sent at
    /// once. Of several logs few, if much is kept already.
    fn room(&self) -> usize {
        let kept: usize = self.lags.iter().map(|lag| lag.found.len()).sum();
        match self.lags.len() {
            1 => usize::MAX,
            logs => (QUEUE_MAX_UPDATES / logs).max(16).max(QUEUE_MAX_UPDATES.saturating_sub(kept)),
        }
    }

    /// Sends the events that were found and are next. Returns whether there were any.
    async fn send(&mut self, updates: &Sender<Update>, is_uneven: bool) -> bool {
        let slice = lag::take_slice(&mut self.lags);
        let has_any = !slice.is_empty();
        for (at, event) in slice {
            self.lags[at].sent = event.position;
            let partition = self.hub.partition(self.lags[at].log);
            let is_needed = is_uneven || !self.absences.is_empty();
            let following =
                self.watcher.as_mut().map_or(Following::Nothing, |one| one.follow(is_needed));
            let is_followed = following == Following::OfPlace;
            // It fails once the watcher has left, which ends the task.
            let _ = updates.send(Update::Event { partition, event, is_followed }).await;
            if following == Following::Heartbeat {
                let position = self.position(&self.hub.state());
                let _ = updates.send(Update::Heartbeat(position)).await;
            }
        }
        for lag in self.lags.iter_mut().filter(|lag| lag.found.is_empty()) {
            lag.sent = lag.place.position;
        }
        has_any
    }

    /// Returns a lag whose log cannot be read. If it is the only log, the watch ends.
    fn absent(&self, at: usize, error: StoreError) -> Result<usize, Update> {
        if self.hub.logs.len() > 1 { Ok(at) } else { Err(Update::Failed(error)) }
    }

    /// Goes on without logs that cannot be read now.
    fn give_up(&mut self, mut lags: Vec<usize>) {
        lags.sort_unstable();
        for at in lags.into_iter().rev() {
            let Lag { log, place, .. } = self.lags.remove(at);
            self.absences.push(Absence { log, from: Origin::Place(place) });
        }
    }

    /// Waits until an absent log can be read, and then has the watcher catch up again, in all logs. Returns
    /// whether it still watches.
    async fn await_absent_logs(&mut self) -> bool {
        loop {
            sleep(ABSENCE_CHECK_INTERVAL).await;
            let mut state = self.hub.state();
            if state.watcher(self.user, self.id).is_none() {
                return false;
            }
            if self.absences.iter().any(|absence| self.hub.is_served(absence.log)) {
                self.watcher = state.unregister(self.user, self.id);
                let is_absent = |log| self.absences.iter().any(|absence| absence.log == log);
                let heard = (0..state.logs.len()).filter(|log| !is_absent(*log));
                self.lags = heard.map(|log| Lag::new(log, state.logs[log].place())).collect();
                break;
            }
        }
        // If it fails, that is tried again later.
        let _ = self.open(false).await;
        self.watcher.is_some()
    }

    /// Takes one of the watcher's read quota for each thousand entries that were read for it.
    async fn pay(&mut self) -> Result<(), Update> {
        let reads = self.unpaid / ENTRIES_OF_A_READ;
        if reads == 0 {
            return Ok(());
        }
        self.unpaid %= ENTRIES_OF_A_READ;
        let reads = u64::try_from(reads).unwrap_or(u64::MAX);
        match within(BULK_READ_TIMEOUT, self.hub.quotas.take_reads(self.user, reads)).await {
            Ok(ReadOutcome::Served { .. }) => Ok(()),
            Ok(ReadOutcome::OverQuota { quota, retry_after }) => {
                Err(Update::OverQuota { quota, retry_after })
            }
            Err(error) => Err(Update::Failed(error)),
        }
    }
}

impl Hub {
    /// Finds a place in the log that is read now. Returns whether entries may be lost.
    async fn compare(&self, log: usize, mut place: Place) -> Result<(Place, bool), StoreError> {
        let view = self.state().logs[log].view();
        let bounds = self.bounds(log).await?;
        let (generation, has_restarted) = {
            let mut state = self.state();
            // Before the check: what that finds, the bounds show for the place too.
            let has_restarted = state.logs[log].has_restarted_since(place.generation);
            (state.check(log, &view, &bounds), has_restarted)
        };
        let loss = match place.loss(&bounds) {
            // The position may be one of both logs, and what the reading heard of is not reported again.
            Loss::Nothing | Loss::Removed if has_restarted => Loss::Log,
            loss => loss,
        };
        if let Loss::Log | Loss::Trimmed = loss {
            place.position = bounds.start();
        }
        (place.losses, place.generation) = (bounds.losses(), generation);
        Ok((place, loss != Loss::Nothing))
    }
}
