//! HTTP/2 by hand: what the generated client would never send, or would hide of the answer.

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

use super::Server;
use super::caller::{Answer, Credentials, Denied};

/// No answer takes longer, on whatever machine.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const MARK_READ: &str = "/markread.v1.MarkReadService/MarkRead";

/// One connection. Clones share it.
#[derive(Clone)]
pub(crate) struct Raw {
    sender: SendRequest<Bytes>,
    address: String,
}

/// A call that has begun and not ended.
pub(crate) struct Begun {
    pub(crate) answer: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
}

/// All of an answer.
#[derive(Debug)]
pub(crate) struct RawAnswer {
    pub(crate) status: StatusCode,
    pub(crate) head: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Raw {
    pub(crate) async fn to(server: &Server) -> Self {
        Self::connect(&server.address).await
    }

    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { sender, address: address.to_owned() }
    }

    /// A POST to a path, with nothing else that gRPC wants.
    pub(crate) fn post(&self, path: &str) -> request::Builder {
        Request::post(format!("http://{}{path}", self.address))
    }

    /// The head of a gRPC call.
    pub(crate) fn grpc(&self, path: &str, credentials: &Credentials) -> request::Builder {
        let head = self.post(path).header("content-type", "application/grpc");
        match credentials {
            Credentials::Nothing => head,
            Credentials::UserId(user) => head.header("x-user-id", user.to_string()),
            Credentials::Authorization(value) => head.header("authorization", value),
        }
    }

    /// How many streams the server allows, as far as it has said so.
    pub(crate) fn max_streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends a head, and leaves the body to the caller.
    pub(crate) async fn begin(&self, head: request::Builder) -> Result<Begun, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, body) = sender.send_request(head.body(()).unwrap(), false)?;
        Ok(Begun { answer, body })
    }

    /// Sends all of a request, and takes all of its answer.
    pub(crate) async fn send(
        &self,
        head: request::Builder,
        body: impl Into<Bytes>,
    ) -> Result<RawAnswer, h2::Error> {
        let mut begun = self.begin(head).await?;
        begun.body.send_data(body.into(), true)?;
        begun.answer().await
    }

    /// Sends a body to `MarkRead`, as this user.
    pub(crate) async fn mark_read(&self, user: u64, body: impl Into<Bytes>) -> RawAnswer {
        let head = self.grpc(MARK_READ, &Credentials::token_of(user));
        self.send(head, body).await.expect("an answer")
    }

    /// Marks with a deadline of the caller's own. The generated client would watch it too, and
    /// hang up first.
    pub(crate) async fn mark_within(
        &self,
        limit: &str,
        user: u64,
        recipient: u64,
        message: u64,
    ) -> RawAnswer {
        let head = self.grpc(MARK_READ, &Credentials::token_of(user)).header("grpc-timeout", limit);
        self.send(head, frame(&request(recipient, message))).await.expect("an answer")
    }
}

impl Begun {
    /// All of the answer.
    pub(crate) async fn answer(self) -> Result<RawAnswer, h2::Error> {
        timeout(LIMIT, read(self.answer)).await.expect("an answer in time")
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
            // The answer is whole; the rest of the request is not wanted (RFC 9113 section 8.1).
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => break,
            Err(error) => return Err(error),
        }
    }
    let trailers = stream.trailers().await.ok().flatten().unwrap_or_default();
    Ok(RawAnswer { status: head.status, head: head.headers, body: body.freeze(), trailers })
}

impl RawAnswer {
    /// The status of gRPC, from the head of a refusal or the trailers of an answer.
    pub(crate) fn grpc_status(&self) -> Status {
        Status::from_header_map(&self.head)
            .or_else(|| Status::from_header_map(&self.trailers))
            .unwrap_or_else(|| panic!("a status of gRPC: {self:?}"))
    }

    /// The same, of a call that was refused.
    pub(crate) fn denied(&self) -> Denied {
        assert_eq!(self.status, StatusCode::OK, "gRPC tells its own status: {self:?}");
        Denied::from(self.grpc_status())
    }

    /// What a mark was answered, as the generated client would tell it.
    pub(crate) fn marked(&self) -> Result<Answer, Box<Denied>> {
        if self.grpc_status().code() != Code::Ok {
            return Err(Box::new(self.denied()));
        }
        let response = MarkReadResponse::decode(self.body.slice(FRAME_HEAD_BYTES..)).unwrap();
        let metadata = MetadataMap::from_headers(self.head.clone());
        let cursor = response.cursor.expect("a cursor in every answer");
        Ok(Answer { cursor, advanced: response.advanced, metadata })
    }

    /// The codes of `{"errors":[{"code":…,"message":"…"}]}`.
    pub(crate) fn error_codes(&self) -> Vec<u64> {
        error_codes(std::str::from_utf8(&self.body).unwrap())
    }
}

/// The codes of `{"errors":[{"code":…,"message":"…"}]}`, whose messages are never empty.
pub(crate) fn error_codes(body: &str) -> Vec<u64> {
    let page: serde_json::Value = serde_json::from_str(body).expect(body);
    let errors = page["errors"].as_array().expect(body);
    assert!(errors.iter().all(|error| !error["message"].as_str().unwrap().is_empty()), "{body}");
    errors.iter().map(|error| error["code"].as_u64().unwrap()).collect()
}

/// What stands before a message: whether it is compressed, and its length.
const FRAME_HEAD_BYTES: usize = 5;

/// A request's bytes.
pub(crate) fn request(recipient: u64, message: u64) -> Vec<u8> {
    MarkReadRequest { last_read_event_id: message, recipient_id: recipient }.encode_to_vec()
}

/// A message in gRPC's frame, not compressed.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&[0], &length.to_be_bytes()[..], message].concat()
}
