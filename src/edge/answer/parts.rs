//! Parts of answers in both protocols.

use ::http::{HeaderMap, HeaderName, HeaderValue};

use crate::domain::Quota;

/// The body of every answer, of gRPC and of plain HTTP.
pub type Body = tonic::body::Body;

/// Writes the quota into an answer (`docs/contract.md`, "Answers").
pub fn insert_rate_limit(headers: &mut HeaderMap, quota: Quota) {
    const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit-limit");
    const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
    const RESET: HeaderName = HeaderName::from_static("x-rate-limit-reset");
    headers.insert(LIMIT, quota.limit.into());
    headers.insert(REMAINING, never_indexed(quota.remaining));
    headers.insert(RESET, never_indexed(quota.reset_at_seconds()));
}

/// Creates a value that stays out of HPACK's table (RFC 7541 section 6.2.3). One that differs from answer
/// to answer would fill the table, and the encoder would compare it with all before it.
fn never_indexed(number: u64) -> HeaderValue {
    let mut value = HeaderValue::from(number);
    value.set_sensitive(true);
    value
}
