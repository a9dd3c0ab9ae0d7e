//! The first bytes of a connection, which tell HTTP/2 from HTTP/1.1.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// HTTP/2's preface (RFC 9113 section 3.4).
pub(super) const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// A stream whose first bytes were read already, and are read from here again.
#[derive(Debug)]
pub(super) struct FirstBytes<T> {
    stream: T,
    bytes: [u8; PREFACE.len()],
    /// Those of `bytes` that were not read again yet.
    start: usize,
    end: usize,
}

impl<T: AsyncRead + Unpin> FirstBytes<T> {
    /// Reads until the protocol is known. The caller bounds the wait.
    ///
    /// # Errors
    ///
    /// The stream's, also if it ends before.
    pub(super) async fn read(mut stream: T) -> io::Result<(Version, Self)> {
        let (mut bytes, mut end) = ([0; PREFACE.len()], 0);
        while end < PREFACE.len() && bytes[..end] == PREFACE[..end] {
            match stream.read(&mut bytes[end..]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => end += read,
            }
        }
        let version = if bytes == PREFACE { Version::Http2 } else { Version::Http1 };
        Ok((version, Self { stream, bytes, start: 0, end }))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for FirstBytes<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.start == this.end {
            return Pin::new(&mut this.stream).poll_read(cx, buf);
        }
        let count = buf.remaining().min(this.end - this.start);
        buf.put_slice(&this.bytes[this.start..][..count]);
        this.start += count;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for FirstBytes<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol_and_are_read_again() {
        let http2 = [&PREFACE[..], b"settings"].concat();
        for (sent, expected) in [
            (&http2[..], Version::Http2),
            (b"POST / HTTP/1.1\r\nhost: example\r\n\r\n", Version::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r.", Version::Http1),
            (b"G", Version::Http1),
        ] {
            let (version, mut stream) = FirstBytes::read(sent).await.unwrap();
            assert_eq!(version, expected);
            let mut again = Vec::new();
            stream.read_to_end(&mut again).await.unwrap();
            assert_eq!(again, sent);
        }
    }

    #[tokio::test]
    async fn a_stream_that_ends_within_the_preface_fails() {
        for sent in [&b""[..], b"PRI", &PREFACE[..23]] {
            let error = FirstBytes::read(sent).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
