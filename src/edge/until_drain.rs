//! Ends streams when the drain begins or their connection has reached its age, so that no watcher delays
//! the exit or outlives its connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use pin_project_lite::pin_project;

use super::answer::{Body, grpc};
use crate::domain::Refusal;
use crate::net::lifecycle::Lifecycle;
use crate::net::stream_control::StreamControl;

pin_project! {
    /// A streaming answer that ends with UNAVAILABLE: `DRAINING` when the drain begins, `CONNECTION_AGE`
    /// at the end of its connection's age.
    pub(super) struct UntilDrain {
        #[pin]
        body: Body,
        control: StreamControl,
        // Whether the body itself obeys `control`.
        obeys: bool,
        draining: Pin<Box<dyn Future<Output = ()> + Send>>,
        ended: bool,
    }
}

impl UntilDrain {
    /// Wraps a streaming answer.
    pub(super) fn wrap(mut response: Response<Body>, lifecycle: &Lifecycle) -> Response<Body> {
        let lifecycle = lifecycle.clone();
        let known = response.extensions().get::<StreamControl>().cloned();
        let obeys = known.is_some();
        let control = known.unwrap_or_default();
        response.extensions_mut().insert(control.clone());
        response.map(|body| {
            let draining = Box::pin(async move { lifecycle.draining().await });
            Body::new(Self { body, control, obeys, draining, ended: false })
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
        if (*this.obeys || !this.control.is_stalled())
            && let Poll::Ready(frame) = this.body.poll_frame(cx)
        {
            *this.ended = frame.is_none();
            return Poll::Ready(frame);
        }
        let refusal = if this.control.is_ending() {
            Refusal::ConnectionAge
        } else {
            ready!(this.draining.as_mut().poll(cx));
            Refusal::Draining
        };
        *this.ended = true;
        let trailers = grpc::status(refusal).into_http::<Body>().into_parts().0.headers;
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
    async fn an_endless_stream_ends_at_the_end_of_its_connections_age() {
        let response = UntilDrain::wrap(Response::new(Body::new(Endless)), &Lifecycle::default());
        let control = response.extensions().get::<StreamControl>().cloned().unwrap();
        control.set_stalled(true);
        control.end();
        let trailers = response.into_body().collect().await.unwrap().trailers().cloned().unwrap();
        assert_eq!(trailers["grpc-status"], "14");
        assert_eq!(trailers["grpc-retry-pushback-ms"], "0");
    }

    #[tokio::test]
    async fn nothing_is_taken_for_a_client_that_does_not_read() {
        let body = Body::new(http_body_util::Full::from("whole"));
        let response = UntilDrain::wrap(Response::new(body), &Lifecycle::default());
        let control = response.extensions().get::<StreamControl>().cloned().unwrap();
        control.set_stalled(true);
        let mut body = response.into_body();
        assert!(poll_once(&mut body).is_pending());
        control.set_stalled(false);
        assert!(poll_once(&mut body).is_ready());
    }

    fn poll_once(body: &mut Body) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(body).poll_frame(&mut Context::from_waker(std::task::Waker::noop()))
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
