//! Fails an HTTP/1.1 connection whose client begins a request's head and does not complete it in time. The
//! wait for a request to begin has another limit.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// The calls of a connection: a number that each beginning and each end of one increases. It is odd during
/// a call.
#[derive(Clone, Debug, Default)]
pub(super) struct Calls(Arc<AtomicU64>);

/// A call. Dropping it ends the call.
#[derive(Debug)]
pub(super) struct Call(Calls);

impl Calls {
    /// Begins a call: the request's head is complete.
    pub(super) fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(self.clone())
    }

    fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A stream that fails a read if bytes arrived outside of a call, and no call has begun within a limit.
#[derive(Debug)]
pub(super) struct HeadTimeout<T> {
    stream: T,
    limit: Duration,
    calls: Calls,
    /// The number of [`Calls`] when a head began, and its limit.
    head: Option<(u64, Pin<Box<Sleep>>)>,
}

impl<T> HeadTimeout<T> {
    /// Wraps the stream of a connection.
    pub(super) fn new(stream: T, limit: Duration, calls: Calls) -> Self {
        Self { stream, limit, calls, head: None }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for HeadTimeout<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let number = this.calls.number();
        if this.head.as_ref().is_some_and(|(began, _)| *began != number) {
            this.head = None;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let is_in_call = !number.is_multiple_of(2);
        if buf.filled().len() > before && !is_in_call && this.head.is_none() {
            this.head = Some((number, Box::pin(sleep(this.limit))));
        }
        // Also while bytes come: a client may send one after the other.
        if let Some((_, limit)) = &mut this.head
            && limit.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for HeadTimeout<T> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);
    const SHORTER: Duration = Duration::from_secs(9);
    const LONGER: Duration = Duration::from_secs(3600);

    struct Setup {
        client: DuplexStream,
        calls: Calls,
        stream: HeadTimeout<DuplexStream>,
    }

    impl Setup {
        fn new() -> Self {
            let (client, server) = duplex(100);
            let calls = Calls::default();
            Self { client, stream: HeadTimeout::new(server, LIMIT, calls.clone()), calls }
        }

        /// The client sends a byte, and it arrives.
        async fn send(&mut self) {
            self.client.write_all(b"a").await.unwrap();
            assert_eq!(self.stream.read_u8().await.unwrap(), b'a');
        }

        async fn is_cut_within(&mut self, time: Duration) -> bool {
            match timeout(time, self.stream.read_u8()).await {
                Ok(read) => read.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut),
                Err(_) => false,
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_limit_and_the_wait_for_one_has_none() {
        let mut setup = Setup::new();
        assert!(!setup.is_cut_within(LONGER).await, "no request has begun");
        setup.send().await;
        assert!(!setup.is_cut_within(SHORTER).await);
        assert!(setup.is_cut_within(LIMIT).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_byte_now_and_then_does_not_move_the_limit() {
        let mut setup = Setup::new();
        setup.send().await;
        assert!(!setup.is_cut_within(SHORTER).await);
        setup.send().await;
        assert!(setup.is_cut_within(Duration::from_secs(2)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_ends_its_heads_limit_and_the_next_head_has_its_own() {
        let mut setup = Setup::new();
        for _ in 0..2 {
            setup.send().await;
            let call = setup.calls.begin();
            // The body.
            setup.send().await;
            assert!(!setup.is_cut_within(LONGER).await, "the call has limits of its own");
            drop(call);
            assert!(!setup.is_cut_within(LONGER).await, "the connection is idle");
        }
        setup.send().await;
        assert!(setup.is_cut_within(LIMIT + Duration::from_secs(1)).await);
    }
}
