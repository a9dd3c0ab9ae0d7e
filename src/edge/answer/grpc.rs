//! Refusals over gRPC.

use ::http::HeaderMap;
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::parts::insert_rate_limit;
use super::table::row;
use super::words::{MALFORMED_MESSAGE, message, retry_delay, short_message, values};
use crate::domain::Refusal;
use crate::proto;

/// The domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "markread";

/// The trailer that gRPC's own retries obey (gRFC A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Returns the status of a refused call.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub fn status(refusal: Refusal) -> Status {
    let row = row(&refusal);
    let details = details(&refusal, row.reason);
    let delay = details.retry_info().and_then(|retry| retry.retry_delay);
    let mut headers = HeaderMap::new();
    if let Refusal::OverQuota { quota, .. } = refusal {
        insert_rate_limit(&mut headers, quota);
    }
    let mut metadata = MetadataMap::from_headers(headers);
    match (&refusal, delay) {
        // No blind retry: the window is minutes long.
        (Refusal::OverQuota { .. }, _) => {
            metadata.insert(RETRY_PUSHBACK, MetadataValue::from_static("-1"));
        }
        (_, Some(delay)) => {
            let delay_ms = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
            metadata.insert(RETRY_PUSHBACK, delay_ms.into());
        }
        (_, None) => {}
    }
    let message = message(&refusal);
    // These answers are gRPC's own: they have no details.
    if row.reason.is_none() {
        return Status::with_metadata(row.code, message, metadata);
    }
    Status::with_error_details_and_metadata(row.code, message, details, metadata)
}

/// Returns the error of one item of a batch, in full or as short as it can be.
pub fn batch_error(refusal: &Refusal, in_full: bool) -> proto::BatchMarkReadError {
    let row = row(refusal);
    proto::BatchMarkReadError {
        code: row.code.into(),
        reason: row.reason.unwrap_or_default().to_owned(),
        message: if in_full { message(refusal) } else { short_message(refusal) },
        retry_delay: retry_delay(refusal).and_then(|delay| delay.try_into().ok()),
    }
}

fn details(refusal: &Refusal, reason: Option<&'static str>) -> ErrorDetails {
    let mut details = ErrorDetails::new();
    if let Some(reason) = reason {
        details.set_error_info(reason, DOMAIN, values(refusal));
    }
    match refusal {
        Refusal::BadFields(fields) => {
            let violations: Vec<_> = fields
                .iter()
                .map(|field| FieldViolation::new(field.name.as_ref(), field.problem.to_string()))
                .collect();
            details.set_bad_request(violations);
        }
        Refusal::MalformedMessage => {
            details.add_bad_request_violation("request", MALFORMED_MESSAGE);
        }
        Refusal::OverQuota { .. } => {
            details.add_quota_failure_violation("reader", message(refusal));
        }
        _ => {}
    }
    if let Some(delay) = retry_delay(refusal) {
        details.set_retry_info(Some(delay));
    }
    details
}
