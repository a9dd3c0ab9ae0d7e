//! The table of refusals: the codes of each in gRPC and plain HTTP, and its outcome in the metrics.

use ::http::StatusCode;
use tonic::Code;

use crate::domain::{Flaw, Refusal};
use crate::telemetry::metrics::MarkOutcome;

/// Codes and outcome of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// gRPC status code.
    pub code: Code,
    /// Reason in `google.rpc.ErrorInfo`; `None` for refusals that gRPC or HTTP defines itself.
    pub reason: Option<&'static str>,
    /// Status over plain HTTP.
    pub http_status: StatusCode,
    /// `errors[0].code` over plain HTTP, as in Twitter's v1.1 API.
    pub v1_code: u16,
    /// Outcome of a mark in `markread_mark_read_total`.
    pub outcome: MarkOutcome,
}

/// Generates [`row`] and [`TABLE`] from the same rows.
macro_rules! rows {
    ($($refusal:pat => $code:ident, $reason:expr, $status:ident, $v1_code:literal, $outcome:ident;)+) => {
        /// Returns the row of a refusal.
        pub fn row(refusal: &Refusal) -> Row {
            match refusal {
                $($refusal => Row {
                    code: Code::$code,
                    reason: $reason,
                    http_status: StatusCode::$status,
                    v1_code: $v1_code,
                    outcome: MarkOutcome::$outcome,
                },)+
            }
        }

        /// All rows.
        pub const TABLE: &[Row] = &[$(Row {
            code: Code::$code,
            reason: $reason,
            http_status: StatusCode::$status,
            v1_code: $v1_code,
            outcome: MarkOutcome::$outcome,
        }),+];
    };
}

use Flaw::{Signature, Timestamp, Token};
#[allow(clippy::enum_glob_use, reason = "the table has a row for each variant")]
use Refusal::*;

// A missing parameter is code 38: see `http::errors`.
#[rustfmt::skip]
rows! {
    BadFields(_)                       => InvalidArgument,   Some("INVALID_PARAMETER"),     BAD_REQUEST,            44,  Invalid;
    MalformedMessage                   => InvalidArgument,   Some("INVALID_PARAMETER"),     BAD_REQUEST,            44,  Invalid;
    MalformedHttp(_)                   => InvalidArgument,   Some("INVALID_PARAMETER"),     BAD_REQUEST,            44,  Invalid;
    MessageTooLarge { .. }             => ResourceExhausted, Some("MESSAGE_TOO_LARGE"),     PAYLOAD_TOO_LARGE,      44,  Invalid;
    Compressed                         => Unimplemented,     None,                          UNSUPPORTED_MEDIA_TYPE, 44,  Invalid;
    WrongContentType { .. }            => Unimplemented,     None,                          UNSUPPORTED_MEDIA_TYPE, 44,  Invalid;
    Unknown                            => Unimplemented,     None,                          NOT_FOUND,              34,  Invalid;
    WrongHttpMethod                    => Unimplemented,     None,                          METHOD_NOT_ALLOWED,     86,  Invalid;
    CredentialsMissing                 => Unauthenticated,   Some("CREDENTIALS_MISSING"),   UNAUTHORIZED,           32,  Unauthenticated;
    CredentialsInvalid(Token(_))       => Unauthenticated,   Some("CREDENTIALS_INVALID"),   UNAUTHORIZED,           89,  Unauthenticated;
    CredentialsInvalid(Signature(_))   => Unauthenticated,   Some("CREDENTIALS_INVALID"),   UNAUTHORIZED,           32,  Unauthenticated;
    CredentialsInvalid(Timestamp { .. }) => Unauthenticated, Some("CREDENTIALS_INVALID"),   UNAUTHORIZED,           135, Unauthenticated;
    UserContextRequired(_)             => PermissionDenied,  Some("USER_CONTEXT_REQUIRED"), FORBIDDEN,              220, Forbidden;
    IdentityUnavailable                => Unavailable,       Some("IDENTITY_UNAVAILABLE"),  SERVICE_UNAVAILABLE,    130, Unavailable;
    OverQuota { .. }                   => ResourceExhausted, Some("RATE_LIMIT_EXCEEDED"),   TOO_MANY_REQUESTS,      88,  Limited;
    WatcherTooSlow { .. }              => ResourceExhausted, Some("WATCHER_TOO_SLOW"),      TOO_MANY_REQUESTS,      88,  Limited;
    TooManyOfReader                    => ResourceExhausted, Some("CONCURRENCY_LIMIT_EXCEEDED"), TOO_MANY_REQUESTS, 88,  Busy;
    ConnectionAge                      => Unavailable,       Some("CONNECTION_AGE"),        SERVICE_UNAVAILABLE,    130, Unavailable;
    Overloaded                         => ResourceExhausted, Some("OVERLOADED"),            SERVICE_UNAVAILABLE,    130, Overloaded;
    EdgeLimited(_)                     => ResourceExhausted, Some("EDGE_LIMIT_EXCEEDED"),   TOO_MANY_REQUESTS,      88,  EdgeLimited;
    StoreUnavailable                   => Unavailable,       Some("STORE_UNAVAILABLE"),     SERVICE_UNAVAILABLE,    130, Unavailable;
    Draining                           => Unavailable,       Some("DRAINING"),              SERVICE_UNAVAILABLE,    130, Unavailable;
    DeadlineExceeded                   => DeadlineExceeded,  Some("DEADLINE_EXCEEDED"),     REQUEST_TIMEOUT,        44,  Deadline;
    RequestTimeout                     => DeadlineExceeded,  Some("DEADLINE_EXCEEDED"),     REQUEST_TIMEOUT,        44,  Deadline;
    Internal                           => Internal,          Some("INTERNAL"),              INTERNAL_SERVER_ERROR,  131, Internal;
}
