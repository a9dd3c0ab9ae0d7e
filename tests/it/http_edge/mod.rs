//! `POST /1.1/direct_messages/mark_read.json` on the gRPC port, over HTTP/1.1 and HTTP/2: the
//! sections "gRPC" and "HTTP" of `docs/contract.md`.

use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;
use markread_harness::raw::{RawAnswer, error_codes};

use crate::answers::assert_no_secret;
use client::HttpRequest;

mod availability;
mod bad_heads;
mod bad_lengths;
mod bad_parameters;
mod bad_sizes;
mod bodies;
pub(crate) mod client;
mod identity;
mod logs;
mod order;
mod outcomes;
mod quota;
mod slow;
mod spellings;

pub(crate) const PATH: &str = "/1.1/direct_messages/mark_read.json";

pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// Twitter's example: `MESSAGE` and `RECIPIENT`.
pub(crate) const EXAMPLE: &str = "last_read_event_id=8754578330382663743&recipient_id=3805104374";

/// Twitter's example, as most clients send it and as tweepy does.
fn examples() -> [HttpRequest; 2] {
    [HttpRequest::form(EXAMPLE), HttpRequest::query(EXAMPLE)]
}

fn parameters(recipient: u64, message: u64) -> String {
    format!("last_read_event_id={message}&recipient_id={recipient}")
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The value of a header that holds a number.
#[track_caller]
fn number(head: &HeaderMap, name: &str) -> u64 {
    let value = head.get(name).unwrap_or_else(|| panic!("{name} is missing: {head:?}"));
    value.to_str().unwrap().parse().unwrap()
}

/// The quota in an answer's headers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Rate {
    limit: u64,
    remaining: u64,
    reset: u64,
}

#[track_caller]
fn rate(head: &HeaderMap) -> Rate {
    let [limit, remaining, reset] =
        ["limit", "remaining", "reset"].map(|name| number(head, &format!("x-rate-limit-{name}")));
    Rate { limit, remaining, reset }
}

/// Asserts that a mark was served: 204, without a body and its headers.
#[track_caller]
fn assert_done(answer: &RawAnswer) -> Rate {
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.body.is_empty(), "{answer:?}");
    for name in ["content-length", "content-type", "transfer-encoding", "retry-after"] {
        assert!(!answer.head.contains_key(name), "{name}: {answer:?}");
    }
    rate(&answer.head)
}

/// Asserts that an answer is a refusal with this status and these error codes.
#[track_caller]
fn assert_refused(answer: &RawAnswer, status: u16, codes: &[u64]) {
    assert_eq!(answer.status, status, "{answer:?}");
    let body = std::str::from_utf8(&answer.body).unwrap();
    assert_eq!(error_codes(body), codes, "{body}");
    assert_is_an_errors_page(body);
    assert_eq!(answer.head["content-type"], "application/json");
    assert_no_secret(&format!("{:?} {body}", answer.head));
    for (name, only_with) in
        [("www-authenticate", &[401][..]), ("allow", &[405]), ("retry-after", &[429, 503])]
    {
        let is_there = answer.head.get(name).is_some_and(|value| !value.is_empty());
        assert_eq!(is_there, only_with.contains(&status), "{name}: {answer:?}");
    }
    if ![429, 500, 503].contains(&status) {
        assert!(!answer.head.contains_key("x-rate-limit-limit"), "the quota was not checked");
    }
}

/// Asserts that a body is `{"errors":[{"code":…,"message":"…"}]}` and nothing else.
#[track_caller]
fn assert_is_an_errors_page(body: &str) {
    let page: serde_json::Value = serde_json::from_str(body).unwrap();
    let entries = page["errors"].as_array().unwrap().iter();
    let entries = entries
        .map(|entry| format!("{{\"code\":{},\"message\":{}}}", entry["code"], entry["message"]));
    let entries = entries.collect::<Vec<_>>().join(",");
    assert_eq!(body, format!("{{\"errors\":[{entries}]}}"));
}
