//! The messages of a request, each shown only when all its bytes have arrived. tonic reserves the length
//! that a frame's head announces at once: five bytes from anyone would hold 64 KiB.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use pin_project_lite::pin_project;
use tonic::Status;

use crate::domain::Refusal;
use crate::edge::request_bytes::HeldBytes;

/// Length of a gRPC frame's head: a flag, then the message's length, big-endian.
const HEAD_BYTES: usize = 5;

/// Memory that an incomplete message begins with, in bytes.
const PARTIAL_MIN_BYTES: usize = 64;

/// Any error of a body.
pub(in crate::edge) type BodyError = Box<dyn std::error::Error + Send + Sync>;

pin_project! {
    /// Splits a body into its messages, with their heads.
    #[derive(Debug)]
    pub(in crate::edge) struct WholeMessages<B> {
        #[pin]
        body: B,
        chunks: Chunks,
        ended: bool,
    }
}

/// Bytes that have arrived and were not shown yet.
#[derive(Debug)]
struct Chunks {
    max_bytes: usize,
    /// The last chunk, as far as it is not part of a message that was shown.
    chunk: Bytes,
    /// The beginning of a message. It grows as its bytes arrive.
    partial: BytesMut,
    held: HeldBytes,
}

impl<B> WholeMessages<B> {
    /// Reads messages of at most `max_bytes`. A longer one is shown at once, for tonic to refuse.
    pub(in crate::edge) fn new(body: B, max_bytes: usize, held: HeldBytes) -> Self {
        let chunks = Chunks { max_bytes, chunk: Bytes::new(), partial: BytesMut::new(), held };
        Self { body, chunks, ended: false }
    }
}

impl<B> WholeMessages<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    /// Polls for the only message, as [`Self::poll_next`], which fails if more bytes have arrived with it.
    pub(super) fn poll_only(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let message = ready!(self.as_mut().poll_next(cx));
        if self.chunks.chunk.is_empty() {
            return Poll::Ready(message);
        }
        Poll::Ready(Some(Err(more_than_one())))
    }

    /// Polls for the end, and fails if there are more bytes before it.
    pub(super) fn poll_end(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut this = self.project();
        while !*this.ended {
            match ready!(this.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) if frame.data_ref().is_some_and(|data| !data.is_empty()) => {
                    return Poll::Ready(Some(Err(more_than_one())));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => *this.ended = true,
            }
        }
        Poll::Ready(None)
    }

    /// Polls for the next message, with its head.
    pub(in crate::edge) fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        let mut this = self.project();
        loop {
            match this.chunks.next() {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(status) => return Poll::Ready(Some(Err(status.into()))),
            }
            if *this.ended {
                return Poll::Ready(None);
            }
            match ready!(this.body.as_mut().poll_frame(cx)) {
                // Trailers of a request mean nothing.
                Some(Ok(frame)) => this.chunks.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => {
                    *this.ended = true;
                    if !this.chunks.partial.is_empty() {
                        let incomplete = Status::internal("the message is incomplete");
                        return Poll::Ready(Some(Err(incomplete.into())));
                    }
                }
            }
        }
    }
}

fn more_than_one() -> BodyError {
    Status::internal("more than one message").into()
}

/// Returns a message without its head.
pub(in crate::edge) fn payload(message: &[u8], max_bytes: usize) -> Result<&[u8], Refusal> {
    match message.split_first_chunk::<HEAD_BYTES>() {
        Some(([0, length @ ..], payload)) if length_of(*length) <= max_bytes => Ok(payload),
        Some(([0, ..], _)) => Err(Refusal::MessageTooLarge { max_bytes }),
        Some(([1, ..], _)) => Err(Refusal::Compressed),
        _ => Err(Refusal::MalformedMessage),
    }
}

/// Returns the length that a head announces.
fn length_of(announced: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(announced)).unwrap_or(usize::MAX)
}

impl Chunks {
    /// Takes the next message if it is complete, or to be refused. Otherwise the chunk is used up.
    fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.partial.is_empty() {
            // Most messages are one chunk, which is not copied.
            match self.frame_bytes(&self.chunk) {
                Some(Some(bytes)) if self.chunk.len() < bytes => {}
                Some(Some(bytes)) => return Ok(Some(self.chunk.split_to(bytes))),
                Some(None) => return Ok(Some(std::mem::take(&mut self.chunk))),
                None => {}
            }
        }
        while !self.chunk.is_empty() {
            let wanted = self.frame_bytes(&self.partial).flatten().unwrap_or(HEAD_BYTES);
            let taken = self.chunk.split_to(self.chunk.len().min(wanted - self.partial.len()));
            self.extend(&taken, wanted)?;
            match self.frame_bytes(&self.partial) {
                Some(Some(bytes)) if self.partial.len() < bytes => {}
                None => {}
                Some(whole) => {
                    if whole.is_none() {
                        self.chunk = Bytes::new();
                    }
                    self.held.release();
                    return Ok(Some(std::mem::take(&mut self.partial).freeze()));
                }
            }
        }
        // The chunk's memory, which may be much more than its bytes, is given back.
        self.chunk = Bytes::new();
        Ok(None)
    }

    /// Returns the length of the frame that begins with these bytes, once its head is complete: `None` in it
    /// if tonic is to refuse the head at once, since the message is too long or its flag is not 0.
    #[allow(clippy::option_option, reason = "no head yet, and a bad one, differ")]
    fn frame_bytes(&self, begin: &[u8]) -> Option<Option<usize>> {
        let [flag, length @ ..] = begin.first_chunk::<HEAD_BYTES>()?;
        let length = length_of(*length);
        let good = *flag == 0 && length <= self.max_bytes;
        Some(good.then(|| HEAD_BYTES + length))
    }

    /// Adds bytes to the beginning of a message. Memory at most doubles with what has arrived.
    fn extend(&mut self, bytes: &[u8], wanted: usize) -> Result<(), Status> {
        let (len, capacity) = (self.partial.len() + bytes.len(), self.partial.capacity());
        if len > capacity {
            let grown = (len * 2).clamp(PARTIAL_MIN_BYTES, wanted.max(PARTIAL_MIN_BYTES)).max(len);
            // Without details: `message_problem` gives it the words of its refusal.
            let full = |_| Status::resource_exhausted("incomplete requests hold too much memory");
            self.held.add(grown - capacity).map_err(full)?;
            self.partial.reserve(grown - self.partial.len());
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::pin;

    use http_body::Frame;
    use http_body_util::StreamBody;

    use super::*;
    use crate::edge::request_bytes::RequestBytes;

    const MAX_BYTES: usize = 100;

    async fn messages(chunks: &[&[u8]], budget: &RequestBytes) -> Vec<Result<Vec<u8>, String>> {
        let frames: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(tokio_stream::iter(frames));
        let mut messages = pin!(WholeMessages::new(body, MAX_BYTES, budget.begin()));
        let mut all = Vec::new();
        while let Some(next) = std::future::poll_fn(|cx| messages.as_mut().poll_next(cx)).await {
            let next = next.map(Vec::from).map_err(|error| error.to_string());
            let failed = next.is_err();
            all.push(next);
            if failed {
                break;
            }
        }
        all
    }

    fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag], &length.to_be_bytes()[..], message].concat()
    }

    #[tokio::test]
    async fn messages_are_whole_however_they_are_cut() {
        let budget = RequestBytes::new(None);
        let parts = [frame(0, b""), frame(0, b"one"), frame(0, &[7; MAX_BYTES]), frame(0, b"two")];
        let body = parts.concat();
        let expected: Vec<_> = parts.into_iter().map(Ok).collect();
        assert_eq!(messages(&[&body], &budget).await, expected);
        assert_eq!(messages(&body.chunks(1).collect::<Vec<_>>(), &budget).await, expected);
        for cut in 0..body.len() {
            assert_eq!(messages(&[&body[..cut], &body[cut..]], &budget).await, expected, "{cut}");
        }
    }

    #[tokio::test]
    async fn an_incomplete_message_is_never_shown() {
        let budget = RequestBytes::new(None);
        let whole = frame(0, b"message");
        for end in 1..whole.len() {
            let shown = messages(&[&whole[..end]], &budget).await;
            assert!(
                matches!(&shown[..], [Err(error)] if error.contains("incomplete")),
                "{shown:?}"
            );
        }
        assert_eq!(messages(&[], &budget).await, []);
    }

    #[tokio::test]
    async fn a_head_that_tonic_refuses_is_shown_at_once() {
        let budget = RequestBytes::new(None);
        let too_long = frame(0, &[7; MAX_BYTES + 1]);
        let compressed = frame(1, b"message");
        for refused in [too_long, compressed] {
            for cut in [5, 6] {
                let shown = messages(&[&refused[..cut]], &budget).await;
                assert_eq!(shown, [Ok(refused[..cut].to_vec())]);
            }
            let shown = messages(&[&refused[..3], &refused[3..]], &budget).await;
            assert_eq!(shown, [Ok(refused[..5].to_vec())]);
        }
    }

    #[tokio::test]
    async fn memory_follows_the_bytes_that_arrived() {
        let budget = RequestBytes::new(Some(16 * 64));
        let small = frame(0, &[7; 50]);
        let large = frame(0, &[7; 90]);
        // The head announces 90 bytes; 64 are enough for what has arrived of it.
        assert_eq!(in_pieces(&small, &budget).await, [Ok(small.clone())]);
        let refused = in_pieces(&large, &budget).await;
        assert!(matches!(&refused[..], [Err(error)] if error.contains("memory")), "{refused:?}");
        // The budget was given back, and a message in one chunk needs none.
        assert_eq!(in_pieces(&small, &budget).await, [Ok(small)]);
        assert_eq!(messages(&[&large], &budget).await, [Ok(large)]);
    }

    async fn in_pieces(bytes: &[u8], budget: &RequestBytes) -> Vec<Result<Vec<u8>, String>> {
        messages(&bytes.chunks(10).collect::<Vec<_>>(), budget).await
    }
}
