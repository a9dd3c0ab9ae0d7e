//! Unary calls: the one message of a request, and its answer. Written out, since tonic's codec is made for
//! streams: it boxes the body of a request and of an answer, and copies each message through a buffer
//! (`cargo bench --bench instructions`).

use std::future::poll_fn;
use std::pin::{Pin, pin};

use ::http::Response;
use bytes::{BufMut, Bytes};
use http_body::Body as _;
use prost::Message;
use tonic::{Code, Status};

use super::{MESSAGE_MAX_BYTES, OneMessage, code_problem, payload};
use crate::domain::{Quota, Refusal};
use crate::edge::answer::grpc::response as refused;
use crate::edge::answer::{Body, grpc_headers};
use crate::net::body::RequestBody;

/// Length of a message's head: a flag, then the message's length.
const HEAD_BYTES: usize = 5;

/// The message of an answer, and the quota that its headers show.
#[derive(Debug)]
pub(in crate::edge) struct Reply<R> {
    pub(in crate::edge) message: R,
    pub(in crate::edge) quota: Option<Quota>,
}

/// Reads the request's one message, lets `handle` answer it, and writes the answer.
///
/// # Errors
///
/// The refusal of a message that cannot be read.
pub(in crate::edge) async fn unary<M, R, F, Fut>(
    body: OneMessage<RequestBody>,
    handle: F,
) -> Result<Response<Body>, Refusal>
where
    M: Message + Default,
    R: Message,
    F: FnOnce(M) -> Fut,
    Fut: Future<Output = Result<Reply<R>, Refusal>>,
{
    let read = {
        let mut body = pin!(body);
        read(body.as_mut()).await
    };
    let message = match read {
        Ok(message) => message,
        Err(status) => {
            return code_problem(status.code()).map_or_else(|| Ok(status.into_http()), Err);
        }
    };
    Ok(match handle(message).await {
        Ok(reply) => respond(&reply),
        Err(refusal) => refused(refusal),
    })
}

/// Reads the only message, to the end of the request.
async fn read<M: Message + Default>(
    mut body: Pin<&mut OneMessage<RequestBody>>,
) -> Result<M, Status> {
    let frame = next(body.as_mut()).await?;
    let frame = frame.ok_or_else(|| Status::internal("there is no message"))?;
    let message = decode(&frame)?;
    next(body).await?;
    Ok(message)
}

/// Returns the next message with its head, `None` at the end.
async fn next(mut body: Pin<&mut OneMessage<RequestBody>>) -> Result<Option<Bytes>, Status> {
    match poll_fn(|cx| body.as_mut().poll_frame(cx)).await.transpose() {
        Ok(frame) => Ok(frame.and_then(|frame| frame.into_data().ok())),
        Err(error) => match Status::from_error(error) {
            // The caller wants no answer any more, which its stream reports.
            status if status.code() == Code::Cancelled => Ok(None),
            status => Err(status),
        },
    }
}

pub(super) fn decode<M: Message + Default>(frame: &[u8]) -> Result<M, Status> {
    match payload(frame, MESSAGE_MAX_BYTES) {
        Ok(payload) => M::decode(payload).map_err(|error| Status::internal(error.to_string())),
        Err(Refusal::MessageTooLarge { .. }) => Err(Status::out_of_range("too large")),
        // A compressed one has no encoding: otherwise it was refused before.
        Err(_) => Err(Status::internal("malformed")),
    }
}

fn respond<R: Message>(Reply { message, quota }: &Reply<R>) -> Response<Body> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(HEAD_BYTES + length);
    frame.put_u8(0);
    // An answer is at most some 100 KB.
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.encode_raw(&mut frame);
    let mut response = Response::new(Body::message(frame.into()));
    *response.headers_mut() = grpc_headers(*quota);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::MarkReadRequest;

    fn framed(flag: u8, length: usize, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(length).unwrap().to_be_bytes();
        [&[flag][..], &length, payload].concat()
    }

    #[test]
    fn a_message_that_cannot_be_read_has_the_code_of_its_refusal() {
        let payload = MarkReadRequest { last_read_event_id: 7, recipient_id: 8 }.encode_to_vec();
        let length = payload.len();
        let code = |frame: &[u8]| decode::<MarkReadRequest>(frame).map_err(|status| status.code());
        assert_eq!(code(&framed(0, length, &payload)).unwrap().recipient_id, 8);
        let table = [
            (framed(1, length, &payload), Code::Internal),
            (framed(2, length, &payload), Code::Internal),
            (framed(0, MESSAGE_MAX_BYTES + 1, &[]), Code::OutOfRange),
            (framed(0, length - 1, &payload[..length - 1]), Code::Internal),
            (framed(0, length, &payload)[..4].to_vec(), Code::Internal),
        ];
        for (frame, expected) in table {
            assert_eq!(code(&frame), Err(expected), "{frame:?}");
        }
    }

    #[test]
    fn an_answer_is_one_frame_with_its_length() {
        let message = MarkReadRequest { last_read_event_id: 1 << 60, recipient_id: 8 };
        let response = respond(&Reply { message, quota: None });
        let mut body = response.into_body();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let frame = Pin::new(&mut body).poll_frame(&mut context);
        let std::task::Poll::Ready(Some(Ok(frame))) = frame else { panic!("there is a message") };
        let frame = frame.into_data().unwrap();
        assert_eq!(frame, framed(0, message.encoded_len(), &message.encode_to_vec()));
    }
}
