//! Refusals over gRPC.

use std::sync::OnceLock;

use ::http::{HeaderMap, Response};
use tonic::Status;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::parts::{Body, insert_rate_limit};
use super::table::row;
use super::words::{MALFORMED_MESSAGE, message, retry_delay, short_message, values};
use crate::domain::Refusal;
use crate::proto;

/// The domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "markread";

/// The trailer that gRPC's own retries obey (gRFC A6).
const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// What a client may compress with, told where it did (gRPC's protocol, "Compression").
const ACCEPT_ENCODING: &str = "grpc-accept-encoding";

/// Encoded answers to calls that the guard stops, by the seconds of their delay. They come in floods, and
/// details are encoded three times: as messages, as base64, and as headers.
static EDGE_LIMITED: [OnceLock<HeaderMap>; 4] = [const { OnceLock::new() }; 4];

/// Encoded answers while memory is nearly used up, or more calls come than are served, and while the store is
/// away. Each has a delay of its own, to keep callers apart.
static OVERLOADED: [OnceLock<HeaderMap>; 16] = [const { OnceLock::new() }; 16];
static STORE_UNAVAILABLE: [OnceLock<HeaderMap>; 16] = [const { OnceLock::new() }; 16];

/// Returns the answer to a refused call. Refusals that come in floods are encoded once.
pub fn response(refusal: Refusal) -> Response<Body> {
    let encoded = match refusal {
        Refusal::EdgeLimited(delay) if delay.subsec_nanos() == 0 => {
            usize::try_from(delay.as_secs()).ok().and_then(|seconds| EDGE_LIMITED.get(seconds))
        }
        Refusal::Overloaded => any(&OVERLOADED),
        Refusal::StoreUnavailable => any(&STORE_UNAVAILABLE),
        _ => None,
    };
    let Some(encoded) = encoded else { return status(refusal).into_http() };
    let headers = encoded.get_or_init(|| {
        let response: Response<Body> = status(refusal).into_http();
        response.into_parts().0.headers
    });
    let mut response = Response::new(Body::empty());
    headers.clone_into(response.headers_mut());
    response
}

fn any(encoded: &[OnceLock<HeaderMap>]) -> Option<&OnceLock<HeaderMap>> {
    encoded.get(rand::random_range(0..encoded.len()))
}

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
    if let Refusal::Compressed = refusal {
        metadata.insert(ACCEPT_ENCODING, MetadataValue::from_static("identity"));
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn refused(headers: &HeaderMap) -> (Status, Option<Duration>) {
        let status = Status::from_header_map(headers).unwrap();
        let delay = status.get_error_details().retry_info().unwrap().retry_delay;
        let pushback = headers[RETRY_PUSHBACK].to_str().unwrap().parse().unwrap();
        assert_eq!(delay, Some(Duration::from_millis(pushback)));
        (status, delay)
    }

    #[test]
    fn an_answer_that_was_encoded_before_is_the_same() {
        for seconds in 1..6 {
            let refusal = Refusal::EdgeLimited(Duration::from_secs(seconds));
            let fresh: Response<Body> = status(refusal.clone()).into_http();
            for _ in 0..2 {
                let answer = response(refusal.clone());
                assert_eq!(answer.headers(), fresh.headers());
                assert_eq!(refused(answer.headers()).1, Some(Duration::from_secs(seconds)));
            }
        }
        assert!(EDGE_LIMITED[1].get().is_some(), "it is kept");
        // Only whole seconds are: others have answers of their own.
        for ms in [1_500, 1_200, 1_000, 1_500] {
            let delay = Duration::from_millis(ms);
            assert_eq!(refused(response(Refusal::EdgeLimited(delay)).headers()).1, Some(delay));
        }
    }

    #[test]
    fn overloaded_callers_are_kept_apart() {
        let delays: std::collections::HashSet<_> =
            (0..200).map(|_| refused(response(Refusal::Overloaded).headers()).1).collect();
        assert!((5..=OVERLOADED.len()).contains(&delays.len()), "{delays:?}");
        let bounds = Duration::from_secs(1)..=Duration::from_secs(2);
        assert!(delays.iter().all(|delay| bounds.contains(&delay.unwrap())), "{delays:?}");
    }
}
