//! Entries that are lost while watchers read or catch up: each is a gap for whoever missed it, and for
//! nobody else.

use super::*;

/// Receives updates up to the event of this number. Returns the numbers of all events, and how many gaps came.
async fn hear(watch: &mut Subscription, last: u64) -> (Vec<u64>, usize) {
    let (mut events, mut gaps) = (Vec::new(), 0);
    while events.last() != Some(&last) {
        match watch.expect().await {
            Update::Event { event, .. } => events.push(event.position.entry().ms),
            Update::Gap => gaps += 1,
            Update::Heartbeat(_) => {}
            other => panic!("{other:?}"),
        }
        assert!(gaps < 10, "{gaps} gaps after {:?}", events.last());
    }
    (events, gaps)
}

#[tokio::test(start_paused = true)]
async fn a_restart_after_an_erasure_is_one_gap() {
    // The loss is known in the layout, or is seen in the log itself, which went back.
    for (gap_before, went_back) in [(1, 0), (0, 1)] {
        let setup = Setup::new();
        setup.log.publish(3_000, 8, 9);
        setup.log.erase(2_990);
        let mut watch = setup.watch(alice()).await;
        settle().await;
        setup.log.set_gap_before(gap_before);
        setup.log.lose(went_back);
        sleep(seconds(3)).await;
        setup.log.publish(1, 1, 2);
        let last = setup.log.last();
        assert_eq!(hear(&mut watch, last).await, (vec![last], 1), "{gap_before} {went_back}");
        sleep(seconds(10)).await;
        assert_eq!(watch.events_so_far().await, NO_EVENTS);
    }
}

#[tokio::test(start_paused = true)]
async fn entries_erased_ahead_of_the_tail_are_one_gap_where_the_reading_was() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    setup.log.publish(2, 1, 2);
    assert_eq!(watch.expect_events(2).await, [1, 2]);
    setup.log.set_mode(Mode::Fails);
    settle().await;
    setup.log.publish(1_500, 1, 2);
    setup.log.erase(700);
    setup.log.set_mode(Mode::Answers);
    let (events, gaps) = hear(&mut watch, 1_502).await;
    assert_eq!(gaps, 1);
    assert_eq!(events, [numbers(3..=699), numbers(701..=1_502)].concat(), "nothing comes twice");
}

#[tokio::test(start_paused = true)]
async fn a_catch_up_hears_of_an_erasure_once() {
    for (after, expected) in [(Position::START, 0), (position(1), 1), (position(14_000), 0)] {
        let setup = Setup::new();
        setup.log.publish(15_000, 1, 2);
        setup.log.erase(14_000);
        let mut watch = setup.resume(alice(), after).await;
        let (events, gaps) = hear(&mut watch, 15_000).await;
        assert_eq!(gaps, expected, "after {after}");
        assert_eq!(events[0], after.entry().ms + 1, "it goes on where it was");
        assert!(events.is_sorted());
    }
    // An erasure on the way, ahead of the watcher or behind it.
    for (erased, expected) in [(14_000, 1), (100, 0)] {
        let setup = Setup::new();
        setup.log.publish(15_000, 1, 2);
        let mut watch = setup.resume(alice(), Position::START).await;
        assert_eq!(watch.expect_events(500).await, numbers(1..=500));
        setup.log.erase(erased);
        let (events, gaps) = hear(&mut watch, 15_000).await;
        assert_eq!((events[0], gaps), (501, expected), "{erased}");
        assert!(events.is_sorted());
    }
}

#[tokio::test(start_paused = true)]
async fn a_resume_that_read_the_bounds_of_an_older_log_gets_a_gap() {
    let setup = Setup::new();
    let _other = setup.watch(user(2)).await;
    setup.log.publish(5, 1, 2);
    settle().await;
    setup.log.hold_bounds();
    let opening = tokio::spawn({
        let hub = Arc::clone(&setup.hub);
        async move { hub.watch(alice(), Some(vec![Start::After(position(3))])).await }
    });
    settle().await;
    // The position is one of the new log too.
    setup.log.flush(0);
    setup.log.publish(4, 1, 2);
    sleep(ms(1_500)).await;
    setup.log.release_bounds();
    let mut watch = opening.await.unwrap().unwrap();
    sleep(ms(500)).await;
    // It is the loss that the reading found.
    setup.log.set_gap_before(5);
    sleep(seconds(3)).await;
    setup.log.publish(1, 1, 2);
    let (events, gaps) = hear(&mut watch, 5).await;
    assert!((1..=2).contains(&gaps), "{gaps} gaps");
    assert!(events.ends_with(&numbers(1..=5)), "{events:?}");
}
