//! A relay as its operators see it: probes, metrics, drain.

use std::time::{Duration, Instant};

use markread_harness::events::{payload, publish};
use markread_harness::receiver::Reply;
use markread_harness::relay::TO_LOOPBACK;
use markread_harness::{Receiver, Redis, Relay, WebhookFile, eventually};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::stream::Snapshot;
use super::{ALL, SOON, wait_until_done};

/// Series that are there for each webhook from the start, so that alerts see the first increase.
const OF_A_WEBHOOK: [(&str, &[&str]); 16] = [
    (
        "markread_relay_attempts_total",
        &[
            "outcome=\"delivered\"",
            "outcome=\"gone\"",
            "outcome=\"status\"",
            "outcome=\"throttled\"",
            "outcome=\"timeout\"",
            "outcome=\"connection\"",
            "outcome=\"address\"",
            "outcome=\"tls\"",
            "outcome=\"response\"",
        ],
    ),
    (
        "markread_relay_outcomes_total",
        &["outcome=\"delivered\"", "outcome=\"dead_lettered\"", "outcome=\"not_subscribed\""],
    ),
    (
        "markread_relay_dead_letters_total",
        &[
            "reason=\"max_attempts\"",
            "reason=\"max_age\"",
            "reason=\"no_payload\"",
            "reason=\"not_utf8\"",
            "reason=\"invalid_payload\"",
            "reason=\"too_large\"",
        ],
    ),
    (
        "markread_relay_checks_total",
        &["outcome=\"passed\"", "outcome=\"refused\"", "outcome=\"failed\""],
    ),
    ("markread_relay_dead_letters", &[]),
    ("markread_relay_missed_entries_total", &[]),
    ("markread_relay_lag_entries", &[]),
    ("markread_relay_lag_seconds", &[]),
    ("markread_relay_paused", &[]),
    ("markread_relay_verified_timestamp_seconds", &[]),
    ("markread_relay_leases", &[]),
    ("markread_relay_circuit_open", &[]),
    ("markread_relay_in_flight", &[]),
    ("markread_relay_attempt_duration_seconds_count", &[]),
    ("markread_relay_delay_seconds_count", &[]),
    ("markread_relay_attempt_duration_seconds_bucket", &["le="]),
];

#[tokio::test]
async fn every_metric_is_there_before_the_first_failure() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    wait_until_done(&redis, "main").await;
    relay.wait_for_metric("markread_relay_lag_entries", &[], |lag| lag == 0.0).await;
    let mut absent = Vec::new();
    for (name, labels) in OF_A_WEBHOOK {
        let labels = if labels.is_empty() { &[""] } else { labels };
        for label in labels {
            if relay.series(name, &["webhook=\"main\"", label]).await.1 == 0 {
                absent.push(format!("{name} {label}"));
            }
        }
    }
    assert!(absent.is_empty(), "{absent:#?}");
    for (name, value) in [
        ("markread_relay_partitions", 1.0),
        ("markread_relay_leases", 1.0),
        ("markread_relay_paused", 0.0),
        ("markread_relay_delay_seconds_count", 1.0),
        ("markread_relay_attempt_duration_seconds_count", 1.0),
    ] {
        assert_eq!(relay.metric(name, &[]).await, value, "{name}");
    }
    assert_eq!(relay.series("markread_build_info", &["version="]).await.1, 1);
}

#[tokio::test]
async fn lag_is_told_in_entries_and_seconds() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(500));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &(1..=30).map(|reader| payload(reader, 9, 1)).collect::<Vec<_>>()).await;
    sleep(Duration::from_secs(4)).await;
    relay.wait_for_metric("markread_relay_lag_entries", &[], |lag| lag == 30.0).await;
    let seconds = relay.metric("markread_relay_lag_seconds", &["webhook=\"main\""]).await;
    assert!((2.5..12.0).contains(&seconds), "{seconds}");
    receiver.answer(Reply::Status(200));
    receiver.wait_for(30, Duration::from_secs(30)).await;
    relay.wait_for_metric("markread_relay_lag_entries", &[], |lag| lag == 0.0).await;
    relay.wait_for_metric("markread_relay_lag_seconds", &[], |lag| lag == 0.0).await;
}

#[tokio::test]
async fn without_redis_it_starts_and_is_not_ready_until_it_is_back() {
    let mut redis = Redis::down(&[]);
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let url = redis.url();
    let relay = Relay::spawn(&[&["--redis-url", &url][..], &TO_LOOPBACK].concat(), &file, &[]);
    let is = async |path: &str, status: u16| {
        eventually(&format!("{path} is {status}"), SOON, async || {
            let (found, page) = markread_harness::server::http1(
                &relay.ops,
                &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
            )
            .await?;
            found.starts_with(&format!("HTTP/1.1 {status}")).then_some(page)
        })
        .await
    };
    let page = is("/readyz", 503).await;
    assert!(page.contains("not ready"), "{page}");
    is("/livez", 200).await;
    redis.restart().await;
    is("/readyz", 200).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    redis.freeze();
    is("/readyz", 503).await;
    is("/livez", 200).await;
    redis.thaw();
    is("/readyz", 200).await;
    publish(&redis, &[payload(1, 2, 2)]).await;
    receiver.wait_for(2, SOON).await;
    wait_until_done(&redis, "main").await;
    redis.kill().await;
    is("/readyz", 503).await;
    redis.restart().await;
    is("/readyz", 200).await;
    publish(&redis, &[payload(1, 2, 3)]).await;
    receiver.wait_for(3, SOON).await;
}

#[tokio::test]
async fn a_drain_waits_for_what_is_in_flight_and_begins_nothing() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let redis = Redis::start().await;
        let receiver = Receiver::start().await;
        let slowly = Reply::After(Duration::from_secs(2), Box::new(Reply::Status(200)));
        receiver.answer(slowly);
        let file = WebhookFile::of(&[("main", &receiver, ALL)]);
        let mut relay = Relay::on_with(&redis, &file, &["--concurrency", "8"]).await;
        let events: Vec<_> = (1..=50).map(|reader| payload(reader, 9, 1)).collect();
        let ids = publish(&redis, &events).await;
        receiver.wait_for_attempts(8, SOON).await;
        let began = Instant::now();
        relay.signal(signal);
        eventually("it is not ready", SOON, async || {
            (relay.get("/readyz").await.0 == 503).then_some(())
        })
        .await;
        assert_eq!(relay.get("/livez").await.0, 200);
        assert_eq!(relay.exit(SOON).await.code(), Some(0), "{}", relay.log().join("\n"));
        assert!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
        let accepted = receiver.accepted_ids();
        assert_eq!((accepted.len(), receiver.attempts()), (8, 8));
        let acknowledged = Snapshot::take(&redis, "main").await.acknowledged(&ids);
        assert_eq!(acknowledged.len(), 8, "what was delivered is acknowledged");
        assert!(acknowledged.iter().all(|id| accepted.contains(&format!("0-{id}-9"))));
        let leases: Vec<String> = redis.run("KEYS markread:relay:lease:*").await;
        assert_eq!(leases, [] as [String; 0]);

        receiver.answer(Reply::Status(200));
        let _next = Relay::on(&redis, &file).await;
        receiver.wait_for(50, SOON).await;
        assert_eq!(receiver.assert_in_order(), 0, "nothing arrives twice");
    }
}

#[tokio::test]
async fn a_drain_that_runs_out_leaves_the_rest_to_the_next() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Hang);
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let mut relay = Relay::on_with(&redis, &file, &["--drain", "1s"]).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for_attempts(1, SOON).await;
    let began = Instant::now();
    relay.stop(SOON).await;
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    receiver.answer(Reply::Status(200));
    let _next = Relay::on(&redis, &file).await;
    receiver.wait_for(1, SOON).await;
    wait_until_done(&redis, "main").await;
}
