//! Entries that were trimmed before a feed read them.

use super::*;

async fn trim(subject: &Subject, length: usize) {
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN {length}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_unread_is_counted_once() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let step = async |add, length| {
        let added = subject.add_many(0, add).await;
        trim(&subject, length).await;
        let read = subject.new_entries(&lease, 1000).await;
        let kept = added.len().min(length);
        assert_eq!(ids(&read.entries), added[added.len() - kept..]);
        read.missed
    };
    assert_eq!(step(5, 100).await, 0, "nothing was trimmed");
    assert_eq!(step(5, 5).await, 0, "what was read was trimmed");
    assert_eq!(step(5, 3).await, 2);
    let read = subject.new_entries(&lease, 9).await;
    assert_eq!((read.entries, read.missed), (vec![], 0), "counted once");
    assert_eq!(step(5, 3).await, 2, "again");
    assert_eq!(step(4, 0).await, 4, "all");
    assert_eq!(step(3, 1).await, 2, "after an empty stream");
    assert_eq!(step(3, 3).await, 0);
    assert_eq!(step(200, 150).await, 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_trimmed_while_nobody_had_the_lease_is_counted_by_the_next() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 10).await;
    let before = subject.acquire(&feed(0), "before").await;
    assert_eq!(ids(&subject.new_entries(&before, 4).await.entries), added[..4]);
    subject.store.release(&before).await.unwrap();
    trim(&subject, 2).await;
    let lease = lease(&feed(0), "after");
    let last = subject.store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap();
    assert_eq!(last, Leased::Held(added[3]));
    // In parts.
    let read = subject.new_entries(&lease, 1).await;
    assert_eq!((ids(&read.entries), read.missed), (vec![added[8]], 4));
    let read = subject.new_entries(&lease, 1).await;
    assert_eq!((ids(&read.entries), read.missed), (vec![added[9]], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_has_missed_nothing() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 10).await;
    trim(&subject, 6).await;
    let from_the_start = subject.acquire(&feed(0), "a").await;
    let read = subject.new_entries(&from_the_start, 2).await;
    assert_eq!((ids(&read.entries), read.missed), (added[4..6].to_vec(), 0));
    trim(&subject, 1).await;
    assert_eq!(subject.new_entries(&from_the_start, 9).await.missed, 3);
    // One that begins within the stream knows it after the newest entry.
    let other = FeedId { webhook: "two".parse().unwrap(), partition: 0 };
    let added = subject.add_many(0, 3).await;
    let within = lease(&other, "b");
    held(subject.store.acquire(&within, LONG, added[0]).await.unwrap());
    let read = subject.new_entries(&within, 9).await;
    assert_eq!((ids(&read.entries), read.missed), (added[1..].to_vec(), 0));
    subject.add_many(0, 5).await;
    trim(&subject, 2).await;
    assert_eq!(subject.new_entries(&within, 9).await.missed, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_entry_under_load_is_read_or_missed() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let url = subject.redis().url();
    let write = tokio::spawn(async move {
        let client = redis::Client::open(url).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        for n in 0..4000_u32 {
            let mut add = cmd("XADD");
            // Exactly or in whole nodes of the stream.
            let about = if n % 2 == 0 { "=" } else { "~" };
            add.arg(STREAM).arg("MAXLEN").arg(about).arg(150).arg("*").arg("payload").arg(n);
            add.query_async::<()>(&mut connection).await.unwrap();
        }
    });
    let (mut read, mut missed, mut ended) = (0, 0, false);
    loop {
        let step = subject.new_entries(&lease, 100).await;
        read += step.entries.len();
        missed += usize::try_from(step.missed).unwrap();
        if ended && step.entries.is_empty() {
            break;
        }
        ended = write.is_finished();
        // At times too slow.
        tokio::time::sleep(Duration::from_millis(if read % 3 == 0 { 60 } else { 1 })).await;
    }
    write.await.unwrap();
    assert_eq!(read + missed, 4000, "{read} read, {missed} missed");
    assert!(missed > 0 && read > 0, "{read} read, {missed} missed");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_entries_never_make_the_count_negative_or_wrong_later() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let added = subject.add_many(0, 10).await;
    assert_eq!(subject.new_entries(&lease, 2).await.missed, 0);
    let delete = |id: EntryId| format!("XDEL {STREAM} {id}");
    // Read, unread in the middle, and the newest.
    for id in [added[0], added[5], added[9]] {
        subject.redis().run::<()>(&delete(id)).await;
    }
    let read = subject.new_entries(&lease, 3).await;
    assert_eq!((ids(&read.entries), read.missed), (added[2..5].to_vec(), 0));
    let read = subject.new_entries(&lease, 9).await;
    assert_eq!((ids(&read.entries), read.missed), (added[6..9].to_vec(), 0));
    // Known again after the newest entry.
    let more = subject.add_many(0, 10).await;
    let read = subject.new_entries(&lease, 99).await;
    assert_eq!((ids(&read.entries), read.missed), (more, 0));
    let more = subject.add_many(0, 10).await;
    trim(&subject, 4).await;
    let read = subject.new_entries(&lease, 99).await;
    assert_eq!((ids(&read.entries), read.missed), (more[6..].to_vec(), 6));
}
