//! Sends a watcher what it missed, until it is one of those who hear of new events.

use std::sync::Arc;

use super::state::Watcher;
use super::{BULK_READ_TIMEOUT, Hub, TAIL_READ_ENTRIES, Update, within};
use crate::domain::{Event, Position, ReadOutcome, UserId};
use crate::store::{LogBounds, Loss, Losses};
use crate::telemetry::metrics;

/// Entries read for a watcher that cost one of its read quota, and how many are read before it pays.
const ENTRIES_OF_A_READ: usize = 1000;
const UNPAID_MAX_ENTRIES: usize = 10 * ENTRIES_OF_A_READ;

/// Where a watcher is that catches up: a position in one log, and when the ring had the events of that log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) position: Position,
    /// Losses of the log of which the watcher heard.
    pub(super) losses: Losses,
    pub(super) generation: u64,
}

impl Place {
    /// The same position, before anything was lost.
    #[cfg(test)]
    pub(super) fn new(position: Position) -> Self {
        Self { position, losses: Losses::default(), generation: 0 }
    }
}

/// Events in the ring that a watcher has missed.
enum InRing {
    /// These are all, and were sent: the watcher is registered.
    Sent,
    /// These are the first.
    Some(Vec<Event>),
    /// The ring does not go back that far.
    TooOld,
    /// The ring was begun again.
    Restarted,
}

impl Hub {
    /// Catches up until the watcher is registered or has left. Whole thousands of entries that were read
    /// for it are paid in either case.
    pub(super) async fn run_catch_up(
        self: Arc<Self>,
        user: UserId,
        watcher: Watcher,
        place: Place,
    ) {
        let updates = watcher.updates.clone();
        let mut unpaid = 0;
        tokio::select! {
            ended = self.catch_up(user, watcher, place, &mut unpaid) => {
                if let Err(last) = ended {
                    let _ = updates.send(last).await;
                }
            }
            () = updates.closed() => {}
        }
        drop(updates);
        let _ = self.pay(user, &mut unpaid).await;
    }

    /// Sends a watcher what it missed, then registers it without a gap in between. The error is the
    /// watch's last update.
    async fn catch_up(
        &self,
        user: UserId,
        watcher: Watcher,
        mut place: Place,
        unpaid: &mut usize,
    ) -> Result<(), Update> {
        let mut watcher = Some(watcher);
        loop {
            let in_ring = self.join(user, &mut watcher, &place, *unpaid);
            // Without a watcher it is registered.
            let Some(updates) = watcher.as_ref().map(|watcher| &watcher.updates) else {
                return Ok(());
            };
            let missed = match in_ring {
                InRing::Sent => return Ok(()),
                InRing::Restarted => {
                    if self.compare(&mut place).await? {
                        let _ = updates.send(Update::Gap).await;
                    }
                    continue;
                }
                InRing::Some(missed) => {
                    self.pay_over(ENTRIES_OF_A_READ, user, unpaid).await?;
                    if missed.is_empty() {
                        // Until it has taken what came before.
                        let _ = updates.reserve_many(TAIL_READ_ENTRIES).await;
                    }
                    place.position = missed.last().map_or(place.position, |event| event.position);
                    missed
                }
                InRing::TooOld => {
                    self.pay_over(UNPAID_MAX_ENTRIES, user, unpaid).await?;
                    let piece = self.backlog.read(user, place).await.map_err(Update::Failed)?;
                    *unpaid += piece.entries;
                    if piece.loss != Loss::Nothing {
                        metrics::count_watch_gaps(1);
                        let _ = updates.send(Update::Gap).await;
                    }
                    place.losses = piece.bounds.losses();
                    if piece.loss == Loss::Log {
                        place.position = piece.bounds.start();
                        continue;
                    }
                    // If there is nothing more, the ring has all there is.
                    let floor = || self.state().floor.max(place.position);
                    place.position = piece.reached.unwrap_or_else(floor);
                    piece.events
                }
            };
            for event in missed {
                // It fails once the watcher has left, which ends the task.
                let _ = updates.send(Update::Event(event)).await;
            }
        }
    }

    /// Registers a watcher if the ring has what it missed, its queue has room for that and for what the next
    /// read of the tail brings, and it owes nothing.
    fn join(
        &self,
        user: UserId,
        watcher: &mut Option<Watcher>,
        place: &Place,
        unpaid: usize,
    ) -> InRing {
        let mut state = self.state();
        let known = (place.generation, place.losses.gap_before);
        if (state.generation, state.losses.gap_before) != known {
            return InRing::Restarted;
        }
        let Some(missed) = state.missed(user, place.position, TAIL_READ_ENTRIES + 1) else {
            return InRing::TooOld;
        };
        let has_room =
            |watcher: &mut Watcher| missed.len() + TAIL_READ_ENTRIES <= watcher.updates.capacity();
        let owes = unpaid >= ENTRIES_OF_A_READ;
        let Some(watcher) = watcher.take_if(|watcher| !owes && has_room(watcher)) else {
            return InRing::Some(missed);
        };
        for event in missed {
            let _ = watcher.updates.try_send(Update::Event(event));
        }
        state.register(user, watcher);
        InRing::Sent
    }

    /// Finds a place in the log that is read now. Returns whether entries may be lost.
    async fn compare(&self, place: &mut Place) -> Result<bool, Update> {
        let view = self.state().view();
        let bounds = self.bounds().await.map_err(Update::Failed)?;
        let (generation, has_restarted) = {
            let mut state = self.state();
            // Before the check: what that finds, the bounds show for the place too.
            let has_restarted = state.has_restarted_since(place.generation);
            (state.check(&view, &bounds), has_restarted)
        };
        let loss = match place.loss(&bounds) {
            // The position may be one of both logs, and what the reading heard of is not reported again.
            Loss::Nothing | Loss::Removed if has_restarted => Loss::Log,
            loss => loss,
        };
        if loss != Loss::Nothing {
            metrics::count_watch_gaps(1);
        }
        if let Loss::Log | Loss::Trimmed = loss {
            place.position = bounds.start();
        }
        (place.losses, place.generation) = (bounds.losses(), generation);
        Ok(loss != Loss::Nothing)
    }

    async fn pay_over(&self, limit: usize, user: UserId, unpaid: &mut usize) -> Result<(), Update> {
        if *unpaid >= limit { self.pay(user, unpaid).await } else { Ok(()) }
    }

    /// Takes one of the watcher's read quota for each thousand entries that were read for it.
    async fn pay(&self, user: UserId, unpaid: &mut usize) -> Result<(), Update> {
        let reads = *unpaid / ENTRIES_OF_A_READ;
        if reads == 0 {
            return Ok(());
        }
        *unpaid %= ENTRIES_OF_A_READ;
        let reads = u64::try_from(reads).unwrap_or(u64::MAX);
        match within(BULK_READ_TIMEOUT, self.quotas.take_reads(user, reads)).await {
            Ok(ReadOutcome::Served { .. }) => Ok(()),
            Ok(ReadOutcome::OverQuota { quota, retry_after }) => {
                Err(Update::OverQuota { quota, retry_after })
            }
            Err(error) => Err(Update::Failed(error)),
        }
    }
}

impl Place {
    /// Returns what the watcher may have lost by the log's bounds. One that starts at the beginning wants what
    /// there is.
    pub(super) fn loss(&self, bounds: &LogBounds) -> Loss {
        match bounds.loss(self.position, &self.losses) {
            Loss::Trimmed | Loss::Removed if self.position == Position::START => Loss::Nothing,
            loss => loss,
        }
    }
}
