//! The one place that decides what a command comes to, whichever edge it arrived by.

use std::fmt;
use std::sync::Arc;

use tokio::time::timeout_at;

use crate::deadline::Deadline;
use crate::mark_read::{Mark, Outcome};
use crate::metrics::Metrics;
use crate::status::Refusal;
use crate::store::{Store, StoreError, StoreErrorKind};
use crate::telemetry::Throttle;

/// Read state, on a store.
pub struct Service {
    store: Arc<dyn Store>,
    metrics: Arc<Metrics>,
    corrupt_log: Throttle,
}

impl Service {
    /// A service on this store.
    pub fn new(store: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { store, metrics, corrupt_log: Throttle::default() }
    }

    /// Does one mark.
    ///
    /// # Errors
    ///
    /// [`Refusal::StoreUnavailable`] where the store cannot be asked or does not answer in time,
    /// [`Refusal::Internal`] where it holds a wrong value.
    pub async fn mark_read(&self, mark: Mark, deadline: Deadline) -> Result<Outcome, Refusal> {
        let marks = [mark];
        let timer = self.metrics.time_store_mark_read();
        let asked = timeout_at(deadline.store, self.store.mark_read(&marks)).await;
        drop(timer);
        let outcome = match asked {
            Ok(Ok(mut outcomes)) if outcomes.len() == 1 => outcomes.remove(0),
            Ok(Ok(_)) => Err(StoreError::corrupt("one mark, but not one outcome")),
            Ok(Err(error)) => Err(error),
            Err(elapsed) => Err(StoreError::unavailable(elapsed)),
        };
        match &outcome {
            Ok(outcome) => tracing::debug!(?mark, ?outcome, "marked"),
            Err(error) => tracing::debug!(?mark, ?error, "not marked"),
        }
        outcome.map_err(|error| self.refuse(&error))
    }

    fn refuse(&self, error: &StoreError) -> Refusal {
        match error.kind {
            // Said once, when the store's health changes, not once a call.
            StoreErrorKind::Unavailable => Refusal::StoreUnavailable,
            StoreErrorKind::Corrupt => {
                if let Some(silenced) = self.corrupt_log.ask() {
                    let error = error.to_string();
                    tracing::error!(?error, silenced, "a call failed");
                }
                Refusal::Internal
            }
        }
    }
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").finish_non_exhaustive()
    }
}
