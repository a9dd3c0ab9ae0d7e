//! What a refusal is over plain HTTP: its status, its code in the seed's words, its headers.

use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};

use super::{Body, Flaw, Refusal, insert_rate_limit, whole_seconds};
use crate::domain::BadField;

/// The challenges of a 401: RFC 6750 section 3, RFC 5849 section 3.5.1.
const BEARER: &str = "Bearer realm=\"markread\"";
const BEARER_INVALID: &str = "Bearer realm=\"markread\", error=\"invalid_token\"";
const OAUTH: &str = "OAuth realm=\"markread\"";

impl Refusal {
    /// The answer over plain HTTP: `{"errors":[{"code":…,"message":"…"}]}`.
    pub fn into_http(self) -> http::Response<Body> {
        let errors: Vec<_> = match &self {
            Self::BadFields(fields) => {
                // The first entry is 38 where any is missing.
                let (missing, invalid): (Vec<_>, Vec<_>) =
                    fields.iter().partition(|field| field.problem.is_missing());
                let entry = |code| move |field: &BadField| error_entry(code, &field.to_string());
                missing
                    .into_iter()
                    .map(entry(38))
                    .chain(invalid.into_iter().map(entry(44)))
                    .collect()
            }
            _ => vec![error_entry(self.http_code(), &self.message())],
        };
        let body = serde_json::json!({ "errors": errors }).to_string();
        let mut response = http::Response::new(Body::new(http_body_util::Full::from(body)));
        *response.status_mut() = self.http_status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(delay) = self.retry_delay() {
            headers.insert(RETRY_AFTER, whole_seconds(delay).into());
        }
        match self {
            Self::OverQuota { quota, .. } => insert_rate_limit(headers, quota),
            Self::WrongHttpMethod => {
                headers.insert(ALLOW, HeaderValue::from_static("POST"));
            }
            // What follows on the connection cannot be told from the rest of this request.
            Self::MalformedHttp(_) => {
                headers.insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Self::CredentialsMissing => {
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER));
                headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(OAUTH));
            }
            Self::CredentialsInvalid(Flaw::Token(_)) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(BEARER_INVALID));
            }
            Self::CredentialsInvalid(Flaw::Signature(_) | Flaw::Timestamp { .. }) => {
                headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(OAUTH));
            }
            _ => {}
        }
        response
    }

    fn http_status(&self) -> StatusCode {
        match self {
            Self::BadFields(_) | Self::MalformedMessage | Self::MalformedHttp(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::MessageTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Unknown => StatusCode::NOT_FOUND,
            Self::WrongHttpMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::Compressed | Self::WrongContentType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::CredentialsMissing | Self::CredentialsInvalid(_) => StatusCode::UNAUTHORIZED,
            Self::UserContextRequired(_) => StatusCode::FORBIDDEN,
            Self::OverQuota { .. } | Self::WatcherTooSlow { .. } | Self::EdgeLimited(_) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::IdentityUnavailable | Self::StoreUnavailable | Self::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::DeadlineExceeded | Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The seed's `errors[0].code`.
    fn http_code(&self) -> u16 {
        match self {
            Self::BadFields(_)
            | Self::MalformedMessage
            | Self::MalformedHttp(_)
            | Self::MessageTooLarge { .. }
            | Self::Compressed
            | Self::WrongContentType { .. }
            | Self::RequestTimeout
            | Self::DeadlineExceeded => 44,
            Self::Unknown => 34,
            Self::WrongHttpMethod => 86,
            Self::CredentialsMissing | Self::CredentialsInvalid(Flaw::Signature(_)) => 32,
            Self::CredentialsInvalid(Flaw::Token(_)) => 89,
            Self::CredentialsInvalid(Flaw::Timestamp { .. }) => 135,
            Self::UserContextRequired(_) => 220,
            Self::OverQuota { .. } | Self::WatcherTooSlow { .. } | Self::EdgeLimited(_) => 88,
            Self::IdentityUnavailable | Self::StoreUnavailable | Self::Draining => 130,
            Self::Internal => 131,
        }
    }
}

fn error_entry(code: u16, message: &str) -> serde_json::Value {
    serde_json::json!({ "code": code, "message": message })
}
