//! `--fsync-ack`: a mark that was answered OK is on Redis's disk.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use markread_harness::tools::tool;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::{LIMIT, replica_of};
use crate::answers::assert_store_unavailable;
use crate::permissions::{permit_as, rule, wait_until_it_names};

/// Settings of Redis with which every write is on its disk before it is answered.
const ALWAYS: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];

fn redis8() -> OsString {
    tool("MARKREAD_TEST_REDIS8", "Redis 8, which MARKREAD_TEST_REDIS8 names,")
}

fn valkey9() -> OsString {
    tool("MARKREAD_TEST_VALKEY9", "Valkey 9, which MARKREAD_TEST_VALKEY9 names,")
}

async fn start(server: OsString, settings: &[&str]) -> Redis {
    let mut redis = Redis::of_server(server, settings);
    redis.restart().await;
    redis
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_is_there_after_a_kill() {
    for server in [redis8(), valkey9()] {
        let mut redis = start(server, &ALWAYS).await;
        let server = Arc::new(Server::on_with(&redis, &["--fsync-ack"]).await);
        let mut readers = JoinSet::new();
        for reader in READER..READER + 16 {
            let caller = server.caller(reader);
            readers.spawn(async move {
                let mut last = 0;
                while caller.mark(RECIPIENT, last + 1).await.is_ok() {
                    last += 1;
                }
                (reader, last)
            });
        }
        sleep(Duration::from_millis(700)).await;
        // Probes are few.
        assert!(redis.calls("waitaof").await > 20, "calls of marks are followed by one");
        redis.kill().await;
        let acknowledged = readers.join_all().await;
        assert!(acknowledged.iter().all(|(_, last)| *last > 0), "{acknowledged:?}");
        redis.restart().await;
        for (reader, last) in acknowledged {
            let cursor = redis.cursors(reader).await[&RECIPIENT];
            // The mark that was under way may have been done.
            assert!(cursor == last || cursor == last + 1, "{reader} is at {cursor}, not {last}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_is_not_on_the_disk_is_unavailable() {
    for server in [redis8(), valkey9()] {
        let redis = start(server, &ALWAYS).await;
        let server = Server::on_with(&redis, &["--fsync-ack"]).await;
        let caller = server.caller(READER);
        caller.mark(RECIPIENT, 1).await.unwrap();
        redis.run::<()>("CONFIG SET appendfsync no").await;
        for _ in 0..2 {
            // The second one is a no-op, which is not on the disk either.
            assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
        }
        caller.state(RECIPIENT).await.unwrap();
        assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
        wait_until_it_names(&server, "appendfsync always, Redis has no").await;
        redis.run::<()>("CONFIG SET appendfsync always").await;
        let retry = caller.mark(RECIPIENT, MESSAGE).await.unwrap();
        assert!(!retry.advanced, "the first one was done");
        server.wait_until_ready().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_confirm_it_is_named() {
    let flags = ["--fsync-ack"];
    for (settings, cause) in [
        (&[][..], "--fsync-ack needs appendonly yes, Redis has no"),
        (&["--appendonly", "yes"][..], "--fsync-ack needs appendfsync always, Redis has everysec"),
    ] {
        let redis = start(redis8(), settings).await;
        let server = Server::on_unready(&redis, &flags).await;
        wait_until_it_names(&server, cause).await;
        let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
        assert_store_unavailable(&denied);
        let log = server.log();
        let named = log.iter().filter(|line| line.contains(cause)).count();
        assert_eq!(named, 1, "it is logged once: {log:?}");
        redis.run::<()>("CONFIG SET appendonly yes appendfsync always").await;
        server.wait_until_ready().await;
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_redis_is_named_with_its_version() {
    let redis = start("redis-server".into(), &ALWAYS).await;
    let info: String = redis.run("INFO server").await;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap();
    assert!(version.starts_with("7.0."), "redis-server is {version}, this test needs 7.0");
    let server = Server::on_unready(&redis, &["--fsync-ack"]).await;
    let cause = format!("--fsync-ack needs Redis 7.2 or later, this is {version}");
    wait_until_it_names(&server, &cause).await;
    assert_eq!(redis.cursors(READER).await, [].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_and_settings_that_are_not_revealed_are_tried() {
    let redis = start(redis8(), &[]).await;
    let url = permit_as(&redis, "markread", &rule().replace(" +config|get", "")).await;
    let server = Server::at(&url, &["--fsync-ack"], &[]).await;
    wait_until_it_names(&server, "the Redis user lacks +waitaof").await;
    redis.run::<()>("ACL SETUSER markread +waitaof").await;
    // By the error of WAITAOF, since the user may not read the settings.
    wait_until_it_names(&server, "--fsync-ack needs appendonly yes, Redis has no").await;
    redis.run::<()>("CONFIG SET appendonly yes appendfsync always").await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_and_the_replicas_are_waited_for_together() {
    let settings = [&ALWAYS[..], &["--repl-diskless-sync-delay", "0"]].concat();
    let redis = start(redis8(), &settings).await;
    let replica = replica_of(&redis, Redis::of_server(redis8(), &[])).await;
    let server = Server::on_with(&redis, &["--fsync-ack", "--replicas-ack", "1"]).await;
    let caller = server.caller(READER);
    let before = (redis.calls("wait").await, redis.calls("waitaof").await);
    caller.mark(RECIPIENT, 1).await.unwrap();
    assert!(redis.calls("wait").await > before.0 && redis.calls("waitaof").await > before.1);
    assert_eq!(replica.cursors(READER).await, [(RECIPIENT, 1)].into());

    replica.freeze();
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());
    replica.thaw();
    let retry = eventually("the replica acknowledges", LIMIT, async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
    assert!(!retry.advanced, "the first one was done");

    redis.run::<()>("CONFIG SET appendfsync no").await;
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());
}
