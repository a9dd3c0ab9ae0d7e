//! A webhook's receiver: what is sent to it, and what it answers.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::domain::DeliveryId;

/// A delivery as it is sent.
#[derive(Clone)]
pub struct Delivery {
    /// Its ID, the same at every attempt.
    pub id: DeliveryId,
    /// The body: the payload with `for_user_id` in front.
    pub body: Bytes,
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The body is the users'.
        f.debug_struct("Delivery").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Result of one attempt to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was answered 2xx in time.
    Delivered(u16),
    /// 410: the receiver wants no more.
    Gone,
    /// It is to be sent again.
    Failed(Failure),
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The kind: a label of metrics.
    pub kind: FailureKind,
    /// Status of the response, if there was one.
    pub status: Option<u16>,
    /// Description, for people. It quotes nothing of the receiver's.
    pub detail: String,
    /// The time that the receiver asked to wait, already bounded (`retry-after`).
    pub retry_after: Option<Duration>,
}

/// Kinds of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// A status other than 2xx, 410, 429, 502, 504.
    Status,
    /// 429, 502 or 504: the receiver is to be sent less.
    Throttled,
    /// No complete response in time.
    Timeout,
    /// The name has no address, the connection could not be made, or broke.
    Connection,
    /// The address is not allowed.
    Address,
    /// TLS failed.
    Tls,
    /// The response is too large, or is not HTTP.
    Response,
}

/// Result of a check (CRC).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The token was right.
    Passed,
    /// A wrong token or a redirect: the webhook is paused at once. For people.
    Refused(String),
    /// A TLS error, or an address that is not allowed: the webhook is paused at once by a relay. Another machine
    /// or other flags may have another result. For people.
    RefusedHere(String),
    /// Any other failure, which may pass. For people.
    Failed(String),
}

/// Sends to one webhook. Every call ends in bounded time and memory.
#[async_trait::async_trait]
pub trait Receiver: Send + Sync {
    /// Attempts to deliver once.
    async fn deliver(&self, delivery: &Delivery) -> Attempt;

    /// Checks that the receiver knows the secret.
    async fn check(&self) -> Check;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_of_a_delivery_has_no_body() {
        let body = Bytes::from_static(b"{\"name\":\"hush\"}");
        let delivery = Delivery { id: "3-1518127183443-7-42".parse().unwrap(), body };
        let text = format!("{delivery:?}");
        assert!(text.starts_with("Delivery { id: ") && !text.contains("hush"), "{text}");
    }
}
