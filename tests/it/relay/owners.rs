//! Which process delivers what: one at a time, another one after a crash, an even share each.

use std::time::{Duration, Instant};

use markread_harness::cluster::{partition_of, tags};
use markread_harness::events::{payload, publish, publish_by};
use markread_harness::receiver::{Arrival, Reply};
use markread_harness::{Receiver, Redis, RedisCluster, Relay, WebhookFile, eventually};
use tokio::time::sleep;

use super::{ALL, SOON, wait_until_done};

const TAKEOVER: Duration = Duration::from_secs(10);

async fn leases(relay: &Relay) -> f64 {
    relay.metric("markread_relay_leases", &[]).await
}

/// Waits until each of some relays has so many leases.
async fn wait_for_share(relays: &[&Relay], share: f64) {
    eventually(&format!("each has {share} leases"), SOON, async || {
        for relay in relays {
            if (leases(relay).await - share).abs() > 0.1 {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Two relays with one webhook, and which of them has the lease.
async fn two(redis: &Redis, file: &WebhookFile) -> (Relay, Relay) {
    let first = Relay::on(redis, file).await;
    wait_for_share(&[&first], 1.0).await;
    let second = Relay::on(redis, file).await;
    // The second one may be the one that is to have it.
    sleep(Duration::from_secs(4)).await;
    let (of_first, of_second) = (leases(&first).await, leases(&second).await);
    assert!((of_first + of_second - 1.0).abs() < 0.1, "{of_first} and {of_second}");
    if of_first > 0.5 { (first, second) } else { (second, first) }
}

#[tokio::test]
async fn another_process_takes_over_within_ten_seconds_of_a_kill() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let (mut owner, _other) = two(&redis, &file).await;
    receiver.answer(Reply::Hang);
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for_attempts(1, SOON).await;
    let killed = Instant::now();
    owner.kill().await;
    receiver.answer(Reply::Status(200));
    publish(&redis, &[payload(1, 2, 2), payload(3, 2, 1)]).await;
    receiver.wait_for(3, TAKEOVER).await;
    println!("taken over {:?} after kill -9", killed.elapsed());
    // What was in flight first.
    let messages = receiver.accepted().into_iter().filter(|arrival| arrival.lane.reader == 1);
    assert_eq!(messages.map(|arrival| arrival.message).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(receiver.assert_in_order(), 0);
    wait_until_done(&redis, "main").await;
}

#[tokio::test]
async fn a_process_that_leaves_hands_over_at_once() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let (mut owner, _other) = two(&redis, &file).await;
    let publisher = async {
        let mut connection = redis.connection().await;
        for message in 1..=300 {
            publish_by(
                &mut connection,
                "direct_message_mark_read_events",
                &[payload(message % 7 + 1, 2, message)],
            )
            .await;
            sleep(Duration::from_millis(10)).await;
        }
    };
    let handover = async {
        sleep(Duration::from_secs(1)).await;
        owner.stop(SOON).await;
    };
    tokio::join!(publisher, handover);
    receiver.wait_for(300, SOON).await;
    wait_until_done(&redis, "main").await;
    assert_eq!(receiver.assert_in_order(), 0, "nothing arrives twice");
    assert_eq!(receiver.overlaps(), 0);
    let mut times: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.at).collect();
    times.sort_unstable();
    let longest = times.windows(2).map(|two| two[1] - two[0]).max().unwrap();
    println!("handed over within {longest:?}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
}

/// A process that was stopped for long wakes up, and its leases are another's.
#[tokio::test]
async fn a_process_that_wakes_up_late_begins_nothing() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let (owner, other) = two(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    wait_until_done(&redis, "main").await;
    // It has much to do, and is stopped in the middle of it.
    let slowly = |ms| Reply::After(Duration::from_millis(ms), Box::new(Reply::Status(200)));
    receiver.answer(slowly(50));
    publish(
        &redis,
        &(1..=3_000).map(|event| payload(event % 300 + 1, 2, event + 1)).collect::<Vec<_>>(),
    )
    .await;
    receiver.wait_for(200, SOON).await;
    let frozen = Instant::now();
    owner.freeze();
    let before = receiver.accepted_count();
    eventually("the other one takes over", TAKEOVER, async || {
        (receiver.accepted_count() > before + 64).then_some(())
    })
    .await;
    println!("taken over {:?} after SIGSTOP", frozen.elapsed());
    receiver.wait_for(2_000, SOON).await;
    let woken = Instant::now();
    owner.thaw();
    receiver.wait_for(3_001, Duration::from_secs(30)).await;
    wait_until_done(&redis, "main").await;
    let doubles = receiver.assert_in_order();
    println!("{doubles} doubles of a pause");
    // In flight when it was stopped, and accepted without an acknowledgement.
    assert!(doubles <= 2 * 64, "{doubles}");
    let is_late = |arrival: &Arrival| arrival.at > woken && arrival.nth > 0;
    // Requests that it had begun and not written.
    let late = receiver.arrivals().iter().filter(|arrival| is_late(arrival)).count();
    println!("{late} were sent after it woke up");
    assert!(late <= 64, "{late}: it begins what is another's");
    assert!(leases(&owner).await + leases(&other).await < 1.1);
}

#[tokio::test]
async fn webhooks_are_spread_evenly_over_processes() {
    let redis = Redis::start().await;
    let receivers = [
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
        Receiver::start().await,
    ];
    let names = ["a", "b", "c", "d"];
    let entries: Vec<_> = names.iter().zip(&receivers).map(|(name, at)| (*name, at, ALL)).collect();
    let file = WebhookFile::of(&entries);
    let first = Relay::on(&redis, &file).await;
    wait_for_share(&[&first], 4.0).await;
    let mut second = Relay::on(&redis, &file).await;
    wait_for_share(&[&first, &second], 2.0).await;
    publish(&redis, &(1..=100).map(|event| payload(event % 9 + 1, 5, event)).collect::<Vec<_>>())
        .await;
    for receiver in &receivers {
        receiver.wait_for(100, SOON).await;
        assert_eq!(receiver.assert_in_order(), 0);
    }
    second.stop(SOON).await;
    wait_for_share(&[&first], 4.0).await;
}

#[tokio::test]
async fn partitions_of_a_cluster_are_spread_and_in_order() {
    const PARTITIONS: u16 = 8;
    let cluster = RedisCluster::start(3, 0).await;
    let server = markread_harness::Server::on_cluster(&cluster, &["--partitions", "8"]).await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let first = Relay::on_cluster(&cluster, &file, &["--partitions", "8"]).await;
    let second = Relay::on_cluster(&cluster, &file, &["--partitions", "8"]).await;
    wait_for_share(&[&first, &second], 4.0).await;
    assert_eq!(first.metric("markread_relay_partitions", &[]).await, f64::from(PARTITIONS));
    for reader in 1..=40 {
        let caller = server.caller(reader);
        for message in 1..=3 {
            caller.mark(7_000, message).await.unwrap();
        }
    }
    let arrivals = receiver.wait_for(120, SOON).await;
    assert_eq!(receiver.assert_in_order(), 0);
    let mut seen = vec![false; usize::from(PARTITIONS)];
    for arrival in arrivals {
        assert_eq!(arrival.partition, partition_of(arrival.lane.reader, PARTITIONS));
        seen[arrival.partition] = true;
    }
    assert!(seen.iter().all(|seen| *seen), "{seen:?}");
    // The leases are in the slots of their streams.
    let mut found = Vec::new();
    for (_, key) in cluster.keys("markread:*:relay:lease:main:*").await {
        found.push(key);
    }
    found.sort();
    let keys = tags(PARTITIONS).into_iter().enumerate();
    let mut expected: Vec<_> = keys
        .map(|(partition, tag)| format!("markread:{{{tag}}}:relay:lease:main:{partition}"))
        .collect();
    expected.sort();
    assert_eq!(found, expected);
}
