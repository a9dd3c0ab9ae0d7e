//! The bytes of connections.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use markread::net::fuzzing::{Counted, count_frames, first_bytes as read_first_bytes};
use tokio::io::{AsyncRead, ReadBuf};

use crate::input::pieces;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A stream whose reads return these pieces.
struct Pieces<'a>(VecDeque<&'a [u8]>);

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(piece) = self.0.pop_front() {
            let (read, rest) = piece.split_at(piece.len().min(buf.remaining()));
            buf.put_slice(read);
            if !rest.is_empty() {
                self.0.push_front(rest);
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// The begin of a connection: HTTP/2 exactly with its preface, and every byte is read again.
pub(super) fn first_bytes(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    let read = read_first_bytes(Pieces(pieces.into()));
    if PREFACE.starts_with(whole) && whole.len() < PREFACE.len() {
        assert_eq!(read, None);
    } else {
        assert_eq!(read, Some((whole.starts_with(PREFACE), whole.to_vec())));
    }
}

/// Frames of HTTP/2: counted the same however they are cut, and as by a second implementation.
pub(super) fn http2_frames(data: &[u8]) {
    let (pieces, whole) = pieces(data);
    assert_eq!(count_frames(&pieces), count(whole));
}

fn count(mut bytes: &[u8]) -> Counted {
    let mut counted = Counted::default();
    while bytes.len() >= 9 {
        let length = u32::from_be_bytes([0, bytes[0], bytes[1], bytes[2]]);
        let (kind, flags) = (bytes[3], bytes[4]);
        counted.frames += 1;
        let is_data = kind == 0 && (flags & 1 == 1 || length >= 256);
        counted.control += if is_data { 0 } else { 1 + length / 512 };
        if kind == 3 {
            let stream = u32::from_be_bytes([bytes[5], bytes[6], bytes[7], bytes[8]]);
            counted.reset.push(stream & 0x7fff_ffff);
        }
        let end = 9 + usize::try_from(length).unwrap();
        counted.settings |= kind == 4 && flags & 1 == 0 && bytes.len() >= end;
        bytes = bytes.get(end..).unwrap_or_default();
    }
    counted
}
