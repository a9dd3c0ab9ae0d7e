//! Kills of a Redis that persists every write: nothing that was acknowledged is lost.

use std::time::{Duration, Instant};

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::time::sleep;

use super::load::{Load, RECOVERY, UNLIMITED};
use crate::answers::assert_store_unavailable;

const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_or_doubled_by_kills_under_load() {
    const KILLS: u64 = 4;
    let mut redis = Redis::with(&DURABLE).await;
    let server = Server::on_with(&redis, &UNLIMITED).await;
    let load = Load::on(&server).await;
    let mut up = Vec::new();
    let mut returned = Instant::now();
    for kill in 1..=KILLS {
        sleep(Duration::from_millis(1200)).await;
        up.push((returned, Instant::now()));
        redis.kill().await;
        sleep(Duration::from_millis(250 * kill)).await;
        redis.restart().await;
        returned = Instant::now();
    }
    sleep(RECOVERY).await;
    assert_eq!(server.get("/readyz").await.0, 200);
    sleep(Duration::from_millis(300)).await;
    let calls = load.stop().await;
    for (from, to) in up {
        calls.assert_served_between(from, to);
    }
    calls.assert_some_refused();
    calls.assert_truthful();
    calls.assert_recovered(returned);
    calls.assert_kept_by(&redis).await;
}

#[tokio::test]
async fn the_retry_of_a_call_that_a_kill_interrupted_is_truthful() {
    let mut redis = Redis::with(&DURABLE).await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    redis.freeze();
    let dying = tokio::spawn({
        let caller = caller.clone();
        async move { caller.mark(RECIPIENT, MESSAGE + 1).await }
    });
    sleep(Duration::from_millis(300)).await;
    redis.kill().await;
    let began = Instant::now();
    assert_store_unavailable(&dying.await.unwrap().unwrap_err());
    assert!(began.elapsed() < Duration::from_secs(1), "a lost connection is noticed at once");

    redis.restart().await;
    let retry = eventually("the retry is served", RECOVERY, async || {
        caller.mark(RECIPIENT, MESSAGE + 1).await.ok()
    })
    .await;
    assert!(retry.advanced, "a frozen Redis did nothing");
    let event = |message| (READER, RECIPIENT, message);
    assert_eq!(redis.events().await, [event(MESSAGE), event(MESSAGE + 1)]);
    assert_eq!(redis.used(READER).await, Some(2));
}

#[tokio::test]
async fn an_outage_shows_in_every_probe_but_liveness() {
    let mut redis = Redis::with(&DURABLE).await;
    let server = Server::on(&redis).await;
    assert!(server.is_serving().await);
    redis.kill().await;
    let limit = Duration::from_secs(5);
    let page = eventually("the outage is noticed", limit, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503).then_some(page)
    })
    .await;
    assert!(page.len() > "not ready: \n".len(), "no cause: {page:?}");
    eventually("health has ended", limit, async || (!server.is_serving().await).then_some(()))
        .await;
    assert_eq!(server.get("/livez").await.0, 200);
    let refused = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&refused);

    redis.restart().await;
    eventually("health is back", RECOVERY, async || server.is_serving().await.then_some(())).await;
    assert_eq!(server.get("/readyz").await, (200, "ok\n".to_owned()));
    // It was lost, and then it could not be reached.
    let log = server.log();
    let lines = log.iter().filter(|line| line.contains("does not answer")).count();
    assert!((1..=2).contains(&lines), "{log:?}");
}
