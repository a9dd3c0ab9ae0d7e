//! The memory governor. The debug binary takes the limit for what it is: the kernel would not end it.

use markread_harness::operator::Operator;
use markread_harness::server::http1;
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Server, eventually};
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::OwnedWriteHalf;
use tonic_health::pb::health_check_response::ServingStatus;

use super::{LIMIT, assert_refusal, memory_kib, refused_by};

const MIB: u64 = 1024 * 1024;

/// The least limit that is allowed.
const MEMORY_LIMIT: u64 = 64 * MIB;

/// Streams of a connection, and connections, of the attack: half-sent posts with 14 KB of headers each, which
/// are kept for a signature, more than the limit in all.
const STREAMS: u32 = 250;
const CONNECTIONS: usize = 24;
const HEADER_BYTES: usize = 14_000;

/// The HEADERS frame of a mark over plain HTTP with a long header; the form is still to come.
fn long_head(stream: u32) -> Vec<u8> {
    const PATH: &str = "/1.1/direct_messages/mark_read.json";
    let mut frame = Frame::head_of_post(stream, PATH, "application/x-www-form-urlencoded");
    // HPACK (RFC 7541, 6.2.3 and 5.1): a literal that is never indexed, of which HPACK keeps no copy, with
    // a name of one byte, and a length of three: 127 and 7 bits each, the low ones first.
    let [low, high] = [HEADER_BYTES - 127, (HEADER_BYTES - 127) >> 7].map(|bits| bits & 0x7f);
    frame.extend(b"\x10\x09x-user-id\x017\x10\x01x\x7f");
    frame.extend([low | 0x80, high].map(|bits| u8::try_from(bits).unwrap()));
    frame.extend(std::iter::repeat_n(b'x', HEADER_BYTES));
    let length = u32::try_from(frame.len() - 9).unwrap().to_be_bytes();
    frame[..3].copy_from_slice(&length[1..]);
    frame
}

/// Opens connections and holds calls on them that are never completed.
async fn hold_calls(server: &Server) -> Vec<OwnedWriteHalf> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut answers, mut calls) =
            wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await.into_split();
        tokio::spawn(async move { tokio::io::copy(&mut answers, &mut tokio::io::sink()).await });
        for n in 0..STREAMS {
            // It fails if the server has closed the connection.
            let _ = calls.write_all(&long_head(2 * n + 1)).await;
        }
        held.push(calls);
    }
    held
}

#[tokio::test]
async fn near_the_limit_calls_are_refused_and_later_accepted_again() {
    let limit = MEMORY_LIMIT.to_string();
    let server = Server::dev(&["--memory-limit", &limit, "--call-timeout", "10m"]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    let measured = server.metric("markread_memory_limit_bytes").await.unwrap();
    assert!((measured - 67_108_864.0).abs() < 1.0, "{measured}");

    let operator = Operator::new(&server);
    let healthy = async {
        for _ in 0..50 {
            assert_eq!(operator.health("").await.unwrap(), ServingStatus::Serving);
            assert_eq!(server.get("/livez").await.0, 200);
        }
    };
    let (held, ()) = tokio::join!(hold_calls(&server), healthy);
    let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_refusal(&denied, "OVERLOADED");
    let used = memory_kib(&server) * 1024;
    assert!(used < MEMORY_LIMIT, "{used} bytes");
    let form = format!("last_read_event_id={MESSAGE}&recipient_id={RECIPIENT}");
    let post = format!(
        "POST /1.1/direct_messages/mark_read.json?{form} HTTP/1.1\r\nhost: x\r\nx-user-id: \
         {READER}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    // A connection is closed where even that is too much.
    if let Some((head, body)) = http1(&server.address, &post).await {
        assert!(head.contains(" 503 ") && head.contains("retry-after: "), "{head}");
        assert!(body.contains("130"), "{body}");
    }
    assert!(refused_by(&server, "memory").await >= 1.0);
    assert_eq!(operator.health("").await.unwrap(), ServingStatus::Serving);
    assert_eq!(server.get("/readyz").await.0, 200);
    assert!(server.log().iter().any(|line| line.contains("memory: past")), "{:?}", server.log());

    drop(held);
    let answer = eventually("calls are served again", LIMIT, async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
    assert!(answer.advanced);
}

#[tokio::test]
async fn the_same_calls_are_held_where_memory_allows_it() {
    let limit = (4096 * MIB).to_string();
    let server = Server::dev(&["--memory-limit", &limit, "--call-timeout", "10m"]).await;
    let held = hold_calls(&server).await;
    let caller = server.caller(READER);
    assert!(caller.mark(RECIPIENT, MESSAGE).await.unwrap().advanced);
    assert!(refused_by(&server, "memory").await < 1.0);
    drop(held);
}
