//! CONTRACT section 4, the table "Answers": every row that concerns `MarkRead`, over the wire.

use std::time::Duration;

use tonic::metadata::KeyAndValueRef;
use tonic::{Code, Status};

use super::harness::caller::{Denied, number};
use super::harness::{MESSAGE, READER, RECIPIENT, Redis};

pub(crate) mod credentials;
mod deadline;
mod drain;
mod internal;
mod limits;
pub(crate) mod outcomes;
mod parameters;
mod store;
pub(crate) mod tokens;

/// A refusal of this row of the table, with what the table promises of every refusal.
#[track_caller]
pub(crate) fn assert_denied(denied: &Denied, code: Code, reason: &str) {
    assert_eq!((denied.code, denied.reason.as_str()), (code, reason), "{denied:?}");
    assert_explains(denied);
    assert_tells_nothing(denied);
}

/// AIP-193: values that stand in the message stand in `ErrorInfo.metadata` too.
#[track_caller]
fn assert_explains(denied: &Denied) {
    assert!(!denied.message.is_empty());
    let info = denied.details.error_info().expect("an ErrorInfo");
    let words = denied.message.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for value in words.filter(|word| word.contains(|c: char| c.is_ascii_digit() || c == '_')) {
        let stands = info.metadata.values().any(|known| known.split(", ").any(|one| one == value));
        assert!(stands, "{value:?} of {:?} in {:?}", denied.message, info.metadata);
    }
    if let Some(bad_request) = denied.details.bad_request() {
        assert!(bad_request.field_violations.iter().all(|field| !field.description.is_empty()));
    }
}

/// No message and no detail tells who called, with what, or what the server talks to.
#[track_caller]
fn assert_tells_nothing(denied: &Denied) {
    let metadata = denied.metadata.iter().filter_map(|pair| match pair {
        KeyAndValueRef::Ascii(name, value) => Some(format!("{name}: {value:?}")),
        // The details, which are looked at as what they are.
        KeyAndValueRef::Binary(..) => None,
    });
    let metadata: Vec<_> = metadata.collect();
    assert_no_secret(&format!("{:?} {:?} {metadata:?}", denied.message, denied.details));
}

/// What is told names no user or message of the tests, and nothing of how the service is run.
#[track_caller]
pub(crate) fn assert_no_secret(told: &str) {
    let ids = [READER, RECIPIENT, MESSAGE].map(|id| id.to_string());
    let secrets =
        ["127.0.0.1", "localhost", "markread:", "eyJ", "Bearer ey", "redis", "Redis", "/tmp"];
    for secret in ids.iter().map(String::as_str).chain(secrets) {
        assert!(!told.contains(secret), "{secret:?} in {told}");
    }
}

/// The fields of `BadRequest`, in order.
pub(crate) fn bad_fields(denied: &Denied) -> Vec<&str> {
    let violations = &denied.details.bad_request().expect("a BadRequest").field_violations;
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

/// `RetryInfo`.
pub(crate) fn retry_delay(denied: &Denied) -> Duration {
    denied.details.retry_info().expect("a RetryInfo").retry_delay.expect("a delay")
}

/// gRPC's own retries wait as long as `RetryInfo` says.
#[track_caller]
fn assert_pushback_is_retry_delay(denied: &Denied) {
    let pushback = number(&denied.metadata, "grpc-retry-pushback-ms");
    assert_eq!(u128::try_from(pushback).unwrap(), retry_delay(denied).as_millis());
}

/// The row of a store that cannot be asked.
#[track_caller]
pub(crate) fn assert_store_unavailable(denied: &Denied) {
    assert_denied(denied, Code::Unavailable, "STORE_UNAVAILABLE");
    let delay_ms = retry_delay(denied).as_millis();
    assert!((100..=1000).contains(&delay_ms), "{delay_ms}");
    assert_pushback_is_retry_delay(denied);
}

/// No trace of a reader: neither quota nor cursor nor event.
pub(crate) async fn assert_untouched(redis: &Redis, reader: u64) {
    assert_eq!(redis.used(reader).await, None);
    assert_eq!(redis.cursors(reader).await, [].into());
    assert_eq!(redis.payloads().await, [""; 0]);
}

/// What the generated client made of an answer that is not `MarkRead`'s.
fn code_of<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}
