//! Marks that fail in Redis: each alone, and completely.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use markread::domain::{Outcome, RateLimit};
use markread::store::{MarkResult, StoreErrorKind};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::load::RECOVERY;
use crate::answers::assert_store_unavailable;
use crate::stores::{Subject, mark};

const LIMIT: RateLimit = RateLimit { calls: 1_000_000, window_ms: 3_600_000 };
const STREAM: &str = "direct_message_mark_read_events";

async fn redis_with_store() -> (Arc<Redis>, Subject) {
    let redis = Arc::new(Redis::start().await);
    let subject = Subject::on(Arc::clone(&redis), LIMIT).await;
    (redis, subject)
}

fn advanced(result: &MarkResult) -> bool {
    matches!(result, Ok(Outcome::Advanced { .. }))
}

fn failed(result: &MarkResult, kind: StoreErrorKind) -> bool {
    result.as_ref().is_err_and(|error| error.kind == kind)
}

#[tokio::test]
async fn a_corrupt_key_fails_only_its_readers_marks() {
    const SPOILT: u64 = 2;
    let (redis, subject) = redis_with_store().await;
    for spoil in [
        "SET markread:cursors:2 x",
        "RPUSH markread:cursors:2 x",
        "HSET markread:cursors:2 9 x -9 1",
        "HSET markread:cursors:2 9 9223372036854775808 -9 1",
        "HSET markread:quota:2 x 1",
        "SET markread:quota:2 x",
        "SET markread:quota:2 007",
        "SET markread:quota:2 -1",
        "SET markread:quota:2 1.5",
        "SET markread:quota:2 9223372036854775807",
    ] {
        redis.run::<()>("FLUSHALL").await;
        redis.run::<()>(spoil).await;
        let key = spoil.split(' ').nth(1).unwrap();
        let before: Vec<u8> = redis.run(&format!("DUMP {key}")).await;

        let marks = [mark(1, 9, 7), mark(SPOILT, 9, 7), mark(3, 9, 7), mark(SPOILT, 9, 8)];
        let results = subject.store().mark_read_all(&marks, None).await.unwrap();
        assert!(advanced(&results[0]) && advanced(&results[2]), "{spoil}: {results:?}");
        for spoilt in [&results[1], &results[3]] {
            assert!(failed(spoilt, StoreErrorKind::Corrupt), "{spoil}: {results:?}");
        }
        assert_eq!(redis.events().await, [(1, 9, 7), (3, 9, 7)], "{spoil}");
        let after: Vec<u8> = redis.run(&format!("DUMP {key}")).await;
        assert_eq!(after, before, "{spoil}: the key is unchanged");
        let mut keys: Vec<String> = redis.run("KEYS *:2").await;
        keys.retain(|other| other != key);
        assert!(keys.is_empty(), "{spoil}: {keys:?}");
        for neighbour in [1, 3] {
            assert_eq!(redis.cursors(neighbour).await, [(9, 7)].into(), "{spoil}");
            assert_eq!(redis.used(neighbour).await, Some(1), "{spoil}");
        }
    }
}

#[tokio::test]
async fn a_cursor_without_its_time_fails_until_an_advance_repairs_it() {
    let (redis, subject) = redis_with_store().await;
    for spoil in ["HSET markread:cursors:2 9 5", "HSET markread:cursors:2 9 5 -9 x"] {
        redis.run::<()>("FLUSHALL").await;
        redis.run::<()>(spoil).await;
        let marks = [mark(2, 9, 5), mark(2, 9, 4), mark(2, 9, 6), mark(2, 9, 5)];
        let results = subject.store().mark_read_all(&marks, None).await.unwrap();
        assert!(failed(&results[0], StoreErrorKind::Corrupt), "{spoil}: {results:?}");
        assert!(failed(&results[1], StoreErrorKind::Corrupt), "{spoil}: {results:?}");
        assert!(advanced(&results[2]), "{spoil}: {results:?}");
        assert!(matches!(results[3], Ok(Outcome::Unchanged { .. })), "{spoil}: {results:?}");
        assert_eq!(redis.used(2).await, Some(2), "{spoil}");
    }
}

#[tokio::test]
async fn a_stream_of_a_wrong_type_fails_only_advances() {
    let (redis, subject) = redis_with_store().await;
    subject.mark_one(mark(1, 9, 7)).await;
    redis.run::<()>(&format!("SET {STREAM} x")).await;
    let marks = [mark(1, 9, 8), mark(1, 9, 7), mark(2, 9, 7)];
    let results = subject.store().mark_read_all(&marks, None).await.unwrap();
    assert!(failed(&results[0], StoreErrorKind::Corrupt), "{results:?}");
    assert!(matches!(results[1], Ok(Outcome::Unchanged { .. })), "{results:?}");
    assert!(failed(&results[2], StoreErrorKind::Corrupt), "{results:?}");
    assert_eq!(redis.cursors(1).await, [(9, 7)].into());
    assert_eq!(redis.used(1).await, Some(2));
    assert_eq!((redis.cursors(2).await.len(), redis.used(2).await), (0, None));
}

/// A list takes its quota at once; marks that fail or are denied return theirs.
#[tokio::test]
async fn quota_taken_by_failed_marks_is_returned() {
    let redis = Arc::new(Redis::start().await);
    let limit = RateLimit { calls: 6, ..LIMIT };
    let key = "markread:quota:2";
    for (there, used) in
        [("DEL KEY", None), ("SET KEY 0 PX 90000", Some(0)), ("SET KEY 5 PX 90000", Some(5))]
    {
        let subject = Subject::on(Arc::clone(&redis), limit).await;
        redis.run::<()>("FLUSHALL").await;
        redis.run::<redis::Value>(&there.replace("KEY", key)).await;
        redis.run::<()>(&format!("SET {STREAM} x")).await;
        let expires: i64 = redis.run(&format!("PEXPIRETIME {key}")).await;

        let marks = [mark(2, 7, 7), mark(2, 8, 7), mark(2, 7, 8)];
        let results = subject.store().mark_read_all(&marks, None).await.unwrap();
        assert!(
            results.iter().all(|result| failed(result, StoreErrorKind::Corrupt)),
            "{results:?}"
        );
        assert_eq!(redis.used(2).await, used, "{there}");
        assert_eq!(redis.run::<i64>(&format!("PEXPIRETIME {key}")).await, expires, "{there}");

        redis.run::<()>(&format!("DEL {STREAM}")).await;
        let marks: Vec<_> = (1..=10).map(|to| mark(2, to, 7)).collect();
        let results = subject.store().mark_read_all(&marks, None).await.unwrap();
        let served = results.iter().filter(|result| advanced(result)).count();
        assert_eq!(served, usize::try_from(6 - used.unwrap_or_default()).unwrap(), "{there}");
        assert_eq!(redis.used(2).await, Some(6), "{there}");
        assert_eq!(redis.cursors(2).await.len(), served, "{there}");
        if used.is_some() {
            assert_eq!(redis.run::<i64>(&format!("PEXPIRETIME {key}")).await, expires, "{there}");
        }
    }
}

#[tokio::test]
async fn a_full_redis_still_denies_readers_over_quota() {
    let redis = Arc::new(Redis::start().await);
    let subject = Subject::on(Arc::clone(&redis), RateLimit { calls: 3, ..LIMIT }).await;
    for (reader, used) in [(1, "2 PX 90000"), (2, "3 PX 90000"), (3, "3"), (4, "007")] {
        redis.run::<()>(&format!("SET markread:quota:{reader} {used}")).await;
    }
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    for reader in 1..=4 {
        let results = subject.store().mark_read_all(&[mark(reader, 9, 7)], None).await.unwrap();
        let is_over = matches!(results[0], Ok(Outcome::OverQuota { .. }));
        assert_eq!(is_over, reader == 2 || reader == 3, "{reader}: {results:?}");
        assert!(is_over || failed(&results[0], StoreErrorKind::Unavailable), "{results:?}");
    }
    let used: Vec<String> =
        redis.run("MGET markread:quota:1 markread:quota:2 markread:quota:3 markread:quota:4").await;
    assert_eq!(used, ["2", "3", "3", "007"]);
    let ttl_ms: i64 = redis.run("PTTL markread:quota:3").await;
    assert!(ttl_ms > 0, "a window without an expiry gets one");
    assert!(redis.cursors(1).await.is_empty());
}

/// A list's cursors are read before its first mark and written after its last one.
#[tokio::test]
async fn a_list_sees_its_own_marks_while_cursors_are_split() {
    let (redis, subject) = redis_with_store().await;
    let first: Vec<_> = (1..=60).map(|to| mark(2, to, 7)).collect();
    subject.store().mark_read_all(&first, None).await.unwrap();
    // Advances before and after the conversation that splits the hash into two buckets, then the
    // same again, then older messages, then newer ones.
    let again = |message| (50..=70).map(move |to| mark(2, to, message));
    let marks: Vec<_> = again(8).chain(again(8)).chain(again(7)).chain(again(9)).collect();
    let results = subject.store().mark_read_all(&marks, None).await.unwrap();
    let stands = |result: &MarkResult| match result {
        Ok(Outcome::Advanced { cursor, .. }) => (true, cursor.last_read_event_id.get()),
        Ok(Outcome::Unchanged { cursor, .. }) => (false, cursor.last_read_event_id.get()),
        _ => panic!("{result:?}"),
    };
    for (n, expected) in [(0, (true, 8)), (1, (false, 8)), (2, (false, 8)), (3, (true, 9))] {
        let results = &results[21 * n..21 * (n + 1)];
        assert!(results.iter().all(|result| stands(result) == expected), "{n}: {results:?}");
    }
    let expected: HashMap<_, _> = (1..=70).map(|to| (to, if to < 50 { 7 } else { 9 })).collect();
    assert_eq!(redis.cursors(2).await, expected);
    assert!(redis.buckets(2).await >= 2);
    assert_eq!(redis.events().await.len(), 60 + 2 * 21);
    assert_eq!(redis.used(2).await, Some(60 + 4 * 21));
}

#[tokio::test]
async fn a_redis_that_fills_up_leaves_no_mark_half_done() {
    const LISTS: u64 = 1000;
    let (redis, subject) = redis_with_store().await;
    let info: String = redis.run("INFO memory").await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    let used: u64 = used.parse().unwrap();
    redis.run::<()>(&format!("CONFIG SET maxmemory {}", used + 300_000)).await;

    let mut done: Vec<(u64, u64, u64)> = Vec::new();
    let mut refused = 0;
    for reader in 1..=LISTS {
        let marks: Vec<_> = (1..=20).map(|recipient| mark(reader, recipient, 7)).collect();
        for (recipient, result) in
            (1..=20).zip(subject.store().mark_read_all(&marks, None).await.unwrap())
        {
            if advanced(&result) {
                done.push((reader, recipient, 7));
            } else {
                assert!(failed(&result, StoreErrorKind::Unavailable), "{result:?}");
                refused += 1;
            }
        }
        if refused > 100 {
            break;
        }
    }
    assert!(!done.is_empty() && refused > 100, "{} done, {refused} refused", done.len());
    assert_eq!(redis.events().await, done);
    let readers = done.last().unwrap().0 + 5;
    for reader in 1..=readers {
        let expected = done.iter().filter(|event| event.0 == reader);
        let expected: HashMap<_, _> =
            expected.map(|&(_, recipient, message)| (recipient, message)).collect();
        let used = redis.used(reader).await.unwrap_or_default();
        assert_eq!(used, u64::try_from(expected.len()).unwrap());
        assert_eq!(redis.cursors(reader).await, expected);
    }
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_unavailable_and_unchanged() {
    for (setting, refuses, accepts, cause) in
        [("maxmemory", 1, 0, "OOM"), ("min-replicas-to-write", 1, 0, "NOREPLICAS")]
    {
        let redis = Redis::start().await;
        let server = Server::on(&redis).await;
        let caller = server.caller(READER);
        caller.mark(RECIPIENT, MESSAGE).await.unwrap();
        redis.run::<()>(&format!("CONFIG SET {setting} {refuses}")).await;
        for message in [MESSAGE + 1, MESSAGE] {
            assert_store_unavailable(&caller.mark(RECIPIENT, message).await.unwrap_err());
        }
        let other = server.caller(READER + 1);
        assert_store_unavailable(&other.mark(RECIPIENT, MESSAGE).await.unwrap_err());
        assert_eq!(redis.events().await, [(READER, RECIPIENT, MESSAGE)], "{cause}");
        assert_eq!(redis.used(READER).await, Some(1), "{cause}");
        assert_eq!(redis.used(READER + 1).await, None, "{cause}");
        let page = eventually("the server is not ready", Duration::from_secs(5), async || {
            let (status, page) = server.get("/readyz").await;
            (status == 503).then_some(page)
        })
        .await;
        assert!(page.contains(cause), "{page}");

        redis.run::<()>(&format!("CONFIG SET {setting} {accepts}")).await;
        let answer = eventually("calls are served", RECOVERY, async || {
            caller.mark(RECIPIENT, MESSAGE + 1).await.ok()
        })
        .await;
        assert!(answer.advanced, "{cause}");
        server.wait_until_ready().await;
    }
}

/// Redis does not read, and gets more than the sockets hold: what has not left the process before
/// it was abandoned never does.
#[tokio::test(flavor = "multi_thread")]
async fn marks_abandoned_in_the_queue_are_never_sent() {
    const LISTS: u64 = 400;
    let (redis, subject) = redis_with_store().await;
    // The user objects make each mark long, and cost Redis no time.
    let object = format!("{{\"a\":\"{}\"}}", "x".repeat(60_000));
    redis.put_user(RECIPIENT, object.as_bytes()).await;
    // Afterwards all users are cached. A list with unknown users would wait for them and send
    // nothing.
    let users = (1..=LISTS).chain([RECIPIENT]);
    let known: Vec<_> = users.map(|to| mark(LISTS + 1, to, MESSAGE)).collect();
    subject.store().mark_read_all(&known, None).await.unwrap();
    redis.freeze();
    let mut lists = JoinSet::new();
    for reader in 1..=LISTS {
        let store = subject.store();
        lists.spawn(async move {
            let mark = mark(reader, RECIPIENT, MESSAGE);
            timeout(Duration::from_millis(500), store.mark_read(mark, None)).await.is_err()
        });
    }
    assert!(lists.join_all().await.into_iter().all(|given_up| given_up));
    redis.thaw();
    redis.wait_until_up().await;

    // Sent later on the same connection, this mark is done after all the others that were sent.
    let last = mark(LISTS + 1, RECIPIENT, MESSAGE);
    let limit = Duration::from_secs(20);
    timeout(limit, subject.store().mark_read(last, None)).await.expect("served in time").unwrap();
    let sent = redis.calls("evalsha").await - 2;
    assert!((1..LISTS * 3 / 4).contains(&sent), "{sent} lists were sent");
    sleep(Duration::from_millis(500)).await;
    assert_eq!(redis.calls("evalsha").await, sent + 2);
}
