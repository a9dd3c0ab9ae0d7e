//! How Redis stores cursors: "Redis" in `docs/contract.md`.

use std::sync::Arc;

use markread::domain::{Outcome, RateLimit};
use markread::store::StoreErrorKind;
use markread_harness::{MESSAGE, READER, Redis};

use crate::stores::{LIMIT, Subject, mark};

const MANY: RateLimit = RateLimit { calls: 1_000_000, ..LIMIT };

async fn subject() -> (Arc<Redis>, Subject) {
    let redis = Arc::new(Redis::start().await);
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    (redis, subject)
}

async fn mark_all(subject: &Subject, recipients: impl Iterator<Item = u64>) {
    let marks: Vec<_> = recipients.map(|to| mark(READER, to, MESSAGE)).collect();
    for marks in marks.chunks(500) {
        let outcomes = subject.store().mark_read_all(marks, None).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Ok(Outcome::Advanced { .. }))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_64_conversations_are_split_into_buckets() {
    let (redis, subject) = subject().await;
    let key = format!("markread:cursors:{READER}");
    mark_all(&subject, 1..=64).await;
    assert_eq!(redis.buckets(READER).await, 0);
    assert_eq!(redis.run::<u64>(&format!("HLEN {key}")).await, 128);

    for (known, until) in [(64, 65), (65, 500), (500, 5_000)] {
        mark_all(&subject, known + 1..=until).await;
        let buckets = redis.buckets(READER).await;
        assert_eq!(redis.run::<u64>(&format!("HLEN {key}")).await, 1, "only the number of buckets");
        let (mut all, mut largest) = (0, 0);
        for bucket in redis.bucket_keys(READER).await {
            let fields: u64 = redis.run(&format!("HLEN {bucket}")).await;
            let encoding: String = redis.run(&format!("OBJECT ENCODING {bucket}")).await;
            assert_eq!(encoding, "listpack", "{fields} fields");
            (all, largest) = (all + fields / 2, largest.max(fields / 2));
        }
        assert_eq!(all, until);
        assert!(largest <= 96, "{largest} of {until} cursors in one of {buckets} buckets");
        assert!(until / buckets >= 12, "{until} in {buckets} buckets");
        assert_eq!(redis.cursors(READER).await.len(), usize::try_from(until).unwrap());
    }
}

#[tokio::test]
async fn a_known_bucket_count_finds_a_conversation_at_once() {
    let (redis, subject) = subject().await;
    mark_all(&subject, 1..=1_000).await;
    // The first of these marks that does not find its conversation counts the buckets.
    for recipient in 1..=50 {
        subject.mark_one(mark(READER, recipient, MESSAGE + 1)).await;
    }
    let before = redis.calls("hget").await;
    for recipient in 1..=50 {
        let outcome = subject.mark_one(mark(READER, recipient, MESSAGE + 2)).await;
        assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
    }
    assert_eq!(redis.calls("hget").await - before, 50);
}

#[tokio::test]
async fn a_stale_bucket_count_does_no_harm() {
    let (redis, subject) = subject().await;
    mark_all(&subject, 1..=100).await;
    subject.mark_one(mark(READER, 1, MESSAGE + 1)).await;
    let counted = redis.buckets(READER).await;

    let other = Subject::on(Arc::clone(&redis), MANY).await;
    mark_all(&other, 101..=2_000).await;
    assert!(redis.buckets(READER).await > counted);
    for recipient in (1..=100).chain(2_001..=2_010) {
        let outcome = subject.mark_one(mark(READER, recipient, MESSAGE + 2)).await;
        assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
        let outcome = subject.mark_one(mark(READER, recipient, MESSAGE)).await;
        assert!(matches!(outcome, Outcome::Unchanged { .. }), "{outcome:?}");
    }
    let cursors = redis.cursors(READER).await;
    let further = cursors.values().filter(|message| **message == MESSAGE + 2).count();
    assert_eq!((cursors.len(), further), (2_010, 110));
    // No field is left in its old bucket.
    let mut fields = 0;
    for bucket in redis.bucket_keys(READER).await {
        fields += redis.run::<u64>(&format!("HLEN {bucket}")).await;
    }
    assert_eq!(fields, 2 * 2_010);

    // The same when the reader's conversations fit in one hash again.
    redis.run::<()>("FLUSHDB").await;
    subject.mark_one(mark(READER, 1, MESSAGE)).await;
    assert_eq!(redis.cursors(READER).await, [(1, MESSAGE)].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_bucket_leaves_the_mark_undone() {
    let (redis, subject) = subject().await;
    mark_all(&subject, 1..=64).await;
    let key = format!("markread:cursors:{READER}");
    redis.run::<()>(&format!("SET {key}:k1 x")).await;
    let events = redis.payloads().await.len();
    let used = redis.used(READER).await;
    for _ in 0..2 {
        let outcomes =
            subject.store().mark_read_all(&[mark(READER, 65, MESSAGE)], None).await.unwrap();
        let kind = outcomes.into_iter().next().unwrap().unwrap_err().kind;
        assert_eq!(kind, StoreErrorKind::Corrupt);
    }
    assert_eq!(redis.payloads().await.len(), events);
    assert_eq!(redis.used(READER).await, used);
    assert_eq!(redis.run::<u64>(&format!("HLEN {key}")).await, 128);
    // The other conversations are unchanged.
    subject.mark_one(mark(READER, 64, MESSAGE + 1)).await;
    redis.run::<()>(&format!("DEL {key}:k1")).await;
    subject.mark_one(mark(READER, 65, MESSAGE)).await;
    assert_eq!(redis.cursors(READER).await.len(), 65);
}
