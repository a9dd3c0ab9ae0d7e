//! Why calls are refused. The codes of a refusal in each protocol, and its text for people, are in
//! `src/edge/answer/`.

use std::time::Duration;

use super::{BadField, Quota};

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One or more parameters are missing or invalid.
    BadFields(Vec<BadField>),
    /// The bytes are not one message of the method's type.
    MalformedMessage,
    /// The message is compressed.
    Compressed,
    /// The message is too large.
    MessageTooLarge {
        /// Largest message that is accepted, in bytes.
        max_bytes: usize,
    },
    /// The method or the path is unknown.
    Unknown,
    /// The path exists, but not for this HTTP method.
    WrongHttpMethod,
    /// The path exists, but not for this content type.
    WrongContentType {
        /// The content type that the path accepts.
        accepts: &'static str,
    },
    /// The framing of a plain HTTP request is broken or ambiguous; the text says how.
    MalformedHttp(&'static str),
    /// The call carries no credentials.
    CredentialsMissing,
    /// The credentials are invalid.
    CredentialsInvalid(Flaw),
    /// No keys to verify tokens with have been fetched yet.
    IdentityUnavailable,
    /// The credentials are valid, but name no user; the text says why.
    UserContextRequired(&'static str),
    /// The reader's quota is used up.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// Time until the window ends.
        retry_after: Duration,
    },
    /// The watcher's queue is full.
    WatcherTooSlow {
        /// Position of the last update that it received; empty if there was none.
        resume_after: String,
    },
    /// More calls of the reader wait, or more of its watches are open, than are kept.
    TooManyOfReader,
    /// The connection has reached its age, and its grace is over.
    ConnectionAge,
    /// The process has nearly used up its memory.
    Overloaded,
    /// The edge guard stops the peer for this long.
    EdgeLimited(Duration),
    /// The store could not be reached, or did not answer in time.
    StoreUnavailable,
    /// The server is shutting down.
    Draining,
    /// The caller's own deadline passed.
    DeadlineExceeded,
    /// The request was not complete within the call timeout.
    RequestTimeout,
    /// The fault is the server's.
    Internal,
}

/// Why credentials are invalid. The texts never contain their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Of a bearer token, or an `authorization` header of an unsupported scheme.
    Token(&'static str),
    /// Of an OAuth 1.0a signature.
    Signature(&'static str),
    /// The timestamp of an OAuth 1.0a signature is too far from the server's clock.
    Timestamp {
        /// Largest distance that is accepted, in seconds.
        window_seconds: u64,
    },
}
