//! A store that fails, hangs, or whose answers are lost.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_was_read_is_delivered_while_the_store_is_away_and_the_lease_holds() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.hold(true);
    let entries: Vec<_> = (0..10).map(|_| setup.store.publish(0, 1, 2)).collect();
    within(ms(10), "they are read", || setup.store.pending_entries().len() == 10).await;
    sleep(ms(10)).await;
    setup.store.set_mode(Mode::Fails);
    setup.receiver.hold(false);
    within(seconds(1), "they arrive", || setup.receiver.delivered() == entries).await;
    assert_eq!(setup.store.acknowledged(), [0; 0]);
    sleep(seconds(2)).await;
    setup.store.set_mode(Mode::Answers);
    within(seconds(3), "acknowledged", || setup.store.acknowledged().len() == 10).await;
    sleep(seconds(30)).await;
    assert_eq!(setup.receiver.attempts().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn after_a_long_absence_the_feed_begins_again_with_what_is_pending() {
    for mode in [Mode::Fails, Mode::Hangs] {
        let setup = Setup::new();
        sleep(seconds(3)).await;
        setup.receiver.answer(|_| failed(500));
        let first = setup.store.publish(0, 1, 2);
        sleep(ms(100)).await;
        setup.store.set_mode(mode);
        sleep(seconds(60)).await;
        setup.receiver.accept();
        let second = setup.store.publish(0, 1, 2);
        sleep(seconds(10)).await;
        assert_eq!(setup.receiver.delivered(), [0; 0]);
        setup.store.set_mode(Mode::Answers);
        within(seconds(10), "both arrive", || setup.receiver.delivered() == [first, second]).await;
        within(seconds(1), "acknowledged", || setup.store.acknowledged().len() == 2).await;
    }
}

#[tokio::test(start_paused = true)]
async fn entries_of_a_lost_answer_are_read_as_pending_in_order() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.store.lose_reads(3);
    let entries: Vec<_> = (0..5).map(|_| setup.store.publish(0, 1, 2)).collect();
    within(seconds(10), "all arrive", || setup.store.acknowledged().len() == 5).await;
    assert_eq!(setup.receiver.delivered(), entries);
    sleep(seconds(90)).await;
    assert_eq!(setup.receiver.attempts().len(), 5);
}

#[tokio::test(start_paused = true)]
async fn what_arrives_while_nothing_can_be_acknowledged_is_bounded_and_arrives_once() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.store.set_failing("acknowledge", true);
    for reader in 1..=2000 {
        setup.store.publish(0, reader, 9999);
    }
    sleep(seconds(2)).await;
    let arrived = setup.receiver.delivered().len();
    assert!((256..=256 + 64).contains(&arrived), "{arrived}");
    // The lease is lost, and everything that this process held.
    setup.store.set_mode(Mode::Fails);
    sleep(seconds(30)).await;
    setup.store.set_mode(Mode::Answers);
    sleep(seconds(10)).await;
    setup.store.set_failing("acknowledge", false);
    within(seconds(20), "all are done", || setup.store.acknowledged().len() == 2000).await;
    assert_eq!(setup.receiver.attempts().len(), 2000);
}

#[tokio::test(start_paused = true)]
async fn entries_that_are_read_again_after_a_failover_are_delivered_once() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.hold(true);
    let before = setup.store.now_ms() - 1;
    let mut entries: Vec<_> = (0..10).map(|n| setup.store.publish(0, 1 + n % 2, 9)).collect();
    within(ms(10), "they are read", || setup.store.pending_entries().len() == 10).await;
    sleep(ms(10)).await;
    setup.store.set_group(&feed("w", 0), before, &[]);
    entries.push(setup.store.publish(0, 1, 9));
    within(ms(20), "they are read again", || setup.store.pending_entries().len() == 11).await;
    setup.receiver.hold(false);
    within(seconds(1), "all are done", || setup.store.pending_entries().is_empty()).await;
    assert_eq!(setup.receiver.attempts().len(), 11);
    let mut delivered = setup.receiver.delivered();
    delivered.sort_unstable();
    assert_eq!(delivered, entries);
}

#[tokio::test(start_paused = true)]
async fn pending_entries_that_a_feed_does_not_have_are_read() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    // A read that the store ran after its answer was given up.
    let late: Vec<_> = (0..2).map(|_| setup.store.publish(0, 1, 9)).collect();
    setup.store.set_group(&feed("w", 0), late[1], &late);
    let next = setup.store.publish(0, 1, 9);
    within(ms(50), "all arrive", || setup.store.acknowledged().len() == 3).await;
    assert_eq!(setup.receiver.delivered(), [late[0], late[1], next]);
    // Acknowledgements that a failover took back.
    setup.store.set_group(&feed("w", 0), next, &late);
    within(seconds(25), "they are done", || setup.store.pending_entries().is_empty()).await;
    assert_eq!(setup.receiver.attempts().len(), 5);
    assert!(setup.store.calls("pending") < 10, "{}", setup.store.calls("pending"));
}

#[tokio::test(start_paused = true)]
async fn entries_wait_while_subscriptions_cannot_be_looked_up() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    store.subscribe("w", &[2]);
    let webhook = receiver.webhook_for("w", "s", Audience::Subscribed, false);
    let _process = Process::start(&store, &[webhook]);
    sleep(seconds(3)).await;
    store.set_failing("are_subscribed", true);
    let entry = store.publish(0, 1, 2);
    sleep(seconds(30)).await;
    assert_eq!((receiver.attempts().len(), store.acknowledged().len()), (0, 0));
    assert!(store.calls("are_subscribed") < 40, "{}", store.calls("are_subscribed"));
    store.set_failing("are_subscribed", false);
    within(seconds(3), "it arrives", || receiver.delivered() == [entry]).await;
}

#[tokio::test(start_paused = true)]
async fn feeds_look_for_themselves_while_the_log_cannot_be_waited_for() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.store.set_failing("wait_for_entries", true);
    sleep(seconds(10)).await;
    let before = setup.store.all_calls();
    let entry = setup.store.publish(0, 1, 2);
    within(seconds(3), "it arrives", || setup.receiver.delivered() == [entry]).await;
    sleep(seconds(60)).await;
    let calls = setup.store.all_calls() - before;
    assert!(calls < 63 * 6, "{calls}");
    setup.store.set_failing("wait_for_entries", false);
    sleep(seconds(3)).await;
    let entry = setup.store.publish(0, 1, 2);
    within(ms(10), "it arrives", || setup.receiver.delivered().contains(&entry)).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_spins_while_the_store_fails() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(500));
    for reader in 1..100 {
        setup.store.publish(0, reader, 999);
    }
    sleep(seconds(3)).await;
    setup.store.set_mode(Mode::Fails);
    let before = setup.store.all_calls();
    sleep(seconds(60)).await;
    let calls = setup.store.all_calls() - before;
    assert!(calls < 60 * 6, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn attempts_that_could_not_be_noted_are_noted_later() {
    let setup = Setup::new();
    setup.receiver.answer(|_| failed(500));
    setup.store.set_failing("note_attempts", true);
    let entry = setup.store.publish(0, 1, 2);
    sleep(seconds(10)).await;
    assert_eq!(setup.store.pending_entries(), [(entry, 0)]);
    setup.store.set_failing("note_attempts", false);
    sleep(seconds(3)).await;
    let attempts = u32::try_from(setup.receiver.attempts().len()).unwrap();
    assert_eq!(setup.store.pending_entries(), [(entry, attempts)]);
}
