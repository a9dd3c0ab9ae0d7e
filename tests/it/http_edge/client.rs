//! A client that says exactly what a test wants said.

use std::fmt::Write;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::harness::caller::Credentials;
use super::super::harness::raw::{Begun, Raw, RawAnswer};
use super::super::harness::{READER, Server};
use super::{FORM, PATH};

/// No answer takes longer, on whatever machine.
const LIMIT: Duration = Duration::from_secs(20);

/// A version of HTTP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Version {
    Http1,
    Http2,
}

pub(super) const BOTH: [Version; 2] = [Version::Http1, Version::Http2];

/// A request, in either version of HTTP.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Ask {
    /// A POST with nothing else, of nobody.
    pub(super) fn post(target: &str) -> Self {
        let (method, target) = ("POST".to_owned(), target.to_owned());
        Self { method, target, headers: Vec::new(), body: Bytes::new() }
    }

    /// Parameters in the body, as the reader.
    pub(super) fn form(body: impl Into<Bytes>) -> Self {
        Self::post(PATH).header("content-type", FORM).body(body).of(READER)
    }

    /// Parameters in the query, as the reader.
    pub(super) fn query(query: &str) -> Self {
        Self::post(&format!("{PATH}?{query}")).of(READER)
    }

    pub(super) fn method(self, method: &str) -> Self {
        Self { method: method.to_owned(), ..self }
    }

    pub(super) fn target(self, target: &str) -> Self {
        Self { target: target.to_owned(), ..self }
    }

    pub(super) fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// With this header instead of what it said under that name.
    pub(super) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this header beside what it said under that name.
    pub(super) fn and_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(known, _)| known != name);
        self
    }

    pub(super) fn by(self, credentials: &Credentials) -> Self {
        let ask = self.without("authorization").without("x-user-id");
        match credentials {
            Credentials::Nothing => ask,
            Credentials::UserId(user) => ask.header("x-user-id", &user.to_string()),
            Credentials::Authorization(value) => ask.header("authorization", value),
        }
    }

    /// With a token of this user.
    pub(super) fn of(self, user: u64) -> Self {
        self.by(&Credentials::token_of(user))
    }

    /// As HTTP/1.1 has it. A length is told unless the headers say how the body is framed.
    pub(super) fn bytes(&self) -> Vec<u8> {
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

    /// All of the answer, on a connection of its own.
    pub(super) async fn over(&self, version: Version, server: &Server) -> RawAnswer {
        match version {
            Version::Http1 => {
                let mut connection = Http1::to(server).await;
                connection.say(&self.clone().header("connection", "close").bytes()).await;
                connection.last_answer().await.expect("an answer")
            }
            Version::Http2 => self.on(&Raw::to(server).await).await.expect("an answer"),
        }
    }

    /// The same on a connection of HTTP/2 that is there.
    pub(super) async fn on(&self, raw: &Raw) -> Result<RawAnswer, h2::Error> {
        raw.send(self.head_on(raw), self.body.clone()).await
    }

    /// Its head alone, on a connection of HTTP/2.
    pub(super) async fn begin_on(&self, raw: &Raw) -> Result<Begun, h2::Error> {
        raw.begin(self.head_on(raw)).await
    }

    fn head_on(&self, raw: &Raw) -> http::request::Builder {
        let head = raw.post(&self.target).method(&self.method[..]);
        self.headers.iter().fold(head, |head, (name, value)| head.header(name, value))
    }
}

/// A connection of HTTP/1.1 that is kept.
pub(super) struct Http1 {
    stream: TcpStream,
    heard: BytesMut,
}

impl Http1 {
    pub(super) async fn to(server: &Server) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        Self { stream, heard: BytesMut::new() }
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) {
        // Where the server has closed already, that shows in what is heard.
        let _ = self.stream.write_all(bytes).await;
    }

    pub(super) async fn send(&mut self, ask: &Ask) -> RawAnswer {
        self.say(&ask.bytes()).await;
        self.answer().await.expect("an answer")
    }

    /// The next answer, whose length is as it says itself; or nothing where the server closed.
    pub(super) async fn answer(&mut self) -> Option<RawAnswer> {
        let (status, head) = self.head().await?;
        let length = match head.get("content-length") {
            Some(length) => length.to_str().unwrap().parse().unwrap(),
            None if status.is_informational() || status == StatusCode::NO_CONTENT => 0,
            None => panic!("no length: {head:?}"),
        };
        while self.heard.len() < length {
            assert!(self.read().await > 0, "the body is cut: {:?}", self.heard);
        }
        let body = self.heard.split_to(length).freeze();
        Some(RawAnswer { status, head, body, trailers: HeaderMap::new() })
    }

    /// The next answer and all that comes until the server closes.
    pub(super) async fn last_answer(mut self) -> Option<RawAnswer> {
        let (status, head) = self.head().await?;
        while self.read().await > 0 {}
        Some(RawAnswer { status, head, body: self.heard.freeze(), trailers: HeaderMap::new() })
    }

    /// The connection itself, on which nothing was heard that is not taken.
    pub(super) fn into_stream(self) -> TcpStream {
        assert!(self.heard.is_empty(), "{:?}", self.heard);
        self.stream
    }

    /// Whether the server closes, and says nothing more.
    pub(super) async fn is_closed(&mut self) -> bool {
        self.heard.is_empty() && self.read().await == 0
    }

    async fn head(&mut self) -> Option<(StatusCode, HeaderMap)> {
        const END: &[u8] = b"\r\n\r\n";
        let end = loop {
            match self.heard.windows(END.len()).position(|window| window == END) {
                Some(end) => break end,
                None if self.read().await == 0 => return None,
                None => {}
            }
        };
        let head = self.heard.split_to(end);
        self.heard.advance(END.len());
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

    /// How much more was heard. A reset is an end too.
    async fn read(&mut self) -> usize {
        let read = self.stream.read_buf(&mut self.heard);
        timeout(LIMIT, read).await.expect("heard in time").unwrap_or(0)
    }
}
