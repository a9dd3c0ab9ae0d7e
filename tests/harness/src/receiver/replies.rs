//! What a receiver answers, well-behaved or not.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;

use super::http::Stream;

/// The pause between the bytes of a slow answer.
const DRIP: Duration = Duration::from_secs(1);

/// An answer to a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// This status, without a body.
    Status(u16),
    /// This status, with these headers (complete lines) and a body.
    With(u16, Vec<String>, Vec<u8>),
    /// None, on a connection that stays open.
    Hang,
    /// The connection is closed.
    Close,
    /// A correct head, one byte a second.
    SlowHead,
    /// Status 200 at once, then a long body, one byte a second.
    SlowBody,
    /// Status 200 and a body that never ends, as fast as it is read.
    Endless,
    /// A head that never ends, as fast as it is read.
    EndlessHead,
    /// These bytes, which need not be HTTP. Then the connection is closed.
    Raw(Vec<u8>),
    /// The same, later.
    After(Duration, Box<Reply>),
}

impl Reply {
    /// A redirect.
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::With(status, vec![format!("location: {location}")], Vec::new())
    }

    /// The status that the answer has, if it is complete and correct.
    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status(status) | Self::With(status, ..) => Some(*status),
            Self::After(_, reply) => reply.status(),
            _ => None,
        }
    }

    /// Writes the answer. Returns whether the connection can be used again.
    pub(super) async fn write(&self, stream: &mut impl Stream) -> io::Result<bool> {
        match self {
            Self::Status(status) => write(stream, *status, &[], b"").await,
            Self::With(status, headers, body) => write(stream, *status, headers, body).await,
            Self::Hang => {
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await? > 0 {}
                Ok(false)
            }
            Self::Close | Self::After(..) => Ok(false),
            Self::SlowHead => {
                drip(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
                Ok(true)
            }
            Self::SlowBody => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n").await?;
                drip(stream, &[b'x'; 1000]).await?;
                Ok(true)
            }
            Self::Endless => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
                let chunk = vec![b'x'; 64 * 1024];
                loop {
                    stream.write_all(&chunk).await?;
                }
            }
            Self::EndlessHead => {
                stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
                loop {
                    stream.write_all(b"x-more: of the same\r\n").await?;
                }
            }
            Self::Raw(bytes) => {
                stream.write_all(bytes).await?;
                stream.shutdown().await?;
                Ok(false)
            }
        }
    }
}

async fn write(
    stream: &mut impl Stream,
    status: u16,
    headers: &[String],
    body: &[u8],
) -> io::Result<bool> {
    let lines: Vec<_> = headers.iter().map(|line| format!("{line}\r\n")).collect();
    let lines = lines.concat();
    let length =
        if status == 204 { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    let head = format!("HTTP/1.1 {status} Status\r\n{lines}{length}\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await?;
    stream.flush().await?;
    Ok(true)
}

async fn drip(stream: &mut impl Stream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        sleep(DRIP).await;
    }
    Ok(())
}
