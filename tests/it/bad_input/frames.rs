//! HTTP/2 frames that no library would send.

use markread_harness::raw::MARK_READ;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{LIMIT, Target, until_closed};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers as HPACK literals; names and values have fewer than 127 bytes.
fn literals(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The valid beginning of a connection.
fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// Type and stream of each frame that the server sent.
fn kinds(mut bytes: &[u8]) -> Vec<(u8, u32)> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _flags, s, t, u, v, rest @ ..] = bytes {
        kinds.push((*kind, u32::from_be_bytes([*s, *t, *u, *v])));
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        bytes = rest.get(length..).unwrap_or_default();
    }
    kinds
}

/// Connections with a protocol error, as the bytes to send.
pub(super) fn broken_connections() -> Vec<(&'static str, Vec<u8>)> {
    let post = literals(&[(":method", "POST"), (":scheme", "http"), (":path", MARK_READ)]);
    let endless: Vec<u8> = (0..2000)
        .flat_map(|_| frame(CONTINUATION, 0, 1, &literals(&[("a", &"x".repeat(100))])))
        .collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a frame larger than allowed", [0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1].to_vec()),
        ("garbage", vec![0xff; 1024]),
        ("DATA on stream 0", frame(DATA, 0, 0, b"x")),
        ("DATA on a stream that is not open", frame(DATA, 0, 1, b"x")),
        ("HEADERS on stream 0", frame(HEADERS, END_HEADERS, 0, &post)),
        ("HEADERS on the server's stream", frame(HEADERS, END_HEADERS, 2, &post)),
        ("malformed HPACK", frame(HEADERS, END_HEADERS, 1, &[0x80; 40])),
        ("HPACK past its table", frame(HEADERS, END_HEADERS, 1, &[0xff, 0xff, 0xff, 0x0f])),
        ("padding past the end", frame(HEADERS, END_HEADERS | 8, 1, &[200, 0])),
        ("SETTINGS of 5 bytes", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("a window above the maximum", frame(SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff])),
        ("PING of 7 bytes", frame(PING, 0, 0, &[0; 7])),
        ("WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 9, &[0; 4])),
        ("PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, &[0; 8])),
        ("CONTINUATION without HEADERS", frame(CONTINUATION, END_HEADERS, 1, &post)),
        ("endless CONTINUATION", [frame(HEADERS, 0, 1, &post), endless].concat()),
        (
            "another frame between HEADERS and CONTINUATION",
            [frame(HEADERS, 0, 1, &post), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
    ];
    cases.into_iter().map(|(what, frames)| (what, [greeting(), frames].concat())).collect()
}

#[tokio::test]
async fn a_connection_that_breaks_the_protocol_is_ended() {
    let target = Target::start().await;
    for (what, bytes) in broken_connections() {
        let received = until_closed(&target.server.address, &bytes).await;
        let received = kinds(&received);
        let answered = received.iter().any(|(kind, stream)| *kind == HEADERS && *stream == 1);
        assert!(!answered, "{what}: {received:?}");
    }
    target.assert_unharmed_after(0).await;
}

/// Sends a request's head, and asserts that the server answers or resets its stream, or ends the
/// connection.
async fn assert_reset_or_answered(address: &str, what: &str, headers: &[(&str, &str)]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = frame(HEADERS, END_HEADERS | END_STREAM, 1, &literals(headers));
    stream.write_all(&[greeting(), request].concat()).await.unwrap();
    let mut received = Vec::new();
    let answered = async {
        let is_answer =
            |(kind, stream)| matches!((kind, stream), (HEADERS | RST_STREAM, 1) | (GOAWAY, 0));
        while !kinds(&received).into_iter().any(is_answer) {
            let read = stream.read_buf(&mut received).await.unwrap_or(0);
            assert!(read > 0, "{what}: closed without a frame");
        }
    };
    timeout(LIMIT, answered).await.expect(what);
}

#[tokio::test]
async fn a_request_that_breaks_the_protocol_is_reset_or_refused() {
    let target = Target::start().await;
    let address = &target.server.address;
    let (method, scheme, path) = ((":method", "POST"), (":scheme", "http"), (":path", MARK_READ));
    let grpc = ("content-type", "application/grpc");
    let heads: [(&str, &[(&str, &str)]); 9] = [
        ("nothing", &[]),
        ("no path", &[method, scheme, grpc]),
        ("no method", &[scheme, path, grpc]),
        ("a path twice", &[method, scheme, path, path, grpc]),
        ("a pseudo-header at the end", &[method, scheme, grpc, path]),
        ("a name in capitals", &[method, scheme, path, ("A", "b")]),
        ("a header of the connection", &[method, scheme, path, ("connection", "close")]),
        ("a path without a slash", &[method, scheme, (":path", "no slash")]),
        ("CONNECT", &[(":method", "CONNECT"), (":authority", "h")]),
    ];
    for (what, headers) in heads {
        assert_reset_or_answered(address, what, headers).await;
    }
    target.assert_unharmed_after(0).await;
}

/// Sends frames, and waits until the server has read the last one or closed the connection.
async fn assert_all_read(address: &str, frames: &[u8]) {
    const END: &[u8; 8] = b"the end!";
    let (mut from_server, mut to_server) = TcpStream::connect(address).await.unwrap().into_split();
    let bytes = [greeting(), frames.to_vec(), frame(PING, 0, 0, END)].concat();
    let send = async { drop(to_server.write_all(&bytes).await) };
    let receive = async {
        let mut received = Vec::new();
        let is_there =
            |received: &[u8]| received.windows(END.len()).rev().take(1000).any(|w| w == END);
        while !is_there(&received) && from_server.read_buf(&mut received).await.unwrap_or(0) > 0 {}
    };
    timeout(LIMIT, async { tokio::join!(send, receive) }).await.expect("read in time");
}

/// Many small frames, with or without an answer, do not hold the server up.
#[tokio::test]
async fn floods_of_small_frames_are_survived() {
    let target = Target::start().await;
    for (kind, flags, stream, payload) in [
        (PING, 0, 0, &[0; 8][..]),
        (PING, ACK, 0, &[0; 8]),
        (SETTINGS, 0, 0, &[]),
        (PRIORITY, 0, 1, &[0, 0, 0, 3, 0]),
        (WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        let flood = frame(kind, flags, stream, payload).repeat(20_000);
        assert_all_read(&target.server.address, &flood).await;
    }
    target.assert_unharmed_after(0).await;
}
