//! The two placements of conversations in buckets, and the way from one to the other: "Redis" in
//! `docs/contract.md`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use markread::domain::{ListPosition, Outcome, RateLimit, ReadOutcome, UserId};
use markread_harness::binary::command;
use markread_harness::{MESSAGE, READER, Redis};

use crate::stores::{LIMIT, Subject, mark};

mod access;
mod bounds;
mod layouts;
mod moves;

const MANY: RateLimit = RateLimit { calls: 1_000_000, ..LIMIT };

/// The n-th of recipients that all have the same plain hash.
pub(crate) fn picked(n: u64) -> u64 {
    1 + n * 2_147_483_647
}

/// A Redis with this version of the layout, and no cursors.
pub(crate) async fn redis_of(version: u8) -> Arc<Redis> {
    let redis = Redis::start().await;
    if version == 1 {
        redis.run::<()>("HSET markread:layout version 1 partitions 1").await;
    }
    Arc::new(redis)
}

/// A store of version 1 as the server of an earlier commit left it, with the cursors of each reader.
async fn frozen() -> (Arc<Redis>, HashMap<u64, HashMap<u64, u64>>) {
    let redis = Redis::start().await;
    let mut readers: HashMap<u64, HashMap<u64, u64>> = HashMap::new();
    for line in include_str!("layout_version_1.txt").lines().filter(|line| !line.starts_with('#')) {
        redis.run::<()>(line).await;
        let words: Vec<_> = line.split(' ').collect();
        let Some(key) = words[1].strip_prefix("markread:cursors:") else { continue };
        let reader = key.split(':').next().unwrap().parse().unwrap();
        let fields = words[2..].chunks(2);
        let cursors = fields.filter_map(|field| {
            Some((field[0].parse::<u64>().ok()?, field[1].parse::<u64>().unwrap()))
        });
        readers.entry(reader).or_default().extend(cursors);
    }
    (Arc::new(redis), readers)
}

/// Runs a command of `markread admin`. Returns its exit status and what it printed.
async fn admin(redis: &Redis, name: &str) -> (Option<i32>, String) {
    admin_at(&redis.url(), name).await
}

/// The same, on the Redis at this URL.
async fn admin_at(url: &str, name: &str) -> (Option<i32>, String) {
    let words = ["admin", name, "--redis-url", url];
    let output = command(&words).output().await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

/// Runs a command of `markread admin` that succeeds.
async fn administer(redis: &Redis, name: &str) -> String {
    let (status, text) = admin(redis, name).await;
    assert_eq!(status, Some(0), "{text}");
    text
}

/// Marks the same message in all of these conversations of a reader, in batches.
async fn mark_all(subject: &Subject, recipients: impl Iterator<Item = u64>) {
    let marks: Vec<_> = recipients.map(|to| mark(READER, to, MESSAGE)).collect();
    for marks in marks.chunks(500) {
        let outcomes = subject.store().mark_read_all(marks, None).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Advanced { .. }))));
    }
}

/// One page: its cursors, and the next position.
async fn page(
    subject: &Subject,
    reader: u64,
    after: Option<ListPosition>,
    limit: usize,
) -> (Vec<(u64, u64)>, Option<ListPosition>) {
    let reader = UserId::try_from(reader).unwrap();
    let outcome = subject.store().list_cursors(reader, after, limit).await.unwrap();
    let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
    assert!(read.cursors.len() <= limit);
    let cursor = |cursor: &markread::domain::ReadCursor| {
        (cursor.recipient.get(), cursor.last_read_event_id.get())
    };
    (read.cursors.iter().map(cursor).collect(), read.next)
}

/// All cursors from a position on, each of which is on one page only, and how many pages they are on.
async fn list(
    subject: &Subject,
    reader: u64,
    from: Option<ListPosition>,
    limit: usize,
) -> (BTreeMap<u64, u64>, usize) {
    let (mut all, mut after) = (BTreeMap::new(), from);
    for pages in 1.. {
        let (cursors, next) = page(subject, reader, after, limit).await;
        for (recipient, message) in cursors {
            assert_eq!(all.insert(recipient, message), None, "{recipient} is listed twice");
        }
        if next.is_none() {
            return (all, pages);
        }
        assert_ne!(next, after, "the next page is another");
        after = next;
    }
    unreachable!("pages come to an end")
}
