//! A stream of responses, bounded in bytes.
//!
//! The HTTP library skips interim responses (1xx) without an end. A receiver that sends nothing else would be
//! read at the speed of the network until the attempt's time is over, and keep a thread busy.

use std::error::Error as StdError;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read for one response: more than its head and body may have, with room for interim
/// responses and the frames of chunks.
const RESPONSE_MAX_BYTES: usize = 256 * 1024;

/// Bytes after which other tasks of the thread are run.
const YIELD_BYTES: usize = 32 * 1024;

/// Bytes that a stream may still read for the response that is under way. Clones are the same one.
#[derive(Clone)]
pub(super) struct ResponseBudget(Arc<AtomicUsize>);

impl ResponseBudget {
    /// Starts anew. Called when a head has come: what follows is bounded by its readers too, and ends before the
    /// next response begins.
    pub(super) fn reset(&self) {
        self.0.store(RESPONSE_MAX_BYTES, Ordering::Relaxed);
    }

    /// Ends the bound: what follows is not a response.
    pub(super) fn lift(&self) {
        self.0.store(usize::MAX, Ordering::Relaxed);
    }

    /// Takes bytes that were read. Returns whether that many were left.
    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| match left {
            usize::MAX => Some(left),
            _ => left.checked_sub(bytes),
        };
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// A response has more bytes than any that is accepted.
#[derive(Debug, thiserror::Error)]
#[error("more than {} KiB", RESPONSE_MAX_BYTES / 1024)]
struct TooLarge;

/// Returns what is wrong with a response of which too many bytes came, if the error is that.
pub(super) fn size_problem(error: &io::Error) -> Option<String> {
    let inner: &(dyn StdError + 'static) = error.get_ref()?;
    inner.downcast_ref::<TooLarge>().map(|found| format!("the response has {found}"))
}

/// A stream whose reads are counted.
pub(super) struct Metered<S> {
    stream: S,
    budget: ResponseBudget,
    /// Bytes read since a read had to wait.
    since_wait: usize,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S) -> Self {
        let budget = ResponseBudget(Arc::new(AtomicUsize::new(RESPONSE_MAX_BYTES)));
        Self { stream, budget, since_wait: 0 }
    }

    pub(super) fn budget(&self) -> ResponseBudget {
        self.budget.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.since_wait >= YIELD_BYTES {
            self.since_wait = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_pending() {
            self.since_wait = 0;
            return read;
        }
        let bytes = buffer.filled().len().saturating_sub(before);
        self.since_wait = self.since_wait.saturating_add(bytes);
        if !self.budget.take(bytes) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, TooLarge)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, repeat};

    use super::*;

    #[tokio::test]
    async fn a_stream_ends_at_its_budget_unless_that_is_reset_or_lifted() {
        let mut stream = Metered::new(repeat(b'x'));
        let budget = stream.budget();
        let mut bytes = vec![0; RESPONSE_MAX_BYTES];
        for _ in 0..2 {
            stream.read_exact(&mut bytes).await.unwrap();
            budget.reset();
        }
        stream.read_exact(&mut bytes).await.unwrap();
        let problem = size_problem(&stream.read_u8().await.unwrap_err());
        assert_eq!(problem.as_deref(), Some("the response has more than 256 KiB"));
        budget.lift();
        for _ in 0..3 {
            stream.read_exact(&mut bytes).await.unwrap();
        }
        assert_eq!(size_problem(&io::Error::other("else")), None);
    }

    #[tokio::test]
    async fn other_tasks_run_while_a_stream_is_read() {
        let mut stream = Metered::new(repeat(b'x'));
        stream.budget().lift();
        let mut bytes = [0; 1024];
        let mut turns = 0;
        tokio::select! {
            biased;
            () = async {
                for _ in 0..YIELD_BYTES * 8 / bytes.len() {
                    stream.read_exact(&mut bytes).await.unwrap();
                }
            } => {}
            () = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            } => {}
        }
        assert!(turns >= 7, "{turns}");
    }
}
