//! The body of a request, which must be one message and not a byte more. tonic reads the first message of
//! a call and drops what follows.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tonic::Status;

/// Length of a gRPC frame's head: a flag, then the message's length, big-endian.
const HEAD_BYTES: usize = 5;

pin_project! {
    /// Fails if there is more than one message.
    #[derive(Debug)]
    pub(super) struct OneMessage<B> {
        #[pin]
        body: B,
        message: Message,
    }
}

/// How much of the message has arrived.
#[derive(Debug, Default)]
struct Message {
    head_bytes: usize,
    missing_bytes: usize,
}

impl<B> OneMessage<B> {
    pub(super) fn new(body: B) -> Self {
        Self { body, message: Message::default() }
    }
}

impl<B> Body for OneMessage<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx).map_err(Into::into);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
            && !this.message.add(data)
        {
            return Poll::Ready(Some(Err(Status::internal("more than one message").into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

impl Message {
    /// Adds bytes. Returns whether they still belong to the message.
    fn add(&mut self, data: &[u8]) -> bool {
        let (of_head, rest) = data.split_at(data.len().min(HEAD_BYTES - self.head_bytes));
        for byte in of_head {
            // The flag is not part of the length, and a length of 32 bits fits.
            if self.head_bytes > 0 {
                self.missing_bytes = self.missing_bytes << 8 | usize::from(*byte);
            }
            self.head_bytes += 1;
        }
        let missing = self.missing_bytes.checked_sub(rest.len());
        self.missing_bytes = missing.unwrap_or_default();
        missing.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns whether all chunks belong to one message.
    fn all_fit(chunks: &[&[u8]]) -> bool {
        let mut message = Message::default();
        chunks.iter().all(|chunk| message.add(chunk))
    }

    #[test]
    fn one_message_fits_however_it_is_cut() {
        let message = [0, 0, 0, 0, 3, 7, 8, 9];
        assert!(all_fit(&[&message]));
        assert!(all_fit(&[]));
        assert!(all_fit(&[&[0, 0, 0, 0, 0]]));
        for cut in 0..message.len() {
            assert!(all_fit(&[&message[..cut], &message[cut..]]), "{cut}");
            assert!(all_fit(&[&message[..cut]]), "{cut}");
            assert!(!all_fit(&[&message[..cut], &message[cut..], &[0]]), "{cut}");
            assert!(!all_fit(&[&message, &message[..=cut]]), "{cut}");
        }
        let bytes: Vec<_> = message.chunks(1).collect();
        assert!(all_fit(&bytes));
    }
}
