//! `STORE_UNAVAILABLE`: Redis is down, or cannot write.

use std::time::Duration;

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};

use super::assert_store_unavailable;

const LIMIT: Duration = Duration::from_secs(15);

/// Asserts that the server serves again by itself, once the cause has gone.
async fn assert_served_again(server: &Server, reader: u64, message: u64) {
    let caller = server.caller(reader);
    eventually("marks are served again", LIMIT, async || {
        caller.mark(RECIPIENT, message).await.ok()
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_down_is_an_unavailable_store() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    redis.kill().await;
    let mut delays = Vec::new();
    for _ in 0..8 {
        let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
        assert_store_unavailable(&denied);
        delays.push(super::retry_delay(&denied));
    }
    delays.dedup();
    assert!(delays.len() > 1, "jitter keeps callers apart: {delays:?}");

    redis.restart().await;
    assert_served_again(&server, READER, MESSAGE).await;
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn a_redis_that_was_never_up_is_an_unavailable_store() {
    let mut redis = Redis::down(&[]);
    let server = Server::on_unready(&redis, &[]).await;
    let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&denied);
    redis.restart().await;
    assert_served_again(&server, READER, MESSAGE).await;
}

/// Asserts that a Redis that refuses writes is unavailable, unchanged, and used again afterwards.
async fn assert_unavailable_while(broken: &str, mended: &str) {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();

    redis.run::<()>(broken).await;
    for (reader, message) in [(READER, MESSAGE), (READER, 1), (READER + 1, 1)] {
        let denied = server.caller(reader).mark(RECIPIENT, message).await.unwrap_err();
        assert_store_unavailable(&denied);
    }
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, 1)].into());
    assert_eq!(redis.used(READER).await, Some(1));
    assert_eq!(redis.used(READER + 1).await, None);
    assert_eq!(redis.payloads().await.len(), 1);

    redis.run::<()>(mended).await;
    assert_served_again(&server, READER, MESSAGE).await;
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    assert_eq!(redis.payloads().await.len(), 2);
}

#[tokio::test]
async fn a_redis_out_of_memory_is_an_unavailable_store() {
    assert_unavailable_while("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0").await;
}

#[tokio::test]
async fn a_redis_that_has_become_a_replica_is_an_unavailable_store() {
    assert_unavailable_while("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE").await;
}

#[tokio::test]
async fn a_redis_with_too_few_replicas_is_an_unavailable_store() {
    let setting = "CONFIG SET min-replicas-to-write";
    assert_unavailable_while(&format!("{setting} 1"), &format!("{setting} 0")).await;
}

#[tokio::test]
async fn a_mark_on_too_few_replicas_is_not_answered_ok() {
    let redis = Redis::with(&["--repl-diskless-sync-delay", "0"]).await;
    let flags = ["--replicas-ack", "1", "--replicas-ack-timeout", "1s"];
    let server = Server::on_with(&redis, &flags).await;
    let caller = server.caller(READER);
    for _ in 0..2 {
        // The second mark is a no-op, which waits for the replica as well.
        let denied = caller.mark(RECIPIENT, 1).await.unwrap_err();
        assert_store_unavailable(&denied);
    }

    let port = redis.port.to_string();
    let mut replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
    eventually("the replica follows", LIMIT, async || caller.mark(RECIPIENT, 2).await.ok()).await;
    let answer = caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    assert!(answer.advanced);
    assert_eq!(replica.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    assert!(!caller.mark(RECIPIENT, MESSAGE).await.unwrap().advanced);

    replica.kill().await;
    let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&denied);
}

#[tokio::test]
async fn marks_abandoned_during_replication_do_not_run_later() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--replicas-ack", "1"]).await;
    let mut calls = tokio::task::JoinSet::new();
    for message in 1..=300 {
        let caller = server.caller(READER);
        calls.spawn(async move { caller.mark(RECIPIENT, message).await });
    }
    for answer in calls.join_all().await {
        assert_store_unavailable(&answer.unwrap_err());
    }
    // Script calls of 100 ms may still run in Redis, one on each connection. Marks share them, so many were done.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let used = redis.used(READER).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(redis.used(READER).await, used);
}
