//! The budget of control frames.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ};
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::refused;

const ENHANCE_YOUR_CALM: [u8; 4] = [0, 0, 0, 0xb];

/// Sends a number of frames of each kind, each on a connection of its own.
async fn floods(server: &Server, number: usize) -> Vec<(&'static str, TcpStream)> {
    let frames: [(&str, &[u8]); 5] = [
        ("PRIORITY", &[0, 0, 5, 2, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0]),
        ("SETTINGS", &[0, 0, 0, 4, 0, 0, 0, 0, 0]),
        ("PING", &[0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]),
        ("WINDOW_UPDATE", &[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        ("a type that nobody knows", &[0, 0, 0, 0xfa, 0, 0, 0, 0, 0]),
    ];
    let mut open = Vec::new();
    for (what, frame) in frames {
        let mut stream = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
        // The server may close before all is sent.
        let _ = stream.write_all(&frame.repeat(number)).await;
        open.push((what, stream));
    }
    open
}

#[tokio::test]
async fn a_flood_of_control_frames_is_told_to_calm_down() {
    let server = Server::dev(&[]).await;
    for (what, mut stream) in floods(&server, 20_000).await {
        let mut last = None;
        while let Some(frame) = Frame::read(&mut stream).await {
            last = Some(frame);
        }
        let last = last.unwrap_or_else(|| panic!("{what}: GOAWAY first"));
        assert_eq!(
            (last.kind, &last.payload[4..8]),
            (Frame::GOAWAY, &ENHANCE_YOUR_CALM[..]),
            "{what}"
        );
    }
    assert!((refused(&server, "control_frames").await - 5.0).abs() < 0.5);
    // As many as the budget allows are no flood.
    for (what, mut stream) in floods(&server, 900).await {
        stream.write_all(&Frame::head_of_call(1)).await.unwrap();
        let answer = async { while Frame::read(&mut stream).await.expect(what).stream != 1 {} };
        timeout(Duration::from_secs(10), answer).await.expect(what);
    }
    assert!((refused(&server, "control_frames").await - 5.0).abs() < 0.5);
}

/// Reads pages of cursors through windows of a few bytes; each piece of an answer takes a
/// `WINDOW_UPDATE`.
async fn read_through(server: &Server, window_bytes: u32) -> Result<usize, h2::Error> {
    const LIST: &str = "/markread.v1.MarkReadService/ListReadCursors";
    let stream = TcpStream::connect(&server.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window_bytes);
    let (requests, connection) = builder.handshake::<_, bytes::Bytes>(stream).await.unwrap();
    tokio::spawn(connection);
    let mut read = 0;
    for _ in 0..40 {
        let head = http::Request::post(format!("http://{}{LIST}", server.address))
            .header("content-type", "application/grpc")
            .header("x-user-id", READER.to_string());
        let mut requests = requests.clone().ready().await?;
        let (answer, mut body) = requests.send_request(head.body(()).unwrap(), false)?;
        body.send_data(raw::frame(&[]).into(), true)?;
        let mut answer = answer.await?.into_body();
        while let Some(data) = answer.data().await {
            let data = data?;
            read += data.len();
            answer.flow_control().release_capacity(data.len())?;
        }
    }
    Ok(read)
}

#[tokio::test]
async fn a_receiver_with_a_small_window_is_served_and_one_of_a_byte_is_not() {
    let server = Server::dev(&["--rate-limit", "1000000", "--read-rate-limit", "1000000"]).await;
    for recipient in 1..=100 {
        server.caller(READER).mark(recipient, MESSAGE).await.unwrap();
    }
    // More pieces than the budget has frames.
    let read = read_through(&server, 64).await.expect("it is served");
    assert!(read > 64 * 1500, "{read}");
    read_through(&server, 1).await.expect_err("it is told to calm down");
    assert!((refused(&server, "control_frames").await - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn calls_do_not_use_the_budget_up() {
    let server = Server::dev(&["--rate-limit", "1000000"]).await;
    let raw = markread_harness::Raw::to(&server).await;
    for message in 1..=1200 {
        let head = raw.grpc(MARK_READ, &Credentials::UserId(READER));
        let body = raw::frame(&raw::request(RECIPIENT, message));
        raw.send(head, body).await.expect("it is served");
    }
    assert!(refused(&server, "control_frames").await < 0.5);
}

/// HEADERS of a request whose list is too large, by a few bytes: HPACK repeats a header that it knows.
fn large_head(stream: u32) -> Vec<u8> {
    const VALUE_BYTES: usize = 3900;
    // POST, http and / by index.
    let mut block = vec![0x83, 0x86, 0x84];
    if stream == 1 {
        // A literal to be indexed: its name, then its length with a prefix of 7 bits (RFC 7541, 5.1).
        let length = VALUE_BYTES - 127;
        block.extend([0x40, 1, b'a', 0x7f]);
        block.extend([
            u8::try_from(length % 128).unwrap() | 0x80,
            u8::try_from(length / 128).unwrap(),
        ]);
        block.extend([b'x'; VALUE_BYTES]);
    }
    // The newest entry of the dynamic table (index 62), five times: over 16 KiB.
    block.extend([0xbe; 5]);
    let [_, length @ ..] = u32::try_from(block.len()).unwrap().to_be_bytes();
    [&length[..], &[1, 5], &stream.to_be_bytes(), &block].concat()
}

#[tokio::test]
async fn heads_that_are_refused_use_the_budget_up() {
    let server = Server::dev(&[]).await;
    let heads = |number: u32| (0..number).flat_map(|index| large_head(2 * index + 1));
    for (number, closed) in [(1500, 1.0), (500, 0.0)] {
        let before = refused(&server, "control_frames").await;
        let mut stream = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
        let (mut read, mut write) = stream.split();
        let heads: Vec<u8> = heads(number).collect();
        let ping = [0, 0, 8, 6, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        // The server may close before all is sent.
        let send = async { drop(write.write_all(&[&heads[..], &ping].concat()).await) };
        let receive = async {
            let mut received = Vec::new();
            let is_there = |received: &[u8]| received.windows(8).any(|bytes| bytes == &ping[9..]);
            while read.read_buf(&mut received).await.unwrap_or(0) > 0 && !is_there(&received) {}
        };
        let both = timeout(Duration::from_secs(20), async { tokio::join!(send, receive) });
        both.await.expect("it is read or closed in time");
        let count = refused(&server, "control_frames").await - before;
        assert!((count - closed).abs() < 0.5, "{number}: {count}");
    }
}
