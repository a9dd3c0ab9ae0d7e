//! A client that sends exactly what a test wants to send.

use std::fmt::Write;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use markread_harness::caller::Credentials;
use markread_harness::raw::{OpenCall, Raw, RawAnswer};
use markread_harness::{READER, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{FORM, PATH};

/// Longer than any answer takes, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

pub(crate) const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

/// A request in either version of HTTP.
#[derive(Clone, Debug)]
pub(crate) struct HttpRequest {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl HttpRequest {
    /// A POST without headers, body and credentials.
    pub(crate) fn post(target: &str) -> Self {
        let (method, target) = ("POST".to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: Bytes::new() }
    }

    /// The reader's request with parameters in the body.
    pub(crate) fn form(body: impl Into<Bytes>) -> Self {
        Self::post(PATH).header("content-type", FORM).body(body).of(READER)
    }

    /// The reader's request with parameters in the query.
    pub(crate) fn query(query: &str) -> Self {
        Self::post(&format!("{PATH}?{query}")).of(READER)
    }

    pub(crate) fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub(crate) fn target(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    pub(crate) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// Sets a header, in place of those with the same name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a header, beside those with the same name.
    pub(crate) fn and_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn by(self, credentials: &Credentials) -> Self {
        let request = self.without("authorization").without("x-user-id");
        match credentials {
            Credentials::Nothing => request,
            Credentials::UserId(user) => request.header("x-user-id", &user.to_string()),
            Credentials::Authorization(value) => request.header("authorization", value),
        }
    }

    /// Sets a token of this user.
    pub(crate) fn of(self, user: u64) -> Self {
        self.by(&Credentials::token_of(user))
    }

    /// The request's bytes in HTTP/1.1, with a `content-length` unless a header frames the body.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut head =
            format!("{} {} HTTP/1.1\r\nhost: markread.test\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            write!(head, "{name}: {value}\r\n").unwrap();
        }
        let framed =
            |(name, _): &(String, _)| ["content-length", "transfer-encoding"].contains(&&name[..]);
        if !self.headers.iter().any(framed) {
            write!(head, "content-length: {}\r\n", self.body.len()).unwrap();
        }
        [head.as_bytes(), b"\r\n", &self.body].concat()
    }

    /// Sends the request on its own connection, and returns the answer.
    pub(crate) async fn over(&self, version: Version, server: &Server) -> RawAnswer {
        match version {
            Version::Http1 => {
                let mut connection = Http1::to(server).await;
                connection.write(&self.clone().header("connection", "close").bytes()).await;
                connection.last_answer().await.expect("an answer")
            }
            Version::Http2 => self.on(&Raw::to(server).await).await.expect("an answer"),
        }
    }

    /// Sends the request on an open HTTP/2 connection.
    pub(crate) async fn on(&self, raw: &Raw) -> Result<RawAnswer, h2::Error> {
        raw.send(self.head_on(raw), self.body.clone()).await
    }

    /// Sends the head alone on an open HTTP/2 connection.
    pub(crate) async fn begin_on(&self, raw: &Raw) -> Result<OpenCall, h2::Error> {
        raw.begin(self.head_on(raw)).await
    }

    fn head_on(&self, raw: &Raw) -> http::request::Builder {
        let head = raw.post(&self.target).method(&self.method[..]);
        self.headers.iter().fold(head, |head, (name, value)| head.header(name, value))
    }
}

/// An HTTP/1.1 connection that is kept open.
pub(crate) struct Http1 {
    stream: TcpStream,
    received: BytesMut,
}

impl Http1 {
    pub(crate) async fn to(server: &Server) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        Self { stream, received: BytesMut::new() }
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        // If the server has closed already, reading shows it.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(crate) async fn send(&mut self, request: &HttpRequest) -> RawAnswer {
        self.write(&request.bytes()).await;
        self.answer().await.expect("an answer")
    }

    /// Reads the next answer, or returns `None` where the server has closed.
    pub(crate) async fn answer(&mut self) -> Option<RawAnswer> {
        let (status, head) = self.head().await?;
        let length = match head.get("content-length") {
            Some(length) => length.to_str().unwrap().parse().unwrap(),
            None if status.is_informational() || status == StatusCode::NO_CONTENT => 0,
            None => panic!("an answer without a length: {head:?}"),
        };
        while self.received.len() < length {
            assert!(self.read().await > 0, "the body is cut: {:?}", self.received);
        }
        let body = self.received.split_to(length).freeze();
        Some(RawAnswer { status, head, body, trailers: HeaderMap::new() })
    }

    /// Reads the next answer, whose body ends when the server closes.
    pub(crate) async fn last_answer(mut self) -> Option<RawAnswer> {
        let (status, head) = self.head().await?;
        while self.read().await > 0 {}
        Some(RawAnswer { status, head, body: self.received.freeze(), trailers: HeaderMap::new() })
    }

    /// The connection itself; everything received has been read.
    pub(crate) fn into_stream(self) -> TcpStream {
        assert!(self.received.is_empty(), "{:?}", self.received);
        self.stream
    }

    /// Whether the server closes without sending more.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.received.is_empty() && self.read().await == 0
    }

    async fn head(&mut self) -> Option<(StatusCode, HeaderMap)> {
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            match self.received.windows(END.len()).position(|window| window == END) {
                Some(end) => break end,
                None if self.read().await == 0 => return None,
                None => {}
            }
        };
        let head = self.received.split_to(end);
        self.received.advance(END.len());
        let head = std::str::from_utf8(&head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().strip_prefix("HTTP/1.1 ").expect(head);
        let status = status.split(' ').next().unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").expect(head);
            let name: HeaderName = name.parse().unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        Some((status, headers.collect()))
    }

    /// Reads once, and returns the number of bytes; a reset counts as the end.
    async fn read(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.received);
        timeout(LIMIT, read).await.expect("received in time").unwrap_or(0)
    }
}
