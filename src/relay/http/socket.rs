//! A connection that notices, before a request is written, that the receiver has closed it.
//!
//! The pool leaves out connections that are known to be closed. But a close is known only after the runtime
//! has looked, and a request that is written until then is lost without an answer: nobody can say whether the
//! receiver has it. So the first write after a pause looks itself.

use std::error::Error as StdError;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Pause after which a write looks first. Under load connections are used again at once, and a look is a
/// call to the system for each request.
const PAUSE: Duration = Duration::from_millis(5);

/// A TCP connection.
pub(super) struct Socket {
    stream: TcpStream,
    /// Whether a request was written: handshakes are over.
    in_use: Arc<AtomicBool>,
    /// When the last read was, if nothing was written since.
    last_read: Option<Instant>,
}

/// The connection was closed by the receiver while it was idle. Nothing of the request was sent.
#[derive(Debug, thiserror::Error)]
#[error("closed while it was idle")]
struct ClosedWhileIdle;

/// Returns whether a request failed because the receiver had closed the connection, before anything of it was
/// sent.
pub(super) fn is_closed_while_idle(error: &(dyn StdError + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if let Some(inner) = io.and_then(io::Error::get_ref)
            && inner.is::<ClosedWhileIdle>()
        {
            return true;
        }
        cause = error.source();
    }
    false
}

impl Socket {
    /// Creates it, with the flag to set once a request was written.
    pub(super) fn new(stream: TcpStream) -> (Self, Arc<AtomicBool>) {
        let in_use = Arc::<AtomicBool>::default();
        (Self { stream, in_use: Arc::clone(&in_use), last_read: None }, in_use)
    }

    /// Fails if the receiver has closed the connection, or has sent something that nobody asked for, as it
    /// does before it closes.
    fn look(&mut self) -> io::Result<()> {
        let is_idle = self.last_read.take().is_some_and(|at| at.elapsed() >= PAUSE);
        if !is_idle || !self.in_use.load(Ordering::Relaxed) {
            return Ok(());
        }
        match SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::ConnectionAborted, ClosedWhileIdle)),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.last_read = Some(Instant::now());
        }
        read
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
