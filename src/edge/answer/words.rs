//! Refusals in words for people, with the values that the words contain.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{BadField, Flaw, Refusal};

pub(super) const MALFORMED_MESSAGE: &str = "the bytes are not one message of the method's type";

/// Returns the message. Values in it are in [`values`] too (AIP-193).
pub(super) fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::BadFields(fields) => {
            if let Some(first) = fields.first().filter(|field| field.is_of_item()) {
                // `BadRequest` has the others: the status stays below the 8 KiB of headers that many
                // clients accept.
                return first.to_string();
            }
            let problems: Vec<_> = fields.iter().map(ToString::to_string).collect();
            problems.join("; ")
        }
        Refusal::MalformedMessage => MALFORMED_MESSAGE.to_owned(),
        Refusal::Compressed => "compressed messages are not accepted".to_owned(),
        Refusal::MessageTooLarge { max_bytes } => format!("the request is over {max_bytes} bytes"),
        Refusal::Unknown => "unknown method or path".to_owned(),
        Refusal::WrongHttpMethod => "this path accepts POST only".to_owned(),
        Refusal::WrongContentType { accepts } => format!("this path accepts {accepts} only"),
        Refusal::CredentialsMissing => "the call carries no credentials".to_owned(),
        Refusal::CredentialsInvalid(Flaw::Token(problem) | Flaw::Signature(problem))
        | Refusal::UserContextRequired(problem)
        | Refusal::MalformedHttp(problem) => (*problem).to_owned(),
        Refusal::CredentialsInvalid(Flaw::Timestamp { window_seconds }) => {
            format!("the timestamp is more than {window_seconds} s from the server's clock")
        }
        Refusal::IdentityUnavailable => "tokens cannot be verified yet: retry".to_owned(),
        Refusal::OverQuota { quota, .. } => {
            format!("the quota of {} calls in a window is used up", quota.limit)
        }
        Refusal::WatcherTooSlow { .. } => {
            "the watcher is too slow: resume after the last update".to_owned()
        }
        Refusal::TooManyOfReader => "too many calls of this reader are under way: retry".to_owned(),
        Refusal::ConnectionAge => "the connection has reached its age: reconnect".to_owned(),
        Refusal::Overloaded => "this server is overloaded: retry later or elsewhere".to_owned(),
        Refusal::EdgeLimited(delay) => {
            let seconds = whole_seconds(*delay);
            format!("too many calls from this address: retry after {seconds} s")
        }
        Refusal::StoreUnavailable => "the store is unavailable: retry".to_owned(),
        Refusal::Draining => "this server is shutting down: retry elsewhere".to_owned(),
        Refusal::DeadlineExceeded => "the call's deadline passed".to_owned(),
        Refusal::RequestTimeout => "the request was not complete in time".to_owned(),
        Refusal::Internal => "internal error".to_owned(),
    }
}

/// Returns a message that names bad fields without their problems.
pub(super) fn short_message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::BadFields(fields) => names(fields),
        _ => message(refusal),
    }
}

fn names(fields: &[BadField]) -> String {
    let names: Vec<&str> = fields.iter().map(|field| field.name.as_ref()).collect();
    names.join(", ")
}

/// Returns the values in the message, by name.
pub(super) fn values(refusal: &Refusal) -> HashMap<String, String> {
    let pairs = match refusal {
        Refusal::BadFields(fields) => {
            let bounds = fields.iter().flat_map(|field| field.problem.bounds());
            [("fields", names(fields))].into_iter().chain(bounds).collect()
        }
        Refusal::MessageTooLarge { max_bytes } => vec![("max_bytes", max_bytes.to_string())],
        Refusal::CredentialsInvalid(Flaw::Timestamp { window_seconds }) => {
            vec![("window_seconds", window_seconds.to_string())]
        }
        Refusal::OverQuota { quota, .. } => vec![("limit", quota.limit.to_string())],
        Refusal::WatcherTooSlow { resume_after } => vec![("resume_after", resume_after.clone())],
        Refusal::EdgeLimited(delay) => {
            vec![("retry_delay_seconds", whole_seconds(*delay).to_string())]
        }
        _ => Vec::new(),
    };
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Returns when a retry makes sense. Jitter keeps callers apart that failed together.
pub(super) fn retry_delay(refusal: &Refusal) -> Option<Duration> {
    match refusal {
        Refusal::OverQuota { retry_after, .. } => Some(*retry_after),
        Refusal::EdgeLimited(delay) => Some((*delay).max(Duration::from_secs(1))),
        Refusal::IdentityUnavailable
        | Refusal::StoreUnavailable
        | Refusal::Draining
        | Refusal::TooManyOfReader => Some(Duration::from_millis(rand::random_range(100..=1000))),
        Refusal::ConnectionAge => Some(Duration::ZERO),
        Refusal::Overloaded => Some(Duration::from_millis(rand::random_range(1000..=2000))),
        _ => None,
    }
}

/// Rounds up to whole seconds, at least 1: a caller that waits them out must not be early.
pub(super) fn whole_seconds(delay: Duration) -> u64 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    seconds.max(1)
}
