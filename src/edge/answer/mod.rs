//! Every way a call is refused, and the only place that maps it to an answer: CONTRACT section 4,
//! the table "Answers".
//!
//! A [`Refusal`] says what happened; [`Refusal::into_grpc`] and [`Refusal::into_http`] say it in
//! the caller's protocol. No answer carries an address, a key, a token or a user ID.

use std::collections::HashMap;
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::domain::{BadField, Quota};
use crate::proto;

mod http;

/// The body of every answer, of gRPC and of plain HTTP alike.
pub type Body = tonic::body::Body;

/// The domain of `google.rpc.ErrorInfo`.
const DOMAIN: &str = "markread";

const MALFORMED_MESSAGE: &str = "the bytes are not one message of the method's type";

const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";

/// Why credentials do not hold, by what they are; the texts say nothing of their value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A bearer token, or an `authorization` header of no known scheme.
    Token(&'static str),
    /// An OAuth 1.0a signature.
    Signature(&'static str),
    /// The time of an OAuth 1.0a signature, which is further from ours than this.
    Timestamp {
        /// How far it may be, in seconds.
        window_seconds: u64,
    },
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// One or more parameters are missing or invalid.
    BadFields(Vec<BadField>),
    /// The bytes are not one message of the method's type.
    MalformedMessage,
    /// The message is compressed.
    Compressed,
    /// The message is over the limit.
    MessageTooLarge {
        /// The largest message that is taken.
        max_bytes: usize,
    },
    /// No such method or path.
    Unknown,
    /// The path is there, but not for this HTTP method.
    WrongHttpMethod,
    /// The path is there, but not for this content type.
    WrongContentType {
        /// What it takes.
        takes: &'static str,
    },
    /// The frame of a plain HTTP request is broken: its body does not end where it says, or it says
    /// something in two ways. The text says what.
    MalformedHttp(&'static str),
    /// The call carries no credentials.
    CredentialsMissing,
    /// The credentials do not hold.
    CredentialsInvalid(Flaw),
    /// No key to verify tokens with was ever fetched.
    IdentityUnavailable,
    /// The credentials hold, but name no user; the text says why.
    UserContextRequired(&'static str),
    /// The reader's quota is used up.
    OverQuota {
        /// The quota, with nothing left.
        quota: Quota,
        /// How long until the window ends.
        retry_after: Duration,
    },
    /// More waits for a watcher than is kept.
    WatcherTooSlow {
        /// The last that it was told; empty where there is none.
        resume_after: String,
    },
    /// The edge guard stopped the peer, for this long.
    EdgeLimited(Duration),
    /// The store cannot be asked, or did not answer.
    StoreUnavailable,
    /// The server is about to exit.
    Draining,
    /// The caller's own deadline passed.
    DeadlineExceeded,
    /// The request did not arrive whole within the call timeout.
    RequestTimeout,
    /// The server's own fault.
    Internal,
}

impl Refusal {
    /// The answer over gRPC.
    pub fn into_grpc(self) -> Status {
        let details = self.details();
        let retry_delay = details.retry_info().and_then(|retry| retry.retry_delay);
        let metadata = self.metadata(retry_delay);
        let (code, message) = (self.code(), self.message());
        // The unknown method is gRPC's own answer: it has no reason of ours.
        if self.reason().is_none() {
            return Status::with_metadata(code, message, metadata);
        }
        Status::with_error_details_and_metadata(code, message, details, metadata)
    }

    /// The answer as one item's of a batch.
    pub fn into_batch_error(self) -> proto::BatchMarkReadError {
        let retry_delay = self.retry_delay().and_then(|delay| delay.try_into().ok());
        proto::BatchMarkReadError {
            code: self.code().into(),
            reason: self.reason().unwrap_or_default().to_owned(),
            message: self.message(),
            retry_delay,
        }
    }

    /// The code over gRPC.
    pub fn code(&self) -> Code {
        match self {
            Self::BadFields(_) | Self::MalformedMessage | Self::MalformedHttp(_) => {
                Code::InvalidArgument
            }
            Self::MessageTooLarge { .. }
            | Self::OverQuota { .. }
            | Self::WatcherTooSlow { .. }
            | Self::EdgeLimited(_) => Code::ResourceExhausted,
            Self::Unknown
            | Self::Compressed
            | Self::WrongHttpMethod
            | Self::WrongContentType { .. } => Code::Unimplemented,
            Self::CredentialsMissing | Self::CredentialsInvalid(_) => Code::Unauthenticated,
            Self::UserContextRequired(_) => Code::PermissionDenied,
            Self::IdentityUnavailable | Self::StoreUnavailable | Self::Draining => {
                Code::Unavailable
            }
            Self::DeadlineExceeded | Self::RequestTimeout => Code::DeadlineExceeded,
            Self::Internal => Code::Internal,
        }
    }

    /// The reason in `google.rpc.ErrorInfo`; none for what gRPC and HTTP define themselves.
    pub fn reason(&self) -> Option<&'static str> {
        Some(match self {
            Self::BadFields(_) | Self::MalformedMessage | Self::MalformedHttp(_) => {
                "INVALID_PARAMETER"
            }
            Self::MessageTooLarge { .. } => "MESSAGE_TOO_LARGE",
            Self::Unknown
            | Self::Compressed
            | Self::WrongHttpMethod
            | Self::WrongContentType { .. } => return None,
            Self::CredentialsMissing => "CREDENTIALS_MISSING",
            Self::CredentialsInvalid(_) => "CREDENTIALS_INVALID",
            Self::UserContextRequired(_) => "USER_CONTEXT_REQUIRED",
            Self::IdentityUnavailable => "IDENTITY_UNAVAILABLE",
            Self::OverQuota { .. } => "RATE_LIMIT_EXCEEDED",
            Self::WatcherTooSlow { .. } => "WATCHER_TOO_SLOW",
            Self::EdgeLimited(_) => "EDGE_LIMIT_EXCEEDED",
            Self::StoreUnavailable => "STORE_UNAVAILABLE",
            Self::Draining => "DRAINING",
            Self::DeadlineExceeded | Self::RequestTimeout => "DEADLINE_EXCEEDED",
            Self::Internal => "INTERNAL",
        })
    }

    /// The `outcome` label of `markread_mark_read_total`.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::BadFields(_)
            | Self::MalformedMessage
            | Self::MessageTooLarge { .. }
            | Self::Unknown
            | Self::Compressed
            | Self::WrongHttpMethod
            | Self::WrongContentType { .. }
            | Self::MalformedHttp(_) => "invalid",
            Self::CredentialsMissing | Self::CredentialsInvalid(_) => "unauthenticated",
            Self::UserContextRequired(_) => "forbidden",
            Self::OverQuota { .. } | Self::WatcherTooSlow { .. } => "limited",
            Self::EdgeLimited(_) => "edge_limited",
            Self::IdentityUnavailable | Self::StoreUnavailable | Self::Draining => "unavailable",
            Self::DeadlineExceeded | Self::RequestTimeout => "deadline",
            Self::Internal => "internal",
        }
    }

    /// What a person reads. Values that stand in it stand in [`Self::info`] too (AIP-193).
    fn message(&self) -> String {
        match self {
            Self::BadFields(fields) => {
                let problems: Vec<_> = fields.iter().map(ToString::to_string).collect();
                problems.join("; ")
            }
            Self::MalformedMessage => MALFORMED_MESSAGE.to_owned(),
            Self::Compressed => "compressed messages are not taken".to_owned(),
            Self::MessageTooLarge { max_bytes } => format!("the request is over {max_bytes} bytes"),
            Self::Unknown => "there is no such method or path".to_owned(),
            Self::WrongHttpMethod => "this path takes POST".to_owned(),
            Self::WrongContentType { takes } => format!("this path takes {takes}"),
            Self::CredentialsMissing => "the call carries no credentials".to_owned(),
            Self::CredentialsInvalid(Flaw::Token(problem) | Flaw::Signature(problem))
            | Self::UserContextRequired(problem)
            | Self::MalformedHttp(problem) => (*problem).to_owned(),
            Self::CredentialsInvalid(Flaw::Timestamp { window_seconds }) => {
                format!("the timestamp is further than {window_seconds} s from the server's clock")
            }
            Self::IdentityUnavailable => "tokens cannot be verified yet: retry".to_owned(),
            Self::OverQuota { quota, .. } => {
                format!("the quota of {} calls in a window is used up", quota.limit)
            }
            Self::WatcherTooSlow { .. } => {
                "the watcher is too slow: resume where it was".to_owned()
            }
            Self::EdgeLimited(delay) => {
                let seconds = whole_seconds(*delay);
                format!("too many calls from this address: retry after {seconds} s")
            }
            Self::StoreUnavailable => "the store is unavailable: retry".to_owned(),
            Self::Draining => "this server is about to exit: retry elsewhere".to_owned(),
            Self::DeadlineExceeded => "the deadline of the call passed".to_owned(),
            Self::RequestTimeout => "the request did not arrive whole in time".to_owned(),
            Self::Internal => "internal error".to_owned(),
        }
    }

    /// The values that stand in the message.
    fn info(&self) -> HashMap<String, String> {
        let pairs = match self {
            Self::BadFields(fields) => {
                let names: Vec<_> = fields.iter().map(|field| field.name).collect();
                let bounds = fields.iter().flat_map(|field| field.problem.bounds());
                [("fields", names.join(", "))].into_iter().chain(bounds).collect()
            }
            Self::MessageTooLarge { max_bytes } => vec![("max_bytes", max_bytes.to_string())],
            Self::CredentialsInvalid(Flaw::Timestamp { window_seconds }) => {
                vec![("window_seconds", window_seconds.to_string())]
            }
            Self::OverQuota { quota, .. } => vec![("limit", quota.limit.to_string())],
            Self::WatcherTooSlow { resume_after } => vec![("resume_after", resume_after.clone())],
            Self::EdgeLimited(delay) => {
                vec![("retry_delay_seconds", whole_seconds(*delay).to_string())]
            }
            _ => Vec::new(),
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    fn details(&self) -> ErrorDetails {
        let mut details = ErrorDetails::new();
        if let Some(reason) = self.reason() {
            details.set_error_info(reason, DOMAIN, self.info());
        }
        match self {
            Self::BadFields(fields) => {
                let violations: Vec<_> = fields
                    .iter()
                    .map(|field| FieldViolation::new(field.name, field.problem.to_string()))
                    .collect();
                details.set_bad_request(violations);
            }
            Self::MalformedMessage => {
                details.add_bad_request_violation("request", MALFORMED_MESSAGE);
            }
            Self::OverQuota { .. } => {
                details.add_quota_failure_violation("reader", self.message());
            }
            _ => {}
        }
        if let Some(delay) = self.retry_delay() {
            details.set_retry_info(Some(delay));
        }
        details
    }

    /// When a retry makes sense. The jitter keeps callers that failed together apart.
    fn retry_delay(&self) -> Option<Duration> {
        match self {
            Self::OverQuota { retry_after, .. } => Some(*retry_after),
            Self::EdgeLimited(delay) => Some((*delay).max(Duration::from_secs(1))),
            Self::IdentityUnavailable | Self::StoreUnavailable | Self::Draining => {
                Some(Duration::from_millis(rand::random_range(100..=1000)))
            }
            _ => None,
        }
    }

    /// Trailing metadata: the quota, and what gRPC's own retries obey (gRFC A6).
    fn metadata(&self, retry_delay: Option<Duration>) -> MetadataMap {
        let mut headers = HeaderMap::new();
        if let Self::OverQuota { quota, .. } = self {
            insert_rate_limit(&mut headers, *quota);
        }
        let mut metadata = MetadataMap::from_headers(headers);
        match (self, retry_delay) {
            // Never blindly: the window is minutes long.
            (Self::OverQuota { .. }, _) => {
                metadata.insert(RETRY_PUSHBACK, MetadataValue::from_static("-1"));
            }
            (_, Some(delay)) => {
                let delay_ms = i32::try_from(delay.as_millis()).unwrap_or(i32::MAX);
                metadata.insert(RETRY_PUSHBACK, delay_ms.into());
            }
            (_, None) => {}
        }
        metadata
    }
}

/// Writes the quota into an answer: CONTRACT section 4, `x-rate-limit-*`.
pub fn insert_rate_limit(headers: &mut HeaderMap, quota: Quota) {
    const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit-limit");
    const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
    const RESET: HeaderName = HeaderName::from_static("x-rate-limit-reset");
    headers.insert(LIMIT, quota.limit.into());
    headers.insert(REMAINING, never_indexed(quota.remaining));
    headers.insert(RESET, never_indexed(quota.reset_at_seconds()));
}

/// A value that stays out of HPACK's table (RFC 7541 section 6.2.3): one that differs from answer to
/// answer would fill the table, and be looked for among all that came before.
fn never_indexed(number: u64) -> HeaderValue {
    let mut value = HeaderValue::from(number);
    value.set_sensitive(true);
    value
}

/// Rounded up, as a caller that waits them out must be late rather than early; at least 1.
fn whole_seconds(delay: Duration) -> u64 {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    seconds.max(1)
}
