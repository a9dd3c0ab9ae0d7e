//! Entries of other programs in the stream, and a tail that cannot be read.

use std::time::Duration;

use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};

use super::LIMIT;
use super::watcher::{Watcher, ids};

const STREAM: &str = "direct_message_mark_read_events";
const FOREIGN: &str = "markread_stream_foreign_entries_total";
const LAG: &str = "markread_watch_tail_lag_seconds";

/// Appends an entry with these fields. Returns its ID.
async fn add(redis: &Redis, fields: &[(&[u8], &[u8])]) -> String {
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*");
    for (name, value) in fields {
        add.arg(*name).arg(*value);
    }
    add.query_async(&mut redis.connection().await).await.unwrap()
}

#[tokio::test]
async fn foreign_entries_of_any_kind_are_skipped_counted_and_logged_once() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut watcher, _) = Watcher::open(&server, READER).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 1));
    let payload = redis.payloads().await.remove(0);
    let event = payload.as_bytes();
    let numbers = payload.replace("\"1\"", "1");
    let large = vec![b'x'; 3 << 20];
    let many: Vec<_> = (0..5_000).map(|n: u32| n.to_be_bytes()).collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|name| (&name[..], &b"\xff"[..])).collect();
    let foreign: [&[(&[u8], &[u8])]; 12] = [
        &[(b"name", b"caf\xe9")],
        &[(b"caf\xe9", b"x")],
        &[(b"", b"")],
        &[(b"payload", b"caf\xe9")],
        &[(b"payload", b"")],
        &[(b"payload", b"[]")],
        &[(b"payload", b"{\"direct_message_mark_read_events\":[]}")],
        &[(b"payload", numbers.as_bytes())],
        &[(b"payload", &event[1..])],
        &[(b"Payload", event)],
        &[(b"payload", &large)],
        &many,
    ];
    for fields in foreign {
        add(&redis, fields).await;
    }
    // A good payload is heard, whatever is beside it.
    let mixed = add(&redis, &[(b"caf\xe9", b"\xff\0"), (b"payload", event), (b"x", b"\xe9")]).await;
    assert_eq!(watcher.event().await.id, mixed);
    caller.mark(RECIPIENT, 2).await.unwrap();
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 2));
    assert_eq!(server.metric(FOREIGN).await, Some(12.0));

    // A server that starts on them hears the rest too, and resumes.
    let later = Server::on(&redis).await;
    let mut back = Watcher::after(&later, READER, "0-0").await;
    for message in [1, 1, 2] {
        assert_eq!(ids(&back.event().await), (READER, RECIPIENT, message));
    }
    add(&redis, &[(b"\xff", b"\xff")]).await;
    caller.mark(RECIPIENT, 3).await.unwrap();
    assert_eq!(ids(&back.event().await), (READER, RECIPIENT, 3));
    for server in [&server, &later] {
        assert_eq!(server.metric(FOREIGN).await, Some(13.0));
        let log = server.log();
        let lines: Vec<_> =
            log.iter().filter(|line| line.contains("no mark-read events")).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(!lines[0].contains("caf"), "{lines:?}");
    }
    // The harness holds what is left against the schema.
    redis.run::<()>("FLUSHALL").await;
}

#[tokio::test]
async fn large_foreign_entries_do_not_stop_the_tail() {
    let redis = Redis::start().await;
    let (server, other) = (Server::on(&redis).await, Server::on(&redis).await);
    let (mut watcher, _) = Watcher::open(&server, READER).await;
    for message in 1..=20 {
        other.caller(READER).mark(RECIPIENT, message).await.unwrap();
        watcher.event().await;
    }
    let large = vec![b'x'; 1 << 20];
    for _ in 0..100 {
        add(&redis, &[(b"x", &large)]).await;
    }
    other.caller(READER).mark(RECIPIENT, 21).await.unwrap();
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 21));
    assert_eq!(server.metric(FOREIGN).await, Some(100.0));
}

#[tokio::test]
async fn a_stream_of_another_type_is_waited_out() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut watcher, place) = Watcher::open(&server, READER).await;
    let caller = server.caller(READER);
    redis.run::<()>(&format!("LPUSH {STREAM} x")).await;
    // Nothing can be known of it but that nothing is read.
    eventually("it is measured", LIMIT, async || (server.metric(LAG).await? >= 3.0).then_some(()))
        .await;
    redis.run::<()>(&format!("DEL {STREAM}")).await;
    eventually("it is over", LIMIT, async || (server.metric(LAG).await? == 0.0).then_some(()))
        .await;
    caller.mark(RECIPIENT, 1).await.unwrap();
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 1));
    let mut back = Watcher::after(&server, READER, &place).await;
    assert_eq!(ids(&back.event().await), (READER, RECIPIENT, 1));
}

#[tokio::test]
async fn a_tail_that_stands_still_is_measured_and_logged() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut watcher, _) = Watcher::open(&server, READER).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    watcher.event().await;
    redis.run::<()>("ACL SETUSER default -xread").await;
    caller.mark(RECIPIENT, 2).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    // The read that was under way may have returned it.
    caller.mark(RECIPIENT, 3).await.unwrap();
    let log = || server.log().join("\n").contains("the event log cannot be read");
    eventually("it is measured and logged", LIMIT, async || {
        (server.metric(LAG).await? >= 3.0 && log()).then_some(())
    })
    .await;
    redis.run::<()>("ACL SETUSER default +xread").await;
    while ids(&watcher.event().await).2 < 3 {}
    eventually("it is over", LIMIT, async || (server.metric(LAG).await? == 0.0).then_some(()))
        .await;
}
