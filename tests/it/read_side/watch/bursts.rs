//! Bursts of events for watchers that read.

use std::time::Duration;

use markread_harness::{READER, RECIPIENT, Redis, Server};
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use super::watcher::{Watcher, ids};

#[tokio::test]
async fn watchers_that_read_hear_a_burst_after_a_pause() {
    const MARKS: u64 = 1_500;
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "100000"];
    let (server, other) =
        (Server::on_with(&redis, &flags).await, Server::on_with(&redis, &flags).await);
    let mut watchers = JoinSet::new();
    for user in [READER, RECIPIENT] {
        let (mut watcher, _) = Watcher::open(&server, user).await;
        watchers.spawn(async move {
            let mut messages = Vec::new();
            for _ in 0..MARKS {
                messages.push(ids(&watcher.event().await).2);
            }
            messages
        });
    }
    server.signal(Signal::SIGSTOP);
    let marks: Vec<_> = (1..=MARKS).map(|message| (RECIPIENT, message)).collect();
    for marks in marks.chunks(500) {
        other.caller(READER).mark_batch(marks).await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.signal(Signal::SIGCONT);
    for messages in watchers.join_all().await {
        assert_eq!(messages, (1..=MARKS).collect::<Vec<_>>());
    }
    let cut = "markread_refused_total{bound=\"watch_queue\"}";
    assert_eq!(server.metric(cut).await, Some(0.0));
}
