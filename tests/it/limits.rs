//! Limits of connections, streams, times, and calls of one peer.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use markread_harness::caller::{Caller, Credentials, number};
use markread_harness::operator::Operator;
use markread_harness::raw::MARK_READ;
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;
use tonic::transport::Endpoint;
use tonic_health::pb::health_check_response::ServingStatus;

const LIMIT: Duration = Duration::from_secs(10);

/// What a busy machine may add to a second.
const AFTER_A_SECOND: std::ops::Range<Duration> =
    Duration::from_millis(800)..Duration::from_secs(6);

#[tokio::test]
async fn a_connection_over_the_limit_is_closed() {
    let server = Server::dev(&["--max-connections", "2"]).await;
    let first = Raw::to(&server).await;
    let _second = Raw::to(&server).await;
    for _ in 0..3 {
        wire::closed(&mut wire::tcp(&server.address, b"").await).await;
    }
    assert_eq!(server.get("/livez").await.0, 200, "the operators' port has its own limit");

    drop(first);
    let caller = server.caller(READER);
    eventually("a connection is free", LIMIT, async || caller.mark(RECIPIENT, MESSAGE).await.ok())
        .await;
}

#[tokio::test]
async fn the_limit_of_streams_is_announced_and_enforced() {
    let server = Server::dev(&["--max-concurrent-streams", "3", "--call-timeout", "60s"]).await;
    let calls: Vec<u8> = [1, 3, 5, 7, 9].into_iter().flat_map(Frame::head_of_call).collect();
    let mut stream =
        wire::tcp(&server.address, &[PREFACE, SETTINGS, calls.as_slice()].concat()).await;
    let mut announced = None;
    let mut refused = Vec::new();
    while announced.is_none() || refused.len() < 2 {
        let frame = Frame::read(&mut stream).await.expect("the connection stays open");
        match frame.kind {
            Frame::SETTINGS => {
                // Each setting is a number of two bytes and a value of four.
                let mut settings = frame.payload.chunks(6);
                let streams = settings.find(|setting| setting[..2] == [0, 3]);
                announced = announced.or_else(|| streams.map(|setting| setting[2..].to_vec()));
            }
            Frame::RST_STREAM => refused.push((frame.stream, frame.payload)),
            _ => {}
        }
    }
    assert_eq!(announced.unwrap(), [0, 0, 0, 3]);
    let refused_stream = vec![0, 0, 0, 7];
    assert_eq!(refused, [(7, refused_stream.clone()), (9, refused_stream)]);

    // A client that respects the limit gets a stream when another ends.
    let client = Raw::to(&server).await;
    eventually("the client learns the limit", LIMIT, async || {
        (client.max_streams() == 3).then_some(())
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(client.begin(client.grpc(MARK_READ, &Credentials::UserId(READER))).await);
    }
    drop(held.pop());
    let fourth = client.begin(client.grpc(MARK_READ, &Credentials::UserId(READER)));
    timeout(LIMIT, fourth).await.expect("a stream is free").unwrap();
}

#[tokio::test]
async fn a_connection_that_sends_nothing_is_closed() {
    let server = Server::dev(&["--handshake-timeout", "1s"]).await;
    let idle = Raw::to(&server).await;
    let began = Instant::now();
    let mut silent = JoinSet::new();
    let half_a_head = b"POST /1.1/direct_messages/mark_read.json HTTP/1.1\r\nhost: x\r\n";
    for start in [&b""[..], b"P", &PREFACE[..12], &PREFACE[..23], b"GET", half_a_head] {
        let mut stream = wire::tcp(&server.address, start).await;
        silent.spawn(async move { wire::closed(&mut stream).await });
    }
    let mut trickling = wire::tcp(&server.address, b"GET / HTTP/1.1\r\nx: ").await;
    silent.spawn(async move {
        let (mut read, mut write) = trickling.split();
        let began = Instant::now();
        let mut byte = [0];
        // The server answers, closes or resets; it does not wait longer.
        while timeout(Duration::from_millis(100), read.read(&mut byte)).await.is_err() {
            assert!(began.elapsed() < LIMIT, "a trickle is cut");
            let _ = write.write_all(b"x").await;
        }
        began.elapsed()
    });
    for elapsed in silent.join_all().await {
        assert!(AFTER_A_SECOND.contains(&elapsed), "{elapsed:?}");
    }

    // A connection that has sent the HTTP/2 preface may be idle.
    sleep(Duration::from_secs(3).saturating_sub(began.elapsed())).await;
    assert_eq!(idle.send(idle.post("/nothing"), "").await.unwrap().status, 404);
}

#[tokio::test]
async fn an_old_connection_is_ended_and_its_calls_are_finished() {
    let redis = Redis::start().await;
    let flags = ["--max-connection-age", "1s", "--call-timeout", "20s"];
    let server = Server::on_with(&redis, &flags).await;
    let mut stream = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
    let began = Instant::now();
    while Frame::read(&mut stream).await.expect("GOAWAY first").kind != Frame::GOAWAY {}
    assert!(AFTER_A_SECOND.contains(&began.elapsed()), "{:?}", began.elapsed());

    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    redis.freeze();
    let call = tokio::spawn(async move { caller.mark(RECIPIENT, MESSAGE).await });
    sleep(Duration::from_secs(2)).await;
    assert!(!call.is_finished(), "the call is longer than its connection's age limit");
    redis.thaw();
    assert!(call.await.unwrap().unwrap().advanced);
}

#[tokio::test]
async fn a_busy_client_does_not_notice_that_connections_end() {
    let server = Server::dev(&["--max-connection-age", "300ms", "--rate-limit", "1000000"]).await;
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for reader in 1..=4 {
        let caller = server.caller(reader);
        clients.spawn(async move {
            let mut message = 0;
            while began.elapsed() < Duration::from_secs(5) {
                message += 1;
                caller.mark(RECIPIENT, message).await.unwrap();
                sleep(Duration::from_millis(message % 7)).await;
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test]
async fn only_a_peer_that_answers_no_ping_is_closed() {
    let flags = ["--keepalive-interval", "1s", "--keepalive-timeout", "1s"];
    let server = Server::dev(&flags).await;
    let idle = Raw::to(&server).await;
    let mut dead = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
    let began = Instant::now();
    let mut pinged = false;
    while let Some(frame) = Frame::read(&mut dead).await {
        pinged |= frame.kind == Frame::PING && frame.flags == 0;
    }
    assert!(pinged);
    let expected = Duration::from_millis(1800)..Duration::from_secs(8);
    assert!(expected.contains(&began.elapsed()), "{:?}", began.elapsed());

    sleep(Duration::from_secs(1)).await;
    assert_eq!(idle.send(idle.post("/nothing"), "").await.unwrap().status, 404);
}

/// A caller whose connection comes from this address.
fn caller_from(server: &Server, address: &str) -> Caller {
    let address: IpAddr = address.parse().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).unwrap();
    let channel = endpoint.local_address(Some(address)).connect_lazy();
    Caller::new(channel, Credentials::UserId(READER))
}

#[tokio::test]
async fn the_edge_guard_stops_one_peer_and_not_the_other() {
    let server = Server::dev(&["--edge-rate", "1", "--edge-burst", "5"]).await;
    let [first, second] = ["127.0.0.1", "127.0.0.2"].map(|peer| caller_from(&server, peer));
    let mut calls = 0;
    let denied = loop {
        match first.mark(RECIPIENT, MESSAGE).await {
            Ok(_) => calls += 1,
            Err(denied) => break denied,
        }
        assert!(calls < 100, "the guard stops none of 100 calls");
    };
    assert!(calls >= 5, "{calls}");
    assert_eq!(denied.code, Code::ResourceExhausted);
    assert_eq!(denied.reason, "EDGE_LIMIT_EXCEEDED");
    let wait = denied.details.retry_info().unwrap().retry_delay.unwrap();
    assert!(wait >= Duration::from_secs(1), "{wait:?}");
    let pushback = number(&denied.metadata, "grpc-retry-pushback-ms");
    assert_eq!(u128::try_from(pushback).unwrap(), wait.as_millis());

    for _ in 0..5 {
        second.mark(RECIPIENT, MESSAGE).await.unwrap();
    }
    // Health is not guarded.
    let operator = Operator::new(&server);
    for _ in 0..20 {
        assert_eq!(operator.health("").await.unwrap(), ServingStatus::Serving);
    }
    sleep(wait).await;
    first.mark(RECIPIENT, MESSAGE).await.unwrap();
}

#[tokio::test]
async fn an_edge_rate_of_0_turns_the_guard_off() {
    let server = Server::dev(&["--edge-rate", "0", "--edge-burst", "1"]).await;
    let caller = server.caller(READER);
    for message in 1..=50 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
}
