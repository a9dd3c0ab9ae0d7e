//! `RATE_LIMIT_EXCEEDED` and `EDGE_LIMIT_EXCEEDED`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread_harness::caller::{Credentials, Refusal, number};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::{assert_denied, assert_pushback_is_retry_delay, code_of, retry_delay};

#[tokio::test]
async fn a_reader_over_quota_learns_when_the_window_ends() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "2", "--rate-window", "90s"]).await;
    let caller = server.caller(READER);
    let mut reset = 0;
    for message in [1, 2] {
        let answer = caller.mark(RECIPIENT, message).await.unwrap();
        reset = number(&answer.metadata, "x-rate-limit-reset");
    }
    // The first denial is by Redis, the second from memory.
    for _ in 0..3 {
        let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
        assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
        let violations = &denied.details.quota_failure().expect("a QuotaFailure").violations;
        assert_eq!(violations.len(), 1);
        assert!(!violations[0].subject.is_empty() && !violations[0].description.is_empty());
        assert_eq!(number(&denied.metadata, "grpc-retry-pushback-ms"), -1);
        assert_eq!(number(&denied.metadata, "x-rate-limit-limit"), 2);
        assert_eq!(number(&denied.metadata, "x-rate-limit-remaining"), 0);
        assert_eq!(number(&denied.metadata, "x-rate-limit-reset"), reset);
        let until_reset = Duration::from_secs(u64::try_from(reset).unwrap())
            .saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        assert!(retry_delay(&denied) <= Duration::from_secs(90));
        assert!(retry_delay(&denied).abs_diff(until_reset) < Duration::from_secs(5));
    }
    assert_eq!(redis.used(READER).await, Some(2));
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, 2)].into());
    assert_eq!(redis.payloads().await.len(), 2);
    server.caller(READER + 1).mark(RECIPIENT, 1).await.expect("each reader has its own quota");
}

/// Calls until the guard stops a call, and returns how many it let pass. That depends on how long
/// they take: one more passes each second.
async fn until_limited(server: &Server, credentials: Credentials) -> (u64, Refusal) {
    let caller = server.stranger(credentials);
    for passed in 0..100 {
        match caller.mark(RECIPIENT, MESSAGE).await {
            Err(denied) if denied.reason == "EDGE_LIMIT_EXCEEDED" => return (passed, denied),
            _ => {}
        }
    }
    panic!("the guard stopped no call");
}

#[tokio::test]
async fn a_peer_that_the_guard_stops_has_to_wait_a_second_or_more() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--edge-rate", "1", "--edge-burst", "2"]).await;
    let (passed, denied) = until_limited(&server, Credentials::token_of(READER)).await;
    assert!(passed >= 2, "the burst: {passed}");
    assert_eq!(redis.used(READER).await, Some(passed), "a stopped call takes no quota");
    let (_, stranger) = until_limited(&server, Credentials::Nothing).await;
    for denied in [denied, stranger] {
        assert_denied(&denied, Code::ResourceExhausted, "EDGE_LIMIT_EXCEEDED");
        assert!(retry_delay(&denied) >= Duration::from_secs(1));
        assert_pushback_is_retry_delay(&denied);
        assert!(denied.details.quota_failure().is_none());
        assert!(denied.metadata.get("x-rate-limit-limit").is_none(), "the quota was not checked");
    }
    assert_eq!(server.metric("markread_edge_limited_total").await, Some(2.0));

    let mut health = HealthClient::new(server.channel());
    for _ in 0..10 {
        let answer = health.check(HealthCheckRequest { service: String::new() }).await;
        assert_eq!(code_of(&answer), Code::Ok, "{answer:?}");
    }
}

#[tokio::test]
async fn the_guard_can_be_turned_off() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--edge-rate", "0", "--edge-burst", "1"]).await;
    for message in 1..=50 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
}
