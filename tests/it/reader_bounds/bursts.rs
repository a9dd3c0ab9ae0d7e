//! Many calls of one reader at the same moment.

use std::time::Duration;

use markread_harness::caller::{Answer, Refusal};
use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tonic::Code;

use super::{assert_too_many, refused};
use crate::answers::assert_denied;

const LIMIT: Duration = Duration::from_secs(20);

/// Fewer than the streams that a connection may have.
const CALLS_PER_CONNECTION: u64 = 250;

/// Starts marks of one reader, all at once.
fn start(server: &Server, reader: u64, calls: u64) -> JoinSet<Result<Answer, Refusal>> {
    let mut marks = JoinSet::new();
    for first in (0..calls).step_by(usize::try_from(CALLS_PER_CONNECTION).unwrap()) {
        let caller = server.caller(reader);
        for n in first..calls.min(first + CALLS_PER_CONNECTION) {
            let caller = caller.clone();
            marks.spawn(async move { caller.mark(RECIPIENT, n + 1).await });
        }
    }
    marks
}

#[tokio::test(flavor = "multi_thread")]
async fn of_1500_marks_at_once_exactly_the_quota_is_served() {
    let redis = Redis::start().await;
    // A debug build on a busy machine takes longer than the default.
    let server = Server::on_with(&redis, &["--call-timeout", "20s"]).await;
    for reader in 1..=4 {
        let mut count = 0;
        for answer in start(&server, reader, 1500).join_all().await {
            match answer {
                Ok(_) => count += 1,
                Err(denied) => {
                    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
                }
            }
        }
        assert_eq!(count, 1000);
        assert_eq!(redis.used(reader).await, Some(1000));
    }
    assert!(refused(&server, "reader_concurrency").await.abs() < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_1024_that_wait_a_reader_is_refused_and_others_are_not() {
    const BEYOND: u64 = 44;
    const ALL: u64 = 32 + 1024 + BEYOND;
    let redis = Redis::start().await;
    let flags = ["--call-timeout", "20s", "--rate-limit", "100000"];
    let server = Server::on_with(&redis, &flags).await;
    let bounded = |server: &Server| start(server, READER, ALL);
    redis.freeze();
    let mut marks = bounded(&server);
    for _ in 0..BEYOND {
        let first = marks.join_next().await.unwrap().unwrap();
        assert_too_many(&first.unwrap_err());
    }
    let mut others = start(&server, READER + 1, 40);
    redis.thaw();
    while let Some(answer) = others.join_next().await {
        answer.unwrap().unwrap();
    }
    while let Some(answer) = marks.join_next().await {
        answer.unwrap().unwrap();
    }
    assert_eq!(redis.used(READER).await, Some(ALL - BEYOND), "refused calls cost nothing");
    assert!((refused(&server, "reader_concurrency").await - 44.0).abs() < 0.5);
    eventually("they are counted", LIMIT, async || {
        let busy = server.metric("markread_mark_read_total{outcome=\"busy\"}").await.unwrap();
        ((busy - 44.0).abs() < 0.5).then_some(())
    })
    .await;

    // Without the bound all are served.
    let off = Server::on_with(&redis, &[&flags[..], &["--reader-concurrency", "0"]].concat()).await;
    redis.freeze();
    let marks = bounded(&off);
    tokio::time::sleep(Duration::from_millis(300)).await;
    redis.thaw();
    for answer in marks.join_all().await {
        answer.unwrap();
    }
}
