//! A unary request's body, which holds one message and not a byte more.
//!
//! tonic reads the first message of a unary call and drops what follows; the contract has an answer
//! for bytes that are no such message.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tonic::Status;

/// The length of a gRPC frame's head: a flag, then the message's length, big-endian.
const HEAD_BYTES: usize = 5;

pin_project! {
    /// Fails when there is more than one message.
    #[derive(Debug)]
    pub struct OneMessage<B> {
        #[pin]
        body: B,
        head: Vec<u8>,
        missing_bytes: usize,
    }
}

impl<B> OneMessage<B> {
    /// A body that is to hold one message.
    pub fn new(body: B) -> Self {
        Self { body, head: Vec::with_capacity(HEAD_BYTES), missing_bytes: 0 }
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
            && !fits(this.head, this.missing_bytes, data)
        {
            return Poll::Ready(Some(Err(Status::internal("more than one message").into())));
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

/// Whether the next bytes still belong to the first message.
fn fits(head: &mut Vec<u8>, missing_bytes: &mut usize, data: &[u8]) -> bool {
    let (of_head, rest) = data.split_at(data.len().min(HEAD_BYTES - head.len()));
    if !of_head.is_empty() {
        head.extend_from_slice(of_head);
        if let [_, a, b, c, d] = head[..] {
            let length = u32::from_be_bytes([a, b, c, d]);
            *missing_bytes = usize::try_from(length).unwrap_or(usize::MAX);
        }
    }
    match missing_bytes.checked_sub(rest.len()) {
        Some(missing) => {
            *missing_bytes = missing;
            true
        }
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether all of these chunks fit, in order.
    fn all_fit(chunks: &[&[u8]]) -> bool {
        let (mut head, mut missing_bytes) = (Vec::new(), 0);
        chunks.iter().all(|chunk| fits(&mut head, &mut missing_bytes, chunk))
    }

    #[test]
    fn one_message_fits_however_it_is_cut_and_not_a_byte_more() {
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
