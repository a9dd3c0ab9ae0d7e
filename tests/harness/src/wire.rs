//! HTTP/2 frames by hand, for clients that send half a request or do not answer.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::raw::MARK_READ;

/// The first bytes of an HTTP/2 connection.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A SETTINGS frame without settings.
pub const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

const LIMIT: Duration = Duration::from_secs(10);

/// Connects and sends these bytes.
pub async fn tcp(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the server closes, and returns how long that took.
pub async fn closed(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut ignored = Vec::new();
    // A reset closes the connection too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut ignored)).await.expect("it is closed in time");
    began.elapsed()
}

/// An HTTP/2 frame.
#[derive(Debug)]
pub struct Frame {
    /// The type, such as [`Frame::GOAWAY`].
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream's number, or 0 for the connection.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frame {
    /// Resets a stream.
    pub const RST_STREAM: u8 = 3;
    /// Announces settings.
    pub const SETTINGS: u8 = 4;
    /// Asks for an answer.
    pub const PING: u8 = 6;
    /// Ends the connection.
    pub const GOAWAY: u8 = 7;

    /// Reads a frame, or returns `None` when the connection has ended.
    pub async fn read(stream: &mut TcpStream) -> Option<Self> {
        let read = async {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; length.try_into().unwrap()];
            stream.read_exact(&mut payload).await.ok()?;
            Some(Self { kind, flags, stream: u32::from_be_bytes(id), payload })
        };
        timeout(LIMIT, read).await.expect("a frame arrives in time")
    }

    /// The HEADERS frame of a call to `MarkRead`; the message is still to come.
    pub fn head_of_call(stream: u32) -> Vec<u8> {
        Self::head_of_post(stream, MARK_READ, "application/grpc")
    }

    /// The HEADERS frame of a POST; the body is still to come.
    pub fn head_of_post(stream: u32, path: &str, content_type: &str) -> Vec<u8> {
        // HPACK (RFC 7541): POST and http by index, then literals without indexing.
        let mut headers = vec![0x83, 0x86];
        let literals: [(&[u8], &str); 3] =
            [(&[0x04], path), (&[0x01], "markread"), (&[0x0f, 0x10], content_type)];
        for (name, value) in literals {
            headers.extend_from_slice(name);
            headers.push(u8::try_from(value.len()).unwrap());
            headers.extend_from_slice(value.as_bytes());
        }
        let [_, length @ ..] = u32::try_from(headers.len()).unwrap().to_be_bytes();
        // HEADERS, END_HEADERS.
        [&length[..], &[1, 4], &stream.to_be_bytes(), &headers].concat()
    }
}
