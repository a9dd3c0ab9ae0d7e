//! The one place that decides what a command comes to, whichever edge it arrived by.

use std::fmt;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout_at;

use crate::domain::{
    BadField, Conversation, CursorPage, EntryId, FieldProblem, Mark, Nonce, Outcome, Quota,
    ReadOutcome, ReadState, UserId,
};
use crate::edge::answer::{Flaw, Refusal};
use crate::edge::deadline::Deadline;
use crate::service::watch::{Hub, WatchError, Watching};
use crate::store::{NonceUse, Store, StoreError, StoreErrorKind};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::{Throttle, Traceparent, in_call};

pub mod watch;

/// Watches that are opened at once. Thousands come back together when a server goes; they queue here,
/// each as long as its call may take, and leave the store to the calls beside them.
const OPENING_MAX: usize = 64;

/// Read state, on a store.
pub struct Service {
    store: Arc<dyn Store>,
    hub: Arc<Hub>,
    opening: Semaphore,
    metrics: Arc<Metrics>,
    unavailable_log: Throttle,
    corrupt_log: Throttle,
}

impl Service {
    /// A service on this store.
    pub fn new(store: Arc<dyn Store>, hub: Arc<Hub>, metrics: Arc<Metrics>) -> Self {
        let (unavailable_log, corrupt_log) = Default::default();
        let opening = Semaphore::new(OPENING_MAX);
        Self { store, hub, opening, metrics, unavailable_log, corrupt_log }
    }

    /// Does one command, as an edge could make it: fields that make none are an outcome too.
    /// Counts what it came to. Its event tells on what there is of the call's trace.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadFields`]; [`Refusal::StoreUnavailable`] where the store cannot be asked or
    /// does not answer in time, [`Refusal::Internal`] where it holds a wrong value.
    pub async fn mark_read(
        &self,
        command: Result<Mark, Vec<BadField>>,
        deadline: Deadline,
        traceparent: Option<Traceparent>,
    ) -> Result<Outcome, Refusal> {
        let outcome = match command {
            Ok(mark) => {
                let outcome = in_time(deadline, self.store.mark_read(mark, traceparent)).await;
                tracing::debug!(?mark, ?outcome, "asked the store");
                outcome.map_err(|error| self.refuse(&error))
            }
            Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
        };
        self.metrics.count_mark_read(&outcome);
        outcome
    }

    /// Does several commands, in order, each as if it came alone; but what is wrong with some is
    /// told first. Counts what each came to.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreUnavailable`] and [`Refusal::Internal`] where the store did none of them.
    pub async fn mark_read_all(
        &self,
        commands: Vec<Result<Mark, Vec<BadField>>>,
        deadline: Deadline,
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<Result<Outcome, Refusal>>, Refusal> {
        let marks: Vec<Mark> = commands.iter().flatten().copied().collect();
        let mut done = match self.ask_for_all(&marks, deadline, traceparent).await {
            Ok(done) => done.into_iter(),
            Err(refusal) => {
                for command in commands {
                    let refusal = command.map_or_else(Refusal::BadFields, |_| refusal.clone());
                    self.metrics.count_mark_read(&Err(refusal));
                }
                return Err(refusal);
            }
        };
        let outcomes = commands.into_iter().map(|command| {
            let outcome = match command {
                Ok(_) => done.next().unwrap_or(Err(Refusal::Internal)),
                Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
            };
            self.metrics.count_mark_read(&outcome);
            outcome
        });
        Ok(outcomes.collect())
    }

    /// Counts a mark that an edge has refused: it made no command at all.
    pub fn count_refused_mark(&self, refusal: Refusal) {
        self.metrics.count_mark_read(&Err(refusal));
    }

    /// Reads what the caller and each of these have read of each other.
    ///
    /// # Errors
    ///
    /// [`Refusal::OverQuota`] of the quota of reads; what the store cannot do, as of
    /// [`Self::mark_read`].
    pub async fn read_states(
        &self,
        caller: UserId,
        recipients: &[UserId],
        deadline: Deadline,
    ) -> Result<(Vec<ReadState>, Quota), Refusal> {
        let of = |recipient: &UserId| Conversation { reader: caller, recipient: *recipient };
        let conversations: Vec<_> =
            recipients.iter().map(of).flat_map(|mine| [mine, mine.reversed()]).collect();
        let asked = self.store.read_states(caller, &conversations);
        let (cursors, quota) = self.served(in_time(deadline, asked).await)?;
        let pairs = recipients.iter().zip(cursors.chunks_exact(2));
        let states =
            pairs.map(|(&recipient, pair)| ReadState { recipient, mine: pair[0], theirs: pair[1] });
        Ok((states.collect(), quota))
    }

    /// Reads a page of the caller's cursors, behind that of this recipient.
    ///
    /// # Errors
    ///
    /// As of [`Self::read_states`].
    pub async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
        deadline: Deadline,
    ) -> Result<(CursorPage, Quota), Refusal> {
        let asked = self.store.list_cursors(caller, after, limit);
        self.served(in_time(deadline, asked).await)
    }

    /// Watches for the caller, from now on or from behind this place. Takes one of the quota of reads.
    ///
    /// # Errors
    ///
    /// As of [`Self::read_states`]; [`Refusal::BadFields`] where the place cannot be yet.
    pub async fn watch(
        &self,
        caller: UserId,
        after: Option<EntryId>,
        deadline: Deadline,
    ) -> Result<(Watching, Quota), Refusal> {
        let turn = timeout_at(deadline.call_ends_at, self.opening.acquire()).await;
        let _turn = turn.map_err(|elapsed| self.refuse(&StoreError::unavailable(elapsed)))?;
        let (_, quota) =
            self.served(in_time(deadline, self.store.read_states(caller, &[])).await)?;
        let watching = timeout_at(deadline.call_ends_at, self.hub.watch(caller, after)).await;
        match watching {
            Ok(Ok(watching)) => Ok((watching, quota)),
            Ok(Err(WatchError::Ahead)) => {
                let problem = FieldProblem::Ahead;
                Err(Refusal::BadFields(vec![BadField { name: "after", problem }]))
            }
            Ok(Err(WatchError::Store(error))) => Err(self.refuse(&error)),
            Err(elapsed) => Err(self.refuse(&StoreError::unavailable(elapsed))),
        }
    }

    fn served<T>(
        &self,
        outcome: Result<ReadOutcome<T>, StoreError>,
    ) -> Result<(T, Quota), Refusal> {
        match outcome.map_err(|error| self.refuse(&error))? {
            ReadOutcome::Served { read, quota } => Ok((read, quota)),
            ReadOutcome::OverQuota { quota, retry_after } => {
                Err(Refusal::OverQuota { quota, retry_after })
            }
        }
    }

    async fn ask_for_all(
        &self,
        marks: &[Mark],
        deadline: Deadline,
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<Result<Outcome, Refusal>>, Refusal> {
        if marks.is_empty() {
            return Ok(Vec::new());
        }
        let asked = self.store.mark_read_all(marks, traceparent);
        let outcomes = match in_time(deadline, asked).await {
            Ok(outcomes) if outcomes.len() == marks.len() => Ok(outcomes),
            Ok(_) => Err(StoreError::corrupt("another number of outcomes than of marks")),
            Err(error) => Err(error),
        };
        tracing::debug!(?marks, ?outcomes, "asked the store");
        let outcomes = outcomes.map_err(|error| self.refuse(&error))?.into_iter();
        let outcomes: Vec<_> =
            outcomes.map(|outcome| outcome.map_err(|error| self.refuse(&error))).collect();
        // A full Redis, or too few replicas, fail a batch whole, as one that is away does.
        let unavailable =
            |outcome: &Result<_, _>| matches!(outcome, Err(Refusal::StoreUnavailable));
        if outcomes.iter().all(unavailable) {
            return Err(Refusal::StoreUnavailable);
        }
        Ok(outcomes)
    }

    /// Uses up the nonce of a signature that holds: the signature proves nothing a second time.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`] where it was used before; what the store cannot do, as of
    /// [`Self::mark_read`].
    pub async fn use_nonce(&self, nonce: Nonce, deadline: Deadline) -> Result<(), Refusal> {
        match in_time(deadline, self.store.use_nonce(nonce)).await {
            Ok(NonceUse::First) => Ok(()),
            Ok(NonceUse::Repeated) => {
                Err(Refusal::CredentialsInvalid(Flaw::Signature("the nonce was used before")))
            }
            Err(error) => Err(self.refuse(&error)),
        }
    }

    /// What a caller is told of the store's error, which the log is told too.
    pub fn refuse(&self, error: &StoreError) -> Refusal {
        match error.kind {
            StoreErrorKind::Unavailable => {
                if let Some(silenced) = self.unavailable_log.ask() {
                    let cause = error.to_string();
                    in_call(|| tracing::warn!(?cause, silenced, "a call failed"));
                }
                Refusal::StoreUnavailable
            }
            StoreErrorKind::Corrupt => {
                if let Some(silenced) = self.corrupt_log.ask() {
                    let cause = error.to_string();
                    in_call(|| tracing::error!(?cause, silenced, "a call failed"));
                }
                Refusal::Internal
            }
        }
    }
}

/// The store's answer, as long as the call lasts.
async fn in_time<T>(
    deadline: Deadline,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let answered = timeout_at(deadline.call_ends_at, asked).await;
    answered.unwrap_or_else(|elapsed| Err(StoreError::unavailable(elapsed)))
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
