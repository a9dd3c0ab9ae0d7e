//! Single marks have a short script, which leaves rare ones to the script that does everything. Whichever
//! does a mark: the outcome is the same, and what is in Redis too.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use markread::domain::{Mark, Outcome, RateLimit};
use markread::store::MarkResult;
use markread::telemetry::Traceparent;
use markread_harness::Redis;
use tokio::task::JoinSet;

use crate::stores::{Subject, mark};

const LIMIT: RateLimit = RateLimit { calls: 100, window_ms: 3_600_000 };

/// When the cursors of readers who have no buckets advanced last, before the marks.
const SET_MS: u64 = 77;

/// The readers of the marks here.
const READERS: [u64; 3] = [1, 2, 3];

/// A result without what depends on the clock.
fn timeless(result: &MarkResult) -> String {
    match result {
        Ok(Outcome::Advanced { cursor, quota }) => {
            format!("advanced to {} left {}", cursor.last_read_event_id, quota.remaining)
        }
        Ok(Outcome::Unchanged { cursor, quota }) => {
            let (message, is_set) = (cursor.last_read_event_id, cursor.read_at_ms == SET_MS);
            format!("unchanged at {message}, set: {is_set}, left {}", quota.remaining)
        }
        Ok(Outcome::OverQuota { .. }) => "over quota".to_owned(),
        // The line of a script differs, the error does not.
        Err(error) => format!("{:?}: {error}", error.kind).split(" script").next().unwrap().into(),
    }
}

/// What marks left in Redis.
#[derive(Debug, Default, PartialEq)]
struct Left {
    events: Vec<(u64, u64, u64)>,
    /// The messages of all recipients of each reader.
    cursors: Vec<BTreeMap<String, String>>,
    in_buckets: Vec<bool>,
    quotas: Vec<Option<Vec<u8>>>,
    has_expiry: Vec<bool>,
}

async fn left(redis: &Redis) -> Left {
    let mut left = Left::default();
    if is_of(redis, "direct_message_mark_read_events", "stream").await {
        left.events = redis.events().await;
        // Events of different readers have no order that is promised.
        left.events.sort_by_key(|(reader, ..)| *reader);
    }
    for reader in READERS {
        let keys: Vec<String> = redis.run(&format!("KEYS markread:cursors:{reader}*")).await;
        left.in_buckets.push(keys.len() > 1);
        let mut cursors = BTreeMap::new();
        for key in keys {
            if is_of(redis, &key, "hash").await {
                cursors.extend(redis.run::<HashMap<_, _>>(&format!("HGETALL {key}")).await);
            }
        }
        cursors.retain(|field: &String, _: &mut String| field.parse::<u64>().is_ok());
        left.cursors.push(cursors);
        left.quotas.push(redis.run(&format!("DUMP markread:quota:{reader}")).await);
        let ttl_ms: i64 = redis.run(&format!("PTTL markread:quota:{reader}")).await;
        left.has_expiry.push(ttl_ms > 0);
    }
    left
}

async fn is_of(redis: &Redis, key: &str, kind: &str) -> bool {
    redis.run::<String>(&format!("TYPE {key}")).await == kind
}

/// What is in Redis before the marks: `full` conversations of reader 2 and two of reader 1, and what these
/// commands change.
struct Before {
    conversations: u64,
    commands: &'static [&'static str],
}

/// Does the marks in one call, by way of the short script or by the full one alone. Returns the results,
/// what is left, and how many script calls it took.
async fn done(
    redis: &Arc<Redis>,
    before: &Before,
    marks: &[Mark],
    full_only: bool,
) -> (Vec<String>, Left, u64) {
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    redis.run::<()>("FLUSHALL").await;
    let subject = Subject::on(Arc::clone(redis), LIMIT).await;
    if full_only {
        subject.use_full_script_only();
    }
    for (reader, conversations) in [(1, 2), (2, before.conversations)] {
        let marks: Vec<_> = (1..=conversations).map(|to| mark(reader, to, 5)).collect();
        subject.store().mark_read_all(&marks, None).await.unwrap();
        for marked in 1..=conversations {
            let time = format!("HSET markread:cursors:{reader} -{marked} {SET_MS}");
            if redis.buckets(reader).await == 0 {
                redis.run::<()>(&time).await;
            }
        }
    }
    redis.run::<()>("DEL markread:quota:1 markread:quota:2 direct_message_mark_read_events").await;
    // The store knows the buckets of its reader from here on, if there are any.
    if before.conversations > 64 {
        subject.mark_one(mark(2, 1, 4)).await;
    }
    for command in before.commands {
        redis.run::<redis::Value>(command).await;
    }
    let calls = redis.calls("evalsha").await;
    let results = subject.store().mark_read_all(marks, None).await;
    let results = results.unwrap_or_else(|all| vec![Err(all); marks.len()]);
    let calls = redis.calls("evalsha").await - calls;
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    (results.iter().map(timeless).collect(), left(redis).await, calls)
}

/// The same marks, by both ways: equal in all but the number of script calls.
async fn assert_done_alike(
    redis: &Arc<Redis>,
    what: &str,
    before: Before,
    marks: &[Mark],
    expected_calls: u64,
) -> Vec<String> {
    let (full_results, full_left, _) = done(redis, &before, marks, true).await;
    let (results, left, calls) = done(redis, &before, marks, false).await;
    assert_eq!(results, full_results, "{what}");
    assert_eq!(left, full_left, "{what}");
    assert_eq!(calls, expected_calls, "{what}: {results:?}");
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_usual_mark_is_one_script_call() {
    let redis = Arc::new(Redis::start().await);
    let few = |commands| Before { conversations: 3, commands };
    let quotas: &[&str] = &["SET markread:quota:1 7 PX 90000", "SET markread:quota:2 99 PX 90000"];
    let cases = [
        ("an advance", few(quotas), mark(2, 1, 6)),
        ("an older message", few(quotas), mark(2, 1, 4)),
        ("the same message", few(quotas), mark(2, 1, 5)),
        ("a window's first mark", few(&[]), mark(2, 1, 6)),
        ("a window's first mark, a no-op", few(&[]), mark(2, 1, 5)),
        ("a conversation's first mark", few(quotas), mark(2, 70, 6)),
        ("a reader's first mark", few(&[]), mark(3, 70, 6)),
        ("a mark to oneself", few(quotas), mark(2, 2, 6)),
        ("the 64th conversation", Before { conversations: 63, commands: &[] }, mark(2, 64, 6)),
        ("one of a few buckets", Before { conversations: 90, commands: &[] }, mark(2, 77, 6)),
        ("a no-op in a bucket", Before { conversations: 90, commands: &[] }, mark(2, 77, 5)),
    ];
    for (what, before, marked) in cases {
        assert_done_alike(&redis, what, before, &[marked], 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rare_mark_is_done_by_the_full_script_and_the_others_by_the_short_one() {
    let redis = Arc::new(Redis::start().await);
    let few = |commands| Before { conversations: 3, commands };
    let many = |conversations| Before { conversations, commands: &[] };
    let cases = [
        ("a hash that is full", many(64), 65),
        ("a first mark in buckets", many(90), 91),
        ("a quota used up", few(&["SET markread:quota:2 100 PX 90000"]), 1),
        ("a quota overrun", few(&["SET markread:quota:2 1000 PX 90000"]), 1),
        ("a quota without expiry", few(&["SET markread:quota:2 7"]), 1),
        ("a quota of text", few(&["SET markread:quota:2 x PX 90000"]), 1),
        ("a negative quota", few(&["SET markread:quota:2 -1 PX 90000"]), 1),
        ("a quota of a wrong type", few(&["HSET markread:quota:2 x 1"]), 1),
        ("a cursor of text", few(&["HSET markread:cursors:2 1 !"]), 1),
        ("a cursor that is empty", few(&["HSET markread:cursors:2 1 0"]), 1),
        ("a number of buckets that is invalid", few(&["HSET markread:cursors:2 buckets x"]), 9),
        ("a stream of a wrong type", few(&["SET direct_message_mark_read_events x"]), 1),
        ("a full Redis", few(&["CONFIG SET maxmemory 1"]), 1),
        (
            "a full Redis and a quota used up",
            few(&["SET markread:quota:2 100 PX 90000", "CONFIG SET maxmemory 1"]),
            1,
        ),
        (
            "a new window and a stream of a wrong type",
            few(&["DEL markread:quota:2", "SET direct_message_mark_read_events x"]),
            1,
        ),
    ];
    for (what, before, recipient) in cases {
        let marks = [mark(1, 1, 6), mark(2, recipient, 6), mark(1, 2, 4), mark(2, 2, 5)];
        assert_done_alike(&redis, what, before, &marks, 2).await;
    }
    for (what, commands) in [
        ("no-op on a cursor without time", &["HDEL markread:cursors:2 -1"]),
        ("no-op on a cursor with a bad time", &["HSET markread:cursors:2 -1 x"]),
        ("no-op on a cursor past the last ID", &["HSET markread:cursors:2 1 9223372036854775808"]),
        ("no-op on a cursor that is a text", &["HSET markread:cursors:2 1 x"]),
        ("cursors of a wrong type", &["SET markread:cursors:2 x"]),
    ] {
        let marks = [mark(1, 1, 6), mark(2, 1, 5), mark(1, 2, 4)];
        assert_done_alike(&redis, what, few(commands), &marks, 2).await;
    }
}

/// The first mark needs a bucket, and takes the last call of the quota: the second, which alone would not
/// be rare, is behind it.
#[tokio::test(flavor = "multi_thread")]
async fn marks_of_a_reader_keep_their_order_behind_a_rare_one() {
    let redis = Arc::new(Redis::start().await);
    let before = || Before { conversations: 64, commands: &["SET markread:quota:2 99 PX 90000"] };
    let marks = [mark(1, 1, 6), mark(2, 65, 6), mark(1, 2, 6), mark(2, 1, 6), mark(1, 1, 7)];
    let results = assert_done_alike(&redis, "the last call", before(), &marks, 2).await;
    let expected = ["advanced to 6 left 99", "advanced to 6 left 0", "advanced to 6 left 98"];
    assert_eq!(results[..3], expected);
    assert_eq!(results[3..], ["over quota", "advanced to 7 left 97"]);
}

/// A server that has seen a reader's buckets looks in one of them first. Another server has split it since.
#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_split_meanwhile_is_found_by_the_full_script() {
    const MANY: RateLimit = RateLimit { calls: 100_000, ..LIMIT };
    for version in [1, 2] {
        let redis = crate::placement::redis_of(version).await;
        let [stale, other] =
            [Subject::on(redis.clone(), MANY).await, Subject::on(redis.clone(), MANY).await];
        let marks = |to: std::ops::RangeInclusive<u64>, message| {
            to.map(|to| mark(2, to, message)).collect::<Vec<_>>()
        };
        other.store().mark_read_all(&marks(1..=80, 5), None).await.unwrap();
        stale.mark_one(mark(2, 1, 6)).await;
        other.store().mark_read_all(&marks(81..=400, 5), None).await.unwrap();
        let calls = redis.calls("evalsha").await;
        for marked in marks(1..=80, 7) {
            let outcome = stale.mark_one(marked).await;
            assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
        }
        let calls = redis.calls("evalsha").await - calls;
        // The first mark whose bucket was split tells the server the number of buckets.
        assert!((81..84).contains(&calls), "version {version}: {calls} calls");
        let cursors = redis.cursors(2).await;
        assert!((1..=80).all(|to| cursors[&to] == 7) && cursors.len() == 400);
        assert_eq!(redis.used(2).await, Some(481));
    }
}

/// A server that has seen a reader's buckets looks in one of them, also once the reader was erased.
#[tokio::test(flavor = "multi_thread")]
async fn the_buckets_of_a_reader_that_was_erased_are_forgotten() {
    let redis = Arc::new(Redis::start().await);
    let subject = Subject::on(redis.clone(), LIMIT).await;
    let marks: Vec<_> = (1..=80).map(|to| mark(2, to, 5)).collect();
    subject.store().mark_read_all(&marks, None).await.unwrap();
    subject.mark_one(mark(2, 1, 6)).await;
    redis.run::<()>("FLUSHDB").await;
    for (message, expected_calls) in [(5, 2..=3), (6, 1..=1), (7, 1..=1)] {
        let calls = redis.calls("evalsha").await;
        let outcome = subject.mark_one(mark(2, 1, message)).await;
        assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
        let calls = redis.calls("evalsha").await - calls;
        assert!(expected_calls.contains(&calls), "message {message}: {calls} calls");
    }
}

/// The first mark after a flush finds it, and a layout of another version is left alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_mark_sees_the_layout() {
    let redis = Arc::new(Redis::start().await);
    let few = |commands| Before { conversations: 3, commands };
    let (missing, other) = (&["DEL markread:layout"], &["HSET markread:layout version 7"]);
    let (first, known) = ([mark(2, 70, 6)], [mark(2, 1, 6)]);
    let results = assert_done_alike(&redis, "no layout", few(missing), &first, 3).await;
    assert!(results[0].starts_with("advanced"), "{results:?}");
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "2");
    let results = assert_done_alike(&redis, "another layout", few(other), &first, 2).await;
    assert!(!results[0].starts_with("advanced"), "{results:?}");
    let results = assert_done_alike(&redis, "a cursor that is there", few(other), &known, 1).await;
    assert!(results[0].starts_with("advanced"), "{results:?}");
}

/// Marks that share a script call, some with a trace.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_carries_the_trace_of_its_own_mark() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("traceparent".parse().unwrap(), TRACE.parse().unwrap())].into_iter().collect();
    let traceparent = Traceparent::from_headers(&headers);
    let redis = Arc::new(Redis::start().await);
    let subject = Subject::on(redis.clone(), LIMIT).await;
    redis.freeze();
    let mut marks = JoinSet::new();
    for reader in 1..=20 {
        let (store, traceparent) = (subject.store(), traceparent.filter(|_| reader % 2 == 0));
        marks.spawn(async move { store.mark_read(mark(reader, 1, 5), traceparent).await.unwrap() });
    }
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    redis.thaw();
    marks.join_all().await;
    assert!(redis.calls("evalsha").await < 20);
    for fields in redis.entries().await {
        let [(_, payload), traces @ ..] = &fields[..] else { panic!("{fields:?}") };
        let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
        let reader = &payload["direct_message_mark_read_events"][0]["sender_id"];
        let reader: u64 = reader.as_str().unwrap().parse().unwrap();
        let expected =
            reader.is_multiple_of(2).then(|| ("traceparent".to_owned(), TRACE.to_owned()));
        assert_eq!(traces, expected.as_slice(), "{fields:?}");
    }
    assert_eq!(redis.events().await.len(), 20);
}
