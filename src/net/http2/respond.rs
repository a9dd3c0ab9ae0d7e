//! One stream: runs its call, then sends the head of the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue, Response};
use http_body::Body;
use pin_project_lite::pin_project;

use super::Shared;
use super::pipe::Pipe;
use crate::net::body::BodyError;
use crate::net::date;

/// Headers that HTTP/2 does not have (RFC 9113 section 8.2.2).
const CONNECTION_HEADERS: [HeaderName; 6] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

pin_project! {
    /// A stream, from its request to the end of its answer. Written out as one future, since an async
    /// function would hold the call and the body twice.
    pub(super) struct Respond<F, B> {
        // `None` once the answer has ended.
        reply: Option<SendResponse<Bytes>>,
        shared: Arc<Shared>,
        #[pin]
        stage: Stage<F, B>,
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F, B> {
        Call { #[pin] call: F },
        Body { #[pin] pipe: Pipe<B> },
    }
}

impl<F, B> Respond<F, B> {
    pub(super) fn new(call: F, reply: SendResponse<Bytes>, shared: Arc<Shared>) -> Self {
        Self { reply: Some(reply), shared, stage: Stage::Call { call } }
    }
}

impl<F, B, E> Future for Respond<F, B>
where
    F: Future<Output = Result<Response<B>, E>>,
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        loop {
            let call = match this.stage.as_mut().project() {
                StageProjection::Call { call } => call,
                StageProjection::Body { pipe } => {
                    let end = ready!(pipe.poll(cx));
                    if let Some(reply) = this.reply.take() {
                        end.settle(reply, &this.shared.outbox);
                    }
                    return Poll::Ready(());
                }
            };
            let Some(reply) = this.reply else { return Poll::Ready(()) };
            let response = match call.poll(cx) {
                Poll::Ready(Ok(response)) => response,
                Poll::Ready(Err(_)) => {
                    reply.send_reset(Reason::INTERNAL_ERROR);
                    return Poll::Ready(());
                }
                Poll::Pending => {
                    // The caller may hang up: the call is dropped.
                    let _ = ready!(reply.poll_reset(cx));
                    return Poll::Ready(());
                }
            };
            let (mut head, body) = response.into_parts();
            let control = head.extensions.remove();
            let is_empty = body.is_end_stream();
            let headers = &mut head.headers;
            // An answer has a few headers, none of which is such.
            if headers.keys().any(|name| CONNECTION_HEADERS.contains(name)) {
                for name in &CONNECTION_HEADERS {
                    headers.remove(name);
                }
            }
            headers.entry(DATE).or_insert_with(date::now);
            if !is_empty && let Some(length) = body.size_hint().exact() {
                headers.entry(CONTENT_LENGTH).or_insert_with(|| HeaderValue::from(length));
            }
            // It fails if the caller has hung up.
            let Ok(stream) = reply.send_response(Response::from_parts(head, ()), is_empty) else {
                return Poll::Ready(());
            };
            if is_empty {
                return Poll::Ready(());
            }
            let pipe = Pipe::new(stream, body, control, Arc::clone(this.shared));
            this.stage.set(Stage::Body { pipe });
        }
    }
}
