//! `DEADLINE_EXCEEDED`, and the call timeout, while Redis does not move.

use std::time::{Duration, Instant};

use tonic::Code;

use super::super::harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use super::{assert_denied, assert_store_unavailable};

/// What was awaited, and how long it took.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let began = Instant::now();
    (call.await, began.elapsed())
}

#[tokio::test]
async fn a_redis_that_does_not_move_is_waited_for_until_the_deadline_or_the_call_timeout() {
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
    assert_denied(&short.denied(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    let (least, most) = (Duration::from_millis(300), Duration::from_millis(1900));
    assert!((least..most).contains(&short_took), "{short_took:?}");
    let (least, most) = (Duration::from_millis(1900), Duration::from_secs(5));
    for (denied, took) in [(without.unwrap_err(), without_took), (long.denied(), long_took)] {
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
        let denied = raw.mark_within(limit, READER, RECIPIENT, MESSAGE).await.denied();
        assert_denied(&denied, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    let answer = raw.mark_within("99999999H", READER, RECIPIENT, MESSAGE).await;
    assert_eq!(answer.grpc_status().code(), Code::Ok);
}
