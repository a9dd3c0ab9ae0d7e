//! 429: the reader's quota, and the edge guard.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::raw::RawAnswer;
use markread_harness::{READER, RECIPIENT, Redis, Server};
use tokio::task::JoinSet;

use super::client::{BOTH, HttpRequest, Version};
use super::{
    EXAMPLE, PATH, assert_done, assert_refused, examples, number, parameters, rate, unix_seconds,
};

#[tokio::test]
async fn a_reader_over_quota_learns_the_reset_and_changes_nothing() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "2", "--rate-window", "90s"]).await;
    let first =
        assert_done(&HttpRequest::form(parameters(RECIPIENT, 1)).over(BOTH[0], &server).await);
    let second =
        assert_done(&HttpRequest::form(parameters(RECIPIENT, 2)).over(BOTH[1], &server).await);
    assert_eq!((first.remaining, second.remaining), (1, 0));
    assert_eq!((first.limit, first.reset), (second.limit, second.reset));

    let before = redis.contents().await;
    let expires: u64 = redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(second.reset, expires.div_ceil(1000), "the reset is rounded up");
    // The first denial is by Redis, the second from memory.
    for version in BOTH {
        for request in examples() {
            let now = unix_seconds();
            let answer = request.over(version, &server).await;
            assert_refused(&answer, 429, &[88]);
            assert_eq!(rate(&answer.head), second);
            let wait = number(&answer.head, "retry-after");
            assert!((1..=90).contains(&wait), "{wait}");
            assert!((now + wait).abs_diff(second.reset) <= 5, "{now} + {wait}: {second:?}");
        }
    }
    assert_eq!(redis.contents().await, before);
    let still: u64 = redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(still, expires, "the window is not extended");
    assert_done(&HttpRequest::form(EXAMPLE).of(READER + 1).over(BOTH[0], &server).await);
}

#[tokio::test]
async fn a_new_window_follows_one_that_has_ended() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1", "--rate-window", "2s"]).await;
    let request = HttpRequest::form(EXAMPLE);
    let first = assert_done(&request.over(BOTH[0], &server).await);
    let denied = request.over(BOTH[0], &server).await;
    if denied.status == 429 {
        let wait = number(&denied.head, "retry-after");
        assert!((1..=3).contains(&wait), "{wait}");
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
    // On a slow machine the first window may have ended, and the mark was served in the second.
    let next = request.of(READER).over(BOTH[1], &server).await;
    let reset = if next.status == 204 { assert_done(&next).reset } else { rate(&next.head).reset };
    assert!(reset > first.reset, "a client that waits for the reset is served: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_and_both_protocols_serve_exactly_the_quota() {
    const QUOTA: usize = 100;
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "100"];
    let servers = [Server::on_with(&redis, &flags).await, Server::on_with(&redis, &flags).await];
    let servers = servers.map(Arc::new);
    let mut tasks = JoinSet::new();
    for task in 0..6 {
        let server = Arc::clone(&servers[task % 2]);
        tasks.spawn(async move {
            let mut count = 0;
            for message in 1..=30 {
                let message = message * 6 + u64::try_from(task).unwrap();
                let is_served = match task / 2 {
                    0 => server.caller(READER).mark(RECIPIENT, message).await.is_ok(),
                    n => {
                        let request = HttpRequest::form(parameters(RECIPIENT, message));
                        match request.over(BOTH[n - 1], &server).await {
                            answer if answer.status == 204 => true,
                            answer => {
                                assert_refused(&answer, 429, &[88]);
                                false
                            }
                        }
                    }
                };
                count += usize::from(is_served);
            }
            count
        });
    }
    assert_eq!(tasks.join_all().await.into_iter().sum::<usize>(), QUOTA);
    assert_eq!(redis.used(READER).await, Some(100));
}

/// Makes requests until the guard stops one, and returns that answer.
async fn until_stopped(server: &Server, request: &HttpRequest, version: Version) -> RawAnswer {
    for _ in 0..100 {
        let answer = request.over(version, server).await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("the guard stopped none: {request:?}");
}

#[tokio::test]
async fn the_guard_comes_before_every_other_check() {
    let redis = Redis::start().await;
    let flags = ["--edge-rate", "1", "--edge-burst", "3"];
    let server = Server::on_with(&redis, &flags).await;
    let valid = HttpRequest::form(EXAMPLE);
    let stopped = [
        valid.clone(),
        valid.clone().target("/unknown"),
        valid.clone().method("DELETE"),
        valid.clone().header("content-type", "text/plain"),
        valid.clone().body("x".repeat(9 * 1024)),
        valid.clone().by(&Credentials::Nothing),
        valid.clone().header("authorization", "Bearer x"),
        valid.body("recipient_id=x"),
        HttpRequest::post(PATH).method("GET").of(READER),
    ];
    for version in BOTH {
        for request in &stopped {
            let answer = until_stopped(&server, request, version).await;
            assert_refused(&answer, 429, &[88]);
            assert!(number(&answer.head, "retry-after") >= 1);
            assert!(!answer.head.contains_key("x-rate-limit-limit"), "the quota was not checked");
        }
    }
}
