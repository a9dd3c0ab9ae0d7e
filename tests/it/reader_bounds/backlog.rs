//! Scans of what watchers missed: when they end, and what they cost.

use std::time::Duration;

use markread_harness::{READER, Redis, Server, eventually};
use tokio::time::sleep;
use tonic::Code;

use super::fill_stream;
use crate::answers::assert_denied;
use crate::read_side::reads_used;
use crate::read_side::watch::watcher::Watcher;

/// A debug build on a busy machine takes longer than the default to start its memory of events.
const SLOW: [&str; 2] = ["--call-timeout", "30s"];

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn nothing_is_read_for_watchers_that_hung_up() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &SLOW).await;
    fill_stream(&redis, 200_000).await;
    let mut watches = Vec::new();
    for reader in 1..=100 {
        watches.push(Watcher::after(&server, reader, "0-0").await);
    }
    let before = redis.calls("xrange").await;
    eventually("the scan runs", LIMIT, async || {
        (redis.calls("xrange").await > before).then_some(())
    })
    .await;
    drop(watches);
    eventually("all have left", LIMIT, async || {
        let reads = redis.calls("xrange").await;
        sleep(Duration::from_millis(200)).await;
        (redis.calls("xrange").await == reads).then_some(())
    })
    .await;
    let reads = redis.calls("xrange").await;
    // 380 for each watcher that had a scan of its own.
    assert!(reads < 2 * 380, "{reads}");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(redis.calls("xrange").await, reads);
}

#[tokio::test]
async fn a_backlog_costs_a_read_for_each_thousand_entries_beyond_the_servers_memory() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &SLOW).await;
    // A server starts with the newest 10,000 in memory.
    fill_stream(&redis, 25_000).await;
    server.caller(READER).mark(1, 1).await.unwrap();
    let mut watch = Watcher::after(&server, READER, "0-0").await;
    watch.event().await;
    eventually("all is paid", LIMIT, async || {
        let used = reads_used(&redis, READER).await;
        (used == Some(1 + 15)).then_some(())
    })
    .await;
    // Within the memory only the opening costs.
    let mut watch = Watcher::after(&server, READER + 1, "").await;
    watch.hears_nothing().await;
    assert_eq!(reads_used(&redis, READER + 1).await, Some(1));
}

#[tokio::test]
async fn a_backlog_beyond_the_read_quota_ends_the_watch() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &[&SLOW[..], &["--read-rate-limit", "12"]].concat()).await;
    fill_stream(&redis, 30_000).await;
    let denied = Watcher::after(&server, READER, "0-0").await.end().await;
    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    assert_eq!(reads_used(&redis, READER).await, Some(12));
    let denied = server.caller(READER).state(1).await.unwrap_err();
    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");

    // The same backlog within the quota.
    let server =
        Server::on_with(&redis, &[&SLOW[..], &["--read-rate-limit", "100"]].concat()).await;
    server.caller(READER + 1).mark(1, 1).await.unwrap();
    let mut watch = Watcher::after(&server, READER + 1, "0-0").await;
    watch.event().await;
}
