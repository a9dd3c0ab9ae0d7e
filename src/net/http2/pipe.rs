//! Sends the body of an answer as its client reads it, and ends it if the client does not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::outbox::Outbox;
use super::{Shared, Unsent};
use crate::net::body::BodyError;
use crate::net::stream_control::StreamControl;
use crate::telemetry::metrics::{Bound, count_refused};

/// Longest wait for a client while memory is short, and how often that is looked at.
pub(super) const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// gRPC's code `RESOURCE_EXHAUSTED`, to which its clients translate a reset with `ENHANCE_YOUR_CALM`.
const RESOURCE_EXHAUSTED: &str = "8";

pin_project! {
    /// A body on its way. It takes one frame of the body at a time, and gives h2 only what the client's
    /// windows allow, so that what is given leaves.
    pub(super) struct Pipe<B> {
        stream: SendStream<Bytes>,
        shared: Arc<Shared>,
        #[pin]
        body: B,
        // The rest of the body's last frame, and whether a window has cut it.
        rest: Bytes,
        cut: bool,
        // While `rest` waits. Boxed, as is `end`: most answers need neither.
        stall: Option<Box<Stall>>,
        streaming: Option<Streaming>,
    }
}

/// The wait for a client that does not read.
struct Stall {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    _unsent: Unsent,
}

/// What a streaming answer has beside its body.
struct Streaming {
    control: StreamControl,
    /// The end of the connection's age.
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// How an answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// h2 has all of it.
    Sent,
    /// Its stream was reset.
    Reset,
}

impl End {
    /// Leaves what has not left yet to the outbox.
    pub(super) fn settle(self, reply: SendResponse<Bytes>, outbox: &Outbox) {
        match self {
            Self::Sent => outbox.end(reply),
            Self::Reset => outbox.forget(reply.stream_id().into()),
        }
    }
}

impl<B> Pipe<B> {
    pub(super) fn new(
        stream: SendStream<Bytes>,
        body: B,
        control: Option<StreamControl>,
        shared: Arc<Shared>,
    ) -> Self {
        let streaming = control.map(|control| {
            let end = Box::pin(shared.end_of_streams().cancelled_owned());
            Streaming { control, end }
        });
        Self { stream, shared, body, rest: Bytes::new(), cut: false, stall: None, streaming }
    }
}

impl<B> Future for Pipe<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let this = self.as_mut().project();
            if let Some(streaming) = this.streaming
                && !streaming.control.is_ending()
                && streaming.end.as_mut().poll(cx).is_ready()
            {
                streaming.control.end();
            }
            let step = if this.rest.is_empty() {
                self.as_mut().take_frame(cx)
            } else {
                self.as_mut().send_rest(cx)
            };
            match step {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(end)) => return Poll::Ready(end),
                Poll::Pending => {
                    // The client may reset the stream meanwhile, or has done so.
                    let _ = ready!(self.project().stream.poll_reset(cx));
                    return Poll::Ready(End::Reset);
                }
            }
        }
    }
}

impl<B> Pipe<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    /// Takes the body's next frame. Ready once it is taken, and sent unless it has data.
    fn take_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut this = self.project();
        let ended = match ready!(this.body.as_mut().poll_frame(cx)) {
            Some(Ok(frame)) => match frame.into_data().map_err(Frame::into_trailers) {
                Ok(data) => {
                    *this.rest = data;
                    *this.cut = false;
                    return Poll::Ready(Ok(()));
                }
                Err(Ok(trailers)) => this.stream.send_trailers(trailers),
                // A kind of frame that HTTP/2 does not have.
                Err(Err(_)) => return Poll::Ready(Ok(())),
            },
            Some(Err(_)) => {
                this.stream.send_reset(Reason::INTERNAL_ERROR);
                return Poll::Ready(Err(End::Reset));
            }
            None => this.stream.send_data(Bytes::new(), true),
        };
        // It fails if the caller has hung up.
        Poll::Ready(Err(ended.map_or(End::Reset, |()| End::Sent)))
    }

    /// Sends as much of the rest as the client's windows allow. Ready if some was sent.
    fn send_rest(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let this = self.as_mut().project();
        this.stream.reserve_capacity(this.rest.len());
        let capacity = loop {
            match this.stream.capacity() {
                0 => {}
                capacity => break capacity,
            }
            match this.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(_) => return Poll::Ready(Err(End::Reset)),
                Poll::Pending => return self.wait(cx),
            }
        };
        let count = capacity.min(this.rest.len());
        *this.cut |= count < this.rest.len();
        let piece = this.rest.split_to(count);
        let is_last = this.rest.is_empty() && this.body.is_end_stream();
        this.shared.meter.count_sent(count, !*this.cut);
        if this.stall.take().is_some()
            && let Some(streaming) = this.streaming
        {
            streaming.control.set_stalled(false);
        }
        this.shared.outbox.add(this.stream.stream_id().into(), count);
        Poll::Ready(match this.stream.send_data(piece, is_last) {
            Ok(()) if is_last => Err(End::Sent),
            Ok(()) => Ok(()),
            Err(_) => Err(End::Reset),
        })
    }

    /// Waits for a window; ready if the answer ends before. Its status cannot follow data that cannot be
    /// sent, so the stream is reset.
    fn wait(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        let mut this = self.project();
        let unsent = this.rest.len();
        if let Some(streaming) = this.streaming {
            streaming.control.set_stalled(true);
            if let Poll::Ready(end) = this.body.as_mut().poll_frame(cx) {
                let trailers = end.and_then(Result::ok).and_then(|end| end.into_trailers().ok());
                this.stream.send_reset(reset_reason(trailers.as_ref()));
                return Poll::Ready(Err(End::Reset));
            }
        }
        let stall = this.stall.get_or_insert_with(|| Box::new(Stall::new(this.shared, unsent)));
        count_refused(ready!(stall.poll_patience(this.shared, cx)));
        this.stream.send_reset(Reason::ENHANCE_YOUR_CALM);
        Poll::Ready(Err(End::Reset))
    }
}

impl Stall {
    fn new(shared: &Arc<Shared>, unsent: usize) -> Self {
        let since = Instant::now();
        let timer = Box::pin(sleep(SHORT_PATIENCE.min(shared.send_timeout())));
        Self { since, timer, _unsent: shared.hold_unsent(unsent) }
    }

    /// Ready once the client is not waited for any longer, with the bound that says so.
    fn poll_patience(&mut self, shared: &Shared, cx: &mut Context<'_>) -> Poll<Bound> {
        let limit = shared.send_timeout();
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let waited = self.since.elapsed();
            if waited >= limit {
                return Poll::Ready(Bound::SendTimeout);
            }
            if waited >= SHORT_PATIENCE
                && let Some(bound) = shared.shortage()
            {
                return Poll::Ready(bound);
            }
            let pause = limit.saturating_sub(waited).min(SHORT_PATIENCE);
            self.timer.as_mut().reset(Instant::now() + pause);
        }
    }
}

/// Returns the reason that gRPC's clients translate to the status in these trailers, as far as there is
/// one.
fn reset_reason(trailers: Option<&HeaderMap>) -> Reason {
    let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
    match status {
        Some(status) if status == RESOURCE_EXHAUSTED => Reason::ENHANCE_YOUR_CALM,
        _ => Reason::CANCEL,
    }
}
