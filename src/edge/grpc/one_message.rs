//! The body of a request, which must be one message and not a byte more. tonic reads the first message of
//! a call and drops what follows.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use pin_project_lite::pin_project;
use tonic::Status;

use super::whole_messages::{BodyError, WholeMessages};

/// The flag of a compressed message.
const COMPRESSED: u8 = 1;

pin_project! {
    /// Shows the message once it is complete, and fails if it is compressed or there is more than one.
    #[derive(Debug)]
    pub(in crate::edge) struct OneMessage<B> {
        #[pin]
        messages: WholeMessages<B>,
        has_encoding: bool,
        shown: bool,
    }
}

impl<B> OneMessage<B> {
    /// Takes the messages of a request. With an encoding, a message may be compressed: its flag decides,
    /// since clients announce one for messages that they then send as they are.
    pub(super) fn new(messages: WholeMessages<B>, has_encoding: bool) -> Self {
        Self { messages, has_encoding, shown: false }
    }
}

impl<B> Body for OneMessage<B>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BodyError>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.project();
        let next =
            if *this.shown { this.messages.poll_end(cx) } else { this.messages.poll_only(cx) };
        let next = ready!(next);
        *this.shown = true;
        Poll::Ready(next.map(|message| match message? {
            message if *this.has_encoding && message.first() == Some(&COMPRESSED) => {
                Err(Status::unimplemented("compressed").into())
            }
            message => Ok(Frame::data(message)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::{BodyExt, StreamBody};

    use super::*;
    use crate::edge::request_bytes::RequestBytes;

    /// Returns whether all chunks belong to one message, complete.
    async fn fits(chunks: &[&[u8]]) -> bool {
        let frames: Vec<_> = chunks
            .iter()
            .map(|chunk| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk))))
            .collect();
        let body = StreamBody::new(tokio_stream::iter(frames));
        let messages = WholeMessages::new(body, 100, RequestBytes::new(None).begin());
        OneMessage::new(messages, false).collect().await.is_ok()
    }

    #[tokio::test]
    async fn one_message_fits_however_it_is_cut() {
        let message = [0, 0, 0, 0, 3, 7, 8, 9];
        assert!(fits(&[&message]).await);
        assert!(fits(&[]).await);
        assert!(fits(&[&[0, 0, 0, 0, 0]]).await);
        for cut in 0..message.len() {
            let parts = [&message[..cut], &message[cut..]];
            assert!(fits(&parts).await, "{cut}");
            assert!(fits(&[parts[0], parts[1], &[]]).await, "{cut}");
            assert!(!fits(&[parts[0], parts[1], &[0]]).await, "{cut}");
            assert!(!fits(&[&message, &message[..=cut]]).await, "{cut}");
            let joined = [&message[..], &message[..=cut]].concat();
            assert!(!fits(&[&joined]).await, "{cut}");
        }
        let bytes: Vec<_> = message.chunks(1).collect();
        assert!(fits(&bytes).await);
    }
}
