//! Who delivers what: leases, their loss, the spread over processes, and the drain.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Returns how many feeds each process has.
fn loads(store: &FakeStore) -> Vec<usize> {
    let mut loads: BTreeMap<String, usize> = BTreeMap::new();
    for owner in store.owners().into_values() {
        *loads.entry(owner).or_default() += 1;
    }
    let mut loads: Vec<_> = loads.into_values().collect();
    loads.sort_unstable();
    loads
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_ends_what_is_in_flight_and_its_acknowledgements() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.hold(true);
    let entry = setup.store.publish(0, 1, 2);
    within(ms(10), "it is in flight", || setup.receiver.in_flight() == 1).await;
    setup.store.steal(&feed("w", 0));
    within(seconds(2), "it is given up", || setup.receiver.in_flight() == 0).await;
    setup.receiver.hold(false);
    setup.store.publish(0, 3, 4);
    sleep(seconds(30)).await;
    assert_eq!(setup.receiver.attempts().len(), 1);
    assert_eq!(setup.store.acknowledged(), [0; 0]);
    // It is acquired again when the other one has gone, and what is pending comes first.
    setup.store.free(&feed("w", 0));
    within(seconds(3), "both arrive", || setup.store.acknowledged().len() == 2).await;
    assert_eq!(setup.receiver.delivered()[0], entry);
}

#[tokio::test(start_paused = true)]
async fn a_process_that_wakes_up_late_begins_no_attempt() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.receiver.answer(|_| failed(500));
    for reader in 1..=10 {
        setup.store.publish(0, reader, 99);
    }
    sleep(ms(500)).await;
    setup.receiver.accept();
    let before = setup.receiver.attempts().len();
    assert!(before >= 10);
    // The whole process is stopped for 30 s, and the lease becomes another's.
    setup.store.steal(&feed("w", 0));
    tokio::time::advance(seconds(30)).await;
    sleep(seconds(10)).await;
    assert_eq!(setup.receiver.attempts().len(), before);
    assert_eq!(setup.store.acknowledged(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_is_over_before_redis_gives_it_away() {
    let setup = Setup::new();
    sleep(seconds(3)).await;
    setup.store.set_failing("renew", true);
    setup.store.set_failing("acquire", true);
    setup.receiver.set_delay(ms(10));
    let began = Instant::now();
    for _ in 0..1000 {
        setup.store.publish(0, 1, 2);
    }
    sleep(seconds(10)).await;
    let last = setup.receiver.attempts().into_iter().map(|sent| sent.at - began).max().unwrap();
    // The last renewal was at most 1.5 s ago, and counts for 5 s.
    assert!(last > seconds(3) && last <= seconds(5), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn feeds_spread_evenly_and_are_handed_over_without_doubles() {
    let (store, receiver) = (FakeStore::new(16), FakeReceiver::default());
    receiver.set_delay(ms(20));
    let webhooks = [receiver.webhook("w", "s")];
    let one = Process::start(&store, &webhooks);
    let publish = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for number in 0..8000_u64 {
                store.publish(usize::try_from(number % 16).unwrap(), 1 + number % 48, 99);
                sleep(ms(1)).await;
            }
        })
    };
    within(seconds(4), "one has all", || loads(&store) == [16]).await;
    let _other = Process::start(&store, &webhooks);
    within(seconds(4), "each has half", || loads(&store) == [8, 8]).await;
    let _third = Process::start(&store, &webhooks);
    within(seconds(4), "each has a third", || loads(&store) == [5, 5, 6]).await;
    publish.await.unwrap();
    within(seconds(5), "all arrive", || store.acknowledged().len() == 8000).await;
    let delivered = receiver.delivered();
    assert_eq!(delivered.len(), 8000);
    assert_eq!(delivered.iter().collect::<BTreeSet<_>>().len(), 8000);
    one.kill();
}

#[tokio::test(start_paused = true)]
async fn the_feeds_of_a_process_that_is_gone_are_taken_over_within_ten_seconds() {
    let (store, receiver) = (FakeStore::new(4), FakeReceiver::default());
    let webhooks = [receiver.webhook("v", "s"), receiver.webhook("w", "s")];
    let (one, _other) = (Process::start(&store, &webhooks), Process::start(&store, &webhooks));
    within(seconds(4), "each has half", || loads(&store) == [4, 4]).await;
    one.kill();
    let killed = Instant::now();
    within(seconds(10), "the other has all", || loads(&store) == [8]).await;
    assert!(killed.elapsed() > seconds(3), "{:?}", killed.elapsed());
    for partition in 0..4 {
        store.publish(partition, 1, 2);
    }
    within(seconds(1), "all arrive", || store.acknowledged().len() == 8).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_in_flight_and_others_go_on_within_two_seconds() {
    let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
    let webhooks = [receiver.webhook("w", "s")];
    let mut one = Process::start(&store, &webhooks);
    within(seconds(3), "one has it", || loads(&store) == [1]).await;
    receiver.set_delay(seconds(5));
    let first = store.publish(0, 1, 2);
    let second = store.publish(0, 1, 2);
    within(ms(10), "it is in flight", || receiver.in_flight() == 1).await;
    one.drain();
    let drained = Instant::now();
    let _other = Process::start(&store, &webhooks);
    within(seconds(6), "it has ended", || one.task.is_finished()).await;
    assert!(drained.elapsed() >= seconds(4), "{:?}", drained.elapsed());
    assert_eq!(store.acknowledged(), [first]);
    receiver.set_delay(ms(0));
    within(seconds(2), "the other one goes on", || store.acknowledged() == [first, second]).await;
    assert_eq!(receiver.attempts().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_though_a_receiver_hangs_or_the_store_does() {
    for is_store in [false, true] {
        let mut setup = Setup::new();
        sleep(seconds(3)).await;
        setup.receiver.hold(true);
        setup.store.publish(0, 1, 2);
        sleep(ms(10)).await;
        if is_store {
            setup.store.set_mode(Mode::Hangs);
        }
        setup.process.drain();
        within(seconds(24), "it ends", || setup.process.task.is_finished()).await;
        assert_eq!(setup.receiver.in_flight(), 0);
        if is_store {
            // It could not be given back, and expires.
            sleep(seconds(6)).await;
        }
        assert_eq!(setup.store.owners().len(), 0);
        assert_eq!(setup.store.acknowledged(), [0; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_feeds_of_a_webhook_that_is_removed_are_given_back() {
    let (store, receiver) = (FakeStore::new(2), FakeReceiver::default());
    let (v, w) = (receiver.webhook("v", "s"), receiver.webhook("w", "s"));
    let process = Process::start(&store, &[v.clone(), w.clone()]);
    within(seconds(3), "it has all", || loads(&store) == [4]).await;
    process.set_webhooks(std::slice::from_ref(&v));
    within(seconds(1), "two are left", || loads(&store) == [2]).await;
    store.publish(0, 1, 2);
    sleep(seconds(5)).await;
    assert_eq!(store.acknowledged().len(), 1);
    process.set_webhooks(&[v, w]);
    within(seconds(3), "it has all again", || loads(&store) == [4]).await;
    within(seconds(3), "both arrived", || store.acknowledged().len() == 2).await;
}

#[tokio::test(start_paused = true)]
async fn a_process_that_does_not_know_a_webhook_does_not_deliver_it() {
    let (store, receiver) = (FakeStore::new(4), FakeReceiver::default());
    let _one = Process::start(&store, &[receiver.webhook("w", "s")]);
    let _other = Process::start(&store, &[]);
    sleep(seconds(5)).await;
    assert_eq!(loads(&store), [4]);
}
