//! What is delivered, to whom, in which order, and when it is acknowledged.

use std::collections::HashMap;

use super::*;

#[tokio::test(start_paused = true)]
async fn an_event_arrives_at_once_and_is_acknowledged_after_that() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.hold(true);
    let entry = setup.store.publish(0, 7, 8);
    within(ms(5), "it arrives", || setup.receiver.attempts().len() == 1).await;
    let sent = setup.receiver.attempts().remove(0);
    assert_eq!(sent.id.to_string(), format!("0-{entry}-0-8"));
    assert!(sent.body.starts_with(r#"{"for_user_id":"8","direct_message_mark_read_events":[{"#));
    sleep(seconds(5)).await;
    assert_eq!(setup.store.acknowledged(), [0; 0]);
    assert_eq!(setup.store.pending_entries(), [(entry, 0)]);
    setup.receiver.hold(false);
    within(ms(5), "it is acknowledged", || setup.store.acknowledged() == [entry]).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_stream_when_a_webhook_is_new_arrives_too() {
    let store = FakeStore::new(1);
    let entries: Vec<_> = (0..1000).map(|n| store.publish(0, 1 + n % 3, 8)).collect();
    let receiver = FakeReceiver::default();
    let _process = Process::start(&store, &[receiver.webhook("w", "s")]);
    within(seconds(5), "all arrive", || store.acknowledged().len() == 1000).await;
    let mut delivered = receiver.delivered();
    delivered.sort_unstable();
    assert_eq!(delivered, entries);
    assert!(store.calls("new_entries") < 50, "{}", store.calls("new_entries"));
}

#[tokio::test(start_paused = true)]
async fn both_users_of_an_event_get_it_if_both_are_subscribed() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let subscribed = |name: &str, echo| receiver.webhook_for(name, "s", Audience::Subscribed, echo);
    store.subscribe("echo", &[1, 2]);
    store.subscribe("plain", &[1, 2]);
    let _process = Process::start(&store, &[subscribed("echo", true), subscribed("plain", false)]);
    sleep(seconds(3)).await;
    // Reader, recipient, users that get it at the webhook with echo and at the one without.
    let table: [(u64, u64, &[u64]); 5] =
        [(1, 2, &[1, 2, 2]), (2, 2, &[2, 2]), (1, 9, &[1]), (9, 1, &[1, 1]), (8, 9, &[])];
    for (reader, recipient, users) in table {
        let before = receiver.attempts().len();
        let entry = store.publish(0, reader, recipient);
        sleep(seconds(1)).await;
        let sent = receiver.attempts().split_off(before);
        let mut got: Vec<_> = sent.iter().map(|sent| sent.id.for_user.get()).collect();
        got.sort_unstable();
        assert_eq!(got, users, "{reader} {recipient}");
        assert!(sent.iter().all(|sent| sent.id.entry.ms == entry));
        assert_eq!(store.acknowledged().iter().filter(|id| **id == entry).count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_two_deliveries_does_not_acknowledge_the_entry() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let webhook = receiver.webhook_for("w", "s", Audience::All, true);
    receiver.answer(|sent| {
        if sent.id.for_user.get() == 1 { failed(500) } else { Attempt::Delivered(200) }
    });
    let _process = Process::start(&store, &[webhook]);
    let entry = store.publish(0, 1, 2);
    sleep(seconds(60)).await;
    assert_eq!(receiver.delivered(), [entry]);
    assert_eq!(store.acknowledged(), [0; 0]);
    receiver.accept();
    within(seconds(120), "it is acknowledged", || store.acknowledged() == [entry]).await;
    assert_eq!(receiver.delivered(), [entry, entry]);
}

#[tokio::test(start_paused = true)]
async fn subscriptions_are_looked_up_once_a_read() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    store.subscribe("w", &[2]);
    for reader in 0..2000 {
        store.publish(0, 10 + reader, 2 + reader % 2);
    }
    let webhook = receiver.webhook_for("w", "s", Audience::Subscribed, false);
    let _process = Process::start(&store, &[webhook]);
    within(seconds(5), "all are done", || store.acknowledged().len() == 2000).await;
    assert_eq!(receiver.delivered().len(), 1000);
    assert!(store.calls("are_subscribed") <= store.calls("new_entries"));
    assert!(store.calls("are_subscribed") < 40, "{}", store.calls("are_subscribed"));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_fails_half_of_the_time_gets_everything_in_order_soon() {
    let setup = Setup::new();
    // The same outcomes in each run: the least bits of a hash.
    setup.receiver.answer(|sent| {
        let number = sent.id.entry.ms.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
        let attempt = u64::try_from(sent.earlier).unwrap().wrapping_mul(0x94d0_49bb_1331_11eb) >> 7;
        let bits = (number ^ attempt).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        if bits.count_ones() % 2 == 0 { failed(500) } else { Attempt::Delivered(200) }
    });
    let mut conversations: HashMap<u64, Vec<u64>> = HashMap::new();
    for number in 0..2000 {
        let reader = 1 + number % 100;
        conversations.entry(reader).or_default().push(setup.store.publish(0, reader, 8));
    }
    within(seconds(60), "all arrive", || setup.store.acknowledged().len() == 2000).await;
    let attempts = setup.receiver.attempts();
    assert!(attempts.len() > 3000, "{}", attempts.len());
    let delivered = setup.receiver.delivered();
    for entries in conversations.values() {
        let of_these = delivered.iter().filter(|entry| entries.contains(entry));
        assert!(of_these.eq(entries), "{entries:?}");
    }
    assert_eq!(setup.store.letters().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_conversation_that_fails_holds_up_no_other() {
    let setup = Setup::new();
    setup.receiver.answer(|sent| {
        if sent.body.contains(r#""sender_id":"1""#) { failed(500) } else { Attempt::Delivered(200) }
    });
    let blocked: Vec<_> = (0..50).map(|_| setup.store.publish(0, 1, 8)).collect();
    let others: Vec<_> = (0..50).map(|_| setup.store.publish(0, 2, 8)).collect();
    within(seconds(3), "the others arrive", || setup.receiver.delivered() == others).await;
    // Only the first of a lane is attempted.
    let failed = setup.receiver.attempts().into_iter().filter(|sent| !sent.is_delivered);
    assert!(failed.map(|sent| sent.id.entry.ms).all(|entry| entry == blocked[0]));
    setup.receiver.accept();
    within(seconds(600), "the rest arrives", || setup.store.acknowledged().len() == 100).await;
    assert_eq!(setup.receiver.delivered()[50..], blocked);
}

#[tokio::test(start_paused = true)]
async fn what_a_feed_holds_is_bounded_and_reading_goes_on_when_there_is_room() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(500));
    for _ in 0..6000 {
        setup.store.publish(0, 1, 8);
    }
    sleep(seconds(30)).await;
    let held = setup.store.pending_entries().len();
    assert!((3800..=4096).contains(&held), "{held}");
    let calls = setup.store.all_calls();
    sleep(seconds(60)).await;
    // Nothing spins while the feed is full.
    let calls = setup.store.all_calls() - calls;
    assert!(calls < 60 * 6, "{calls}");
    setup.receiver.accept();
    within(seconds(600), "all arrive", || setup.store.acknowledged().len() == 6000).await;
    assert!(setup.receiver.delivered().is_sorted());
}

#[tokio::test(start_paused = true)]
async fn feeds_share_the_bytes_of_their_process() {
    let (store, receiver) = (FakeStore::new(64), FakeReceiver::default());
    receiver.answer(|_| failed(500));
    let _process = Process::start(&store, &[receiver.webhook("w", "s")]);
    within(seconds(5), "it has all", || store.owners().len() == 64).await;
    for partition in (0..64).cycle().take(64 * 20) {
        store.publish_large(partition, 100 * 1024);
    }
    sleep(seconds(30)).await;
    // 1 MiB of each feed.
    let held = store.pending_entries().len();
    assert!((64 * 4..=64 * 11).contains(&held), "{held}");
    receiver.accept();
    within(seconds(300), "all arrive", || store.acknowledged().len() == 64 * 20).await;
}

#[tokio::test(start_paused = true)]
async fn a_single_entry_costs_one_read() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    let before = setup.store.calls("new_entries");
    for _ in 0..60 {
        setup.store.publish(0, 1, 2);
        sleep(seconds(1)).await;
    }
    assert_eq!(setup.store.acknowledged().len(), 60);
    let reads = setup.store.calls("new_entries") - before;
    assert!(reads <= 62, "{reads}");
}

#[tokio::test(start_paused = true)]
async fn no_more_deliveries_are_in_flight_than_allowed_over_all_feeds() {
    let (store, receiver) = (FakeStore::new(8), FakeReceiver::default());
    receiver.set_delay(ms(100));
    let config = RelayConfig { concurrency: 5, ..CONFIG };
    let _process = Process::start_with(&store, &[receiver.webhook("w", "s")], config);
    for number in 0..400 {
        store.publish(usize::try_from(number % 8).unwrap(), 1 + number, 8);
    }
    within(seconds(15), "all arrive", || store.acknowledged().len() == 400).await;
    assert_eq!(receiver.most_in_flight(), 5);
}

#[tokio::test(start_paused = true)]
async fn nothing_spins_while_there_is_nothing_to_do() {
    let (store, receiver) = (FakeStore::new(4), FakeReceiver::default());
    let names: Vec<_> = (0..5).map(|name| receiver.webhook(&format!("w{name}"), "s")).collect();
    let _process = Process::start(&store, &names);
    sleep(seconds(10)).await;
    assert_eq!(store.owners().len(), 20);
    let before = store.all_calls();
    let waits = store.calls("wait_for_entries");
    sleep(seconds(60)).await;
    // One wait for each partition, whatever the number of webhooks.
    assert!(store.calls("wait_for_entries") - waits <= 4 * 61);
    // Each second: a renewal of 20 leases every 1.5 s, the state of 5 webhooks, 4 waits, one announcement;
    // every 5 s the lag of 20 feeds and 5 counts; every 15 s a read of each feed.
    let expected = 60 * 20 * 2 / 3 + 60 * (5 + 4 + 1) + 12 * 25 + 4 * 20;
    let calls = store.all_calls() - before;
    assert!(calls < expected * 11 / 10, "{calls}, expected {expected}");
}

#[tokio::test(start_paused = true)]
async fn a_webhook_that_changes_in_the_file_goes_on_with_the_new_receiver() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    let other = FakeReceiver::default();
    // The same settings: no check is needed.
    setup.process.set_webhooks(&[other.webhook("w", "s")]);
    sleep(ms(10)).await;
    let entry = setup.store.publish(0, 1, 2);
    within(ms(10), "it arrives", || other.delivered() == [entry]).await;
    assert_eq!(setup.receiver.attempts().len(), 0);
    assert_eq!(other.checks(), 0);
    // Other settings are checked first.
    let third = FakeReceiver::default();
    third.check_results([Check::Failed("not yet".to_owned())]);
    setup.process.set_webhooks(&[third.webhook("w", "s2")]);
    sleep(ms(10)).await;
    let entry = setup.store.publish(0, 1, 2);
    sleep(ms(100)).await;
    assert_eq!((third.delivered().len(), other.delivered().len()), (0, 1));
    within(seconds(10), "it arrives", || third.delivered() == [entry]).await;
    assert_eq!(third.checks(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_entry_is_acknowledged_and_reaches_nobody() {
    let setup = Setup::new();
    let deleted = setup.store.add(0, EntryContent::Deleted);
    let entry = setup.store.publish(0, 1, 8);
    within(seconds(10), "both are done", || setup.store.acknowledged().len() == 2).await;
    assert!(setup.store.acknowledged().contains(&deleted));
    assert_eq!(setup.receiver.delivered(), [entry]);
    assert!(setup.store.letters().is_empty());
}

#[tokio::test(start_paused = true)]
async fn missed_entries_are_told_and_removed_ones_acknowledged() {
    let setup = Setup::new();
    setup.receiver.hold(true);
    let entries: Vec<_> = (0..3).map(|_| setup.store.publish(0, 1, 8)).collect();
    within(seconds(3), "they are read", || setup.store.pending_entries().len() == 3).await;
    setup.store.remove(0, entries[1]);
    setup.store.miss(&feed("w", 0), 5);
    setup.process.kill();
    setup.receiver.hold(false);
    let _next = Process::start(&setup.store, &[setup.receiver.webhook("w", "s")]);
    within(seconds(10), "all are done", || setup.store.pending_entries().is_empty()).await;
    assert_eq!(setup.receiver.delivered(), [entries[0], entries[2]]);
    assert_eq!(setup.store.acknowledged().len(), 3);
}
