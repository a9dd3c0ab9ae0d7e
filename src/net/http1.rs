//! HTTP/1.1, by hyper.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::RequestBody;
use super::head_timeout::{Call, Calls, HeadTimeout};
use super::listener::{HEADER_LIST_MAX_BYTES, Limits, Notice, Settings, expiry};
use super::service::HttpService;
use crate::telemetry::metrics::{Bound, count_refused};

pin_project! {
    /// The body of an answer. hyper drops it when it is sent, which ends the call.
    struct CallBody<B> {
        #[pin]
        body: B,
        call: Call,
    }
}

impl<B: Body> Body for CallBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Returns hyper's settings. Its limit for a head begins with the wait for one, so it is the idle time.
pub(super) fn builder(limits: &Limits) -> Builder {
    let mut http1 = Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(limits.http1_idle)
        .max_buf_size(usize::try_from(HEADER_LIST_MAX_BYTES).unwrap_or(usize::MAX));
    http1
}

/// Serves a connection. In a drain, at its age or while memory is short it ends after the answer that is
/// under way.
pub(super) async fn serve<T, S>(
    stream: T,
    service: S,
    settings: &Settings,
    mut notices: watch::Receiver<Notice>,
) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: HttpService,
{
    let Settings { limits, http1, .. } = settings;
    let calls = Calls::default();
    let stream = HeadTimeout::new(stream, limits.handshake, calls.clone());
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        let call = calls.begin();
        let answer = service.call(request.map(RequestBody::from));
        async move { answer.await.map(|answer| answer.map(|body| CallBody { body, call })) }
    });
    let mut connection = std::pin::pin!(http1.serve_connection(TokioIo::new(stream), service));
    let is_hard = tokio::select! {
        ended = connection.as_mut() => {
            if ended.as_ref().is_err_and(hyper::Error::is_timeout) {
                count_refused(Bound::IdleTimeout);
                return Ok(());
            }
            return ended;
        }
        () = expiry(limits.connection_age) => true,
        // The caller bounds the drain.
        notice = notices.wait_for(|notice| notice.draining || notice.memory_critical) => {
            notice.is_ok_and(|notice| !notice.draining)
        }
    };
    connection.as_mut().graceful_shutdown();
    if is_hard {
        // Past the grace it is closed.
        timeout(limits.connection_age_grace, connection).await.unwrap_or(Ok(()))
    } else {
        connection.await
    }
}
