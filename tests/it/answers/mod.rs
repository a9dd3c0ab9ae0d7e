//! Every row of the table "Answers" in `docs/contract.md` that concerns `MarkRead`, over the wire.

use std::time::Duration;

use markread_harness::caller::{Refusal, number};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis};
use tonic::metadata::KeyAndValueRef;
use tonic::{Code, Status};

pub(crate) mod credentials;
mod deadline;
mod drain;
mod internal;
mod limits;
pub(crate) mod outcomes;
mod parameters;
mod store;
pub(crate) mod tokens;

/// Asserts that a refusal is this row of the table and has what the table promises of all.
#[track_caller]
pub(crate) fn assert_denied(denied: &Refusal, code: Code, reason: &str) {
    assert_eq!((denied.code, denied.reason.as_str()), (code, reason), "{denied:?}");
    assert_explains(denied);
    assert_reveals_nothing(denied);
}

/// AIP-193: values in the message are in `ErrorInfo.metadata` too.
#[track_caller]
fn assert_explains(denied: &Refusal) {
    assert!(!denied.message.is_empty());
    let info = denied.details.error_info().expect("an ErrorInfo");
    // A field of an item is one word: `requests[0].recipient_id`.
    let words = denied.message.split(|c: char| !c.is_ascii_alphanumeric() && !"_[].".contains(c));
    let words = words.map(|word| word.trim_matches('.'));
    for value in words.filter(|word| word.contains(|c: char| c.is_ascii_digit() || c == '_')) {
        let stands = info.metadata.values().any(|known| known.split(", ").any(|one| one == value));
        assert!(stands, "{value:?} of {:?} in {:?}", denied.message, info.metadata);
    }
    if let Some(bad_request) = denied.details.bad_request() {
        assert!(bad_request.field_violations.iter().all(|field| !field.description.is_empty()));
    }
}

/// Asserts that message and details reveal no caller, no value and no address.
#[track_caller]
fn assert_reveals_nothing(denied: &Refusal) {
    let metadata = denied.metadata.iter().filter_map(|pair| match pair {
        KeyAndValueRef::Ascii(name, value) => Some(format!("{name}: {value:?}")),
        // The details, decoded.
        KeyAndValueRef::Binary(..) => None,
    });
    let metadata: Vec<_> = metadata.collect();
    assert_no_secret(&format!("{:?} {:?} {metadata:?}", denied.message, denied.details));
}

/// Asserts that a text names no user or message of the tests, and no address, key or token.
#[track_caller]
pub(crate) fn assert_no_secret(text: &str) {
    let ids = [READER, RECIPIENT, MESSAGE].map(|id| id.to_string());
    let secrets =
        ["127.0.0.1", "localhost", "markread:", "eyJ", "Bearer ey", "redis", "Redis", "/tmp"];
    for secret in ids.iter().map(String::as_str).chain(secrets) {
        assert!(!text.contains(secret), "{secret:?} in {text}");
    }
}

/// The fields that `BadRequest` names, in order.
pub(crate) fn bad_fields(denied: &Refusal) -> Vec<&str> {
    let violations = &denied.details.bad_request().expect("a BadRequest").field_violations;
    violations.iter().map(|violation| violation.field.as_str()).collect()
}

/// The delay in `RetryInfo`.
pub(crate) fn retry_delay(denied: &Refusal) -> Duration {
    denied.details.retry_info().expect("a RetryInfo").retry_delay.expect("a delay")
}

/// Asserts that gRPC's own retries wait as long as `RetryInfo` says.
#[track_caller]
fn assert_pushback_is_retry_delay(denied: &Refusal) {
    let pushback = number(&denied.metadata, "grpc-retry-pushback-ms");
    assert_eq!(u128::try_from(pushback).unwrap(), retry_delay(denied).as_millis());
}

/// Asserts that a refusal is `STORE_UNAVAILABLE`.
#[track_caller]
pub(crate) fn assert_store_unavailable(denied: &Refusal) {
    assert_denied(denied, Code::Unavailable, "STORE_UNAVAILABLE");
    let delay_ms = retry_delay(denied).as_millis();
    assert!((100..=1000).contains(&delay_ms), "{delay_ms}");
    assert_pushback_is_retry_delay(denied);
}

/// Asserts that Redis has neither quota nor cursor nor event of a reader.
pub(crate) async fn assert_untouched(redis: &Redis, reader: u64) {
    assert_eq!(redis.used(reader).await, None);
    assert_eq!(redis.cursors(reader).await, [].into());
    assert_eq!(redis.payloads().await, [""; 0]);
}

/// The status code of an answer of any method.
fn code_of<T>(answer: &Result<T, Status>) -> Code {
    answer.as_ref().map_or_else(Status::code, |_| Code::Ok)
}
