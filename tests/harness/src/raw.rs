//! HTTP/2 without the generated client, which would refuse to send some requests and hides parts of
//! the answers.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::{HeaderMap, Request, StatusCode, request};
use markread::proto::{MarkReadRequest, MarkReadResponse};
use prost::Message;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use crate::Server;
use crate::caller::{Answer, Credentials, Refusal};

/// Longer than any answer takes, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The path of `MarkRead`.
pub const MARK_READ: &str = "/markread.v1.MarkReadService/MarkRead";

/// An HTTP/2 connection, shared by its clones.
#[derive(Clone)]
pub struct Raw {
    sender: SendRequest<Bytes>,
    address: String,
}

/// A call whose request is not complete.
pub struct OpenCall {
    /// The answer to come.
    pub answer: ResponseFuture,
    /// The body to send.
    pub body: SendStream<Bytes>,
}

/// A complete answer.
#[derive(Debug)]
pub struct RawAnswer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The headers.
    pub head: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// The trailers.
    pub trailers: HeaderMap,
}

impl Raw {
    /// Connects to a server.
    pub async fn to(server: &Server) -> Self {
        Self::connect(&server.address).await
    }

    /// Connects to an address.
    pub async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender, address: address.to_owned() }
    }

    /// The head of a POST, without the headers of gRPC.
    pub fn post(&self, path: &str) -> request::Builder {
        Request::post(format!("http://{}{path}", self.address))
    }

    /// The head of a gRPC call.
    pub fn grpc(&self, path: &str, credentials: &Credentials) -> request::Builder {
        let head = self.post(path).header("content-type", "application/grpc");
        match credentials {
            Credentials::Nothing => head,
            Credentials::UserId(user) => head.header("x-user-id", user.to_string()),
            Credentials::Authorization(value) => head.header("authorization", value),
        }
    }

    /// How many streams the server allows, as far as its settings have arrived.
    pub fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a head, and leaves the body to be sent later.
    pub async fn begin(&self, head: request::Builder) -> Result<OpenCall, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, body) = sender.send_request(head.body(()).unwrap(), false)?;
        Ok(OpenCall { answer, body })
    }

    /// Sends a request and reads its answer.
    pub async fn send(
        &self,
        head: request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<RawAnswer, h2::Error> {
        let mut begun = self.begin(head).await?;
        begun.body.send_data(body.into(), true)?;
        begun.answer().await
    }

    /// Calls `MarkRead` as this user, with any body.
    pub async fn mark_read(&self, user: u64, body: impl Into<Bytes>) -> RawAnswer {
        let head = self.grpc(MARK_READ, &Credentials::token_of(user));
        self.send(head, body).await.expect("the call is answered")
    }

    /// Marks with a deadline. The generated client would enforce it too, and hang up first.
    pub async fn mark_within(
        &self,
        limit: &str,
        user: u64,
        recipient: u64,
        message: u64,
    ) -> RawAnswer {
        let head = self.grpc(MARK_READ, &Credentials::token_of(user)).header("grpc-timeout", limit);
        self.send(head, frame(&request(recipient, message))).await.expect("the call is answered")
    }
}

impl OpenCall {
    /// Waits for the answer and reads it.
    pub async fn answer(self) -> Result<RawAnswer, h2::Error> {
        timeout(LIMIT, read(self.answer)).await.expect("the call is answered in time")
    }
}

async fn read(answer: ResponseFuture) -> Result<RawAnswer, h2::Error> {
    let (head, mut stream) = answer.await?.into_parts();
    let mut body = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        match chunk {
            Ok(chunk) => {
                stream.flow_control().release_capacity(chunk.len())?;
                body.extend_from_slice(&chunk);
            }
            // The answer is complete, and the server wants no more of the request (RFC 9113, 8.1).
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => return Err(error),
        }
    }
    let trailers = stream.trailers().await.ok().flatten().unwrap_or_default();
    Ok(RawAnswer { status: head.status, head: head.headers, body: body.freeze(), trailers })
}

impl RawAnswer {
    /// The gRPC status, from the head of a refusal or the trailers of an answer.
    pub fn grpc_status(&self) -> Status {
        Status::from_header_map(&self.head)
            .or_else(|| Status::from_header_map(&self.trailers))
            .unwrap_or_else(|| panic!("no gRPC status: {self:?}"))
    }

    /// The gRPC status of a refused call.
    pub fn refusal(&self) -> Refusal {
        assert_eq!(
            self.status,
            StatusCode::OK,
            "the HTTP status of a gRPC answer is 200: {self:?}"
        );
        Refusal::from(self.grpc_status())
    }

    /// The answer to a mark, as [`Caller`](crate::caller::Caller) returns it.
    pub fn marked(&self) -> Result<Answer, Box<Refusal>> {
        if self.grpc_status().code() != Code::Ok {
            return Err(Box::new(self.refusal()));
        }
        let response = MarkReadResponse::decode(self.body.slice(FRAME_HEAD_BYTES..)).unwrap();
        let metadata = MetadataMap::from_headers(self.head.clone());
        let cursor = response.cursor.expect("every answer has a cursor");
        Ok(Answer { cursor, advanced: response.advanced, metadata })
    }

    /// The codes in the body `{"errors":[{"code":…,"message":"…"}]}`.
    pub fn error_codes(&self) -> Vec<u64> {
        error_codes(std::str::from_utf8(&self.body).unwrap())
    }
}

/// The codes in `{"errors":[{"code":…,"message":"…"}]}`; panics if a message is empty.
pub fn error_codes(body: &str) -> Vec<u64> {
    let page: serde_json::Value = serde_json::from_str(body).expect(body);
    let errors = page["errors"].as_array().expect(body);
    assert!(errors.iter().all(|error| !error["message"].as_str().unwrap().is_empty()), "{body}");
    errors.iter().map(|error| error["code"].as_u64().unwrap()).collect()
}

/// The prefix of a message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// An encoded `MarkReadRequest`.
pub fn request(recipient: u64, message: u64) -> Vec<u8> {
    MarkReadRequest { last_read_event_id: message, recipient_id: recipient }.encode_to_vec()
}

/// A message with gRPC's prefix, not compressed.
pub fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}
