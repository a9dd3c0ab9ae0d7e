//! A stream that a client must begin to speak on in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The length of HTTP/2's preface (RFC 9113 section 3.4). Up to there nothing else watches the
/// time: past it HTTP/2's pings do, and HTTP/1's own timeout for the head of a request.
const PREFACE_BYTES: usize = 24;

/// Fails a read when the first bytes have not come in time.
#[derive(Debug)]
pub struct Handshake<T> {
    stream: T,
    /// Gone once the bytes are there.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    deadline: Pin<Box<Sleep>>,
    missing_bytes: usize,
}

impl<T> Handshake<T> {
    /// A stream whose client has this long to begin.
    pub fn new(stream: T, limit: Duration) -> Self {
        let deadline = Box::pin(sleep(limit));
        Self { stream, waiting: Some(Waiting { deadline, missing_bytes: PREFACE_BYTES }) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Handshake<T> {
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

impl<T: AsyncWrite + Unpin> AsyncWrite for Handshake<T> {
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
