//! The body of a request.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// Error of a body that is incomplete or malformed.
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The body of a request, as it arrives.
#[derive(Debug)]
pub struct RequestBody(Kind);

#[derive(Debug)]
enum Kind {
    Http1(Incoming),
    Http2 {
        stream: RecvStream,
        /// What is missing of the announced length, if there is one.
        missing_bytes: Option<u64>,
        data_ended: bool,
    },
}

impl RequestBody {
    /// Creates the body of an HTTP/2 request. `length` is its `content-length`, which h2 enforces.
    pub(super) fn http2(stream: RecvStream, length: Option<u64>) -> Self {
        let missing_bytes = length.or_else(|| stream.is_end_stream().then_some(0));
        Self(Kind::Http2 { stream, missing_bytes, data_ended: false })
    }
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self(Kind::Http1(body))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (stream, missing_bytes, data_ended) = match &mut self.get_mut().0 {
            Kind::Http1(body) => return Pin::new(body).poll_frame(cx).map_err(Into::into),
            Kind::Http2 { stream, missing_bytes, data_ended } => {
                (stream, missing_bytes, data_ended)
            }
        };
        if !*data_ended {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // The window is for what waits here. It fails only on a stream that has ended.
                    let _ = stream.flow_control().release_capacity(data.len());
                    if let Some(missing) = missing_bytes {
                        let taken = u64::try_from(data.len()).unwrap_or(u64::MAX);
                        *missing = missing.saturating_sub(taken);
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The caller wants no answer any more, which its stream reports.
                Some(Err(error))
                    if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) =>
                {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => *data_ended = true,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx)).map_err(BodyError::from);
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2 { stream, .. } => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2 { missing_bytes, .. } => {
                missing_bytes.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}
