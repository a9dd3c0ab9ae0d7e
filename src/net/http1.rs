//! HTTP/1.1, by hyper.

use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

use super::body::RequestBody;
use super::listener::{HEADER_LIST_MAX_BYTES, Limits, Notice, Settings, expiry};
use super::service::HttpService;

/// Returns hyper's settings.
pub(super) fn builder(limits: &Limits) -> Builder {
    let mut http1 = Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake)
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
    let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
        service.call(request.map(RequestBody::from))
    });
    let mut connection = std::pin::pin!(http1.serve_connection(TokioIo::new(stream), service));
    let is_hard = tokio::select! {
        ended = connection.as_mut() => return ended,
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
