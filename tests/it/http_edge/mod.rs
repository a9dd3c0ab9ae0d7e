//! `POST /1.1/direct_messages/mark_read.json` on the gRPC port: CONTRACT sections 4 and 8, over
//! HTTP/1.1 and HTTP/2.

use std::time::{SystemTime, UNIX_EPOCH};

use http::HeaderMap;

use super::answers::assert_no_secret;
use super::harness::raw::{RawAnswer, error_codes};
use client::Ask;

mod availability;
mod bad_heads;
mod bad_lengths;
mod bad_parameters;
mod bad_sizes;
mod bodies;
mod client;
mod identity;
mod logs;
mod order;
mod outcomes;
mod quota;
mod slow;
mod spellings;

const PATH: &str = "/1.1/direct_messages/mark_read.json";

const FORM: &str = "application/x-www-form-urlencoded";

/// The seed's example request: `MESSAGE` and `RECIPIENT`.
const EXAMPLE: &str = "last_read_event_id=8754578330382663743&recipient_id=3805104374";

/// The seed's example, as most clients send it and as tweepy does.
fn examples() -> [Ask; 2] {
    [Ask::form(EXAMPLE), Ask::query(EXAMPLE)]
}

fn parameters(recipient: u64, message: u64) -> String {
    format!("last_read_event_id={message}&recipient_id={recipient}")
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A number in a head.
#[track_caller]
fn number(head: &HeaderMap, name: &str) -> u64 {
    let value = head.get(name).unwrap_or_else(|| panic!("{name} is there: {head:?}"));
    value.to_str().unwrap().parse().unwrap()
}

/// What stands of the quota in a head, where it was reached.
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

/// The receipt was sent: 204, and nothing that would be of a body.
#[track_caller]
fn assert_done(answer: &RawAnswer) -> Rate {
    assert_eq!(answer.status, 204, "{answer:?}");
    assert!(answer.body.is_empty(), "{answer:?}");
    for name in ["content-length", "content-type", "transfer-encoding", "retry-after"] {
        assert!(!answer.head.contains_key(name), "{name}: {answer:?}");
    }
    rate(&answer.head)
}

/// A row of the table of answers: its status, and the codes of its errors.
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
        assert!(!answer.head.contains_key("x-rate-limit-limit"), "no quota was reached");
    }
}

/// `{"errors":[{"code":…,"message":"…"}]}` and no byte more.
#[track_caller]
fn assert_is_an_errors_page(body: &str) {
    let page: serde_json::Value = serde_json::from_str(body).unwrap();
    let entries = page["errors"].as_array().unwrap().iter();
    let entries = entries
        .map(|entry| format!("{{\"code\":{},\"message\":{}}}", entry["code"], entry["message"]));
    let entries = entries.collect::<Vec<_>>().join(",");
    assert_eq!(body, format!("{{\"errors\":[{entries}]}}"));
}
