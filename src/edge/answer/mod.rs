//! Answers to callers, with the codes and the texts of refusals in each protocol.

use ::http::Response;

use self::table::row;
use super::routing::{Protocol, Route};
use crate::domain::{Outcome, Refusal, ServedMark};
use crate::telemetry::metrics::{MarkOutcome, Metrics};

pub mod grpc;
pub mod http;
mod parts;
pub mod table;
mod words;

pub(super) use self::parts::grpc_headers;
pub use self::parts::{Body, insert_rate_limit};

/// An answer, with the marks to count.
#[derive(Debug)]
pub struct Answer {
    /// The response.
    pub response: Response<Body>,
    /// Outcomes of the marks in it.
    pub marks: MarkOutcomes,
}

/// Outcomes of the marks in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MarkOutcomes {
    /// The call does not mark.
    None,
    /// One, or a batch that was refused whole before its items were read.
    One(MarkOutcome),
    /// The items of a batch.
    Each(Vec<MarkOutcome>),
}

impl Answer {
    /// Creates an answer to a call that does not mark.
    pub fn new(response: Response<Body>) -> Self {
        Self { response, marks: MarkOutcomes::None }
    }

    /// Creates the answer to a refused call, in its protocol.
    pub fn refused(route: Route, refusal: Refusal) -> Self {
        let marks = if route.is_mark() {
            MarkOutcomes::One(row(&refusal).outcome)
        } else {
            MarkOutcomes::None
        };
        let response = match route.protocol {
            Protocol::Grpc => grpc::response(refusal),
            Protocol::Http => http::response(&refusal),
        };
        Self { response, marks }
    }

    /// Changes the response.
    #[must_use]
    pub fn map(self, change: impl FnOnce(Response<Body>) -> Response<Body>) -> Self {
        Self { response: change(self.response), marks: self.marks }
    }
}

impl MarkOutcomes {
    /// Counts the marks. They are counted nowhere else.
    pub fn count(&self, metrics: &Metrics) {
        match self {
            Self::None => {}
            Self::One(outcome) => metrics.count_mark(*outcome),
            Self::Each(outcomes) => {
                for outcome in outcomes {
                    metrics.count_mark(*outcome);
                }
            }
        }
    }
}

/// Returns the outcome of a mark.
pub fn mark_outcome(result: &Result<Outcome, Refusal>) -> MarkOutcome {
    match result.as_ref().map(|outcome| outcome.served()) {
        Ok(Ok(ServedMark { advanced: true, .. })) => MarkOutcome::Advanced,
        Ok(Ok(ServedMark { advanced: false, .. })) => MarkOutcome::Noop,
        Ok(Err(refusal)) => row(&refusal).outcome,
        Err(refusal) => row(refusal).outcome,
    }
}

#[cfg(test)]
mod tests;
