//! Ends streams when the drain begins, so that no watcher delays the exit.

use std::pin::Pin;
use std::task::{Context, Poll};

use ::http::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;

use super::answer::{Body, grpc};
use crate::domain::Refusal;
use crate::net::lifecycle::Lifecycle;

pin_project! {
    /// A streaming answer that ends with UNAVAILABLE `DRAINING` when the drain begins.
    pub(super) struct UntilDrain {
        #[pin]
        body: Body,
        draining: Pin<Box<dyn Future<Output = ()> + Send>>,
        ended: bool,
    }
}

impl UntilDrain {
    /// Wraps a streaming answer.
    pub(super) fn wrap(response: Response<Body>, lifecycle: &Lifecycle) -> Response<Body> {
        let lifecycle = lifecycle.clone();
        response.map(|body| {
            let draining = Box::pin(async move { lifecycle.draining().await });
            Body::new(Self { body, draining, ended: false })
        })
    }
}

impl HttpBody for UntilDrain {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.project();
        if *this.ended {
            return Poll::Ready(None);
        }
        // Data that is ready is sent first, so that a complete answer is not cut.
        if let Poll::Ready(frame) = this.body.poll_frame(cx) {
            *this.ended = frame.is_none();
            return Poll::Ready(frame);
        }
        if this.draining.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        *this.ended = true;
        let trailers = grpc::status(Refusal::Draining).into_http::<Body>().into_parts().0.headers;
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::net::lifecycle::Phase;

    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = tonic::Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn an_endless_stream_ends_when_the_drain_begins() {
        let lifecycle = Lifecycle::default();
        let response = Response::new(Body::new(Endless));
        let body = UntilDrain::wrap(response, &lifecycle).into_body();
        lifecycle.advance(Phase::Draining);
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
    }

    #[tokio::test]
    async fn a_complete_answer_is_not_changed_by_the_drain() {
        let lifecycle = Lifecycle::default();
        lifecycle.advance(Phase::Draining);
        let response = Response::new(Body::new(http_body_util::Full::from("whole")));
        let whole = UntilDrain::wrap(response, &lifecycle).into_body().collect().await.unwrap();
        assert_eq!(whole.trailers(), None);
        assert_eq!(whole.to_bytes(), "whole");
    }
}
