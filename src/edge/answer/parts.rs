//! Parts of answers in both protocols.

use std::pin::Pin;
use std::sync::OnceLock;
use std::task::{Context, Poll};

use ::http::header::{CONTENT_TYPE, DATE};
use ::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;

use crate::domain::Quota;
use crate::net::date;

/// The body of every answer, of gRPC and of plain HTTP.
#[derive(Debug, Default)]
pub struct Body(Kind);

#[derive(Debug, Default)]
enum Kind {
    #[default]
    Empty,
    /// The message of a unary call, with its head, and then the trailers of [`Kind::Ok`]. Most answers are
    /// such: they need no box.
    Message(Bytes),
    /// The trailers of a call that is OK.
    Ok,
    Other(tonic::body::Body),
}

impl Body {
    /// Creates an empty body.
    pub const fn empty() -> Self {
        Self(Kind::Empty)
    }

    /// Creates a body of any kind.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
    {
        tonic::body::Body::new(body).into()
    }

    /// Creates the body of a unary call that is OK: a message, with its head.
    pub(in crate::edge) const fn message(frame: Bytes) -> Self {
        Self(Kind::Message(frame))
    }

    /// Returns whether it is the body of a unary call that is OK.
    pub(in crate::edge) const fn is_message(&self) -> bool {
        matches!(self.0, Kind::Message(_))
    }
}

impl From<tonic::body::Body> for Body {
    fn from(body: tonic::body::Body) -> Self {
        Self(Kind::Other(body))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let kind = &mut self.get_mut().0;
        let frame = match kind {
            Kind::Empty => return Poll::Ready(None),
            Kind::Other(body) => return Pin::new(body).poll_frame(cx),
            Kind::Message(message) => {
                let message = std::mem::take(message);
                *kind = Kind::Ok;
                Frame::data(message)
            }
            Kind::Ok => {
                *kind = Kind::Empty;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(Status::GRPC_STATUS, const { HeaderValue::from_static("0") });
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Empty => true,
            Kind::Message(_) | Kind::Ok => false,
            Kind::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Message(_) | Kind::Ok => SizeHint::default(),
            Kind::Other(body) => body.size_hint(),
        }
    }
}

const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-rate-limit-reset");

/// Headers of answers with a quota, by its limit: a process has two, of marks and of reads. A copy costs less
/// than to hash each name.
static WITH_QUOTA: [OnceLock<(u64, HeaderMap)>; 2] = [const { OnceLock::new() }; 2];

/// Writes the quota into an answer (`docs/contract.md`, "Answers").
pub fn insert_rate_limit(headers: &mut HeaderMap, quota: Quota) {
    headers.insert(LIMIT, quota.limit.into());
    headers.insert(REMAINING, never_indexed(quota.remaining));
    headers.insert(RESET, never_indexed(quota.reset_at_seconds()));
}

/// Returns the headers of an answer over gRPC.
pub(in crate::edge) fn grpc_headers(quota: Option<Quota>) -> HeaderMap {
    let Some(quota) = quota else { return new_grpc_headers(None) };
    let known = WITH_QUOTA.iter().find_map(|known| {
        let (limit, headers) = known.get_or_init(|| (quota.limit, new_grpc_headers(Some(quota))));
        (*limit == quota.limit).then_some(headers)
    });
    let Some(known) = known else { return new_grpc_headers(Some(quota)) };
    let mut headers = known.clone();
    for (name, value) in &mut headers {
        if *name == REMAINING {
            *value = never_indexed(quota.remaining);
        } else if *name == RESET {
            *value = never_indexed(quota.reset_at_seconds());
        } else if *name == DATE {
            *value = date::now();
        }
    }
    headers
}

fn new_grpc_headers(quota: Option<Quota>) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(5);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(DATE, date::now());
    if let Some(quota) = quota {
        insert_rate_limit(&mut headers, quota);
    }
    headers
}

/// Creates a value that stays out of HPACK's table (RFC 7541 section 6.2.3). One that differs from answer
/// to answer would fill the table, and the encoder would compare it with all before it.
fn never_indexed(number: u64) -> HeaderValue {
    let mut value = HeaderValue::from(number);
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn the_headers_show_the_quota_whatever_was_shown_before() {
        for limit in [1500, 300, 1500, 7, 300] {
            for remaining in [limit - 1, 0] {
                let quota = Quota { limit, remaining, reset_at_ms: 1_000 * (limit + remaining) };
                let headers = grpc_headers(Some(quota));
                for name in [CONTENT_TYPE, LIMIT, REMAINING, RESET] {
                    assert_eq!(headers[&name], new_grpc_headers(Some(quota))[&name], "{quota:?}");
                }
                assert!(headers.contains_key(DATE));
                assert!(headers[REMAINING].is_sensitive() && headers[RESET].is_sensitive());
            }
        }
        assert_eq!(grpc_headers(None).len(), 2);
    }

    #[tokio::test]
    async fn a_unary_answer_is_its_message_and_the_status_ok() {
        let body = Body::message(Bytes::from_static(b"message"));
        assert!(body.is_message() && !body.is_end_stream());
        let collected = body.collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
        assert_eq!(collected.to_bytes(), "message");
    }

    #[tokio::test]
    async fn a_body_knows_its_end_and_its_size() {
        let empty = Body::empty();
        assert!(empty.is_end_stream() && !empty.is_message());
        assert_eq!(empty.size_hint().exact(), Some(0));
        let mut message = Body::message(Bytes::from_static(b"message"));
        assert_eq!(message.size_hint().exact(), None, "trailers follow");
        message.frame().await.unwrap().unwrap();
        assert!(!message.is_end_stream(), "the trailers are left");
        message.frame().await.unwrap().unwrap();
        assert!(message.is_end_stream() && message.frame().await.is_none());
        let other = Body::new(http_body_util::Full::from("other"));
        assert!(!other.is_end_stream() && !other.is_message());
        assert_eq!(other.size_hint().exact(), Some(5));
        assert_eq!(other.collect().await.unwrap().to_bytes(), "other");
    }
}
