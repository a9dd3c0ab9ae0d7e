//! Fails a connection whose client takes no byte for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::telemetry::metrics::{Bound, count_refused};

/// A stream that fails a write which makes no progress within a limit. It stands below TLS, which
/// would hide the progress of what it has buffered.
#[derive(Debug)]
pub(super) struct SendTimeout<T> {
    stream: T,
    limit: Option<Duration>,
    /// While a write waits. Boxed, since on most connections none does.
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<T> SendTimeout<T> {
    /// Wraps a stream; without a limit it waits for ever.
    pub(super) fn new(stream: T, limit: Option<Duration>) -> Self {
        Self { stream, limit, waiting: None }
    }

    /// Passes a write's progress on, or fails it after the limit.
    fn check<R>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        let Some(limit) = self.limit.filter(|_| written.is_pending()) else {
            self.waiting = None;
            return written;
        };
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        if waiting.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.waiting = None;
        count_refused(Bound::SendTimeout);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for SendTimeout<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for SendTimeout<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.check(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.check(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::{Instant, timeout};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_write_that_makes_no_progress_fails_after_the_limit() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let began = Instant::now();
        let error = SendTimeout::new(ours, Some(LIMIT)).write_all(&[0; 17]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_little_now_and_then_is_waited_for() {
        let (ours, mut theirs) = tokio::io::duplex(16);
        let mut stream = SendTimeout::new(ours, Some(LIMIT));
        let write = async { stream.write_all(&[0; 26]).await };
        let read = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT.mul_f64(0.9)).await;
                theirs.read_u8().await.unwrap();
            }
        };
        assert!(tokio::join!(write, read).0.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_a_write_waits() {
        let (ours, _theirs) = tokio::io::duplex(16);
        let mut stream = SendTimeout::new(ours, None);
        assert!(timeout(LIMIT * 100, stream.write_all(&[0; 17])).await.is_err());
    }
}
