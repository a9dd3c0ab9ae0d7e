//! Readers are moved to the keyed placement, at their next mark, batch or page.

use super::*;

/// A store of version 1 with many conversations of one reader, which is then upgraded.
async fn upgraded(recipients: impl Iterator<Item = u64> + Clone) -> (Arc<Redis>, Subject) {
    let redis = redis_of(1).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    mark_all(&subject, recipients).await;
    let plain: u64 = redis.run(&format!("HGET markread:cursors:{READER} buckets")).await;
    assert!(plain > 1);
    administer(&redis, "upgrade-layout").await;
    (redis, subject)
}

async fn fields(redis: &Redis) -> Vec<String> {
    let mut fields: Vec<String> = redis.run(&format!("HKEYS markread:cursors:{READER}")).await;
    fields.sort();
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_move_their_reader_in_steps() {
    const CONVERSATIONS: u64 = 2_000;
    let (redis, subject) = upgraded(1..=CONVERSATIONS).await;
    let mut steps = 0;
    for to in (1..=CONVERSATIONS).rev() {
        let outcome = subject.mark_one(mark(READER, to, MESSAGE + 1)).await;
        assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
        let outcome = subject.mark_one(mark(READER, to, MESSAGE)).await;
        assert!(matches!(outcome, Outcome::Unchanged { .. }), "{outcome:?}");
        if fields(&redis).await == ["keyed_buckets"] {
            break;
        }
        steps += 1;
        if steps % 10 == 0 {
            assert_eq!(redis.cursors(READER).await.len(), 2_000);
        }
    }
    assert!((5..40).contains(&steps), "{steps} steps of at most 128 cursors, two for each mark");
    let cursors = redis.cursors(READER).await;
    let further = cursors.values().filter(|message| **message == MESSAGE + 1).count();
    assert_eq!((cursors.len(), further), (2_000, steps + 1));
    let left: Vec<String> = redis.run(&format!("KEYS markread:cursors:{READER}:[0-9]*")).await;
    assert_eq!(left, [""; 0], "no bucket of the old placement is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn new_conversations_and_batches_move_their_reader_too() {
    let (redis, subject) = upgraded(1..=1_000).await;
    for n in 0..20 {
        mark_all(&subject, 2_000 + 10 * n..2_010 + 10 * n).await;
    }
    assert_eq!(fields(&redis).await, ["keyed_buckets"]);
    assert_eq!(redis.cursors(READER).await.len(), 1_200);
    let largest = redis.bucket_keys(READER).await;
    assert!(largest.len() > 30, "{} buckets", largest.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_moves_its_reader_first_however_many_cursors_there_are() {
    const CONVERSATIONS: u64 = 20_000;
    let (redis, subject) = upgraded((0..CONVERSATIONS).map(picked)).await;
    let used = || async { redis.run::<u64>(&format!("GET markread:read_quota:{READER}")).await };
    let (cursors, next) = page(&subject, READER, None, 100).await;
    assert_eq!(used().await, 1);
    assert!(cursors.is_empty() && next.is_some(), "more than one call may move");
    let (mut empty, mut after) = (1, next);
    let first = loop {
        let (cursors, next) = page(&subject, READER, after, 100).await;
        after = next;
        if !cursors.is_empty() {
            break cursors;
        }
        empty += 1;
    };
    assert_eq!((first.len(), used().await), (100, empty + 1));
    assert!((2..5).contains(&empty), "{empty} empty pages");
    assert_eq!(fields(&redis).await, ["keyed_buckets"]);
    let (rest, _) = list(&subject, READER, after, 1_000).await;
    assert_eq!(rest.len() + first.len(), usize::try_from(CONVERSATIONS).unwrap());
    assert!(first.iter().all(|(to, _)| !rest.contains_key(to)));
}

/// Earlier versions left one hash of any size.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_any_size_is_moved_into_buckets_in_steps() {
    const THERE: u64 = 9_000;
    let redis = redis_of(2).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    let key = format!("markread:cursors:{READER}");
    for first in (1..=THERE).step_by(1_000) {
        let fields = (first..first + 1_000).map(|to| format!("{to} {MESSAGE} -{to} 5"));
        let fields: Vec<_> = fields.collect();
        redis.run::<()>(&format!("HSET {key} {}", fields.join(" "))).await;
    }
    for to in THERE + 1..=THERE + 80 {
        subject.mark_one(mark(READER, to, MESSAGE)).await;
        assert!(redis.run::<u64>(&format!("HLEN {key}")).await > 0);
    }
    assert_eq!(redis.payloads().await.len(), 80);
    assert_eq!(redis.cursors(READER).await.len(), usize::try_from(THERE).unwrap() + 80);
    assert_eq!(fields(&redis).await, ["keyed_buckets"]);
    subject.mark_one(mark(READER, 7, MESSAGE + 1)).await;
    let (listed, _) = list(&subject, READER, None, 1_000).await;
    assert_eq!(listed.len(), usize::try_from(THERE).unwrap() + 80);
}

/// Where the first buckets cannot be written, as while their slot leaves a node of a cluster, no event is left
/// without its cursor.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_hash_whose_buckets_cannot_be_created_gets_no_event() {
    let redis = redis_of(2).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    let key = format!("markread:cursors:{READER}");
    let fields: Vec<_> = (1..=300).map(|to| format!("{to} {MESSAGE} -{to} 5")).collect();
    redis.run::<()>(&format!("HSET {key} {}", fields.join(" "))).await;
    redis.run::<()>(&format!("MSET {key}:k0 text {key}:k1 text")).await;
    let marks = [mark(READER, 301, MESSAGE)];
    let marked = subject.store().mark_read_all(&marks, None).await;
    assert!(marked.unwrap()[0].is_err());
    assert_eq!(redis.payloads().await, [""; 0]);
    redis.run::<()>(&format!("DEL {key}:k0 {key}:k1")).await;
    subject.mark_one(mark(READER, 301, MESSAGE)).await;
    assert_eq!((redis.payloads().await.len(), redis.cursors(READER).await.len()), (1, 301));
}

/// States are found before, during and after the move, also by others.
#[tokio::test(flavor = "multi_thread")]
async fn states_are_found_throughout_a_move() {
    let (_redis, subject) = upgraded(1..=700).await;
    let reader = UserId::try_from(READER).unwrap();
    for round in 0..8 {
        let of =
            |to: u64| markread::domain::Conversation { reader, recipient: to.try_into().unwrap() };
        let all: Vec<_> = (1..=701).map(of).collect();
        let outcome = subject.store().read_states(7.try_into().unwrap(), &all).await.unwrap();
        let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
        assert!(read[..700].iter().all(Option::is_some) && read[700].is_none(), "round {round}");
        subject.mark_one(mark(READER, 700 - round, MESSAGE + 1)).await;
    }
}

/// A list that was begun before the upgrade goes on after it: no cursor is missed or listed twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_goes_on_across_the_upgrade() {
    for pages_before in [1, 3, 9] {
        let redis = redis_of(1).await;
        let subject = Subject::on(Arc::clone(&redis), MANY).await;
        mark_all(&subject, 1..=1_000).await;
        let (mut before, mut after) = (BTreeMap::new(), None);
        for _ in 0..pages_before {
            let (cursors, next) = page(&subject, READER, after, 100).await;
            before.extend(cursors);
            after = next;
        }
        administer(&redis, "upgrade-layout").await;
        let (rest, _) = list(&subject, READER, after, 100).await;
        assert_eq!(before.len() + rest.len(), 1_000);
        assert!(before.keys().all(|to| !rest.contains_key(to)));
    }
}
