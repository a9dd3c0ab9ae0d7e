//! At most 64 watches of a reader.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::{READER, Redis, Server, eventually};

use super::{assert_too_many, refused};
use crate::read_side::reads_used;
use crate::read_side::watch::watcher::Watcher;

const LIMIT: Duration = Duration::from_secs(20);

async fn open(server: &Server, count: usize) -> Vec<Watcher> {
    let mut watches = Vec::new();
    for _ in 0..count {
        watches.push(Watcher::after(server, READER, "").await);
    }
    watches
}

#[tokio::test]
async fn the_65th_watch_of_a_reader_is_refused() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let mut watches = open(&server, 64).await;
    let again = async || Watcher::try_open(&server, Credentials::token_of(READER), "").await;
    assert_too_many(&again().await.err().expect("one too many"));
    assert_eq!(reads_used(&redis, READER).await, Some(64));
    assert!((refused(&server, "reader_watches").await - 1.0).abs() < 0.5);
    // Neither another reader nor the reader's calls are concerned.
    Watcher::after(&server, READER + 1, "").await;
    server.caller(READER).state(1).await.unwrap();
    drop(watches.pop());
    eventually("one that ended leaves its place", LIMIT, async || again().await.ok()).await;
}

#[tokio::test]
async fn without_the_bound_a_reader_has_more_watches() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--reader-concurrency", "0"]).await;
    assert_eq!(open(&server, 70).await.len(), 70);
}
