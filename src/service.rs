//! The one place that decides what a command comes to, whichever edge it arrived by.

use std::fmt;
use std::sync::Arc;

use tokio::time::timeout_at;

use crate::deadline::Deadline;
use crate::identity::oauth1::Nonce;
use crate::mark_read::{BadField, Mark, Outcome};
use crate::metrics::Metrics;
use crate::status::{Flaw, Refusal};
use crate::store::{NonceUse, Store, StoreError, StoreErrorKind};
use crate::telemetry::Throttle;

/// Read state, on a store.
pub struct Service {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    unavailable_log: Throttle,
    corrupt_log: Throttle,
}

impl Service {
    /// A service on this store.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        let (unavailable_log, corrupt_log) = Default::default();
        Self { store, metrics, unavailable_log, corrupt_log }
    }

    /// Does one command, as an edge could make it: fields that make none are an outcome too.
    /// Counts what it came to.
    ///
    /// # Errors
    ///
    /// [`Refusal::BadFields`]; [`Refusal::StoreUnavailable`] where the store cannot be asked or
    /// does not answer in time, [`Refusal::Internal`] where it holds a wrong value.
    pub async fn mark_read(
        &self,
        command: Result<Mark, Vec<BadField>>,
        deadline: Deadline,
    ) -> Result<Outcome, Refusal> {
        let outcome = match command {
            Ok(mark) => self.ask_store(mark, deadline).await,
            Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
        };
        self.metrics.count_mark_read(&outcome);
        outcome
    }

    async fn ask_store(&self, mark: Mark, deadline: Deadline) -> Result<Outcome, Refusal> {
        let outcome = match in_time(deadline, self.store.mark_read(&[mark])).await {
            Ok(mut outcomes) if outcomes.len() == 1 => outcomes.remove(0),
            Ok(_) => Err(StoreError::corrupt("one mark, but not one outcome")),
            Err(error) => Err(error),
        };
        tracing::debug!(?mark, ?outcome, "asked the store");
        outcome.map_err(|error| self.refuse(&error))
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

    fn refuse(&self, error: &StoreError) -> Refusal {
        match error.kind {
            StoreErrorKind::Unavailable => {
                if let Some(silenced) = self.unavailable_log.ask() {
                    tracing::warn!(cause = ?error.to_string(), silenced, "a call failed");
                }
                Refusal::StoreUnavailable
            }
            StoreErrorKind::Corrupt => {
                if let Some(silenced) = self.corrupt_log.ask() {
                    tracing::error!(cause = ?error.to_string(), silenced, "a call failed");
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
