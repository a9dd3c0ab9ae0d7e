//! A hub on several logs.

use tokio::time::sleep_until;

use super::*;
use crate::service::watch::state::Watcher;

/// An event: its partition and its number.
type Heard = (u16, u64);

/// A hub on several logs that runs.
struct Several {
    hub: Arc<Hub>,
    logs: Vec<Arc<FakeLog>>,
    quotas: Arc<FakeLog>,
}

impl Several {
    fn new(logs: usize) -> Self {
        let logs: Vec<_> = (0..logs).map(|_| Arc::new(FakeLog::default())).collect();
        let quotas = Arc::new(FakeLog::default());
        let mut all: Vec<Arc<dyn EventLog>> = Vec::new();
        for log in &logs {
            all.push(log.clone());
        }
        let hub = Arc::new(Hub::on(all, quotas.clone()));
        tokio::spawn(Arc::clone(&hub).run());
        Self { hub, logs, quotas }
    }

    async fn watch(&self) -> Subscription {
        let watch = self.hub.watch(alice(), None);
        timeout(seconds(60), watch).await.expect("it opens").expect("a watch")
    }

    async fn resume(&self, after: &WatchPosition) -> Subscription {
        self.try_resume(after).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    async fn try_resume(&self, after: &WatchPosition) -> Result<Subscription, WatchError> {
        let starts = after.starts(self.logs.len()).expect("a place in these logs");
        let watch = self.hub.watch(alice(), Some(starts));
        timeout(seconds(60), watch).await.expect("it opens")
    }

    fn registered(&self) -> usize {
        self.hub.state().watchers.values().map(Vec::len).sum()
    }
}

/// The place with each log at the event of this number.
fn all(numbers: &[u64]) -> WatchPosition {
    WatchPosition::All(numbers.iter().map(|number| Some(position(*number))).collect())
}

fn event(partition: u16, number: u64) -> WatchPosition {
    WatchPosition::Event { partition, position: position(number) }
}

impl Subscription {
    /// Returns what has arrived without waiting for more: events, how many gaps came, and the last heartbeat.
    async fn so_far(&mut self) -> (Vec<Heard>, usize, Option<WatchPosition>) {
        settle().await;
        let (mut events, mut gaps, mut heartbeat) = (Vec::new(), 0, None);
        while let Some(update) = self.try_next() {
            match update {
                Update::Event { partition, event, .. } => {
                    events.push((partition.unwrap(), event.position.entry().ms));
                }
                Update::Gap => gaps += 1,
                Update::Heartbeat(position) => heartbeat = Some(position),
                other => panic!("{other:?}"),
            }
        }
        (events, gaps, heartbeat)
    }

    async fn hear(&mut self) -> Vec<Heard> {
        let (events, gaps, _) = self.so_far().await;
        assert_eq!(gaps, 0, "{events:?}");
        events
    }

    /// Receives so many events, however long that takes.
    async fn hear_all(&mut self, count: usize) -> Vec<Heard> {
        let until = Instant::now() + seconds(60);
        let mut events = Vec::new();
        while events.len() < count {
            assert!(Instant::now() < until, "{} events", events.len());
            match self.expect().await {
                Update::Event { partition, event, .. } => {
                    events.push((partition.unwrap(), event.position.entry().ms));
                }
                Update::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
        events
    }
}

fn of(partition: u16, numbers: std::ops::RangeInclusive<u64>) -> Vec<Heard> {
    numbers.map(|number| (partition, number)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watcher_hears_all_partitions_in_one_queue() {
    let setup = Several::new(3);
    let mut watch = setup.watch().await;
    let began = Instant::now();
    for log in &setup.logs {
        log.publish(2, 1, 2);
        log.publish(1, 8, 9);
    }
    let mut events = watch.hear().await;
    events.sort_unstable();
    assert_eq!(events, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]);
    setup.logs[1].publish(2, 2, 1);
    assert_eq!(watch.hear().await, [(1, 4), (1, 5)], "in order");
    // One heartbeat for all.
    sleep_until(began + seconds(31)).await;
    for _ in 0..2 {
        let Ok(Update::Heartbeat(position)) = watch.updates.try_recv() else { panic!("two") };
        assert_eq!(position, all(&[3, 5, 3]));
    }
    assert!(watch.updates.is_empty());
    assert_eq!(watch.position(), Some(all(&[3, 5, 3])));
}

#[tokio::test(start_paused = true)]
async fn the_first_update_is_a_heartbeat_of_all_partitions() {
    let setup = Several::new(3);
    setup.logs[1].publish(4, 1, 2);
    let began = Instant::now();
    let mut watch = setup.watch().await;
    let Update::Heartbeat(first) = watch.expect().await else { panic!("a heartbeat") };
    let empty = Some(Position::EMPTY);
    assert_eq!(first, WatchPosition::All([empty, Some(position(4)), empty].into()));
    assert_eq!(began.elapsed(), Duration::ZERO);
    setup.logs[0].publish(1, 1, 2);
    assert_eq!(watch.hear().await, [(0, 1)]);
}

#[tokio::test(start_paused = true)]
async fn an_overflow_ends_the_one_watch() {
    let setup = Several::new(3);
    let mut slow = setup.watch().await;
    slow.hear().await;
    for log in &setup.logs {
        log.publish(667, 1, 2);
        sleep(seconds(1)).await;
    }
    assert_eq!(setup.registered(), 0);
    let mut heard = 0;
    while let Some(update) = timeout(seconds(60), slow.next()).await.expect("its end") {
        heard += usize::from(matches!(update, Update::Event { .. }));
    }
    assert_eq!(heard, 2_000);
    assert!(setup.hub.state().watchers.is_empty());

    // Or what is queued is dropped.
    let mut slow = setup.watch().await;
    setup.logs[2].publish(2_100, 1, 2);
    sleep(seconds(1)).await;
    let mut context = Context::from_waker(Waker::noop());
    assert!(slow.poll_overflow(&mut context).is_ready());
}

#[tokio::test(start_paused = true)]
async fn bursts_in_all_partitions_end_no_watcher_that_reads() {
    let setup = Several::new(64);
    let mut watch = setup.watch().await;
    watch.hear().await;
    let reading = tokio::spawn(async move { watch.hear_all(64 * 400).await.len() });
    for log in &setup.logs {
        log.publish(400, 1, 2);
    }
    assert_eq!(reading.await.unwrap(), 64 * 400);
}

#[tokio::test(start_paused = true)]
async fn after_an_event_the_other_partitions_resume_60_s_before_it() {
    let setup = Several::new(3);
    let [p, q, r] = [&setup.logs[0], &setup.logs[1], &setup.logs[2]];
    for (log, numbers) in
        [(p, [50_000, 99_999, 100_000, 100_001]), (q, [39_998, 39_999, 40_000, 150_000])]
    {
        for number in numbers {
            log.advance_to(number - 1);
            log.publish(1, 1, 2);
        }
    }
    r.publish(1, 1, 2);
    // From the rings and from the store.
    for newer in [0, 4_000] {
        for log in &setup.logs {
            log.advance_to(200_000);
            log.publish(newer, 8, 9);
        }
        let mut back = setup.resume(&event(0, 100_000)).await;
        sleep(seconds(1)).await;
        assert_eq!(back.hear().await, [(1, 40_000), (0, 100_001), (1, 150_000)]);
    }
    // A minute before it, entries of the third partition may be lost.
    r.trim(1);
    let mut back = setup.resume(&event(0, 100_000)).await;
    sleep(seconds(1)).await;
    let (events, gaps, _) = back.so_far().await;
    assert_eq!((events.len(), gaps), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn after_a_heartbeat_nothing_is_lost_or_repeated() {
    let setup = Several::new(3);
    let mut watch = setup.watch().await;
    for log in &setup.logs {
        log.publish(3, 1, 2);
    }
    watch.hear_all(9).await;
    sleep(seconds(16)).await;
    let (_, _, heartbeat) = watch.so_far().await;
    let heartbeat = heartbeat.unwrap();
    drop(watch);
    for newer in [0, 4_000] {
        setup.logs[0].publish(2, 1, 2);
        setup.logs[2].publish(1, 1, 2);
        for log in &setup.logs {
            log.publish(newer, 8, 9);
        }
        settle().await;
        let mut back = setup.resume(&heartbeat.to_string().parse().unwrap()).await;
        sleep(seconds(1)).await;
        let mut events = back.hear().await;
        events.sort_unstable();
        if newer == 0 {
            assert_eq!(events, [(0, 4), (0, 5), (2, 4)]);
        } else {
            assert_eq!(events, [(0, 4), (0, 5), (0, 6), (0, 7), (2, 4), (2, 5)]);
        }
    }
}

/// Each event is a place to resume from only if the other partitions have nothing older than a minute left.
#[tokio::test(start_paused = true)]
async fn a_catch_up_sends_the_oldest_events_first() {
    for in_store in [false, true] {
        let setup = Several::new(3);
        let mut expected = Vec::new();
        for (partition, log) in (0..).zip(&setup.logs) {
            for step in 1..=300 {
                let number = step * 2_000 + u64::from(partition) * 700;
                // One partition has many more entries, so that each read of it ends earlier.
                let others = if partition == 1 { 20 } else { 0 };
                log.advance_to(number - 1 - others);
                log.publish(others, 8, 9);
                // Another has been quiet for most of the time.
                let reader = if partition == 2 && step < 290 { 8 } else { 1 };
                log.publish(1, reader, 9);
                if reader == 1 {
                    expected.push((partition, number));
                }
            }
            if in_store {
                log.advance_to(700_000);
                log.publish(3_400, 8, 9);
            }
        }
        let after = all(&[0, 0, 0]);
        let mut watch = setup.resume(&after).await;
        let mut events = watch.hear_all(expected.len()).await;
        let mut least = u64::MAX;
        for (_, number) in events.iter().rev() {
            assert!(*number < least.saturating_add(60_000), "{number} before {least}");
            least = least.min(*number);
        }
        events.sort_unstable();
        expected.sort_unstable();
        assert_eq!(events, expected);
        setup.logs[1].publish(1, 1, 9);
        assert_eq!(watch.hear_all(1).await[0].0, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_told_of_the_partition_that_has_one() {
    let setup = Several::new(3);
    for log in &setup.logs {
        log.publish(10, 1, 2);
    }
    setup.logs[1].trim(3);
    let mut watch = setup.resume(&all(&[8, 5, 9])).await;
    let (mut events, gaps, _) = watch.so_far().await;
    events.sort_unstable();
    assert_eq!((events, gaps), ([of(0, 9..=10), of(1, 8..=10), of(2, 10..=10)].concat(), 1));
    // Where it is not known.
    let unknown = WatchPosition::All([Some(position(10)), None, Some(position(10))].into());
    let mut watch = setup.resume(&unknown).await;
    let (events, gaps, _) = watch.so_far().await;
    assert_eq!((events, gaps), (vec![], 1));
    setup.logs[1].publish(1, 1, 2);
    assert_eq!(watch.hear().await, [(1, 11)]);
}

#[tokio::test(start_paused = true)]
async fn a_flush_of_one_partition_is_a_gap_after_which_only_that_is_heard_again() {
    let setup = Several::new(3);
    let mut watch = setup.watch().await;
    for log in &setup.logs {
        log.publish(5, 1, 2);
    }
    watch.hear_all(15).await;
    setup.logs[1].flush(0);
    setup.logs[1].publish(2, 1, 2);
    sleep(seconds(3)).await;
    let (events, gaps, _) = watch.so_far().await;
    assert_eq!((events, gaps), (of(1, 1..=2), 1));
    setup.logs[0].publish(1, 1, 2);
    assert_eq!(watch.hear().await, [(0, 6)]);
}

#[tokio::test(start_paused = true)]
async fn a_position_ahead_of_its_partition_is_refused() {
    let setup = Several::new(2);
    let ahead = NOW_MS + 60_001;
    for after in [event(1, ahead), all(&[1, ahead])] {
        let refused = setup.try_resume(&after).await;
        assert!(matches!(refused, Err(WatchError::Ahead)), "{after}: {:?}", refused.err());
    }
    settle().await;
    assert_eq!(setup.hub.state().watching, 0);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_is_away_at_the_start_is_heard_once_it_is_back() {
    for mode in [Mode::Fails, Mode::Hangs] {
        let setup = Several::new(3);
        setup.logs[1].set_mode(mode);
        let began = Instant::now();
        let mut watch = setup.watch().await;
        assert!(began.elapsed() <= ms(500), "{mode:?}: {:?}", began.elapsed());
        let (_, _, first) = watch.so_far().await;
        let empty = Some(Position::EMPTY);
        assert_eq!(first, Some(WatchPosition::All([empty, None, empty].into())));
        setup.logs[0].publish(1, 1, 2);
        setup.logs[1].publish(1, 1, 2);
        // The other partitions are heard, and each event has a heartbeat to resume from.
        let (events, gaps, heartbeat) = watch.so_far().await;
        assert_eq!((events, gaps), (of(0, 1..=1), 0));
        let expected = WatchPosition::All([Some(position(1)), None, empty].into());
        assert_eq!(heartbeat, Some(expected));
        sleep(seconds(30)).await;
        let (events, gaps, heartbeat) = watch.so_far().await;
        assert!(events.is_empty() && gaps == 0 && heartbeat.is_some(), "{mode:?}");
        // Nobody knows what was missed.
        setup.logs[1].set_mode(Mode::Answers);
        sleep(seconds(40)).await;
        let (events, gaps, heartbeat) = watch.so_far().await;
        assert_eq!((events, gaps), (vec![], 1), "{mode:?}");
        assert_eq!(
            heartbeat,
            Some(WatchPosition::All([Some(position(1)), Some(position(1)), empty].into()))
        );
        setup.logs[1].publish(1, 1, 2);
        assert_eq!(watch.hear().await, [(1, 2)]);
        assert_eq!(
            watch.position(),
            Some(WatchPosition::All([Some(position(1)), Some(position(2)), empty].into()))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_resumes_in_a_partition_that_comes_back() {
    for mode in [Mode::Fails, Mode::Hangs] {
        let setup = Several::new(3);
        for log in &setup.logs {
            log.publish(10, 1, 2);
        }
        setup.logs[1].set_mode(mode);
        let began = Instant::now();
        let mut watch = setup.resume(&all(&[8, 8, 8])).await;
        assert!(began.elapsed() <= ms(1_000), "{mode:?}: {:?}", began.elapsed());
        let mut events = watch.hear().await;
        events.sort_unstable();
        assert_eq!(events, [of(0, 9..=10), of(2, 9..=10)].concat());
        assert_eq!(watch.position(), Some(all(&[10, 8, 10])));
        sleep(seconds(60)).await;
        setup.logs[1].publish(1, 1, 2);
        setup.logs[1].set_mode(Mode::Answers);
        sleep(seconds(40)).await;
        assert_eq!(watch.hear().await, of(1, 9..=11), "{mode:?}: no gap, and nothing twice");
        setup.logs[1].publish(1, 1, 2);
        setup.logs[0].publish(1, 1, 2);
        let mut events = watch.hear().await;
        events.sort_unstable();
        assert_eq!(events, [(0, 11), (1, 12)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fails_during_a_catch_up_is_tried_again() {
    let setup = Several::new(3);
    for log in &setup.logs {
        log.publish(20_000, 1, 2);
    }
    let mut watch = setup.resume(&all(&[1, 1, 1])).await;
    let first = watch.hear_all(5_000).await;
    setup.logs[2].set_mode(Mode::Fails);
    let mut heard: Vec<u64> = vec![1; 3];
    let mut take = |events: Vec<Heard>| {
        for (partition, number) in events {
            let last = &mut heard[usize::from(partition)];
            assert_eq!(number, *last + 1, "of partition {partition}");
            *last = number;
        }
        heard.clone()
    };
    take(first);
    // The others go on to their ends.
    while take(watch.hear_all(1).await)[..2] != [20_000, 20_000] {}
    sleep(seconds(2)).await;
    take(watch.hear().await);
    setup.logs[0].publish(1, 1, 2);
    let (events, gaps, heartbeat) = watch.so_far().await;
    assert_eq!((&events, gaps), (&of(0, 20_001..=20_001), 0));
    let last = take(events)[2];
    assert_eq!(heartbeat, Some(all(&[20_001, 20_000, last])), "it is a place to resume from");
    setup.logs[2].set_mode(Mode::Answers);
    while take(watch.hear_all(1).await) != [20_001, 20_000, 20_000] {}
    sleep(seconds(5)).await;
    assert_eq!(setup.registered(), 1);
    setup.logs[2].publish(1, 1, 2);
    assert_eq!(take(watch.hear().await), [20_001, 20_000, 20_001]);
}

#[tokio::test(start_paused = true)]
async fn a_partition_that_fails_while_it_is_watched_loses_nothing() {
    let setup = Several::new(2);
    let mut watch = setup.watch().await;
    watch.hear().await;
    setup.logs[1].set_mode(Mode::Fails);
    settle().await;
    setup.logs[1].publish(2, 1, 2);
    setup.logs[0].publish(1, 1, 2);
    let (events, _, heartbeat) = watch.so_far().await;
    assert_eq!((events, heartbeat), (of(0, 1..=1), None));
    // Once it is far behind, a heartbeat says that the event alone is not a place to resume from.
    sleep(seconds(40)).await;
    watch.so_far().await;
    setup.logs[0].publish(1, 1, 2);
    let (events, _, heartbeat) = watch.so_far().await;
    let expected = WatchPosition::All([Some(position(2)), Some(Position::EMPTY)].into());
    assert_eq!((events, heartbeat), (of(0, 2..=2), Some(expected)));
    setup.logs[1].set_mode(Mode::Answers);
    sleep(seconds(2)).await;
    assert_eq!(watch.hear().await, of(1, 1..=2));
}

/// Each has an entry for every partition.
#[tokio::test(start_paused = true)]
async fn a_queue_has_few_lists_of_positions_while_a_partition_is_away() {
    for is_absent in [true, false] {
        let setup = Several::new(2);
        let [served, away] = [&setup.logs[0], &setup.logs[1]];
        if is_absent {
            away.set_mode(Mode::Fails);
        }
        let mut watch = setup.watch().await;
        away.set_mode(Mode::Fails);
        sleep(seconds(40)).await;
        watch.hear().await;
        for round in 0..30 {
            served.publish(10, 1, 2);
            sleep(seconds(20)).await;
            // It is read again for a moment, now and then.
            away.set_mode(if !is_absent && round % 3 == 0 { Mode::Answers } else { Mode::Fails });
        }
        assert_eq!(setup.registered(), 1);
        // Every event is followed by a place to resume from.
        let (mut waiting, mut lists, mut heard) = (watch.updates.len(), 0, 0);
        while let Some(update) = watch.try_next() {
            let is_queued = watch.updates.len() < waiting;
            waiting = watch.updates.len();
            match update {
                Update::Event { event, .. } => {
                    heard += 1;
                    assert_eq!(event.position, position(heard));
                    let Some(Update::Heartbeat(next)) = watch.try_next() else { panic!("{heard}") };
                    lists += usize::from(watch.updates.len() < waiting);
                    waiting = watch.updates.len();
                    let WatchPosition::All(places) = next else { panic!("{next}") };
                    assert_eq!(places[0], Some(position(heard)));
                }
                Update::Heartbeat(_) => lists += usize::from(is_queued),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, 300);
        assert!((1..=10).contains(&lists), "{lists} lists");
    }
}

#[tokio::test(start_paused = true)]
async fn no_watch_opens_while_no_partition_can_be_read() {
    let setup = Several::new(2);
    for log in &setup.logs {
        log.set_mode(Mode::Fails);
    }
    assert!(timeout(seconds(2), setup.hub.watch(alice(), None)).await.is_err());
    assert_eq!(setup.hub.state().watching, 0);
    setup.logs[0].set_mode(Mode::Answers);
    let watch = setup.watch().await;
    // All were read before, and are away.
    setup.logs[1].set_mode(Mode::Answers);
    sleep(seconds(5)).await;
    for log in &setup.logs {
        log.set_mode(Mode::Fails);
    }
    sleep(seconds(5)).await;
    let refused = setup.try_resume(&all(&[1, 1])).await;
    assert!(matches!(refused, Err(WatchError::Store(_))));
    drop(watch);
}

#[tokio::test(start_paused = true)]
async fn entries_of_all_partitions_are_paid_together() {
    let setup = Several::new(4);
    // The ring begins with 2,500 entries of each log.
    for log in &setup.logs {
        log.publish(600 + 2_500, 8, 9);
    }
    let _watch = setup.resume(&all(&[1, 1, 1, 1])).await;
    sleep(seconds(2)).await;
    assert_eq!(setup.registered(), 1);
    let paid = setup.quotas.paid(alice());
    // 599 of each, and the last reads may go on into the ring.
    assert!((2..=3).contains(&paid), "{paid}");

    let setup = Several::new(4);
    for log in &setup.logs {
        log.publish(20_000, 8, 9);
    }
    setup.quotas.set_left(15);
    let mut watch = setup.resume(&all(&[1, 1, 1, 1])).await;
    assert!(matches!(watch.expect().await, Update::OverQuota { .. }));
    assert!(timeout(seconds(1), watch.next()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_dropped_is_gone_in_all_partitions() {
    let setup = Several::new(3);
    let one = setup.watch().await;
    setup.logs[2].set_mode(Mode::Fails);
    sleep(seconds(1)).await;
    let other = setup.resume(&all(&[0, 0, 0])).await;
    settle().await;
    assert_eq!((setup.registered(), setup.hub.state().watching), (2, 2));
    drop((one, other));
    assert_eq!((setup.registered(), setup.hub.state().watching), (0, 0));
    setup.logs[2].set_mode(Mode::Answers);
    sleep(seconds(70)).await;
    for log in &setup.logs {
        assert!(log.last_read().elapsed() > seconds(5), "nothing is read for them");
    }
    // No task holds the hub for them.
    assert_eq!(setup.registered(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_comes_back_shares_the_reads_of_the_bounds() {
    let setup = Several::new(8);
    let _other = setup.watch().await;
    sleep(ms(500)).await;
    let count = || setup.logs.iter().map(|log| log.count_reads(Read::Span)).sum::<usize>();
    let before = count();
    for log in &setup.logs {
        log.hold_bounds();
    }
    let after = all(&[0; 8]);
    let opening = (0..64).map(|_| {
        let (hub, starts) = (Arc::clone(&setup.hub), after.starts(8).unwrap());
        tokio::spawn(async move { hub.watch(alice(), Some(starts)).await.unwrap() })
    });
    let opening: Vec<_> = opening.collect();
    settle().await;
    for log in &setup.logs {
        log.release_bounds();
    }
    for watch in opening {
        drop(watch.await.unwrap());
    }
    // Those who came while the first read was under way share the second one.
    assert_eq!(count() - before, 2 * 8);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_whom_every_event_concerns_gets_each_once() {
    let setup = Several::new(8);
    for log in &setup.logs {
        // 1,250 of these are in the ring.
        log.publish(4_000, 1, 2);
    }
    let mut watch = setup.resume(&all(&[0; 8])).await;
    let mut events = watch.hear_all(8 * 4_000).await;
    events.sort_unstable();
    let expected: Vec<_> = (0..8).flat_map(|partition| of(partition, 1..=4_000)).collect();
    assert!(events == expected, "{} events", events.len());
    sleep(seconds(1)).await;
    assert_eq!(watch.hear().await, []);
}

#[tokio::test(start_paused = true)]
async fn partitions_that_hang_hold_up_no_read_of_the_others() {
    let setup = Several::new(6);
    for log in &setup.logs {
        log.publish(20_000, 8, 9);
    }
    let _first = setup.watch().await;
    settle().await;
    // Reads of what these two miss hang, as many as may be under way at the same time.
    let _behind = setup.resume(&all(&[1, 1, 1, 1, 20_000, 20_000])).await;
    for log in &setup.logs[..4] {
        log.set_mode(Mode::Hangs);
    }
    sleep(ms(100)).await;
    let began = Instant::now();
    let mut watch = setup.resume(&all(&[20_000, 20_000, 20_000, 20_000, 1, 1])).await;
    while setup.logs[5].count_reads(Read::Entries) == 0 {
        sleep(ms(10)).await;
        assert!(began.elapsed() < seconds(3), "nothing is read");
    }
    sleep(seconds(10)).await;
    setup.logs[5].publish(1, 1, 2);
    assert_eq!(watch.hear().await, [(5, 20_001)]);
}

#[test]
fn a_watcher_takes_as_much_for_many_partitions_as_for_one() {
    // Nothing is kept of a watcher by log, unless that is away.
    assert!(size_of::<Watcher>() <= 48, "{}", size_of::<Watcher>());
}
