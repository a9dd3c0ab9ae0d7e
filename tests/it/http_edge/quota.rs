//! 429: the reader's quota, and the guard in front of everything.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::super::harness::caller::Credentials;
use super::super::harness::raw::RawAnswer;
use super::super::harness::{READER, RECIPIENT, Redis, Server};
use super::client::{Ask, BOTH, Version};
use super::{
    EXAMPLE, PATH, assert_done, assert_refused, examples, number, parameters, rate, unix_seconds,
};

#[tokio::test]
async fn a_reader_over_quota_is_told_until_when_and_nothing_changes() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "2", "--rate-window", "90s"]).await;
    let first = assert_done(&Ask::form(parameters(RECIPIENT, 1)).over(BOTH[0], &server).await);
    let second = assert_done(&Ask::form(parameters(RECIPIENT, 2)).over(BOTH[1], &server).await);
    assert_eq!((first.remaining, second.remaining), (1, 0));
    assert_eq!((first.limit, first.reset), (second.limit, second.reset));

    let before = redis.contents().await;
    let expires: u64 = redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(second.reset, expires.div_ceil(1000), "rounded up");
    // Once by Redis, then from memory.
    for version in BOTH {
        for ask in examples() {
            let now = unix_seconds();
            let answer = ask.over(version, &server).await;
            assert_refused(&answer, 429, &[88]);
            assert_eq!(rate(&answer.head), second);
            let wait = number(&answer.head, "retry-after");
            assert!((1..=90).contains(&wait), "{wait}");
            assert!((now + wait).abs_diff(second.reset) <= 5, "{now} + {wait}: {second:?}");
        }
    }
    assert_eq!(redis.contents().await, before);
    let still: u64 = redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(still, expires, "no longer window");
    assert_done(&Ask::form(EXAMPLE).of(READER + 1).over(BOTH[0], &server).await);
}

#[tokio::test]
async fn a_window_that_is_over_is_followed_by_a_new_one() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1", "--rate-window", "2s"]).await;
    let ask = Ask::form(EXAMPLE);
    let first = assert_done(&ask.over(BOTH[0], &server).await);
    let denied = ask.over(BOTH[0], &server).await;
    if denied.status == 429 {
        let wait = number(&denied.head, "retry-after");
        assert!((1..=3).contains(&wait), "{wait}");
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
    // On a machine so slow that the window was over already it was served, in the second window.
    let next = ask.of(READER).over(BOTH[1], &server).await;
    let reset = if next.status == 204 { assert_done(&next).reset } else { rate(&next.head).reset };
    assert!(reset > first.reset, "whoever waits as told is served: {next:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_asked_in_every_way_at_once_serve_exactly_the_quota() {
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
                        let ask = Ask::form(parameters(RECIPIENT, message));
                        match ask.over(BOTH[n - 1], &server).await {
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

/// Asks until the guard stops one, and gives that answer.
async fn until_stopped(server: &Server, ask: &Ask, version: Version) -> RawAnswer {
    for _ in 0..100 {
        let answer = ask.over(version, server).await;
        if answer.status == 429 {
            return answer;
        }
    }
    panic!("not stopped: {ask:?}");
}

#[tokio::test]
async fn the_guard_stops_a_peer_before_anything_else_is_looked_at() {
    let redis = Redis::start().await;
    let flags = ["--edge-rate", "1", "--edge-burst", "3"];
    let server = Server::on_with(&redis, &flags).await;
    let valid = Ask::form(EXAMPLE);
    let stopped = [
        valid.clone(),
        valid.clone().target("/unknown"),
        valid.clone().method("DELETE"),
        valid.clone().header("content-type", "text/plain"),
        valid.clone().body("x".repeat(9 * 1024)),
        valid.clone().by(&Credentials::Nothing),
        valid.clone().header("authorization", "Bearer x"),
        valid.body("recipient_id=x"),
        Ask::post(PATH).method("GET").of(READER),
    ];
    for version in BOTH {
        for ask in &stopped {
            let answer = until_stopped(&server, ask, version).await;
            assert_refused(&answer, 429, &[88]);
            assert!(number(&answer.head, "retry-after") >= 1);
            assert!(!answer.head.contains_key("x-rate-limit-limit"), "no quota was reached");
        }
    }
}
