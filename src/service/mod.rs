//! The one place that decides the outcome of a command, whatever its protocol.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use self::watch::{Hub, Subscription, WatchError};
use crate::domain::{
    BadField, Conversation, CursorPage, FieldProblem, Flaw, ListPosition, Mark, Nonce, Outcome,
    Quota, ReadOutcome, ReadState, Refusal, UserId, WatchPosition,
};
use crate::store::{NonceUse, Store, StoreError, StoreErrorKind};
use crate::telemetry::metrics::{Bound, count_refused};
use crate::telemetry::{LogThrottle, Traceparent, in_call};

pub mod readers;
pub mod watch;

/// Watches that are opened at the same time. When a server stops, thousands come back together; they
/// queue here, within their calls' deadlines, and leave the store to other calls.
const OPENING_MAX: usize = 64;

/// The two quotas of a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuotaKind {
    /// Of marks.
    Marks,
    /// Of reads.
    Reads,
}

/// Read state, on a store. Deadlines are the server's: a store that has not answered by then is
/// unavailable.
pub struct Service {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    opening: Semaphore,
    /// Calls that the store has served, not denied: denials may come from memory.
    store_answers: AtomicU64,
    unavailable_log: LogThrottle,
    overloaded_log: LogThrottle,
    corrupt_log: LogThrottle,
}

impl Service {
    /// Creates a service on a store, with a hub that reads the store's event log.
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>) -> Self {
        let (store_answers, unavailable_log, overloaded_log, corrupt_log) = Default::default();
        let opening = Semaphore::new(OPENING_MAX);
        Self { store, hub, opening, store_answers, unavailable_log, overloaded_log, corrupt_log }
    }

    /// Marks a message as read. The trace is stored beside its event.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreUnavailable`] if the store cannot be reached or does not answer in time,
    /// [`Refusal::Internal`] if it contains an invalid value.
    pub async fn mark_read(
        &self,
        mark: Mark,
        deadline: Instant,
        traceparent: Option<Traceparent>,
    ) -> Result<Outcome, Refusal> {
        let outcome = with_deadline(deadline, self.store.mark_read(mark, traceparent)).await;
        tracing::debug!(?mark, ?outcome, "mark done");
        if matches!(outcome, Ok(Outcome::Advanced { .. } | Outcome::Unchanged { .. })) {
            self.note_answer();
        }
        outcome.map_err(|error| self.log_refusal(&error))
    }

    /// Marks messages as read in order, each as if it came alone, and returns a result for each. Invalid
    /// ones are refused first and never reach the store.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreUnavailable`] and [`Refusal::Internal`] if the store did none of them.
    pub async fn mark_read_all(
        &self,
        commands: Vec<Result<Mark, Vec<BadField>>>,
        deadline: Instant,
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<Result<Outcome, Refusal>>, Refusal> {
        let marks: Vec<Mark> = commands.iter().flatten().copied().collect();
        let mut done = self.mark_valid(&marks, deadline, traceparent).await?.into_iter();
        let outcomes = commands.into_iter().map(|command| match command {
            Ok(_) => done.next().unwrap_or(Err(Refusal::Internal)),
            Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
        });
        Ok(outcomes.collect())
    }

    /// Reads how far the caller and each recipient have read each other's messages.
    ///
    /// # Errors
    ///
    /// [`Refusal::OverQuota`] of the read quota; those of the store as [`Self::mark_read`].
    pub async fn read_states(
        &self,
        caller: UserId,
        recipients: &[UserId],
        deadline: Instant,
    ) -> Result<(Vec<ReadState>, Quota), Refusal> {
        let mine = |recipient: &UserId| Conversation { reader: caller, recipient: *recipient };
        let conversations: Vec<_> =
            recipients.iter().map(mine).flat_map(|mine| [mine, mine.reversed()]).collect();
        let read = self.store.read_states(caller, &conversations);
        let (cursors, quota) = self.served(with_deadline(deadline, read).await)?;
        let pairs = recipients.iter().zip(cursors.chunks_exact(2));
        let states =
            pairs.map(|(&recipient, pair)| ReadState { recipient, mine: pair[0], theirs: pair[1] });
        Ok((states.collect(), quota))
    }

    /// Reads a page of the caller's cursors, after the one of a recipient.
    ///
    /// # Errors
    ///
    /// As [`Self::read_states`].
    pub async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<ListPosition>,
        limit: usize,
        deadline: Instant,
    ) -> Result<(CursorPage, Quota), Refusal> {
        let read = self.store.list_cursors(caller, after, limit);
        self.served(with_deadline(deadline, read).await)
    }

    /// Opens a watch for the caller, from now on or after a position. Costs one of the read quota.
    ///
    /// # Errors
    ///
    /// As [`Self::read_states`]; [`Refusal::BadFields`] if the position is one of another store, or if the log
    /// cannot have reached it yet.
    pub async fn watch(
        &self,
        caller: UserId,
        after: Option<WatchPosition>,
        deadline: Instant,
    ) -> Result<(Subscription, Quota), Refusal> {
        let foreign = || bad_after(FieldProblem::OtherPartitions);
        let starts = |after: WatchPosition| after.starts(self.hub.partitions()).ok_or_else(foreign);
        let starts = after.map(starts).transpose()?;
        let permit = timeout_at(deadline, self.opening.acquire()).await;
        let _permit =
            permit.map_err(|elapsed| self.log_refusal(&StoreError::unavailable(elapsed)))?;
        let (_, quota) =
            self.served(with_deadline(deadline, self.store.read_states(caller, &[])).await)?;
        match timeout_at(deadline, self.hub.watch(caller, starts)).await {
            Ok(Ok(subscription)) => Ok((subscription, quota)),
            Ok(Err(WatchError::Ahead)) => Err(bad_after(FieldProblem::Ahead)),
            Ok(Err(WatchError::Store(error))) => Err(self.log_refusal(&error)),
            Err(elapsed) => Err(self.log_refusal(&StoreError::unavailable(elapsed))),
        }
    }

    /// Uses the nonce of a signature that is valid for a mark of this reader. It cannot be used a second
    /// time.
    ///
    /// # Errors
    ///
    /// [`Refusal::OverQuota`] if the reader's quota is used up, whether or not the nonce was used before:
    /// it is not used then. [`Refusal::CredentialsInvalid`] if it was used before; those of the store as
    /// [`Self::mark_read`].
    pub async fn use_nonce(
        &self,
        reader: UserId,
        nonce: Nonce,
        deadline: Instant,
    ) -> Result<(), Refusal> {
        match with_deadline(deadline, self.store.use_nonce(reader, nonce)).await {
            Ok(NonceUse::First) => Ok(()),
            Ok(NonceUse::Repeated) => {
                Err(Refusal::CredentialsInvalid(Flaw::Signature("the nonce was used before")))
            }
            Ok(NonceUse::OverQuota { quota, retry_after }) => {
                Err(Refusal::OverQuota { quota, retry_after })
            }
            Err(error) => Err(self.log_refusal(&error)),
        }
    }

    /// Forgets a nonce whose mark was denied after all. If that fails, the store forgets it later.
    pub async fn forget_nonce(&self, reader: UserId, nonce: Nonce, deadline: Instant) {
        let _ = with_deadline(deadline, self.store.forget_nonce(reader, nonce)).await;
    }

    /// Returns whether the reader's quota is known to be used up, so that its calls need no store.
    pub fn denies(&self, reader: UserId, quota: QuotaKind) -> bool {
        match quota {
            QuotaKind::Marks => self.store.denies_marks(reader),
            QuotaKind::Reads => self.store.denies_reads(reader),
        }
    }

    /// Returns how many calls the store has served. It rises while the store answers.
    pub fn store_answers(&self) -> u64 {
        self.store_answers.load(Ordering::Relaxed)
    }

    /// Logs a store error, throttled, and returns the refusal for the caller.
    pub fn log_refusal(&self, error: &StoreError) -> Refusal {
        match error.kind {
            StoreErrorKind::Unavailable => {
                if let Some(suppressed) = self.unavailable_log.permit() {
                    let cause = error.to_string();
                    in_call(|| tracing::warn!(?cause, suppressed, "a call failed"));
                }
                Refusal::StoreUnavailable
            }
            StoreErrorKind::Overloaded => {
                count_refused(Bound::Overload);
                if let Some(suppressed) = self.overloaded_log.permit() {
                    in_call(|| tracing::warn!(suppressed, "overloaded: calls are refused"));
                }
                Refusal::Overloaded
            }
            StoreErrorKind::Corrupt => {
                if let Some(suppressed) = self.corrupt_log.permit() {
                    let cause = error.to_string();
                    in_call(|| tracing::error!(?cause, suppressed, "a call failed"));
                }
                Refusal::Internal
            }
        }
    }

    fn note_answer(&self) {
        self.store_answers.fetch_add(1, Ordering::Relaxed);
    }

    async fn mark_valid(
        &self,
        marks: &[Mark],
        deadline: Instant,
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<Result<Outcome, Refusal>>, Refusal> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let done = with_deadline(deadline, self.store.mark_read_all(marks, traceparent)).await;
        let done = match done {
            Ok(results) if results.len() != marks.len() => {
                Err(StoreError::corrupt("the store returned another number of results than marks"))
            }
            done => done,
        };
        tracing::debug!(?marks, ?done, "batch done");
        let results = done.map_err(|error| self.log_refusal(&error))?.into_iter();
        self.note_answer();
        let outcomes: Vec<_> =
            results.map(|result| result.map_err(|error| self.log_refusal(&error))).collect();
        // A full Redis, or too few replicas, fail every mark; the batch then fails whole, as it does when
        // Redis is away.
        let unavailable =
            |outcome: &Result<_, _>| matches!(outcome, Err(Refusal::StoreUnavailable));
        if outcomes.iter().all(unavailable) {
            return Err(Refusal::StoreUnavailable);
        }
        Ok(outcomes)
    }

    fn served<T>(
        &self,
        outcome: Result<ReadOutcome<T>, StoreError>,
    ) -> Result<(T, Quota), Refusal> {
        match outcome.map_err(|error| self.log_refusal(&error))? {
            ReadOutcome::Served { read, quota } => {
                self.note_answer();
                Ok((read, quota))
            }
            ReadOutcome::OverQuota { quota, retry_after } => {
                Err(Refusal::OverQuota { quota, retry_after })
            }
        }
    }
}

fn bad_after(problem: FieldProblem) -> Refusal {
    Refusal::BadFields(vec![BadField::new("after", problem)])
}

/// Waits for the store until the deadline.
async fn with_deadline<T>(
    deadline: Instant,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answer = timeout_at(deadline, call).await;
    answer.unwrap_or_else(|elapsed| Err(StoreError::unavailable(elapsed)))
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
