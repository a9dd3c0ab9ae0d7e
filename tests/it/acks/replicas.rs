//! `--replicas-ack`: each script call waits for its own acknowledgement, and nothing else waits for it.

use std::time::Duration;

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::replica_of;
use crate::answers::assert_store_unavailable;
use crate::faults::connections::connections;
use crate::read_side::refusals::assert_batch_unavailable;

/// How long marks wait, and what all of them take at most beyond that.
const TIMEOUT: Duration = Duration::from_millis(900);
const SLACK: Duration = Duration::from_millis(700);

const ACK: [&str; 4] = ["--replicas-ack", "1", "--replicas-ack-timeout", "900ms"];

/// A Redis with one replica that is in sync.
async fn replicated() -> (Redis, Redis) {
    let primary = Redis::with(&["--repl-diskless-sync-delay", "0"]).await;
    let replica = replica_of(&primary, Redis::down(&[])).await;
    (primary, replica)
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_of_different_readers_do_not_wait_for_each_other() {
    let (redis, replica) = replicated().await;
    let server = Server::on_with(&redis, &ACK).await;
    for reader in READER..READER + 3 {
        server.caller(reader).mark(RECIPIENT, 1).await.unwrap();
    }
    replica.freeze();
    let mut marks = JoinSet::new();
    for reader in READER..READER + 3 {
        let caller = server.caller(reader);
        marks.spawn(async move {
            // Each is sent in a call of its own, while those before it wait.
            tokio::time::sleep(Duration::from_millis(100 * (reader - READER))).await;
            let began = Instant::now();
            (caller.mark(RECIPIENT, MESSAGE).await, began.elapsed())
        });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    // Of a reader and of users that the server has not seen.
    server.caller(READER + 9).state(RECIPIENT + 9).await.unwrap();
    assert!(began.elapsed() < TIMEOUT / 2, "a read took {:?}", began.elapsed());
    for (answer, took) in marks.join_all().await {
        assert_store_unavailable(&answer.unwrap_err());
        assert!((TIMEOUT..TIMEOUT + SLACK).contains(&took), "{took:?}");
    }
    assert_eq!(redis.cursors(READER + 2).await, [(RECIPIENT, MESSAGE)].into(), "it was done");

    replica.thaw();
    replica.wait_until_up().await;
    for reader in READER..READER + 3 {
        let retry = server.caller(reader).mark(RECIPIENT, MESSAGE).await.unwrap();
        assert!(!retry.advanced, "the first one was done");
        assert_eq!(replica.cursors(reader).await, [(RECIPIENT, MESSAGE)].into());
    }
}

/// Batches that wait for a replica take no room of reads, which wait for none, and do not stand in front of them.
#[tokio::test(flavor = "multi_thread")]
async fn reads_do_not_wait_behind_batches_that_wait_for_a_replica() {
    let (redis, replica) = replicated().await;
    let server = Server::on_with(&redis, &[&ACK[..], &["--worker-threads", "1"]].concat()).await;
    let marks: Vec<_> = (0..500).map(|nth| (RECIPIENT + nth, MESSAGE)).collect();
    replica.freeze();
    let mut batches = JoinSet::new();
    for reader in READER..READER + 6 {
        let (caller, marks) = (server.caller(reader), marks.clone());
        batches.spawn(async move { caller.mark_batch(&marks).await });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    server.caller(READER + 9).state(RECIPIENT).await.unwrap();
    assert!(began.elapsed() < TIMEOUT / 2, "a read took {:?}", began.elapsed());
    for answer in batches.join_all().await {
        assert_store_unavailable(&answer.unwrap_err());
    }
}

/// `WAIT` looks at the last write of its connection: a no-op has written its quota, whatever the connection
/// wrote before.
#[tokio::test(flavor = "multi_thread")]
async fn no_ops_wait_over_connections_that_wrote_nothing_yet() {
    let (redis, replica) = replicated().await;
    let first = Server::on_with(&redis, &ACK).await;
    let caller = first.caller(READER);
    caller.mark_batch(&[(RECIPIENT, MESSAGE), (RECIPIENT + 1, MESSAGE)]).await.unwrap();
    // Its connections have written nothing.
    let second = Server::on_with(&redis, &ACK).await;
    replica.freeze();
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());
    let caller = second.caller(READER);
    for _ in 0..2 {
        assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());
        assert_batch_unavailable(&caller).await;
    }
    replica.thaw();
    replica.wait_until_up().await;
    assert!(!caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap().advanced);
    assert_eq!(replica.cursors(READER).await[&RECIPIENT], MESSAGE + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_mark_waits_for_nobody() {
    let (redis, replica) = replicated().await;
    let flags = [&ACK[..], &["--rate-limit", "2"]].concat();
    let server = Server::on_with(&redis, &flags).await;
    let caller = server.caller(READER);
    for message in [1, 2] {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    replica.freeze();
    for _ in 0..2 {
        // The second one is denied from memory.
        let denied = caller.mark(RECIPIENT, 3).await.unwrap_err();
        assert_eq!(denied.reason, "RATE_LIMIT_EXCEEDED");
    }
}

#[tokio::test]
async fn each_thread_has_four_connections_more() {
    let redis = Redis::start().await;
    let flags = ["--replicas-ack", "1", "--worker-threads", "2"];
    let server = Server::on_with(&redis, &flags).await;
    assert_eq!(connections(&redis).await.len(), 2 + 2 + 2 * 4);
    let log = server.log().join("\n");
    assert!(log.contains("\"redis_connections\":12"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_replicas_are_a_warning_until_there_are_enough() {
    let redis = Redis::with(&["--repl-diskless-sync-delay", "0", "--appendonly", "yes"]).await;
    let server = Server::on_with(&redis, &ACK).await;
    let page_becomes = async |expected: &str| {
        eventually("the page follows", Duration::from_secs(10), async || {
            let (status, page) = server.get("/readyz").await;
            (status == 200 && page == expected).then_some(())
        })
        .await;
    };
    let warning =
        "--replicas-ack: Redis has fewer replicas online than that, marks are UNAVAILABLE";
    page_becomes(&format!("ok\nwarning: {warning}\n")).await;
    assert!(server.log().iter().any(|line| line.contains(warning)));
    let caller = server.caller(READER);
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE).await.unwrap_err());

    let replica = replica_of(&redis, Redis::down(&[])).await;
    page_becomes("ok\n").await;
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    drop(replica);
    page_becomes(&format!("ok\nwarning: {warning}\n")).await;
}
