//! What `tests/fuzz` reaches of gRPC: messages in a body, and page tokens.

use std::convert::Infallible;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::StreamBody;
use prost::Message;
use tonic::Code;

use super::{MESSAGE_MAX_BYTES, OneMessage, WholeMessages, page_token, unary};
use crate::domain::{ListPosition, UserId};
use crate::edge::request_bytes::RequestBytes;

/// Returns the token of the page after a position.
pub fn write_page_token(reader: UserId, position: ListPosition) -> String {
    page_token::write(reader, position)
}

/// Parses a token of a reader.
pub fn parse_page_token(reader: UserId, token: &str) -> Option<ListPosition> {
    page_token::parse(reader, token)
}

/// Splits a body that arrives in chunks into its messages, with their heads, up to the first that is refused.
/// Returns whether the body ended well.
pub fn messages(chunks: &[&[u8]]) -> (Vec<Bytes>, bool) {
    let mut messages = pin!(whole_messages(chunks));
    collect(|cx| messages.as_mut().poll_next(cx))
}

/// Reads the only message of a body that arrives in chunks, with its head; `None` if it is refused.
pub fn one_message(chunks: &[&[u8]]) -> Option<Bytes> {
    let mut body = pin!(OneMessage::new(whole_messages(chunks), false));
    let (mut frames, is_complete) = collect(|cx| {
        let polled = body.as_mut().poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().ok())))
    });
    if is_complete { frames.pop().flatten() } else { None }
}

/// Decodes a message with its head.
///
/// # Errors
///
/// The code of the refusal.
pub fn decode<M: Message + Default>(message: &[u8]) -> Result<M, Code> {
    unary::decode(message).map_err(|status| status.code())
}

fn whole_messages(
    chunks: &[&[u8]],
) -> WholeMessages<impl Body<Data = Bytes, Error = Infallible> + use<>> {
    let frame = |chunk: &&[u8]| Ok::<_, Infallible>(Frame::data(Bytes::copy_from_slice(chunk)));
    let frames: Vec<_> = chunks.iter().map(frame).collect();
    let body = StreamBody::new(tokio_stream::iter(frames));
    WholeMessages::new(body, MESSAGE_MAX_BYTES, RequestBytes::new(None).begin())
}

/// Collects what is polled, up to the end or an error. Returns whether it was the end.
fn collect<T, E>(
    mut poll: impl FnMut(&mut Context<'_>) -> Poll<Option<Result<T, E>>>,
) -> (Vec<T>, bool) {
    let (mut all, mut context) = (Vec::new(), Context::from_waker(Waker::noop()));
    loop {
        match poll(&mut context) {
            Poll::Ready(Some(Ok(one))) => all.push(one),
            Poll::Ready(None) => return (all, true),
            Poll::Ready(Some(Err(_))) => return (all, false),
            // The stream of chunks lets others run now and then.
            Poll::Pending => {}
        }
    }
}
