//! What cannot be delivered becomes a dead letter, and only then is it acknowledged.

use std::collections::HashMap;
use std::time::Duration;

use markread_harness::events::{payload, publish, publish_fields};
use markread_harness::receiver::Reply;
use markread_harness::{Receiver, Redis, Relay, WebhookFile, eventually};

use super::stream::Snapshot;
use super::{ALL, SOON, wait_until_done};

/// The dead letters of the webhook `main`, oldest first.
pub(super) async fn letters(redis: &Redis) -> Vec<HashMap<String, Vec<u8>>> {
    let letters: Vec<(String, HashMap<String, Vec<u8>>)> =
        redis.run("XRANGE markread:dead_letters:main - +").await;
    letters.into_iter().map(|(_, fields)| fields).collect()
}

pub(super) async fn wait_for_letters(redis: &Redis, count: usize) -> Vec<HashMap<String, Vec<u8>>> {
    eventually(&format!("{count} dead letters"), Duration::from_secs(30), async || {
        let letters = letters(redis).await;
        (letters.len() >= count).then_some(letters)
    })
    .await
}

#[track_caller]
fn text<'a>(letter: &'a HashMap<String, Vec<u8>>, field: &str) -> &'a str {
    let value = letter.get(field).unwrap_or_else(|| panic!("no {field} in {letter:?}"));
    std::str::from_utf8(value).unwrap()
}

#[tokio::test]
async fn after_max_attempts_the_next_event_has_its_turn() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|arrival| Reply::Status(if arrival.message == 1 { 418 } else { 200 }));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on_with(&redis, &file, &["--max-attempts", "2"]).await;
    let payloads = [payload(1, 2, 1), payload(1, 2, 2)];
    let ids = publish(&redis, &payloads).await;
    receiver.wait_for(1, SOON).await;
    wait_until_done(&redis, "main").await;
    let messages: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.message).collect();
    assert_eq!(messages, [1, 1, 2]);

    let letters = letters(&redis).await;
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    for (field, value) in [
        ("reason", "max_attempts"),
        ("webhook_id", &format!("0-{}-2", ids[0])),
        ("partition", "0"),
        ("entry_id", &ids[0]),
        ("for_user_id", "2"),
        ("payload", &payloads[0]),
        ("attempts", "2"),
        ("last_status", "418"),
    ] {
        assert_eq!(text(letter, field), value, "{field}");
    }
    assert!(text(letter, "last_error").contains("418"), "{letter:?}");
    for (name, label, value) in [
        ("markread_relay_dead_letters_total", "reason=\"max_attempts\"", 1.0),
        ("markread_relay_outcomes_total", "outcome=\"dead_lettered\"", 1.0),
        ("markread_relay_outcomes_total", "outcome=\"delivered\"", 1.0),
        ("markread_relay_attempts_total", "outcome=\"status\"", 2.0),
        ("markread_relay_dead_letters", "webhook=\"main\"", 1.0),
    ] {
        relay.wait_for_metric(name, &[label], |found| found == value).await;
    }
}

#[tokio::test]
async fn after_max_age_an_event_is_not_tried_any_more() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(500));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on_with(&redis, &file, &["--max-age", "4s"]).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    let letter = wait_for_letters(&redis, 1).await.remove(0);
    assert_eq!((text(&letter, "reason"), text(&letter, "last_status")), ("max_age", "500"));
    let attempts: usize = text(&letter, "attempts").parse().unwrap();
    assert_eq!(attempts, receiver.attempts());
    assert!((2..=6).contains(&attempts), "{attempts}");
    wait_until_done(&redis, "main").await;
}

#[tokio::test]
async fn what_is_not_an_event_is_kept_aside_with_the_reason() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    let valid = payload(1, 2, 3);
    let huge = vec![b' '; 3_000_000];
    let not_utf8 = [valid.as_bytes(), b"\xff"].concat();
    let cut = &valid.as_bytes()[..valid.len() - 1];
    let other_id = valid.replace("\"2\"", "\"02\"");
    let two = valid.replace("}}],", "}},{}],");
    #[allow(clippy::type_complexity, reason = "a table")]
    let table: [(&str, &[(&str, &[u8])]); 13] = [
        ("no_payload", &[("other", b"x")]),
        ("no_payload", &[("payloads", valid.as_bytes())]),
        ("invalid_payload", &[("payload", b"")]),
        ("invalid_payload", &[("payload", cut)]),
        ("invalid_payload", &[("payload", b"null")]),
        ("invalid_payload", &[("payload", b"{}")]),
        ("invalid_payload", &[("payload", b"{\"direct_message_mark_read_events\":[]}")]),
        ("invalid_payload", &[("payload", other_id.as_bytes())]),
        ("invalid_payload", &[("payload", two.as_bytes())]),
        ("not_utf8", &[("payload", b"\xff\xfe")]),
        ("not_utf8", &[("payload", &not_utf8)]),
        ("too_large", &[("payload", &huge)]),
        ("too_large", &[("payload", valid.as_bytes()), ("traceparent", &huge)]),
    ];
    let mut ids = Vec::new();
    for (_, fields) in table {
        ids.push(publish_fields(&redis, fields).await);
    }
    let good = publish_fields(&redis, &[("note", b"\xff"), ("payload", valid.as_bytes())]).await;
    let arrivals = receiver.wait_for(1, SOON).await;
    assert_eq!(arrivals[0].id, format!("0-{good}-2"));
    wait_until_done(&redis, "main").await;
    assert_eq!(receiver.attempts(), 1);

    let letters = letters(&redis).await;
    assert_eq!(letters.len(), table.len());
    for (id, (reason, fields)) in ids.iter().zip(table) {
        let of_entry = letters.iter().find(|letter| text(letter, "entry_id") == id);
        let letter = of_entry.unwrap_or_else(|| panic!("{reason}: no letter of {id}"));
        let shown = String::from_utf8_lossy(fields[0].1);
        let shown = shown.chars().take(80).collect::<String>();
        assert_eq!(text(letter, "reason"), reason, "{shown}");
        assert_eq!(text(letter, "partition"), "0");
        assert!(!letter.contains_key("webhook_id"), "it is not a delivery: {shown}");
        if ["invalid_payload", "not_utf8"].contains(&reason) {
            assert_eq!(letter["payload"], fields[0].1, "{shown}");
        }
    }
    let dead = relay.metric("markread_relay_dead_letters_total", &[]).await;
    assert_eq!(dead, table.len() as f64);
    // Nothing of the content is in the log.
    assert!(!relay.log().join("\n").contains("direct_message_mark_read_events\\\":"));
    // The harness holds what is left against the schema.
    redis.run::<()>("FLUSHALL").await;
}

#[tokio::test]
async fn nothing_is_acknowledged_before_it_is_delivered() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|arrival| {
        let status = if arrival.lane.reader % 3 == 0 { 500 } else { 200 };
        Reply::After(Duration::from_millis(30), Box::new(Reply::Status(status)))
    });
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay =
        Relay::on_with(&redis, &file, &["--max-attempts", "1", "--concurrency", "16"]).await;
    let payloads: Vec<_> = (1..=600).map(|event| payload(event % 90 + 1, 5_000, event)).collect();
    let ids = publish(&redis, &payloads).await;
    let (mut moments, mut acknowledged) = (0, 0);
    while acknowledged < payloads.len() {
        let snapshot = Snapshot::take(&redis, "main").await;
        let accepted = receiver.accepted_ids();
        let known = snapshot.acknowledged(&ids);
        for id in &known {
            let is_done =
                accepted.contains(&format!("0-{id}-5000")) || snapshot.letters.contains(id);
            assert!(is_done, "{id} is acknowledged, and neither delivered nor a dead letter");
        }
        moments += usize::from(known.len() > acknowledged);
        acknowledged = known.len();
    }
    assert!(moments >= 3, "{moments} moments with progress were seen");
    assert_eq!(letters(&redis).await.len(), 200);
}

#[tokio::test]
async fn dead_letters_are_trimmed_to_about_their_bound() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    // Some are accepted, so that the circuit stays closed.
    receiver.answer_by(|arrival| Reply::Status(200 + 200 * (arrival.lane.reader % 2) as u16));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let flags = ["--max-attempts", "1", "--dead-letters-maxlen", "100"];
    let relay = Relay::on_with(&redis, &file, &flags).await;
    let payloads: Vec<_> = (1..=800).map(|reader| payload(reader, 5, 1)).collect();
    publish(&redis, &payloads).await;
    let total = "markread_relay_dead_letters_total";
    eventually("all are dead letters", Duration::from_secs(90), async || {
        (relay.metric(total, &[]).await == 400.0).then_some(())
    })
    .await;
    // Redis trims whole nodes of at most 100 entries.
    assert!((100..=201).contains(&letters(&redis).await.len()));
}
