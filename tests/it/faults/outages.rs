//! A Redis that does not answer for a while, and keeps its data.

use std::time::{Duration, Instant};

use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::load::{Load, RECOVERY, UNLIMITED};
use crate::answers::assert_store_unavailable;

#[tokio::test(flavor = "multi_thread")]
async fn a_script_flush_under_load_goes_unnoticed() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &UNLIMITED).await;
    let load = Load::on(&server).await;
    for _ in 0..40 {
        redis.run::<()>("SCRIPT FLUSH").await;
        sleep(Duration::from_millis(50)).await;
    }
    let calls = load.stop().await;
    calls.assert_all_served();
    calls.assert_truthful();
    calls.assert_kept_by(&redis).await;
}

/// Puts load on a server while Redis is in trouble, and asserts that every answer is true and in
/// time. `trouble` ends when Redis may answer again by itself.
async fn endures(trouble: impl AsyncFnOnce(&Redis)) {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &UNLIMITED).await;
    let load = Load::on(&server).await;
    let began = Instant::now();
    sleep(Duration::from_millis(500)).await;
    let troubled = Instant::now();
    trouble(&redis).await;
    redis.wait_until_up().await;
    let returned = Instant::now();
    sleep(RECOVERY).await;
    assert_eq!(server.get("/readyz").await.0, 200);
    sleep(Duration::from_millis(300)).await;
    let calls = load.stop().await;
    calls.assert_served_between(began, troubled);
    calls.assert_some_refused();
    calls.assert_truthful();
    calls.assert_recovered(returned);
    calls.assert_kept_by(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_sleeps_causes_no_wrong_answer() {
    endures(async |redis| redis.run_on("DEBUG SLEEP 5").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_paused_for_all_causes_no_wrong_answer() {
    endures(async |redis| redis.run::<()>("CLIENT PAUSE 3000 ALL").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_paused_for_writes_causes_no_wrong_answer() {
    endures(async |redis| {
        redis.run::<()>("CLIENT PAUSE 3000 WRITE").await;
        // It answers PING all the time.
        sleep(Duration::from_secs(3)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_frozen_for_a_moment_causes_no_wrong_answer() {
    endures(async |redis| {
        redis.freeze();
        sleep(Duration::from_secs(3)).await;
        redis.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_frozen_until_it_seems_dead_causes_no_wrong_answer() {
    endures(async |redis| {
        redis.freeze();
        sleep(Duration::from_secs(8)).await;
        redis.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_reloads_its_data_causes_no_wrong_answer() {
    endures(async |redis| {
        redis.run::<()>("DEBUG POPULATE 1500").await;
        redis.run::<()>("CONFIG SET loading-process-events-interval-bytes 1024").await;
        // Microseconds.
        redis.run::<()>("CONFIG SET key-load-delay 1000").await;
        redis.run_on("DEBUG RELOAD").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_busy_with_another_script_causes_no_wrong_answer() {
    endures(async |redis| {
        redis.run::<()>("CONFIG SET busy-reply-threshold 100").await;
        redis.run_on("EVAL while(1)do--[[]]end 0").await;
        sleep(Duration::from_secs(2)).await;
        redis.run::<()>("SCRIPT KILL").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cuts_its_connections_causes_no_wrong_answer() {
    endures(async |redis| redis.run::<()>("CLIENT KILL TYPE normal SKIPME yes").await).await;
}

#[tokio::test]
async fn a_frozen_redis_ends_readiness_after_two_probes() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    redis.freeze();
    // A second until the next probe, a second for each of two, and the noise of a busy machine.
    eventually("the server is not ready", Duration::from_millis(3700), async || {
        (server.get("/readyz").await.0 == 503 && !server.is_serving().await).then_some(())
    })
    .await;
    assert_eq!(server.get("/livez").await.0, 200);
    redis.thaw();
    redis.wait_until_up().await;
    eventually("the server is ready", RECOVERY, async || {
        (server.get("/readyz").await.0 == 200 && server.is_serving().await).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_retry_of_a_call_on_a_frozen_redis_is_truthful() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let raw = Raw::to(&server).await;
    redis.freeze();
    let late = raw.mark_within("300m", READER, RECIPIENT, MESSAGE).await.refusal();
    assert_eq!((late.code, late.reason.as_str()), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
    redis.thaw();
    redis.wait_until_up().await;

    let retry = caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    assert_eq!(retry.cursor.last_read_event_id, MESSAGE);
    assert_eq!(redis.events().await, [(READER, RECIPIENT, MESSAGE)]);
    // Only the quota shows whether one of the first two was done.
    let used = redis.used(READER).await.unwrap();
    assert!((1..=3).contains(&used), "{used}");
    assert_eq!(retry.advanced, used == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_on_a_frozen_redis_is_answered_in_time() {
    const CALLERS: u64 = 10;
    const CALLS: u64 = 100;
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &UNLIMITED).await;
    redis.run::<()>("CONFIG RESETSTAT").await;
    redis.freeze();
    let began = Instant::now();
    let mut calls = JoinSet::new();
    for reader in 1..=CALLERS {
        let caller = server.caller(reader);
        for message in 1..=CALLS {
            let caller = caller.clone();
            calls.spawn(async move { caller.mark(RECIPIENT, message).await });
        }
    }
    for answer in calls.join_all().await {
        assert_store_unavailable(&answer.unwrap_err());
    }
    // The call timeout, and what a busy machine takes for a thousand calls.
    let took = began.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    redis.thaw();
    redis.wait_until_up().await;

    // Abandoned calls neither block later ones nor are sent later.
    let limit = Duration::from_secs(2);
    let next = timeout(limit, server.caller(CALLERS + 1).mark(RECIPIENT, 1)).await;
    next.expect("served in time").unwrap();
    let sent = redis.calls("evalsha").await;
    assert!(sent <= CALLERS * CALLS + 1, "{sent}");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(redis.calls("evalsha").await, sent);
    eventually("the server is ready", RECOVERY, async || server.is_serving().await.then_some(()))
        .await;
}
