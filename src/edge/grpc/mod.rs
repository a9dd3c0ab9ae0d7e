//! gRPC: translates messages into commands and their outcomes back. It decides nothing about marks.

use std::future::{Ready, ready};

use ::http::{HeaderMap, HeaderName, Request, Response};
use prost::Message;
use tokio_util::either::Either;
use tonic::server::{ServerStreamingService, UnaryService};
use tonic::{Code, Status};

pub(super) use self::one_message::OneMessage;
pub(super) use self::unary::{Reply, unary};
pub(super) use self::whole_messages::{BodyError, WholeMessages, payload};
use super::answer::Body;
use crate::domain::{BATCH_MAX_ITEMS, BadField, FieldProblem, Quota, Refusal, TIME_MAX_MS};
use crate::edge::request_bytes::HeldBytes;
use crate::net::body::RequestBody;
use crate::proto::codec::SmallBuffers;

#[doc(hidden)]
pub mod fuzzing;
pub(super) mod marks;
mod one_message;
mod page_token;
pub(super) mod reads;
mod unary;
pub(super) mod watch;
mod whole_messages;

/// Largest request message, in bytes (`docs/contract.md`, "gRPC").
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// Content type of the paths of gRPC, in words.
pub const CONTENT_TYPE: &str = "application/grpc over HTTP/2";

/// The header that names how a request's messages may be compressed.
const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Translates tonic's refusal of a message that it could not read: tonic's carries no details.
fn message_problem(response: &Response<Body>) -> Option<Refusal> {
    let headers = response.headers();
    let code = headers.get(Status::GRPC_STATUS)?;
    if headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return None;
    }
    code_problem(Code::from_bytes(code.as_bytes()))
}

/// Translates the error of a body that could not be read.
pub(super) fn read_problem(error: BodyError) -> Refusal {
    code_problem(Status::from_error(error).code()).unwrap_or(Refusal::MalformedMessage)
}

fn code_problem(code: Code) -> Option<Refusal> {
    match code {
        Code::OutOfRange => Some(Refusal::MessageTooLarge { max_bytes: MESSAGE_MAX_BYTES }),
        Code::Internal => Some(Refusal::MalformedMessage),
        Code::Unimplemented => Some(Refusal::Compressed),
        // Incomplete requests hold too much memory.
        Code::ResourceExhausted => Some(Refusal::Overloaded),
        _ => None,
    }
}

/// Prepares the body of a request to be read, with its share of the memory for incomplete requests.
pub(super) fn one_message(
    headers: &HeaderMap,
    body: RequestBody,
    max_bytes: usize,
    held: HeldBytes,
) -> OneMessage<RequestBody> {
    let encoding = headers.get(ENCODING);
    let has_encoding = encoding.is_some_and(|encoding| encoding != "identity");
    OneMessage::new(WholeMessages::new(body, max_bytes, held), has_encoding)
}

/// Reads the request's one message, and writes the stream that `handle` opens.
///
/// # Errors
///
/// The refusal of a message that cannot be read.
pub(super) async fn streaming<M, S, R, F, Fut>(
    body: OneMessage<RequestBody>,
    handle: F,
) -> Result<Response<Body>, Refusal>
where
    M: Message + Default + 'static,
    R: Message + 'static,
    S: tokio_stream::Stream<Item = Result<R, Status>> + Send + 'static,
    F: FnOnce(M) -> Fut,
    Fut: Future<Output = Result<tonic::Response<S>, Status>>,
{
    // Without headers: by `grpc-encoding` alone tonic would refuse a message that is not compressed.
    let request = Request::new(body);
    let mut server = server(MESSAGE_MAX_BYTES);
    let response = server.server_streaming(Handler::new(handle), request).await.map(Body::from);
    match message_problem(&response) {
        Some(problem) => Err(problem),
        None => Ok(response),
    }
}

pub(super) fn server<M, R>(max_bytes: usize) -> tonic::server::Grpc<SmallBuffers<R, M>>
where
    M: Message + Default + 'static,
    R: Message + 'static,
{
    tonic::server::Grpc::new(SmallBuffers::default()).max_decoding_message_size(max_bytes)
}

/// A function that handles one message. tonic expects a service, which it calls once.
pub(super) struct Handler<F>(Option<F>);

impl<F> Handler<F> {
    pub(super) fn new<M, Fut>(handle: F) -> Self
    where
        F: FnOnce(M) -> Fut,
    {
        Self(Some(handle))
    }
}

type HandlerFuture<Fut, R> = Either<Fut, Ready<Result<tonic::Response<R>, Status>>>;

impl<F, Fut, M, R> UnaryService<M> for Handler<F>
where
    F: FnOnce(M) -> Fut,
    Fut: Future<Output = Result<tonic::Response<R>, Status>>,
{
    type Response = R;
    type Future = HandlerFuture<Fut, R>;

    fn call(&mut self, request: tonic::Request<M>) -> Self::Future {
        match self.0.take() {
            Some(handle) => Either::Left(handle(request.into_inner())),
            None => Either::Right(ready(Err(Status::internal("handled twice")))),
        }
    }
}

impl<F, Fut, M, S, R> ServerStreamingService<M> for Handler<F>
where
    F: FnOnce(M) -> Fut,
    Fut: Future<Output = Result<tonic::Response<S>, Status>>,
    S: tokio_stream::Stream<Item = Result<R, Status>>,
{
    type Response = R;
    type ResponseStream = S;
    type Future = HandlerFuture<Fut, S>;

    fn call(&mut self, request: tonic::Request<M>) -> Self::Future {
        UnaryService::call(self, request)
    }
}

/// Checks the number of items of a list.
fn items<T>(name: &'static str, items: Vec<T>) -> Result<Vec<T>, Refusal> {
    let got = items.len();
    if (1..=BATCH_MAX_ITEMS).contains(&got) {
        return Ok(items);
    }
    Err(bad_field(name, FieldProblem::ItemCount { got }))
}

fn bad_field(name: &'static str, problem: impl Into<FieldProblem>) -> Refusal {
    Refusal::BadFields(vec![BadField::new(name, problem)])
}

/// Creates an answer that shows the quota.
fn with_quota<T>(message: T, quota: Quota) -> Reply<T> {
    Reply { message, quota: Some(quota) }
}

/// Converts a time. Redis may have one that was written by hand.
fn timestamp(ms_since_1970: u64) -> prost_types::Timestamp {
    let ms_since_1970 = ms_since_1970.min(TIME_MAX_MS);
    let seconds = i64::try_from(ms_since_1970 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms_since_1970 % 1000 * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds, nanos }
}
