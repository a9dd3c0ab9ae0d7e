//! A Redis that has not started, loads its data, or has become a replica.

use std::time::Duration;

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually, free_port};

use super::load::RECOVERY;
use crate::answers::assert_store_unavailable;
use crate::read_side::watch::watcher::Watcher;

const NOTICED: Duration = Duration::from_secs(5);

/// Waits until the server is not ready, and returns the page that says why.
async fn not_ready(server: &Server) -> String {
    eventually("the server is not ready", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503).then_some(page)
    })
    .await
}

/// Waits until the server serves this mark, for no longer than promised.
async fn served_again(server: &Server, message: u64) {
    let caller = server.caller(READER);
    let answer = eventually("calls are served", RECOVERY, async || {
        caller.mark(RECIPIENT, message).await.ok()
    })
    .await;
    assert_eq!(answer.cursor.last_read_event_id, message);
    eventually("the server is ready", RECOVERY, async || server.is_serving().await.then_some(()))
        .await;
    assert_eq!(server.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn a_server_started_without_redis_serves_once_it_is_up() {
    let mut redis = Redis::down(&[]);
    let server = Server::on_unready(&redis, &[]).await;
    assert_eq!(server.get("/livez").await.0, 200);
    let page = not_ready(&server).await;
    assert!(page.trim_end().len() > "not ready:".len(), "no cause: {page:?}");
    assert!(!server.is_serving().await);
    let refused = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&refused);

    // It keeps trying after the first few attempts.
    tokio::time::sleep(Duration::from_secs(3)).await;
    redis.restart().await;
    served_again(&server, MESSAGE).await;
}

#[tokio::test]
async fn a_server_started_on_a_frozen_redis_serves_once_it_thaws() {
    let redis = Redis::start().await;
    redis.freeze();
    let server = Server::on_unready(&redis, &[]).await;
    let refused = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&refused);
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(server.get("/readyz").await.0, 503);
    redis.thaw();
    redis.wait_until_up().await;
    served_again(&server, MESSAGE).await;
}

#[tokio::test]
async fn a_redis_is_unavailable_while_it_loads_its_data() {
    let slow = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let mut redis = Redis::with(&slow).await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    redis.run::<()>("DEBUG POPULATE 2500").await;
    redis.run::<()>("SAVE").await;
    redis.kill().await;
    redis.launch();
    let page = eventually("loading is noticed", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503 && page.contains("LOADING")).then_some(page)
    })
    .await;
    assert!(page.starts_with("not ready"), "{page}");
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());

    redis.wait_until_up().await;
    served_again(&server, MESSAGE + 1).await;
}

#[tokio::test]
async fn a_master_that_turns_replica_is_unavailable_meanwhile() {
    let promptly = ["--repl-diskless-sync-delay", "0"];
    let redis = Redis::with(&promptly).await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let other = Redis::with(&promptly).await;
    other.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", redis.port)).await;
    in_sync(&other).await;

    other.run::<()>("REPLICAOF NO ONE").await;
    redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", other.port)).await;
    let page = not_ready(&server).await;
    assert!(page.trim_end().len() > "not ready:".len(), "no cause: {page:?}");
    for message in [MESSAGE, MESSAGE + 1] {
        assert_store_unavailable(&caller.mark(RECIPIENT, message).await.unwrap_err());
    }
    in_sync(&redis).await;
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());
    assert_eq!(redis.events().await, [(READER, RECIPIENT, MESSAGE)]);

    redis.run::<()>("REPLICAOF NO ONE").await;
    served_again(&server, MESSAGE + 1).await;
    let event = |message| (READER, RECIPIENT, message);
    assert_eq!(redis.events().await, [event(MESSAGE), event(MESSAGE + 1)]);
}

#[tokio::test]
async fn a_master_that_turns_replica_is_told_as_what_it_is() {
    // Whether the replica serves reads while it has no master: if not, a mark is refused as MASTERDOWN.
    for (stale, refusal) in [("yes", "READONLY"), ("no", "MASTERDOWN")] {
        let redis = Redis::with(&["--replica-serve-stale-data", stale]).await;
        let debug = [("RUST_LOG", "markread=debug,info")];
        let server = Server::on_in(&redis, &[], &debug).await;
        server.wait_until_ready().await;
        let caller = server.caller(READER);
        let (mut watcher, _) = Watcher::open(&server, READER).await;
        redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", free_port())).await;
        assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
        let page = not_ready(&server).await;
        assert!(page.contains(refusal), "{page}");
        assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
        let log = server.log().join("\n");
        let not_connected = format!("not connected: {refusal}");
        for words in [refusal, "UNBLOCKED", &not_connected] {
            assert!(log.contains(words), "{words} is not in {log}");
        }
        assert!(!log.contains("invalid value"), "{log}");

        redis.run::<()>("REPLICAOF NO ONE").await;
        served_again(&server, MESSAGE).await;
        assert_eq!(watcher.event().await.last_read_event_id, MESSAGE);
    }
}

#[tokio::test]
async fn the_retry_of_a_mark_on_too_few_replicas_is_truthful() {
    let redis = Redis::with(&["--repl-diskless-sync-delay", "0"]).await;
    let server = Server::on_with(&redis, &["--replicas-ack", "1"]).await;
    let caller = server.caller(READER);
    for _ in 0..2 {
        assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
    }
    let replica = Redis::start().await;
    replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", redis.port)).await;
    in_sync(&replica).await;
    let retry = eventually("the replica counts", NOTICED, async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
    assert!(!retry.advanced, "the first mark was done");
    assert_eq!(retry.cursor.last_read_event_id, MESSAGE);
    caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap();
    assert_eq!(replica.cursors(READER).await[&RECIPIENT], MESSAGE + 1);

    replica.freeze();
    for message in [MESSAGE + 1, MESSAGE + 2] {
        assert_store_unavailable(&caller.mark(RECIPIENT, message).await.unwrap_err());
    }
    replica.thaw();
    replica.wait_until_up().await;
    let retry = caller.mark(RECIPIENT, MESSAGE + 2).await.unwrap();
    assert_eq!(retry.cursor.last_read_event_id, MESSAGE + 2);
}

async fn in_sync(replica: &Redis) {
    eventually("the replica is in sync", Duration::from_secs(10), async || {
        let info: String = replica.run("INFO replication").await;
        info.contains("master_link_status:up").then_some(())
    })
    .await;
}
