//! HTTP/1.1 as far as a webhook's receiver needs it, down to single bytes: some receivers misbehave.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

const HEAD_MAX_BYTES: usize = 64 * 1024;

/// What a connection of a receiver can do.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    /// Path and query, as they were sent.
    pub(super) target: String,
    /// In order, names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    /// Reads the next request of a connection, or `None` at its end. `buffer` keeps what came early.
    pub(super) async fn read(
        stream: &mut impl Stream,
        buffer: &mut Vec<u8>,
    ) -> io::Result<Option<Self>> {
        let Some(end) = read_head(stream, buffer).await? else { return Ok(None) };
        let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let head: Vec<u8> = buffer.drain(..end).collect();
        let head = String::from_utf8(head).map_err(|_| invalid("the head is not UTF-8"))?;
        let mut lines = head.trim_end().split("\r\n");
        let words: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, "HTTP/1.1"] = words[..] else { return Err(invalid("request line")) };
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        });
        let headers: Option<Vec<_>> = headers.collect();
        let headers = headers.ok_or_else(|| invalid("a header without a colon"))?;
        let mut request = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            headers,
            body: Vec::new(),
        };
        let length = match request.header("content-length") {
            Some(length) => length.parse().map_err(|_| invalid("content-length"))?,
            None if method == "GET" => 0,
            None => return Err(invalid("no content-length")),
        };
        while buffer.len() < length {
            if stream.read_buf(buffer).await? == 0 {
                return Ok(None);
            }
        }
        request.body = buffer.drain(..length).collect();
        Ok(Some(request))
    }

    /// The value of a header that is there once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value)
    }
}

/// Reads until the end of a head is in the buffer, and returns where that is.
async fn read_head(stream: &mut impl Stream, buffer: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            return Ok(Some(end + 4));
        }
        if buffer.len() > HEAD_MAX_BYTES || stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
}
