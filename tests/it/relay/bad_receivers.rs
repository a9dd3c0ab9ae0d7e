//! Receivers that misbehave cost an attempt, bounded in time and memory, and nothing else.

use std::time::{Duration, Instant};

use markread_harness::events::{payload, publish};
use markread_harness::receiver::{CheckReply, Reply};
use markread_harness::{Receiver, Redis, Relay, WebhookFile};
use tokio::time::sleep;

use super::{ALL, SOON, pending, wait_until_done};

/// Bound on the growth of a relay's memory while receivers send without end.
const GROWTH_MAX_BYTES: u64 = 64 << 20;

/// How a receiver misbehaves, and the values of the label `outcome` that fit.
fn table(circle: &str) -> Vec<(&'static str, Reply, &'static [&'static str])> {
    let head = |text: &str| Reply::Raw(text.as_bytes().to_vec());
    vec![
        ("endless", Reply::Endless, &["response", "timeout"]),
        ("endless-head", Reply::EndlessHead, &["response", "timeout", "connection"]),
        ("slow-head", Reply::SlowHead, &["timeout"]),
        ("slow-body", Reply::SlowBody, &["timeout"]),
        ("hang", Reply::Hang, &["timeout"]),
        ("close", Reply::Close, &["connection", "response"]),
        ("circle", Reply::redirect(307, circle), &["status"]),
        ("not-http", head("SSH-2.0-OpenSSH_9.2\r\n"), &["response", "connection"]),
        (
            "cut",
            head("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nx"),
            &["response", "connection"],
        ),
        (
            "continue",
            head(&"HTTP/1.1 100 Continue\r\n\r\n".repeat(2)),
            &["response", "connection", "status"],
        ),
    ]
}

#[tokio::test]
async fn each_is_a_failed_attempt_in_bounded_time_and_memory() {
    let redis = Redis::start().await;
    let mut receivers = Vec::new();
    for _ in 0..10 {
        receivers.push(Receiver::start().await);
    }
    let good = Receiver::start().await;
    let circle = receivers[6].url();
    let table = table(&circle);
    let mut entries = vec![("good", &good, ALL)];
    for ((name, reply, _), receiver) in table.iter().zip(&receivers) {
        receiver.answer(reply.clone());
        entries.push((name, receiver, ALL));
    }
    let file = WebhookFile::of(&entries);
    let relay = Relay::on(&redis, &file).await;
    sleep(Duration::from_secs(1)).await;
    let before = relay.rss_bytes();
    publish(&redis, &(1..=20).map(|reader| payload(reader, 99, 1)).collect::<Vec<_>>()).await;
    let began = Instant::now();
    good.wait_for(20, SOON).await;

    // Every attempt ends within its 10 s.
    let mut most = before;
    while began.elapsed() < Duration::from_secs(14) {
        most = most.max(relay.rss_bytes());
        sleep(Duration::from_millis(20)).await;
    }
    println!("RSS {} MB before, {} MB at most", before >> 20, most >> 20);
    assert!(most < before + GROWTH_MAX_BYTES, "{before} B grew to {most} B");
    for ((name, _, outcomes), receiver) in table.iter().zip(&receivers) {
        let label = format!("webhook=\"{name}\"");
        let attempts = "markread_relay_attempts_total";
        let all = relay.metric(attempts, &[&label]).await;
        let mut fitting = 0.0;
        for outcome in *outcomes {
            fitting += relay.metric(attempts, &[&label, &format!("outcome={outcome:?}")]).await;
        }
        assert!(all > 0.0 && all == fitting, "{name}: {all} attempts, {fitting} are {outcomes:?}");
        assert!(pending(&redis, name).await > 0, "{name}");
        assert!(receiver.attempts() > 0, "{name}");
    }
    assert!(
        receivers[6]
            .arrivals()
            .iter()
            .all(|arrival| arrival.headers["host"].ends_with(&receivers[6].port.to_string()))
    );

    // Mended, each gets everything.
    for receiver in &receivers {
        receiver.answer(Reply::Status(200));
    }
    for ((name, ..), receiver) in table.iter().zip(&receivers) {
        receiver.wait_for(20, Duration::from_secs(60)).await;
        wait_until_done(&redis, name).await;
        receiver.assert_in_order();
    }
}

#[tokio::test]
async fn a_check_is_bounded_as_well() {
    let redis = Redis::start().await;
    for reply in [Reply::Endless, Reply::EndlessHead, Reply::SlowHead, Reply::SlowBody, Reply::Hang]
    {
        let receiver = Receiver::start().await;
        receiver.answer_checks(CheckReply::Other(reply.clone()));
        let file = WebhookFile::of(&[("main", &receiver, ALL)]);
        let began = Instant::now();
        let (code, printed) = super::checks::check(&redis, &file).await;
        assert_eq!(code, Some(1), "{reply:?}: {printed}");
        assert!(began.elapsed() < Duration::from_secs(6), "{reply:?}: {:?}", began.elapsed());
    }
}
