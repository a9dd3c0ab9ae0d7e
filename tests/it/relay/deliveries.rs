//! Which events arrive, whose, and how they look.

use std::time::{Duration, Instant};

use markread_harness::events::{payload, publish};
use markread_harness::relay::webhook_on;
use markread_harness::{
    MESSAGE, READER, RECIPIENT, Receiver, Redis, Relay, Server, WebhookFile, eventually,
};
use tokio::time::sleep;

use super::{ALL, QUIET, SOON, wait_until_done};

#[tokio::test]
async fn a_mark_arrives_byte_for_byte_at_the_recipients_webhook_alone() {
    let redis = Redis::start().await;
    redis.put_user(READER, br#" {"id" : 1e3, "name":"\u00e4\/ \"x\"", "id":[1, 2.50]} "#).await;
    redis.put_user(RECIPIENT, "{\"name\":\"Zo\u{eb} \u{1f4ec}\"}".as_bytes()).await;
    let server = Server::on(&redis).await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let file = WebhookFile::of(&[("main", &receiver, ""), ("other", &other, "")]);
    webhook_on(&redis, &["subscribe", "main", &RECIPIENT.to_string()]).await;
    webhook_on(&redis, &["subscribe", "other", &READER.to_string()]).await;
    let relay = Relay::on(&redis, &file).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();

    let arrival = receiver.wait_for(1, SOON).await.remove(0);
    let stored = redis.payloads().await.remove(0);
    let expected = format!(r#"{{"for_user_id":"{RECIPIENT}",{}"#, &stored[1..]);
    assert_eq!(String::from_utf8(arrival.body).unwrap(), expected);
    assert!(expected.contains(r#"{"id" : 1e3, "name":"\u00e4\/ \"x\"", "id":[1, 2.50]}"#));
    let entries: Vec<(String, redis::Value)> =
        redis.run("XRANGE direct_message_mark_read_events - +").await;
    assert_eq!(arrival.id, format!("0-{}-{RECIPIENT}", entries[0].0));
    assert_eq!((arrival.lane.reader, arrival.message), (READER, MESSAGE));
    assert_eq!(arrival.headers["host"], format!("127.0.0.1:{}", receiver.port));
    assert!(arrival.headers["user-agent"].starts_with("markread"), "{:?}", arrival.headers);

    // The reader is subscribed to the other webhook, which has no echo.
    for webhook in ["main", "other"] {
        wait_until_done(&redis, webhook).await;
    }
    let of_other = ["webhook=\"other\"", "outcome=\"not_subscribed\""];
    relay.wait_for_metric("markread_relay_outcomes_total", &of_other, |count| count == 1.0).await;
    assert_eq!((receiver.attempts(), other.attempts()), (1, 0));
}

#[tokio::test]
async fn who_gets_an_event_depends_on_subscriptions_echo_and_all() {
    const BOTH: [u64; 2] = [11, 22];
    let redis = Redis::start().await;
    #[allow(clippy::type_complexity, reason = "a table")]
    // Name, more lines, subscribers; who gets the event of 11 for 22, and that of 33 for itself.
    let table: [(&str, &str, &[u64], &[u64], &[u64]); 8] = [
        ("recipient", "", &[22], &[22], &[]),
        ("reader", "", &[11], &[], &[]),
        ("two", "", &[11, 22, 33], &[22], &[33]),
        ("echo-reader", "echo = true", &[11], &[11], &[]),
        ("echo-two", "echo = true", &[11, 22, 33], &BOTH, &[33]),
        ("none", "users = \"subscribed\"\necho = true", &[44], &[], &[]),
        ("all", ALL, &[], &[22], &[33]),
        ("all-echo", "users = \"all\"\necho = true", &[44], &BOTH, &[33]),
    ];
    let mut receivers = Vec::new();
    for (name, _, users, ..) in table {
        receivers.push(Receiver::start().await);
        for user in users {
            webhook_on(&redis, &["subscribe", name, &user.to_string()]).await;
        }
    }
    let entries = table.iter().zip(&receivers).map(|((name, more, ..), at)| (*name, at, *more));
    let file = WebhookFile::of(&entries.collect::<Vec<_>>());
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(11, 22, 5), payload(33, 33, 6)]).await;
    for ((name, _, _, first, second), receiver) in table.iter().zip(&receivers) {
        receiver.wait_for(first.len() + second.len(), SOON).await;
        wait_until_done(&redis, name).await;
        let mut users: Vec<_> =
            receiver.arrivals().iter().map(|arrival| arrival.lane.for_user).collect();
        users.sort_unstable();
        assert_eq!(users, [*first, *second].concat(), "{name}");
        assert_eq!(receiver.assert_in_order(), 0, "{name}");
    }
}

#[tokio::test]
async fn a_subscription_counts_at_once_and_so_does_its_end() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, "")]);
    let _relay = Relay::on(&redis, &file).await;
    for round in 0..3 {
        publish(&redis, &[payload(1, 2, 10 * round + 1)]).await;
        wait_until_done(&redis, "main").await;
        webhook_on(&redis, &["subscribe", "main", "2"]).await;
        publish(&redis, &[payload(1, 2, 10 * round + 2)]).await;
        wait_until_done(&redis, "main").await;
        webhook_on(&redis, &["unsubscribe", "main", "2"]).await;
    }
    publish(&redis, &[payload(1, 2, 100)]).await;
    wait_until_done(&redis, "main").await;
    let messages: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.message).collect();
    assert_eq!(messages, [2, 12, 22]);
}

#[tokio::test]
async fn subscribers_are_listed() {
    let redis = Redis::start().await;
    let users: Vec<_> = (1..=2_000_u64).map(|user| user.to_string()).collect();
    let mut arguments = vec!["subscribe", "main"];
    arguments.extend(users.iter().map(String::as_str));
    webhook_on(&redis, &arguments).await;
    webhook_on(&redis, &["unsubscribe", "main", "--user", "7"]).await;
    let listed = webhook_on(&redis, &["list", "main"]).await;
    let mut listed: Vec<u64> = listed.lines().map(|line| line.parse().unwrap()).collect();
    listed.sort_unstable();
    listed.dedup();
    assert_eq!(listed, (1..=2_000).filter(|user| *user != 7).collect::<Vec<_>>());
    let members: u64 = redis.run("SCARD markread:subscriptions:main").await;
    assert_eq!(members, 1_999);
    assert_eq!(webhook_on(&redis, &["list", "other"]).await, "");
}

/// A webhook that is new gets what the stream has of the time of `--max-age`.
#[tokio::test]
async fn a_new_webhook_begins_max_age_ago() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    publish(&redis, &[payload(1, 2, 1)]).await;
    let old = Instant::now();
    sleep(Duration::from_secs(20)).await;
    publish(&redis, &[payload(1, 2, 2)]).await;
    let _relay = Relay::on_with(&redis, &file, &["--max-age", "18s"]).await;
    receiver.wait_for(1, SOON).await;
    wait_until_done(&redis, "main").await;
    sleep(QUIET).await;
    assert!(old.elapsed() > Duration::from_secs(20));
    let messages: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.message).collect();
    assert_eq!(messages, [2]);
    let letters: u64 = redis.run("XLEN markread:dead_letters:main").await;
    assert_eq!(letters, 0);
}

/// Nothing is written that is not of the relay.
#[tokio::test]
async fn idle_relays_leave_the_stream_alone() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    eventually("it has its lease", SOON, async || {
        (relay.metric("markread_relay_leases", &[]).await == 1.0).then_some(())
    })
    .await;
    let keys: Vec<String> = redis.run("KEYS *").await;
    for key in keys {
        let is_ours = key.starts_with("markread:relay:") || key == "markread:layout";
        assert!(is_ours || key == "direct_message_mark_read_events", "{key}");
    }
    let length: u64 = redis.run("XLEN direct_message_mark_read_events").await;
    assert_eq!((length, receiver.attempts()), (0, 0));
}
