//! What `tests/fuzz` reaches of connections: their first bytes, and the frames that are counted.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::first_bytes::{FirstBytes, Version};
use super::http2::frames::FrameCursor;

/// Tells the protocol by the first bytes. Returns whether it is HTTP/2, and all bytes as they are read again;
/// `None` if they end before that is known.
pub fn first_bytes(stream: impl AsyncRead + Unpin) -> Option<(bool, Vec<u8>)> {
    let read = async {
        let (version, mut stream) = FirstBytes::read(stream).await.ok()?;
        let mut again = Vec::new();
        stream.read_to_end(&mut again).await.ok()?;
        Some((version == Version::Http2, again))
    };
    match pin!(read).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(read) => read,
        Poll::Pending => None,
    }
}

/// What is counted of a client's frames.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Frames whose head has arrived.
    pub frames: u32,
    /// What they cost of the budget of control frames.
    pub control: u32,
    /// Whether the client's SETTINGS are complete.
    pub settings: bool,
    /// Streams that the client resets.
    pub reset: Vec<u32>,
}

/// Counts the frames after a connection's preface, which arrive in chunks.
pub fn count_frames(chunks: &[&[u8]]) -> Counted {
    let (mut cursor, mut counted) = (FrameCursor::new(0), Counted::default());
    for chunk in chunks {
        let found = cursor.count(chunk);
        counted.frames += found.frames;
        counted.control += found.control;
        counted.settings |= found.settings;
        counted.reset.extend(found.reset);
    }
    counted
}
