//! One pass over all operations.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn all_operations_on_one_redis() {
    let subject = Subject::one().await;
    assert_eq!(subject.store.partitions(), 1);
    pass(&subject, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_operations_on_a_cluster() {
    let subject = Subject::cluster().await;
    assert_eq!(subject.store.partitions(), usize::from(PARTITIONS));
    // On each of the three nodes.
    for partition in [0, 30, 63] {
        pass(&subject, partition).await;
    }
    // Webhooks' own keys are at other nodes by their names.
    for name in ["one", "two", "three", "four", "five", "six"] {
        pass_of_webhook(&*subject.store, &name.parse().unwrap()).await;
    }
}

async fn pass(subject: &Subject, partition: usize) {
    let feed = feed(partition);
    let added = subject.add_many(partition, 3).await;
    pass_of_feed(&*subject.store, &feed, &added).await;
    pass_of_webhook(&*subject.store, &feed.webhook).await;
}

/// Does all that is about a feed whose stream has these entries, and its group not yet.
pub(crate) async fn pass_of_feed(store: &dyn RelayStore, feed: &FeedId, added: &[EntryId]) {
    let lease = lease(feed, "token");
    assert_eq!(
        store.acquire(&lease, LONG, EntryId::ZERO).await.unwrap(),
        Leased::Held(EntryId::ZERO)
    );
    assert_eq!(store.renew(&lease, LONG).await.unwrap(), Leased::Held(()));
    let read = held(store.new_entries(&lease, EntryId::ZERO, 100, BYTES).await.unwrap());
    assert_eq!((ids(&read.entries), read.missed, read.pending), (added.to_vec(), 0, 3));
    assert_eq!(read.entries[0].content, stored(b"0"));
    let lag = FeedLag { entries: 3, oldest: Some(added[0]) };
    assert_eq!(super::lag(store, feed).await, lag);
    let noted = store.note_attempts(&lease, &[(added[1], 7)]).await.unwrap();
    assert_eq!(noted, Leased::Held(()));
    assert_eq!(store.acknowledge(&lease, &added[..1]).await.unwrap(), Leased::Held(()));
    let pending = held(store.pending(&lease, EntryId::ZERO, 100, BYTES).await.unwrap());
    let of_each: Vec<_> = pending.iter().map(|entry| (entry.id, entry.attempts)).collect();
    assert_eq!(of_each, [(added[1], 7), (added[2], 0)]);
    let read = held(store.new_entries(&lease, added[2], 100, BYTES).await.unwrap());
    assert_eq!(read, NewEntries { pending: 2, ..NewEntries::default() });
    assert_eq!(store.acknowledge(&lease, added).await.unwrap(), Leased::Held(()));
    assert_eq!(super::lag(store, feed).await, FeedLag::default());
    store.release(&lease).await.unwrap();
    assert_eq!(store.renew(&lease, LONG).await.unwrap(), Leased::Lost);
}

/// Does all that is about a webhook.
pub(crate) async fn pass_of_webhook(store: &dyn WebhookAdmin, webhook: &WebhookName) {
    let process = RelayProcess { id: "p1".to_owned(), webhooks: vec![webhook.clone()] };
    let alive = store.announce(&process, LONG).await.unwrap();
    assert!(alive.contains(&process), "{alive:?}");
    store.withdraw("p1").await.unwrap();

    let users = [user(1), user(2)];
    assert_eq!(store.subscribe(webhook, &users).await.unwrap(), 2);
    assert_eq!(store.are_subscribed(webhook, &[user(2), user(3)]).await.unwrap(), [true, false]);
    let (mut found, next) = store.subscribers(webhook, 0).await.unwrap();
    found.sort_unstable();
    assert_eq!((found, next), (users.to_vec(), 0));
    assert_eq!(store.unsubscribe(webhook, &users).await.unwrap(), 2);

    let letter = letters::letter(1);
    store.add_dead_letter(webhook, &letter, 1000).await.unwrap();
    assert_eq!(store.count_dead_letters(webhook).await.unwrap(), 1);
    let read = store.dead_letters(webhook, EntryId::ZERO, 10).await.unwrap();
    assert_eq!(read[0].letter.as_ref(), Some(&letter));
    store.remove_dead_letters(webhook, &[read[0].at]).await.unwrap();
    assert_eq!(store.count_dead_letters(webhook).await.unwrap(), 0);

    let state = WebhookState {
        verified: Some(markread::store::relay::Verification { at_ms: 5, settings: "s".to_owned() }),
        ..WebhookState::default()
    };
    store.set_state(webhook, &state).await.unwrap();
    assert_eq!(store.state(webhook).await.unwrap(), state);
    store.set_state(webhook, &WebhookState::default()).await.unwrap();
    eventually("the right to check expires", LONG, async || {
        store.begin_check(webhook, SHORT * 10).await.unwrap().then_some(())
    })
    .await;
    assert!(!store.begin_check(webhook, SHORT).await.unwrap());
}
