//! The embedded store and a real Redis are twins: the same marks give equal answers, cursors and
//! events.

use std::collections::BTreeMap;
use std::sync::Arc;

use markread::domain::{Conversation, Mark, Outcome, RateLimit, ReadOutcome, UserId};
use markread::store::redis::{LayoutAdmin, RedisAddress, RedisFiles, RedisMode};
use markread_harness::{Redis, RedisCluster};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::stores::{Subject, mark};

const LIMIT: RateLimit = RateLimit { calls: 12, window_ms: 3_600_000 };

/// IDs around every edge where a comparison may fail.
fn ids() -> impl Strategy<Value = u64> {
    let max = i64::MAX.cast_unsigned();
    prop_oneof![
        1..=20_u64,
        95..=105_u64,
        (1_u64 << 53) - 2..=(1_u64 << 53) + 2,
        8_754_578_330_382_663_740..=8_754_578_330_382_663_745_u64,
        999_999_999_999_999_998..=1_000_000_000_000_000_001_u64,
        max - 3..=max,
    ]
}

/// Lists of marks of a few readers, who are recipients of each other and of themselves.
fn lists() -> impl Strategy<Value = Vec<Vec<Mark>>> {
    let users = || prop_oneof![Just(7_u64), Just(70), Just(i64::MAX.cast_unsigned())];
    let marks = (users(), users(), ids()).prop_map(|(reader, to, id)| mark(reader, to, id));
    prop::collection::vec(prop::collection::vec(marks, 1..6), 1..20)
}

/// What is stored for each user: nothing, an object, or garbage.
fn stored() -> impl Strategy<Value = Vec<(u64, &'static [u8])>> {
    let values: [&[u8]; 8] = [
        b"",
        b"{}",
        b" {\"id\": 7}\n",
        b"{\"a\":[{\"b\":\"\xc3\xa9\"}]}",
        b"[]",
        b"{",
        b"\xff",
        b"{}{}",
    ];
    let value = || prop::sample::select(values.to_vec());
    (value(), value(), value())
        .prop_map(|(a, b, c)| vec![(7, a), (70, b), (i64::MAX.cast_unsigned(), c)])
}

/// An answer without what depends on the clock.
fn timeless(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Advanced { cursor, quota } => {
            format!("advanced to {} left {}", cursor.last_read_event_id, quota.remaining)
        }
        Outcome::Unchanged { cursor, quota } => {
            format!("unchanged at {} left {}", cursor.last_read_event_id, quota.remaining)
        }
        Outcome::OverQuota { quota, .. } => format!("over quota of {}", quota.limit),
    }
}

/// A payload without its time, and the time.
fn without_time(payload: &str) -> (String, u64) {
    const BEFORE: &str = r#"{"direct_message_mark_read_events":[{"created_timestamp":""#;
    let rest = payload.strip_prefix(BEFORE).expect(payload);
    let (time, rest) = rest.split_once('"').unwrap();
    (rest.to_owned(), time.parse().unwrap())
}

/// The results of a sequence.
#[derive(Clone, Debug, PartialEq)]
struct Result {
    answers: Vec<String>,
    events: Vec<String>,
    cursors: BTreeMap<(u64, u64), u64>,
    read: Vec<Option<u64>>,
    listed: BTreeMap<u64, Vec<u64>>,
}

impl Result {
    /// The same with each reader's events together, since readers in two partitions have no order.
    fn by_reader(mut self) -> Self {
        self.events.sort_by_key(|event| event.split(r#""last_read"#).next().map(str::to_owned));
        self
    }
}

/// Runs the lists, and asserts that the times in answers and events agree, and that a no-op answers
/// the time of its advance.
async fn run(subject: &Subject, lists: &[Vec<Mark>], stored: &[(u64, &[u8])]) -> Result {
    for (user, value) in stored {
        subject.put_user(*user, value).await;
    }
    let mut answers = Vec::new();
    let mut times = Vec::new();
    let mut known = BTreeMap::new();
    // In a cluster a list is of one reader, as all of the service's are.
    let of_one = matches!(subject, Subject::Cluster { .. });
    let lists = lists
        .iter()
        .flat_map(|marks| marks.chunk_by(move |one, next| !of_one || one.reader == next.reader));
    for marks in lists {
        let outcomes = match marks[..] {
            [mark] => vec![subject.store().mark_read(mark, None).await],
            _ => subject.store().mark_read_all(marks, None).await.unwrap(),
        };
        for (mark, outcome) in marks.iter().zip(outcomes) {
            let outcome = outcome.unwrap();
            answers.push(timeless(&outcome));
            let (Outcome::Advanced { cursor, .. } | Outcome::Unchanged { cursor, .. }) = outcome
            else {
                continue;
            };
            assert_eq!(cursor.recipient, mark.recipient);
            let before = known.insert((mark.reader, mark.recipient), cursor);
            match outcome {
                Outcome::Advanced { .. } => times.push(cursor.read_at_ms),
                _ => assert_eq!(before, Some(cursor), "a no-op answers the cursor as it was set"),
            }
        }
    }
    let events: Vec<_> = subject.payloads().await.iter().map(|json| without_time(json)).collect();
    let mut event_times: Vec<_> = events.iter().map(|(_, time)| *time).collect();
    if matches!(subject, Subject::Cluster { .. }) {
        // Partitions do their marks of a list at the same time.
        event_times.sort_unstable();
        times.sort_unstable();
    }
    assert_eq!(event_times, times);
    let events = events.into_iter().map(|(event, _)| event).collect();

    let mut cursors = BTreeMap::new();
    for &(reader, recipient) in known.keys() {
        let message = subject.cursor(reader, recipient).await.unwrap();
        cursors.insert((reader.get(), recipient.get()), message);
    }
    let (read, listed) = read_all(subject, &cursors).await;
    Result { answers, events, cursors, read, listed }
}

/// Reads the state of every pair of users, and all pages.
async fn read_all(
    subject: &Subject,
    cursors: &BTreeMap<(u64, u64), u64>,
) -> (Vec<Option<u64>>, BTreeMap<u64, Vec<u64>>) {
    let users = [7, 70, i64::MAX.cast_unsigned()].map(|id: u64| UserId::try_from(id).unwrap());
    let pairs = users
        .iter()
        .flat_map(|&reader| users.iter().map(move |&recipient| Conversation { reader, recipient }));
    let pairs: Vec<_> = pairs.collect();
    let outcome = subject.store().read_states(users[0], &pairs).await.unwrap();
    let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
    let read: Vec<_> =
        read.iter().map(|cursor| cursor.map(|cursor| cursor.last_read_event_id.get())).collect();
    for (pair, message) in pairs.iter().zip(&read) {
        assert_eq!(cursors.get(&(pair.reader.get(), pair.recipient.get())), message.as_ref());
    }
    let mut listed = BTreeMap::new();
    for reader in users {
        let (mut all, mut after) = (Vec::new(), None);
        loop {
            let outcome = subject.store().list_cursors(reader, after, 2).await.unwrap();
            let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
            after = read.next;
            all.extend(read.cursors.iter().map(|cursor| cursor.recipient.get()));
            if after.is_none() {
                break;
            }
        }
        // Each store has its own order.
        all.sort_unstable();
        listed.insert(reader.get(), all);
    }
    (read, listed)
}

/// Empties Redis, and lets the next store find this version of the layout.
async fn empty(redis: &Redis, version: u8) {
    redis.run::<()>("FLUSHALL").await;
    if version == 1 {
        redis.run::<()>("HSET markread:layout version 1 partitions 1").await;
    }
}

#[test]
fn the_embedded_store_and_redis_are_twins() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = Arc::new(runtime.block_on(Redis::start()));
    let config = Config { cases: 200, failure_persistence: None, ..Config::default() };
    let held = TestRunner::new(config).run(&(lists(), stored()), |(lists, stored)| {
        runtime.block_on(async {
            let in_memory = run(&Subject::memory(LIMIT), &lists, &stored).await;
            for (version, full_only) in [(1, false), (1, true), (2, false), (2, true)] {
                empty(&redis, version).await;
                // A new store for each case, since a store caches users and denials.
                let subject = Subject::on(Arc::clone(&redis), LIMIT).await;
                if full_only {
                    subject.use_full_script_only();
                }
                let on_redis = run(&subject, &lists, &stored).await;
                let way = (version, full_only);
                prop_assert_eq!(&on_redis, &in_memory, "layout version, full script: {:?}", way);
                let found: String = redis.run("HGET markread:layout version").await;
                prop_assert_eq!(found, version.to_string());
            }
            Ok(())
        })
    });
    held.unwrap();
}

#[test]
fn the_embedded_store_and_a_cluster_are_twins() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cluster = Arc::new(runtime.block_on(RedisCluster::start(3, 0)));
    let config = Config { cases: 8, failure_persistence: None, ..Config::default() };
    let held = TestRunner::new(config).run(&(lists(), stored()), |(lists, stored)| {
        runtime.block_on(async {
            let in_memory = run(&Subject::memory(LIMIT), &lists, &stored).await;
            for full_only in [false, true] {
                cluster.flush().await;
                let subject = Subject::on_cluster(Arc::clone(&cluster), LIMIT).await;
                if full_only {
                    subject.use_full_script_only();
                }
                let on_cluster = run(&subject, &lists, &stored).await;
                prop_assert_eq!(on_cluster.by_reader(), in_memory.clone().by_reader());
            }
            Ok(())
        })
    });
    held.unwrap();
}

/// Marks of one reader in many conversations, some of them batches; the recipients are picked to share
/// buckets of the plain placement, or not.
fn many() -> impl Strategy<Value = Vec<Vec<Mark>>> {
    let recipient = prop_oneof![
        1..400_u64,
        (0..400_u64).prop_map(|n| 1 + n * 2_147_483_647),
        (0..400_u64).prop_map(|n| 1 + n * 256 * 2_147_483_647),
        Just(i64::MAX.cast_unsigned()),
    ];
    let mark = (recipient, 1..5_u64).prop_map(|(to, id)| mark(7, to, id));
    let batch = prop_oneof![1..2_usize, 2..10_usize, 50..150_usize];
    let marks = batch.prop_flat_map(move |size| prop::collection::vec(mark.clone(), size));
    prop::collection::vec(marks, 1..20)
}

/// The upgrade comes before the list of this number; past the last one there is none.
#[test]
fn the_twins_agree_on_many_conversations_before_and_after_an_upgrade() {
    const MANY: RateLimit = RateLimit { calls: 1_000_000, ..LIMIT };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let redis = Arc::new(runtime.block_on(Redis::start()));
    let address = RedisAddress::new(&redis.url(), None, RedisFiles::default()).unwrap();
    let mode = RedisMode::Standalone(address);
    let config = Config { cases: 60, failure_persistence: None, ..Config::default() };
    let held =
        TestRunner::new(config).run(&(many(), 1..3_u8, 0..20_usize, any::<bool>()), |case| {
            let (lists, version, upgrade_before, full_only) = case;
            runtime.block_on(async {
                let in_memory = Subject::memory(MANY);
                empty(&redis, version).await;
                let on_redis = Subject::on(Arc::clone(&redis), MANY).await;
                if full_only {
                    on_redis.use_full_script_only();
                }
                for (n, marks) in lists.iter().enumerate() {
                    if n == upgrade_before {
                        LayoutAdmin::connect(&mode).await.unwrap().upgrade().await.unwrap();
                    }
                    let mut answers = Vec::new();
                    for subject in [&in_memory, &on_redis] {
                        let outcomes = subject.store().mark_read_all(marks, None).await.unwrap();
                        let timeless =
                            outcomes.iter().map(|outcome| timeless(outcome.as_ref().unwrap()));
                        answers.push(timeless.collect::<Vec<_>>());
                    }
                    prop_assert_eq!(&answers[0], &answers[1], "list {}", n);
                }
                let mut expected = BTreeMap::new();
                for mark in lists.iter().flatten() {
                    let known = expected.entry(mark.recipient.get()).or_default();
                    *known = mark.last_read_event_id.get().max(*known);
                }
                prop_assert_eq!(&listed(&on_redis, 30).await, &expected);
                let in_redis = redis.cursors(7).await;
                prop_assert_eq!(&in_redis.into_iter().collect::<BTreeMap<_, _>>(), &expected);
                Ok(())
            })
        });
    held.unwrap();
}

/// The message of each recipient on all pages of reader 7.
async fn listed(subject: &Subject, limit: usize) -> BTreeMap<u64, u64> {
    let reader = UserId::try_from(7).unwrap();
    let (mut all, mut after) = (BTreeMap::new(), None);
    loop {
        let outcome = subject.store().list_cursors(reader, after, limit).await.unwrap();
        let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
        for cursor in read.cursors {
            let other = all.insert(cursor.recipient.get(), cursor.last_read_event_id.get());
            assert_eq!(other, None, "a cursor is on one page only");
        }
        after = read.next;
        if after.is_none() {
            return all;
        }
    }
}
