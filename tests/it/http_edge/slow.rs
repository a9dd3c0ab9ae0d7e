//! Requests that stop, or that come a byte at a time: cut or answered 408 when their time is up.

use std::time::{Duration, Instant};

use bytes::Bytes;
use markread_harness::raw::Raw;
use markread_harness::{Redis, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::client::{Http1, HttpRequest};
use super::{EXAMPLE, PATH, assert_done};
use crate::bad_input::Target;

/// Longer than the server takes to end anything by itself, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The target's call timeout and handshake timeout are a second; a busy machine may add some.
const AFTER_A_SECOND: std::ops::Range<Duration> =
    Duration::from_millis(800)..Duration::from_secs(8);

/// The time between two bytes: far shorter than the server's timeouts, so that no byte is late.
const PAUSE: Duration = Duration::from_millis(100);

/// Sends `start` at once, then the bytes of `rest` one by one over and over, until the server
/// closes; returns what was received.
async fn trickle(stream: TcpStream, start: Vec<u8>, rest: &'static [u8]) -> Vec<u8> {
    let (mut from_server, mut to_server) = stream.into_split();
    let mut received = Vec::new();
    let say = async {
        let mut rest = rest.iter().cycle();
        let mut bytes = start;
        while to_server.write_all(&bytes).await.is_ok() {
            sleep(PAUSE).await;
            bytes = rest.next().map(|byte| vec![*byte]).unwrap_or_default();
        }
        std::future::pending::<()>().await;
    };
    let hear = async {
        // A reset closes the connection too.
        let _ = timeout(LIMIT, from_server.read_to_end(&mut received)).await.expect("it is cut");
    };
    tokio::select! {
        () = hear => {}
        () = say => {}
    }
    received
}

/// A valid head for a body of this many bytes.
fn head_for(length: &str) -> Vec<u8> {
    HttpRequest::form("").header("content-length", length).bytes()
}

fn head_for_chunks() -> Vec<u8> {
    HttpRequest::form("").header("transfer-encoding", "chunked").bytes()
}

#[track_caller]
fn assert_cut_or_408(received: &[u8], took: Duration, what: &str) {
    let received = String::from_utf8_lossy(received);
    assert!(received.is_empty() || received.starts_with("HTTP/1.1 408"), "{what}: {received}");
    assert!(AFTER_A_SECOND.contains(&took), "{what}: {took:?}");
}

#[tokio::test]
async fn a_request_that_trickles_or_stops_is_cut_or_gets_408() {
    let target = Target::start().await;
    let mut slow = JoinSet::new();
    let whole = HttpRequest::form(EXAMPLE).bytes();
    let half = whole[..whole.len() - EXAMPLE.len() / 2].to_vec();
    for (what, start, rest) in [
        ("a head that trickles", format!("POST {PATH} HTTP/1.1\r\n").into_bytes(), &b"a"[..]),
        ("a head that trickles from its start", vec![], b"POST / HTTP/1.1\r\nhost: h\r\nx: y"),
        ("a head that trickles in lines", b"POST / HTTP/1.1\r\n".to_vec(), b"a: b\r\n"),
        ("a body that trickles", head_for("4096"), b"a"),
        ("a body that trickles in chunks", head_for_chunks(), b"1\r\na\r\n"),
        ("a chunk that trickles", [head_for_chunks(), b"1000\r\n".to_vec()].concat(), b"a"),
        ("a size that trickles", head_for_chunks(), b"0"),
        ("an extension that trickles", [head_for_chunks(), b"1;".to_vec()].concat(), b"a"),
        ("trailers that trickle", [head_for_chunks(), b"0\r\n".to_vec()].concat(), b"a: b\r\n"),
        ("a head that stops", format!("POST {PATH} HTTP/1.1\r\nhost: h").into_bytes(), b""),
        ("a body that stops", half, b""),
        ("a body that does not come", head_for("4096"), b""),
        ("chunks that do not come", head_for_chunks(), b""),
    ] {
        let stream = TcpStream::connect(&target.server.address).await.unwrap();
        slow.spawn(async move {
            let began = Instant::now();
            (trickle(stream, start, rest).await, began.elapsed(), what)
        });
    }
    for (received, took, what) in slow.join_all().await {
        assert_cut_or_408(&received, took, what);
    }
    target.assert_unharmed_after(0).await;
}

#[tokio::test]
async fn a_second_request_that_trickles_is_cut_too() {
    let target = Target::start().await;
    let mut slow = JoinSet::new();
    for (what, start, rest) in [
        ("a head that trickles", format!("POST {PATH} HTTP/1.1\r\n").into_bytes(), &b"a"[..]),
        ("a head that stops", b"POST / HT".to_vec(), b""),
        ("a body that trickles", head_for("4096"), b"a"),
        ("a body that stops", head_for("4096"), b""),
    ] {
        let mut connection = Http1::to(&target.server).await;
        assert_done(&connection.send(&HttpRequest::form(EXAMPLE)).await);
        slow.spawn(async move {
            let began = Instant::now();
            (trickle(connection.into_stream(), start, rest).await, began.elapsed(), what)
        });
    }
    for (received, took, what) in slow.join_all().await {
        assert_cut_or_408(&received, took, what);
    }
    target.assert_unharmed_after(4).await;
}

#[tokio::test]
async fn an_idle_connection_has_a_limit_of_its_own() {
    let redis = Redis::start().await;
    let flags = ["--http-idle-timeout", "4s", "--handshake-timeout", "1s"];
    let server = Server::on_with(&redis, &flags).await;
    let mut connection = Http1::to(&server).await;
    for _ in 0..3 {
        assert_done(&connection.send(&HttpRequest::form(EXAMPLE)).await);
        // Longer than the time for a head.
        sleep(Duration::from_millis(2500)).await;
    }
    let began = Instant::now();
    let received = trickle(connection.into_stream(), vec![], b"").await;
    assert_eq!(received, b"", "nothing is answered to a client that asks nothing");
    let took = began.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(8)).contains(&took), "{took:?}");
    let closed = "markread_refused_total{bound=\"idle_timeout\"}";
    assert_eq!(server.metric(closed).await, Some(1.0));

    // For ever, and a head has its limit all the same.
    let flags = ["--http-idle-timeout", "0s", "--handshake-timeout", "1s"];
    let server = Server::on_with(&redis, &flags).await;
    let mut connection = Http1::to(&server).await;
    assert_done(&connection.send(&HttpRequest::form(EXAMPLE)).await);
    sleep(Duration::from_secs(3)).await;
    assert_done(&connection.send(&HttpRequest::form(EXAMPLE)).await);
    let began = Instant::now();
    let received = trickle(connection.into_stream(), b"POST / HT".to_vec(), b"").await;
    assert_cut_or_408(&received, began.elapsed(), "a head that stops");
}

#[tokio::test]
async fn over_http_2_a_slow_body_is_refused_and_its_connection_stays() {
    let target = Target::start().await;
    let raw = Raw::to(&target.server).await;
    let mut slow = JoinSet::new();
    for trickles in [true, false] {
        for length in [None, Some("4096")] {
            let request = HttpRequest::form("");
            let request = length
                .into_iter()
                .fold(request, |request, length| request.header("content-length", length));
            let mut open = request.begin_on(&raw).await.unwrap();
            slow.spawn(async move {
                let began = Instant::now();
                let trickle = async {
                    while trickles && open.body.send_data(Bytes::from_static(b"a"), false).is_ok() {
                        sleep(PAUSE).await;
                    }
                    std::future::pending::<()>().await;
                };
                let answer = tokio::select! {
                    answer = timeout(LIMIT, open.answer) => answer.expect("an answer in time"),
                    () = trickle => unreachable!("the trickle never ends"),
                };
                (answer, began.elapsed())
            });
        }
    }
    for (answer, took) in slow.join_all().await {
        match answer {
            Ok(answer) => assert_eq!(answer.status(), 408, "{answer:?}"),
            Err(error) => assert!(error.is_reset(), "{error}"),
        }
        assert!(AFTER_A_SECOND.contains(&took), "{took:?}");
    }
    assert_done(&HttpRequest::form(EXAMPLE).on(&raw).await.unwrap());
    target.assert_unharmed_after(1).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_half_way_leaves_nothing() {
    let target = Target::start().await;
    let whole = HttpRequest::form(EXAMPLE).bytes();
    for end in (0..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let mut stream = TcpStream::connect(&target.server.address).await.unwrap();
        stream.write_all(&whole[..end]).await.unwrap();
        drop(stream);
    }
    let raw = Raw::to(&target.server).await;
    for length in [0, 1, EXAMPLE.len() - 1] {
        let mut open = HttpRequest::form("").begin_on(&raw).await.unwrap();
        open.body.send_data(Bytes::from_static(&EXAMPLE.as_bytes()[..length]), false).unwrap();
        open.body.send_reset(h2::Reason::CANCEL);
    }
    sleep(Duration::from_millis(300)).await;
    target.assert_unharmed_after(0).await;
}
