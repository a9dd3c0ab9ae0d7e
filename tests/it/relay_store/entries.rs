//! Entries of other programs, which may contain anything.

use super::*;

const MIB: usize = 1024 * 1024;

type Fields<'a> = Vec<(&'a str, &'a [u8])>;

#[tokio::test(flavor = "multi_thread")]
async fn odd_entries_are_read_as_they_are() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let binary: Vec<u8> = (0..=255).collect();
    let largest = vec![b'x'; MIB + 64 * 1024];
    let too_large = vec![b'x'; MIB + 64 * 1024 + 1];
    let huge = vec![b'x'; 10 * MIB];
    let content = |payload: Option<&[u8]>, traceparent: Option<&[u8]>| EntryContent::Stored {
        payload: payload.map(Bytes::copy_from_slice),
        traceparent: traceparent.map(Bytes::copy_from_slice),
    };
    let table: Vec<(Fields<'_>, EntryContent)> = vec![
        (vec![("other", b"1")], content(None, None)),
        (vec![("payload", b"")], content(Some(b""), None)),
        (vec![("payload", &binary)], content(Some(&binary), None)),
        (vec![("traceparent", b"\xff"), ("payload", b"1")], content(Some(b"1"), Some(b"\xff"))),
        (vec![("traceparent", b"00-1")], content(None, Some(b"00-1"))),
        (vec![("payload", b"1"), ("payload", b"2")], content(Some(b"2"), None)),
        (vec![("payload", &largest)], content(Some(&largest), None)),
        (vec![("payload", &too_large)], EntryContent::TooLarge(1_114_113)),
        (vec![("payload", b"1"), ("other", &huge)], content(Some(b"1"), None)),
        (vec![("payload", &huge), ("traceparent", b"12")], EntryContent::TooLarge(10_485_762)),
        (vec![("", b"")], content(None, None)),
        (vec![("Payload", b"1"), ("payload ", b"2")], content(None, None)),
    ];
    let mut expected = Vec::new();
    for (fields, content) in table {
        let id = subject.add(0, &fields).await;
        expected.push(FeedEntry { id, attempts: 0, content });
    }
    let many: Vec<_> = (0..5000).map(|n| (format!("f{n}"), vec![b'v'])).collect();
    let many: Vec<_> = many.iter().map(|(name, value)| (&**name, &value[..])).collect();
    let id = subject.add(0, &many).await;
    expected.push(FeedEntry { id, attempts: 0, content: content(None, None) });

    let mut read = subject.new_entries(&lease, 100).await.entries;
    assert_eq!(read, expected);
    read = subject.pending(&lease).await;
    assert_eq!(read, expected, "as they are pending");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_one_read_are_bounded() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let large = vec![b'x'; MIB];
    let mut added = Vec::new();
    for _ in 0..40 {
        added.push(subject.add(0, &[("payload", &large)]).await);
    }
    let mut read = Vec::new();
    loop {
        let step = subject.new_entries(&lease, 1000).await.entries;
        assert!(step.len() <= 12, "{}", step.len());
        if step.is_empty() {
            break;
        }
        read.extend(ids(&step));
    }
    assert_eq!(read, added);
    let (mut pending, mut after) = (Vec::new(), EntryId::ZERO);
    loop {
        let step = held(subject.store.pending(&lease, after, 1000, BYTES).await.unwrap());
        assert!(step.len() <= 4, "{}", step.len());
        let Some(last) = step.last() else { break };
        after = last.id;
        pending.extend(ids(&step));
    }
    assert_eq!(pending, added);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_stops_by_the_bytes_that_are_asked_for() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let large = vec![b'x'; 100_000];
    let mut added = Vec::new();
    for _ in 0..12 {
        added.push(subject.add(0, &[("payload", &large)]).await);
    }
    // At least one, and the one that reaches the bytes.
    let mut read = 0;
    let steps =
        [(0, 1, 1), (1, 1, 1), (100_000, 1, 1), (100_001, 2, 2), (350_000, 4, 4), (BYTES, 3, 12)];
    for (bytes, count, of_pending) in steps {
        let step = subject.new_entries_within(&lease, 100, bytes).await;
        assert_eq!(ids(&step.entries), added[read..read + count], "{bytes}");
        read += count;
        assert_eq!(step.pending, u64::try_from(read).unwrap());
        let pending = subject.store.pending(&lease, EntryId::ZERO, 100, bytes).await.unwrap();
        assert_eq!(held(pending).len(), of_pending, "{bytes}");
    }
    // Eight at a time, however small they are: the next ones may be large.
    let small: Vec<_> = subject.add_many(0, 9).await;
    subject.add(0, &[("payload", &large)]).await;
    let step = subject.new_entries_within(&lease, 100, 10_000).await;
    assert_eq!(step.entries.len(), 10);
    assert_eq!(ids(&step.entries)[..9], small);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_kept() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let added = subject.add_many(0, 40).await;
    let mut read = Vec::new();
    for limit in [1, 7, 8, 9, 15, 3] {
        let step = subject.new_entries(&lease, limit).await.entries;
        read.extend(ids(&step));
        let left = 40 - (read.len() - step.len());
        assert_eq!(step.len(), limit.min(left), "{limit}");
    }
    assert_eq!(read, added);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_while_it_was_pending_is_told_until_it_is_acknowledged() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 4).await;
    let lease = subject.acquire(&feed(0), "a").await;
    subject.new_entries(&lease, 9).await;
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 1")).await;
    // Attempts of what is removed cannot be noted: Redis would forget it.
    held(subject.store.note_attempts(&lease, &[(added[0], 3), (added[3], 3)]).await.unwrap());
    let pending = subject.pending(&lease).await;
    assert_eq!(ids(&pending), added);
    assert!(pending[..3].iter().all(|entry| entry.content == EntryContent::Removed));
    assert_eq!((&pending[3].content, pending[3].attempts), (&stored(b"3"), 3));
    let lag = subject.lag(&feed(0)).await;
    assert_eq!(lag, FeedLag { entries: 4, oldest: Some(added[0]) });
    held(subject.store.acknowledge(&lease, &added[..3]).await.unwrap());
    assert_eq!(ids(&subject.pending(&lease).await), added[3..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_while_it_was_pending_is_not_taken_for_trimmed() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 6).await;
    let lease = subject.acquire(&feed(0), "a").await;
    subject.new_entries(&lease, 9).await;
    for id in [added[0], added[2], added[3]] {
        subject.redis().run::<()>(&format!("XDEL {STREAM} {id}")).await;
    }
    // The oldest one may have been trimmed.
    let pending = subject.pending(&lease).await;
    let content: Vec<_> = pending.into_iter().map(|entry| entry.content).collect();
    let gone = [EntryContent::Deleted, EntryContent::Deleted];
    let [first, second, rest @ ..] = &content[..] else { panic!("{content:?}") };
    assert_eq!((first, second), (&EntryContent::Removed, &stored(b"1")));
    assert_eq!((&rest[..2], &rest[2..]), (&gone[..], &[stored(b"4"), stored(b"5")][..]));
    // Notes of attempts do not keep what was deleted.
    let attempts: Vec<_> = added.iter().map(|id| (*id, 2)).collect();
    held(subject.store.note_attempts(&lease, &attempts).await.unwrap());
    let left = [added[0], added[1], added[4], added[5]];
    assert_eq!(ids(&subject.pending(&lease).await), left);
    // Nothing is left.
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 0")).await;
    let pending = subject.pending(&lease).await;
    assert!(pending.iter().all(|entry| entry.content == EntryContent::Removed), "{pending:?}");
    held(subject.store.note_attempts(&lease, &attempts).await.unwrap());
    assert_eq!(ids(&subject.pending(&lease).await), left);
}
