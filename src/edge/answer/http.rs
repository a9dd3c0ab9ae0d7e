//! Refusals over plain HTTP, as Twitter's v1.1 API answers: `{"errors":[{"code":…,"message":"…"}]}`.

use ::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderValue, Response, StatusCode};

use super::parts::{Body, insert_rate_limit};
use super::table::row;
use super::words::{message, retry_delay, whole_seconds};
use crate::domain::{BadField, Flaw, Refusal};

/// The challenges of a 401 (RFC 6750 section 3, RFC 5849 section 3.5.1).
const BEARER: &str = "Bearer realm=\"markread\"";
const BEARER_INVALID: &str = "Bearer realm=\"markread\", error=\"invalid_token\"";
const OAUTH: &str = "OAuth realm=\"markread\"";

/// The v1.1 code of a missing parameter.
const MISSING: u16 = 38;

/// Returns the answer to a refused call.
pub fn response(refusal: &Refusal) -> Response<Body> {
    let body = serde_json::json!({ "errors": errors(refusal) }).to_string();
    let mut response = Response::new(Body::new(http_body_util::Full::from(body)));
    let status = row(refusal).http_status;
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        let delay = retry_delay(refusal).unwrap_or_default();
        headers.insert(RETRY_AFTER, whole_seconds(delay).into());
    }
    match refusal {
        Refusal::OverQuota { quota, .. } => insert_rate_limit(headers, *quota),
        Refusal::WrongHttpMethod => {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        // Where the next request begins is ambiguous.
        Refusal::MalformedHttp(_) => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Refusal::CredentialsMissing => {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER));
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(OAUTH));
        }
        Refusal::CredentialsInvalid(Flaw::Token(_)) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER_INVALID));
        }
        Refusal::CredentialsInvalid(Flaw::Signature(_) | Flaw::Timestamp { .. }) => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(OAUTH));
        }
        _ => {}
    }
    response
}

/// Returns an entry for each bad field, missing ones first; otherwise one entry.
fn errors(refusal: &Refusal) -> Vec<serde_json::Value> {
    let code = row(refusal).v1_code;
    let Refusal::BadFields(fields) = refusal else { return vec![entry(code, &message(refusal))] };
    let (missing, invalid): (Vec<_>, Vec<_>) =
        fields.iter().partition(|field| field.problem.is_missing());
    let with_code = |code| move |field: &BadField| entry(code, &field.to_string());
    let missing = missing.into_iter().map(with_code(MISSING));
    missing.chain(invalid.into_iter().map(with_code(code))).collect()
}

fn entry(code: u16, message: &str) -> serde_json::Value {
    serde_json::json!({ "code": code, "message": message })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::Quota;

    #[test]
    fn every_429_and_503_says_when_to_retry() {
        let quota = Quota { limit: 1, remaining: 0, reset_at_ms: 0 };
        let refusals = [
            Refusal::OverQuota { quota, retry_after: Duration::from_millis(1001) },
            Refusal::TooManyOfReader,
            Refusal::ConnectionAge,
            Refusal::Overloaded,
            Refusal::EdgeLimited(Duration::from_millis(1)),
            Refusal::IdentityUnavailable,
            Refusal::StoreUnavailable,
            Refusal::Draining,
            Refusal::WatcherTooSlow { resume_after: String::new() },
            Refusal::Internal,
            Refusal::CredentialsMissing,
        ];
        let retried = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
        for refusal in refusals {
            let response = response(&refusal);
            let after = response.headers().get(RETRY_AFTER);
            let after = after.map(|seconds| seconds.to_str().unwrap().parse::<u64>().unwrap());
            let expected = match refusal {
                Refusal::OverQuota { .. } => Some(2..=2),
                Refusal::Overloaded => Some(1..=2),
                _ => retried.contains(&response.status()).then_some(1..=1),
            };
            let as_expected =
                after.zip(expected.clone()).is_some_and(|(s, range)| range.contains(&s));
            assert!(as_expected || (after, expected) == (None, None), "{refusal:?}: {after:?}");
        }
    }
}
