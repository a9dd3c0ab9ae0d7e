//! Events that were removed from the stream before they were delivered are counted.

use std::time::Duration;

use markread_harness::events::{STREAM, payload, publish};
use markread_harness::receiver::Reply;
use markread_harness::{Receiver, Redis, Relay, WebhookFile};

use super::{ALL, SOON, pending, wait_until_done};

const MISSED: &str = "markread_relay_missed_entries_total";

fn events(messages: std::ops::RangeInclusive<u64>) -> Vec<String> {
    messages.map(|message| payload(message % 10 + 1, 99, message)).collect()
}

#[tokio::test]
async fn entries_that_were_trimmed_unread_are_counted() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let mut relay = Relay::on(&redis, &file).await;
    publish(&redis, &events(1..=5)).await;
    receiver.wait_for(5, SOON).await;
    wait_until_done(&redis, "main").await;
    assert_eq!(relay.metric(MISSED, &[]).await, 0.0);
    relay.stop(SOON).await;

    publish(&redis, &events(6..=105)).await;
    redis.run::<u64>(&format!("XTRIM {STREAM} MAXLEN 10")).await;
    let relay = Relay::on(&redis, &file).await;
    receiver.wait_for(15, SOON).await;
    wait_until_done(&redis, "main").await;
    relay.wait_for_metric(MISSED, &["webhook=\"main\""], |missed| missed == 90.0).await;
    relay.wait_for_line(&["main", "90"]).await;
    let mut messages: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.message).collect();
    messages.sort_unstable();
    assert_eq!(messages[5..], (96..=105).collect::<Vec<_>>());
}

#[tokio::test]
async fn entries_that_were_trimmed_while_pending_are_counted() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(500));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let mut relay = Relay::on(&redis, &file).await;
    publish(&redis, &events(1..=20)).await;
    receiver.wait_for_attempts(10, SOON).await;
    assert_eq!(pending(&redis, "main").await, 20);
    relay.kill().await;
    redis.run::<u64>(&format!("XTRIM {STREAM} MAXLEN 5")).await;
    receiver.answer(Reply::Status(200));
    let relay = Relay::on(&redis, &file).await;
    receiver.wait_for(5, Duration::from_secs(30)).await;
    wait_until_done(&redis, "main").await;
    relay.wait_for_metric(MISSED, &[], |missed| missed == 15.0).await;
    assert_eq!(receiver.accepted_count(), 5);
}

/// A stream that is another than before, as after a flush or on a Redis that restarted empty.
#[tokio::test]
async fn after_a_flush_new_events_arrive() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &events(1..=5)).await;
    receiver.wait_for(5, SOON).await;
    redis.run::<()>("FLUSHALL").await;
    publish(&redis, &events(6..=10)).await;
    receiver.wait_for(10, Duration::from_secs(30)).await;
    wait_until_done(&redis, "main").await;
    assert_eq!(receiver.assert_in_order(), 0);
}
