//! The budget of control frames.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ};
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Server};
use tokio::io::AsyncWriteExt;
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

/// Reads pages of cursors through windows of a few bytes; each piece of an answer takes a WINDOW_UPDATE.
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
async fn calls_do_not_use_the_budget_up_and_refused_heads_do() {
    let server = Server::dev(&["--rate-limit", "1000000"]).await;
    let raw = markread_harness::Raw::to(&server).await;
    let head = || raw.grpc(MARK_READ, &Credentials::UserId(READER));
    for message in 1..=1500 {
        let body = raw::frame(&raw::request(RECIPIENT, message));
        raw.send(head(), body).await.expect("it is served");
    }
    let refused_head = async {
        for _ in 0..3000 {
            raw.send(head().header("x-large", "x".repeat(20 * 1024)), "").await?;
        }
        Ok::<_, h2::Error>(())
    };
    assert!(refused_head.await.is_err());
    assert!((refused(&server, "control_frames").await - 1.0).abs() < 0.5);
}
