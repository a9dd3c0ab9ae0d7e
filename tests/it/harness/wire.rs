//! TCP by hand: clients that no library would be, which say half of what they should, and answer
//! nothing.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::raw::MARK_READ;

/// How a client begins HTTP/2.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Its settings, none of which differs from the default, as a frame.
pub(crate) const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

const LIMIT: Duration = Duration::from_secs(10);

/// A connection that has sent these bytes.
pub(crate) async fn tcp(address: &str, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// Reads until the other side closes, and tells how long that took.
pub(crate) async fn closed(stream: &mut TcpStream) -> Duration {
    let began = Instant::now();
    let mut ignored = Vec::new();
    // A reset is an end too.
    let _ = timeout(LIMIT, stream.read_to_end(&mut ignored)).await.expect("it is closed in time");
    began.elapsed()
}

/// An HTTP/2 frame: type, flags, stream, payload.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;

    /// The next frame, or nothing when the connection has ended.
    pub(crate) async fn read(stream: &mut TcpStream) -> Option<Self> {
        let read = async {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.ok()?;
            let [a, b, c, kind, flags, id @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]);
            let mut payload = vec![0; length.try_into().unwrap()];
            stream.read_exact(&mut payload).await.ok()?;
            Some(Self { kind, flags, stream: u32::from_be_bytes(id), payload })
        };
        timeout(LIMIT, read).await.expect("a frame in time")
    }

    /// The head of a call to `MarkRead` whose message is still to come.
    pub(crate) fn head_of_call(stream: u32) -> Vec<u8> {
        // HPACK (RFC 7541): POST and http by index, literals that are not indexed.
        let mut headers = vec![0x83, 0x86];
        let literals: [(&[u8], &str); 3] =
            [(&[0x04], MARK_READ), (&[0x01], "markread"), (&[0x0f, 0x10], "application/grpc")];
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
