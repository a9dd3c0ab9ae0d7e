//! Leases and takeovers.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_gets_a_lease() {
    let subject = Subject::one().await;
    let tokens = ["a", "b", "c", "d", "e", "f"];
    let leases = tokens.map(|token| lease(&feed(0), token));
    let acquire = leases.iter().map(|lease| subject.store.acquire(lease, LONG, EntryId::ZERO));
    let acquired = futures_util::future::join_all(acquire).await;
    let won: Vec<_> = acquired.into_iter().map(Result::unwrap).collect();
    assert_eq!(won.iter().filter(|won| matches!(won, Leased::Held(_))).count(), 1, "{won:?}");
    // Another webhook's feed is another one.
    let other = FeedId { webhook: "two".parse().unwrap(), partition: 0 };
    subject.acquire(&other, "g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_lost_a_lease_does_nothing() {
    let subject = Subject::one().await;
    let store = &subject.store;
    let added = subject.add_many(0, 3).await;
    let loser = lease(&feed(0), "loser");
    held(store.acquire(&loser, SHORT, EntryId::ZERO).await.unwrap());
    assert_eq!(ids(&subject.new_entries(&loser, 2).await.entries), added[..2]);
    tokio::time::sleep(SHORT * 2).await;
    // Expired: also before another one has it.
    let others_turn = async || {
        assert_eq!(store.renew(&loser, LONG).await.unwrap(), Leased::Lost);
        assert_eq!(store.new_entries(&loser, EntryId::ZERO, 9, BYTES).await.unwrap(), Leased::Lost);
        assert_eq!(store.pending(&loser, EntryId::ZERO, 9, BYTES).await.unwrap(), Leased::Lost);
        assert_eq!(store.acknowledge(&loser, &added).await.unwrap(), Leased::Lost);
        assert_eq!(store.note_attempts(&loser, &[(added[0], 9)]).await.unwrap(), Leased::Lost);
        store.release(&loser).await.unwrap();
    };
    others_turn().await;
    let winner = lease(&feed(0), "winner");
    let acquired = store.acquire(&winner, LONG, EntryId::ZERO).await.unwrap();
    assert_eq!(acquired, Leased::Held(added[1]), "the last one that was read");
    others_turn().await;
    assert_eq!(store.acquire(&loser, LONG, EntryId::ZERO).await.unwrap(), Leased::Lost);
    let pending = subject.pending(&winner).await;
    assert_eq!(ids(&pending), added[..2]);
    assert!(pending.iter().all(|entry| entry.attempts == 0), "{pending:?}");
    assert_eq!(ids(&subject.new_entries(&winner, 9).await.entries), added[2..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_lives_as_long_as_it_is_renewed() {
    let subject = Subject::one().await;
    let store = &subject.store;
    let (holder, other) = (lease(&feed(0), "holder"), lease(&feed(0), "other"));
    let ttl = Duration::from_secs(1);
    held(store.acquire(&holder, ttl, EntryId::ZERO).await.unwrap());
    for _ in 0..15 {
        tokio::time::sleep(SHORT).await;
        held(store.renew(&holder, ttl).await.unwrap());
        assert_eq!(store.acquire(&other, LONG, EntryId::ZERO).await.unwrap(), Leased::Lost);
    }
    // What its own answer was lost of is acquired again.
    held(store.acquire(&holder, ttl, EntryId::ZERO).await.unwrap());
    store.release(&holder).await.unwrap();
    held(store.acquire(&other, LONG, EntryId::ZERO).await.unwrap());
    let ttl: i64 = subject.redis().run(&format!("PTTL {}", subject.lease_key(&feed(0)))).await;
    assert!((50_000..=60_000).contains(&ttl), "{ttl}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_holder_inherits_attempts_and_what_is_pending() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 5).await;
    let before = subject.acquire(&feed(0), "before").await;
    subject.new_entries(&before, 4).await;
    for attempts in [1, 2, 20] {
        let noted = [(added[0], attempts), (added[2], attempts + 1)];
        held(subject.store.note_attempts(&before, &noted).await.unwrap());
    }
    held(subject.store.acknowledge(&before, &[added[1]]).await.unwrap());
    // What is acknowledged does not come back.
    held(subject.store.note_attempts(&before, &[(added[1], 5)]).await.unwrap());
    subject.store.release(&before).await.unwrap();

    let after = subject.acquire(&feed(0), "after").await;
    let expected = [(added[0], 20), (added[2], 21), (added[3], 0)];
    // However often it is read.
    for _ in 0..3 {
        let pending = subject.pending(&after).await;
        let of_each: Vec<_> = pending.iter().map(|entry| (entry.id, entry.attempts)).collect();
        assert_eq!(of_each, expected);
    }
    let of_step = held(subject.store.pending(&after, added[0], 1, BYTES).await.unwrap());
    assert_eq!(ids(&of_step), [added[2]]);
    assert_eq!(held(subject.store.pending(&after, added[3], 9, BYTES).await.unwrap()), []);
    assert_eq!(ids(&subject.new_entries(&after, 9).await.entries), added[4..]);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_are_acknowledged_and_noted_at_once() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    let fill = "for i = 1, 5000 do redis.call('XADD', KEYS[1], '*', 'payload', i) end";
    subject.send::<()>(STREAM, cmd("EVAL").arg(fill).arg(1).arg(STREAM).clone()).await;
    let read = subject.new_entries(&lease, 5000).await.entries;
    assert_eq!(read.len(), 5000);
    subject.redis().run::<()>("CONFIG RESETSTAT").await;
    let attempts: Vec<_> = read.iter().map(|entry| (entry.id, 3)).collect();
    held(subject.store.note_attempts(&lease, &attempts).await.unwrap());
    let pending = held(subject.store.pending(&lease, EntryId::ZERO, 9000, BYTES).await.unwrap());
    assert!(pending.len() == 5000 && pending.iter().all(|entry| entry.attempts == 3));
    // In many short calls, which do not read the entries.
    let calls = subject.calls("evalsha").await;
    assert!((40..50).contains(&calls), "{calls}");
    held(subject.store.acknowledge(&lease, &ids(&read)).await.unwrap());
    assert_eq!(subject.calls("xack").await, 5);
    assert_eq!(subject.lag(&feed(0)).await, FeedLag::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_group_begins_where_it_is_told() {
    let subject = Subject::one().await;
    let added = subject.add_many(0, 5).await;
    let lease = lease(&feed(0), "a");
    let acquired = subject.store.acquire(&lease, LONG, added[2]).await.unwrap();
    assert_eq!(acquired, Leased::Held(added[2]));
    let read = subject.new_entries(&lease, 9).await;
    assert_eq!((ids(&read.entries), read.missed), (added[3..].to_vec(), 0));
    // A group that is there goes on.
    subject.store.release(&lease).await.unwrap();
    let acquired = subject.store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap();
    assert_eq!(acquired, Leased::Held(added[4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_vanished_costs_the_lease_and_is_created_again() {
    let subject = Subject::one().await;
    let (redis, store) = (subject.redis(), &subject.store);
    for vanish in ["FLUSHALL".to_owned(), format!("DEL {STREAM}"), destroy()] {
        let lease = subject.acquire(&feed(0), "a").await;
        let added = subject.add_many(0, 1).await;
        assert_eq!(ids(&subject.new_entries(&lease, 9).await.entries), added, "{vanish}");
        redis.run::<()>(&vanish).await;
        assert_eq!(store.pending(&lease, EntryId::ZERO, 9, BYTES).await.unwrap(), Leased::Lost);
        assert_eq!(
            store.new_entries(&lease, EntryId::ZERO, 9, BYTES).await.unwrap(),
            Leased::Lost,
            "{vanish}"
        );
        assert_eq!(subject.lag(&feed(0)).await, FeedLag::default());
        // Another one need not wait until it expires.
        let next = subject.acquire(&feed(0), "b").await;
        let added = subject.add_many(0, 1).await;
        let read = subject.new_entries(&next, 9).await;
        assert_eq!(read.entries.last().map(|entry| entry.id), added.last().copied());
        assert_eq!(read.missed, 0);
        store.release(&next).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_costs_the_same_however_many_webhooks_there_are() {
    let subject = Subject::one().await;
    let lease = subject.acquire(&feed(0), "a").await;
    for n in 0..50 {
        let other = FeedId { webhook: format!("w{n}").parse().unwrap(), partition: 0 };
        subject.acquire(&other, "a").await;
    }
    let added = subject.add_many(0, 3).await;
    assert_eq!(ids(&subject.new_entries(&lease, 1).await.entries), added[..1]);
    subject.redis().run::<()>("CONFIG RESETSTAT").await;
    for left in [2, 0, 0] {
        assert_eq!(subject.new_entries(&lease, 9).await.entries.len(), left);
        assert_eq!(subject.pending(&lease).await.len(), 3);
    }
    assert_eq!(subject.calls("xreadgroup").await, 4, "one entry first, then the others");
    assert_eq!(subject.calls("xinfo|groups").await, 0);
    // It looks at the groups only where nothing is left of what it has read.
    subject.add_many(0, 1).await;
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 1")).await;
    assert_eq!(subject.new_entries(&lease, 9).await.entries.len(), 1);
    assert_eq!(subject.calls("xinfo|groups").await, 1);
}

fn destroy() -> String {
    format!("XGROUP DESTROY {STREAM} markread-relay:one")
}
