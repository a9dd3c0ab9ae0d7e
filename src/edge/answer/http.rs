//! Refusals over plain HTTP, as Twitter's v1.1 API answers: `{"errors":[{"code":…,"message":"…"}]}`.

use ::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use ::http::{HeaderValue, Response};

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
    *response.status_mut() = row(refusal).http_status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Some(delay) = retry_delay(refusal) {
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
