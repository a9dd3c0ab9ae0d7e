//! A timeout for a connection's first bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Length of HTTP/2's preface (RFC 9113 section 3.4). Up to there no other timeout applies; after it
/// HTTP/2 has its pings, and HTTP/1.1 its timeout for the head of a request.
const PREFACE_BYTES: usize = 24;

/// Fails a read unless the first 24 bytes arrive in time.
#[derive(Debug)]
pub(super) struct FirstBytesTimeout<T> {
    stream: T,
    /// `None` once the bytes have arrived.
    waiting: Option<PendingBytes>,
}

#[derive(Debug)]
struct PendingBytes {
    deadline: Pin<Box<Sleep>>,
    missing_bytes: usize,
}

impl<T> FirstBytesTimeout<T> {
    /// Starts the timeout on a new stream.
    pub(super) fn new(stream: T, limit: Duration) -> Self {
        let deadline = Box::pin(sleep(limit));
        Self { stream, waiting: Some(PendingBytes { deadline, missing_bytes: PREFACE_BYTES }) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FirstBytesTimeout<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if let Some(waiting) = &mut this.waiting {
            let read_bytes = buf.filled().len() - filled;
            if waiting.missing_bytes <= read_bytes {
                this.waiting = None;
            } else {
                waiting.missing_bytes -= read_bytes;
                if read.is_pending() && waiting.deadline.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FirstBytesTimeout<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
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
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
