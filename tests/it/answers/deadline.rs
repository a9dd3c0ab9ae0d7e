//! `DEADLINE_EXCEEDED` and the call timeout, while Redis hangs.

use std::time::{Duration, Instant};

use markread_harness::server::http1;
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use tokio::time::sleep;
use tonic::Code;

use super::{assert_denied, assert_store_unavailable};

/// Returns the call's result and how long it took.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (call.await, began.elapsed())
}

#[tokio::test]
async fn a_hanging_redis_is_awaited_until_deadline_or_call_timeout() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let raw = Raw::to(&server).await;
    caller.mark(RECIPIENT, 1).await.unwrap();
    redis.freeze();

    let ((short, short_took), (without, without_took), (long, long_took)) = tokio::join!(
        timed(raw.mark_within("300m", READER, RECIPIENT, 2)),
        timed(caller.mark(RECIPIENT, 3)),
        timed(raw.mark_within("10S", READER, RECIPIENT, 4)),
    );
    assert_denied(&short.refusal(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    let (least, most) = (Duration::from_millis(300), Duration::from_millis(1900));
    assert!((least..most).contains(&short_took), "{short_took:?}");
    let (least, most) = (Duration::from_millis(1900), Duration::from_secs(5));
    for (denied, took) in [(without.unwrap_err(), without_took), (long.refusal(), long_took)] {
        assert_store_unavailable(&denied);
        assert!((least..most).contains(&took), "{took:?}");
    }

    redis.thaw();
    eventually("marks are served again", Duration::from_secs(15), async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn a_deadline_that_has_passed_already_is_exceeded() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    for limit in ["0m", "1n", "0H"] {
        let denied = raw.mark_within(limit, READER, RECIPIENT, MESSAGE).await.refusal();
        assert_denied(&denied, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    let answer = raw.mark_within("99999999H", READER, RECIPIENT, MESSAGE).await;
    assert_eq!(answer.grpc_status().code(), Code::Ok);
}

#[tokio::test]
async fn a_past_deadline_neither_skips_the_guard_nor_affects_http() {
    let redis = Redis::start().await;
    let flags = ["--edge-rate", "1", "--edge-burst", "2"];
    let server = Server::on_with(&redis, &flags).await;
    let raw = Raw::to(&server).await;
    let mut reasons = Vec::new();
    for _ in 0..5 {
        reasons.push(raw.mark_within("1n", READER, RECIPIENT, MESSAGE).await.refusal().reason);
    }
    assert_eq!(reasons[0], "DEADLINE_EXCEEDED");
    assert!(reasons.contains(&"EDGE_LIMIT_EXCEEDED".to_owned()), "{reasons:?}");

    let server = Server::on(&redis).await;
    let request = "GET / HTTP/1.1\r\nhost: x\r\ngrpc-timeout: 0m\r\nconnection: close\r\n\r\n";
    let (head, _) = http1(&server.address, request).await.unwrap();
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn a_caller_that_hangs_up_at_its_deadline_is_counted_once() {
    const CALLS: u8 = 20;
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    redis.freeze();
    for _ in 0..CALLS {
        // The client ends the call itself, at about the same time as the server.
        let mut request = caller.request(RECIPIENT, MESSAGE);
        request.set_timeout(Duration::from_millis(200));
        caller.send(request).await.unwrap_err();
    }
    redis.thaw();
    let ended = async |code: &str| {
        let method = "rpc_method=\"markread.v1.MarkReadService/MarkRead\"";
        let series = "rpc_server_call_duration_seconds_count";
        let series = format!("{series}{{{method},rpc_response_status_code=\"{code}\"}}");
        server.metric(&series).await.unwrap_or_default()
    };
    // A call that the client ends well before the deadline, as the server sees it, is cancelled,
    // and one that it ends before sending is unknown here. A busy machine has some of both, not
    // many.
    let ends = async || ended("DEADLINE_EXCEEDED").await + ended("CANCELLED").await;
    eventually("they are recorded", Duration::from_secs(5), async || {
        (ends().await >= f64::from(CALLS / 2)).then_some(())
    })
    .await;
    sleep(Duration::from_millis(500)).await;
    assert!(ends().await <= f64::from(CALLS), "{}", ends().await);
    let counted = server.metric("markread_mark_read_total{outcome=\"deadline\"}").await;
    assert_eq!(counted, Some(ended("DEADLINE_EXCEEDED").await));
    assert!(counted > Some(0.0));
}
