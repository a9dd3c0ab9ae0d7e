//! The hub on a simulated log and a paused clock.

mod backlog;
mod fake_log;
mod losses;
mod partitions;
mod simulation;

use std::task::{Context, Waker};

use tokio::time::{Instant, sleep};

use self::fake_log::{FakeLog, Mode, NOW_MS, Read};
use super::log_state::View;
use super::tail::Standstill;
use super::*;
use crate::domain::{EntryId, Position};
use crate::store::LogBounds;

/// A hub that runs, and its log.
struct Setup {
    hub: Arc<Hub>,
    log: Arc<FakeLog>,
}

const NO_EVENTS: [u64; 0] = [];

impl Setup {
    fn new() -> Self {
        let log = Arc::new(FakeLog::default());
        let hub = Arc::new(Hub::on(vec![log.clone()], log.clone()));
        tokio::spawn(Arc::clone(&hub).run());
        Self { hub, log }
    }

    async fn watch(&self, user: UserId) -> Subscription {
        self.try_watch(user, None).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    async fn resume(&self, user: UserId, after: Position) -> Subscription {
        self.try_watch(user, Some(after)).await.unwrap_or_else(|error| panic!("{error:?}"))
    }

    async fn try_watch(
        &self,
        user: UserId,
        after: Option<Position>,
    ) -> Result<Subscription, WatchError> {
        let watch = self.hub.watch(user, after.map(|after| vec![Start::After(after)]));
        timeout(seconds(60), watch).await.expect("a watch opens within a minute")
    }

    fn registered(&self) -> usize {
        self.hub.state().watchers.values().map(Vec::len).sum()
    }
}

impl Subscription {
    /// Receives the next update, which has to come within a minute.
    async fn expect(&mut self) -> Update {
        let next = timeout(seconds(60), self.next()).await;
        next.expect("an update within a minute").expect("the watch goes on")
    }

    /// Receives the next update if there is one.
    fn try_next(&mut self) -> Option<Update> {
        let next = self.following().or_else(|| self.updates.try_recv().ok())?;
        self.note(&next);
        Some(next)
    }

    async fn expect_heartbeat(&mut self) -> Position {
        match self.expect().await {
            Update::Heartbeat(WatchPosition::Log(position)) => position,
            other => panic!("{other:?}"),
        }
    }

    /// Receives the next events, without heartbeats, and returns their numbers.
    async fn expect_events(&mut self, count: usize) -> Vec<u64> {
        let until = Instant::now() + seconds(60);
        let mut numbers = Vec::new();
        while numbers.len() < count {
            assert!(Instant::now() < until, "after {numbers:?}");
            match self.expect().await {
                Update::Event { event, .. } => numbers.push(event.position.entry().ms),
                Update::Heartbeat(_) => {}
                other => panic!("{other:?} after {numbers:?}"),
            }
        }
        numbers
    }

    /// Returns the numbers of the events that have arrived, without waiting for more.
    async fn events_so_far(&mut self) -> Vec<u64> {
        settle().await;
        let mut numbers = Vec::new();
        while let Some(update) = self.try_next() {
            match update {
                Update::Event { event, .. } => numbers.push(event.position.entry().ms),
                Update::Heartbeat(_) => {}
                other => panic!("{other:?} after {numbers:?}"),
            }
        }
        numbers
    }
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

fn alice() -> UserId {
    user(1)
}

fn position(number: u64) -> Position {
    EntryId { ms: number, count: 0 }.into()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Lets everything run that can.
async fn settle() {
    sleep(ms(1)).await;
}

fn numbers(numbers: std::ops::RangeInclusive<u64>) -> Vec<u64> {
    numbers.collect()
}

#[tokio::test(start_paused = true)]
async fn the_log_is_not_read_while_nobody_watches() {
    let setup = Setup::new();
    setup.log.publish(5, 1, 2);
    sleep(seconds(3600)).await;
    assert_eq!(setup.log.reads(), []);
}

#[tokio::test(start_paused = true)]
async fn reading_stops_60_s_after_the_last_watcher_left() {
    let setup = Setup::new();
    let (one, other) = (setup.watch(alice()).await, setup.watch(user(2)).await);
    setup.log.publish(2, 1, 2);
    sleep(seconds(100)).await;
    drop(other);
    sleep(seconds(100)).await;
    drop(one);
    assert_eq!(setup.hub.state().logs[0].ring.len(), 2);
    let left = Instant::now();
    sleep(seconds(3600)).await;
    let read_for = setup.log.last_read() - left;
    assert!((seconds(58)..seconds(60)).contains(&read_for), "{read_for:?}");
    assert!(setup.hub.state().logs[0].ring.is_empty());

    // The next watcher starts it again.
    setup.log.publish(3, 1, 2);
    let mut back = setup.watch(alice()).await;
    assert_eq!(back.expect_heartbeat().await, position(5));
    setup.log.publish(1, 1, 2);
    assert_eq!(back.expect_events(1).await, [6]);
}

#[tokio::test(start_paused = true)]
async fn reading_goes_on_if_a_watcher_comes_back_in_time() {
    let setup = Setup::new();
    drop(setup.watch(alice()).await);
    sleep(seconds(50)).await;
    let back = setup.watch(alice()).await;
    sleep(seconds(100)).await;
    assert!(setup.log.last_read().elapsed() <= seconds(1));
    drop(back);
    sleep(seconds(59)).await;
    assert!(setup.log.last_read().elapsed() <= seconds(1));
    // It never started anew.
    assert_eq!(setup.log.count_reads(Read::Newest), 1);
}

#[tokio::test(start_paused = true)]
async fn a_first_watcher_gets_a_heartbeat_at_once() {
    for (entries, tail) in [(0, Position::EMPTY), (5, position(5))] {
        let setup = Setup::new();
        setup.log.publish(entries, 1, 2);
        sleep(seconds(7)).await;
        let began = Instant::now();
        let mut watch = setup.watch(alice()).await;
        assert_eq!(watch.expect_heartbeat().await, tail);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_come_every_15_s_with_the_position() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    let began = Instant::now();
    assert_eq!(watch.expect_heartbeat().await, Position::EMPTY);
    for number in 1..=10 {
        setup.log.publish(1, 8, 9);
        assert_eq!(watch.expect_heartbeat().await, position(number));
        assert_eq!(began.elapsed(), seconds(15 * number));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_goes_to_its_reader_and_recipient_only() {
    let setup = Setup::new();
    let mut first = setup.watch(user(1)).await;
    let mut second = setup.watch(user(2)).await;
    let mut second_again = setup.watch(user(2)).await;
    let mut third = setup.watch(user(3)).await;
    setup.log.publish(1, 1, 2);
    setup.log.publish(1, 2, 3);
    // To oneself.
    setup.log.publish(1, 3, 3);
    assert_eq!(first.events_so_far().await, [1]);
    assert_eq!(second.events_so_far().await, [1, 2]);
    assert_eq!(second_again.events_so_far().await, [1, 2]);
    assert_eq!(third.events_so_far().await, [2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_resumes_gets_what_it_missed() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    setup.log.publish(2, 1, 2);
    setup.log.publish(2, 3, 4);
    setup.log.publish(2, 2, 1);
    assert_eq!(watch.expect_events(2).await, [1, 2]);
    drop(watch);
    sleep(seconds(30)).await;
    let mut back = setup.resume(alice(), position(2)).await;
    assert_eq!(back.expect_events(2).await, [5, 6]);
    setup.log.publish(1, 1, 2);
    assert_eq!(back.expect_events(1).await, [7]);
    assert_eq!(back.events_so_far().await, NO_EVENTS);
    assert_eq!(setup.log.count_reads(Read::Entries), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_older_than_the_ring_comes_from_the_store() {
    let setup = Setup::new();
    for _ in 0..6_000 {
        setup.log.publish(1, 1, 2);
        setup.log.publish(1, 3, 4);
    }
    // The ring begins after entry 2000.
    let mut watch = setup.resume(alice(), position(500)).await;
    let odd: Vec<_> = (501..=12_000).step_by(2).collect();
    assert_eq!(watch.expect_events(odd.len()).await, odd);
    // 16, 64 and 256 entries, then 500 at a time.
    assert_eq!(setup.log.count_reads(Read::Entries), 6);
    setup.log.publish(1, 1, 2);
    assert_eq!(watch.expect_events(1).await, [12_001]);
}

#[tokio::test(start_paused = true)]
async fn events_during_a_catch_up_come_once_and_in_order() {
    let setup = Setup::new();
    setup.log.publish(3, 1, 2);
    setup.log.held.send_replace(true);
    let mut watch = setup.resume(alice(), Position::START).await;
    settle().await;
    // The first read has ended with entry 3.
    setup.log.publish(2, 1, 2);
    assert_eq!(watch.events_so_far().await, NO_EVENTS);
    setup.log.held.send_replace(false);
    assert_eq!(watch.events_so_far().await, numbers(1..=5));
    setup.log.publish(1, 1, 2);
    assert_eq!(watch.events_so_far().await, [6]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_may_be_slow_while_it_catches_up() {
    let setup = Setup::new();
    setup.log.publish(4_700, 1, 2);
    let mut watch = setup.resume(alice(), Position::START).await;
    let mut seen = Vec::new();
    // More than the queue holds arrives while it is full, several times.
    for published in [2_600, 5, 700, 0, 1, 2_550, 2_012, 1_999, 3] {
        setup.log.publish(published, 1, 2);
        settle().await;
        assert_eq!(setup.registered(), 0);
        seen.extend(watch.expect_events(400).await);
    }
    let last = setup.log.last();
    while *seen.last().unwrap() < last {
        seen.extend(watch.expect_events(1).await);
    }
    assert_eq!(seen, numbers(1..=last));
    settle().await;
    assert_eq!(setup.registered(), 1);
    setup.log.publish(2, 1, 2);
    assert_eq!(watch.events_so_far().await, [last + 1, last + 2]);
}

#[tokio::test(start_paused = true)]
async fn a_position_before_a_trimmed_log_gets_a_gap() {
    let setup = Setup::new();
    setup.log.publish(10, 1, 2);
    setup.log.trim(3);
    let mut watch = setup.resume(alice(), position(6)).await;
    assert!(matches!(watch.expect().await, Update::Gap));
    assert_eq!(watch.expect_events(3).await, [8, 9, 10]);

    // Nothing is lost after the oldest entry, nor to a watcher that wants what there is.
    for (after, expected) in [(position(8), 9), (Position::START, 8)] {
        let mut watch = setup.resume(alice(), after).await;
        assert_eq!(watch.events_so_far().await, numbers(expected..=10));
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_was_replaced_is_heard_from_its_oldest_entry_after_a_gap() {
    // Its entries have lower numbers than the old ones, or higher ones, or they do not show it.
    for (last, gap_before) in [(0, 0), (0, 5), (5, 0), (5, 5), (3, 5)] {
        let setup = Setup::new();
        let mut watch = setup.watch(alice()).await;
        setup.log.publish(5, 1, 2);
        assert_eq!(watch.expect_events(5).await, numbers(1..=5));
        setup.log.flush(last);
        setup.log.publish(2, 1, 2);
        setup.log.set_gap_before(gap_before);
        let replaced = Instant::now();
        while !matches!(watch.expect().await, Update::Gap) {}
        assert!(replaced.elapsed() <= seconds(2), "{:?}", replaced.elapsed());
        assert_eq!(watch.expect_events(2).await, [last + 1, last + 2]);
        setup.log.publish(1, 1, 2);
        assert_eq!(watch.expect_events(1).await, [last + 3]);
        sleep(seconds(10)).await;
        assert_eq!(watch.events_so_far().await, NO_EVENTS);
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_a_server_found_is_a_gap_for_all_watchers() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    setup.log.publish(5, 1, 2);
    assert_eq!(watch.expect_events(5).await, numbers(1..=5));
    setup.log.set_gap_before(3);
    assert!(matches!(watch.expect().await, Update::Gap));
    assert_eq!(watch.expect_events(5).await, numbers(1..=5));
    sleep(seconds(10)).await;
    assert_eq!(watch.events_so_far().await, NO_EVENTS);
    for (after, lost) in [(1, true), (3, true), (4, false), (5, false)] {
        let mut back = setup.resume(alice(), position(after)).await;
        if lost {
            assert!(matches!(back.expect().await, Update::Gap), "{after}");
        }
        let first = if lost { 1 } else { after + 1 };
        assert_eq!(back.events_so_far().await, numbers(first..=5), "{after}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_of_a_replaced_log_comes_from_memory() {
    // Known to be lost, or not yet.
    for gap_before in [0, 5] {
        let setup = Setup::new();
        let _watch = setup.watch(user(2)).await;
        setup.log.publish(5, 1, 2);
        settle().await;
        setup.log.flush(0);
        setup.log.set_gap_before(gap_before);
        let mut back = setup.resume(alice(), position(3)).await;
        assert!(matches!(back.expect().await, Update::Gap));
        assert_eq!(back.events_so_far().await, NO_EVENTS);
        setup.log.publish(1, 1, 2);
        assert_eq!(back.expect_events(1).await, [1]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_catches_up_hears_that_its_log_was_replaced() {
    let setup = Setup::new();
    setup.log.publish(30_000, 1, 2);
    let mut watch = setup.resume(alice(), position(1)).await;
    assert_eq!(watch.expect_events(100).await, numbers(2..=101));
    setup.log.flush(40_000);
    setup.log.set_gap_before(30_000);
    setup.log.publish(3, 1, 2);
    let mut last = 101;
    loop {
        match watch.expect().await {
            Update::Event { event, .. } => {
                assert_eq!(event.position, position(last + 1));
                last += 1;
            }
            Update::Gap => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(last <= 30_000, "{last}");
    assert_eq!(watch.expect_events(3).await, [40_001, 40_002, 40_003]);
}

#[tokio::test(start_paused = true)]
async fn a_standstill_is_measured_while_there_is_something_to_read() {
    let log = |newest| LogBounds { newest: Some(position(newest).entry()), ..LogBounds::default() };
    let mut standstill = Standstill::default();
    for (generation, (read_to, is_reading, newest, expected)) in (1..).zip([
        // Nothing to read.
        (5, true, Some(5), 0),
        (5, true, Some(5), 0),
        (5, true, Some(6), 0),
        // It begins again and again at the same place.
        (5, true, Some(9), 1),
        (5, true, Some(9), 2),
        // It moves, but does not keep up.
        (6, true, Some(99), 0),
        (7, true, Some(999), 0),
        (7, true, Some(999), 1),
        (999, true, Some(999), 0),
        // The bounds cannot be read.
        (999, true, None, 0),
        (999, true, None, 1),
        (1000, true, None, 0),
        (1000, true, None, 1),
        (1000, true, Some(1000), 0),
        // Watchers wait for the first read.
        (0, false, Some(5), 0),
        (0, false, None, 1),
    ]) {
        let view = View { is_reading, read_to: position(read_to), generation, length: 0 };
        let lag = standstill.measure(&view, newest.map(log).as_ref());
        assert_eq!(lag, seconds(expected), "{read_to} of {newest:?}");
        sleep(seconds(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reading_watcher_takes_a_burst_of_any_size() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    settle().await;
    let reading = tokio::spawn(async move {
        let events = watch.expect_events(20_000).await;
        (watch, events)
    });
    setup.log.publish(20_000, 1, 2);
    let (_watch, events) = reading.await.unwrap();
    assert_eq!(events, numbers(1..=20_000));
    assert_eq!(setup.registered(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_position_over_60_s_ahead_is_refused() {
    let setup = Setup::new();
    let ahead = setup.try_watch(alice(), Some(position(NOW_MS + 60_001))).await;
    assert!(matches!(ahead, Err(WatchError::Ahead)), "{:?}", ahead.err());
    settle().await;
    assert_eq!(setup.hub.state().watching, 0);
    // A little ahead is another log: a gap.
    let mut watch = setup.resume(alice(), position(NOW_MS + 60_000)).await;
    assert!(matches!(watch.expect().await, Update::Gap));
    // The store's clock went back: the last entry counts, and one that is lost.
    let setup = Setup::new();
    setup.log.flush(2 * NOW_MS);
    setup.log.publish(1, 1, 2);
    assert!(setup.try_watch(alice(), Some(position(2 * NOW_MS + 60_002))).await.is_err());
    setup.resume(alice(), position(2 * NOW_MS + 1)).await;
    setup.log.set_gap_before(3 * NOW_MS);
    let mut watch = setup.resume(alice(), position(3 * NOW_MS)).await;
    assert!(matches!(watch.expect().await, Update::Gap));
}

#[test]
fn a_full_queue_takes_144_kb() {
    assert!(size_of::<Update>() <= 72, "{}", size_of::<Update>());
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_received_before_the_end() {
    let setup = Setup::new();
    let mut slow = setup.watch(alice()).await;
    let mut other = setup.watch(alice()).await;
    assert_eq!(slow.expect_heartbeat().await, Position::EMPTY);
    setup.log.publish(2_000, 1, 2);
    assert_eq!(other.expect_events(1_999).await.len(), 1_999);
    settle().await;
    assert_eq!(setup.registered(), 2);
    setup.log.publish(1, 1, 2);
    settle().await;
    assert_eq!(setup.registered(), 1);
    setup.log.publish(1, 1, 2);
    assert_eq!(slow.expect_events(2_000).await, numbers(1..=2_000));
    assert!(timeout(seconds(1), slow.next()).await.unwrap().is_none());
    assert_eq!(other.events_so_far().await, [2_000, 2_001, 2_002]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_hears_of_its_full_queue_at_once() {
    let setup = Setup::new();
    let (mut slow, mut other) = (setup.watch(alice()).await, setup.watch(alice()).await);
    let overflow = |watch: &mut Subscription| {
        watch.poll_overflow(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    };
    setup.log.publish(1_999, 1, 2);
    settle().await;
    assert!(!overflow(&mut slow));
    assert_eq!(other.expect_events(1_999).await.len(), 1_999);
    setup.log.publish(1, 1, 2);
    settle().await;
    assert!(overflow(&mut slow) && overflow(&mut slow));
    assert!(slow.updates.is_empty(), "what was queued takes no memory");
    assert!(!overflow(&mut other));
    assert_eq!(slow.position(), None);
}

#[tokio::test(start_paused = true)]
async fn a_watchers_position_is_the_logs_once_it_has_received_everything() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    setup.log.publish(3, 7, 8);
    settle().await;
    // The first heartbeat still waits.
    assert_eq!(watch.position(), None);
    watch.expect_heartbeat().await;
    assert_eq!(watch.position(), Some(WatchPosition::Log(position(3))));
    setup.log.publish(1, 1, 2);
    settle().await;
    assert_eq!(watch.position(), None);
    assert_eq!(watch.expect_events(1).await, [4]);
    assert_eq!(watch.position(), Some(WatchPosition::Log(position(4))));
}

#[tokio::test(start_paused = true)]
async fn a_failed_read_is_retried_after_200_ms() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    setup.log.publish(2, 1, 2);
    assert_eq!(watch.expect_events(2).await, [1, 2]);
    settle().await;
    setup.log.set_mode(Mode::Fails);
    let failed = Instant::now();
    let known = setup.log.reads().len();
    sleep(ms(1_050)).await;
    let reads = setup.log.reads();
    let retries = reads[known..].iter().map(|(read, at)| (*read, *at - failed));
    // The checks of the log have another rhythm.
    let retries: Vec<_> = retries.filter(|(_, at)| at.as_millis() % 200 == 0).collect();
    let expected = [200, 400, 600, 800, 1000].map(|retry| (Read::Span, ms(retry)));
    assert_eq!(retries, expected);

    // Nothing is missed that was published in the meantime.
    setup.log.publish(3, 1, 2);
    assert_eq!(watch.events_so_far().await, NO_EVENTS);
    setup.log.set_mode(Mode::Answers);
    assert_eq!(watch.expect_events(3).await, [3, 4, 5]);
    assert!(failed.elapsed() <= ms(1_201), "{:?}", failed.elapsed());
    assert_eq!(watch.events_so_far().await, NO_EVENTS);
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_given_up_after_6_s() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    settle().await;
    let last_read = setup.log.last_wait();
    setup.log.set_mode(Mode::Hangs);
    sleep(ms(5_900)).await;
    setup.log.set_mode(Mode::Answers);
    assert_eq!(setup.log.last_wait(), last_read);
    setup.log.publish(1, 1, 2);
    assert_eq!(watch.expect_events(1).await, [1]);
    // As late as the wait, its grace and the pause.
    assert_eq!(last_read.elapsed(), ms(6_200));
}

#[tokio::test(start_paused = true)]
async fn no_read_of_the_log_hangs_for_ever() {
    let setup = Setup::new();
    // Before the first watcher is served.
    setup.log.set_mode(Mode::Hangs);
    let opening = tokio::spawn({
        let hub = Arc::clone(&setup.hub);
        async move { hub.watch(alice(), None).await }
    });
    sleep(seconds(60)).await;
    setup.log.set_mode(Mode::Answers);
    let mut watch = timeout(seconds(60), opening).await.unwrap().unwrap().unwrap();
    // Later, at each retry.
    setup.log.set_mode(Mode::Hangs);
    sleep(seconds(60)).await;
    setup.log.publish(1, 1, 2);
    setup.log.set_mode(Mode::Answers);
    assert_eq!(watch.expect_events(1).await, [1]);

    // While watchers catch up.
    let setup = Setup::new();
    setup.log.publish(10_001, 1, 2);
    let mut resumed = Vec::new();
    for _ in 0..4 {
        resumed.push(setup.resume(alice(), Position::START).await);
    }
    setup.log.set_mode(Mode::Hangs);
    for watch in &mut resumed {
        assert!(matches!(watch.expect().await, Update::Failed(_)));
    }
    setup.log.set_mode(Mode::Answers);
    let mut watch = setup.resume(alice(), Position::START).await;
    assert_eq!(watch.expect_events(1).await, [1]);
}

#[tokio::test(start_paused = true)]
async fn watchers_get_a_gap_if_the_log_was_trimmed_unread() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    watch.expect_heartbeat().await;
    setup.log.publish(2, 1, 2);
    assert_eq!(watch.expect_events(2).await, [1, 2]);
    setup.log.set_mode(Mode::Fails);
    settle().await;
    setup.log.publish(5, 1, 2);
    setup.log.trim(2);
    setup.log.set_mode(Mode::Answers);
    assert!(matches!(watch.expect().await, Update::Gap));
    assert_eq!(watch.expect_events(2).await, [6, 7]);
    assert_eq!(setup.hub.state().logs[0].ring.len(), 2);
    // A watcher that resumes from before does too.
    let mut back = setup.resume(alice(), position(2)).await;
    assert!(matches!(back.expect().await, Update::Gap));
    assert_eq!(back.events_so_far().await, [6, 7]);
}

#[tokio::test(start_paused = true)]
async fn watchers_get_a_gap_if_trimming_overtakes_the_reading() {
    let setup = Setup::new();
    let mut watch = setup.watch(alice()).await;
    watch.expect_heartbeat().await;
    setup.log.publish(3_000, 1, 2);
    setup.log.trim(1_500);
    assert!(matches!(watch.expect().await, Update::Gap));
    assert_eq!(watch.expect_events(500).await, numbers(1_501..=2_000));
}

#[tokio::test(start_paused = true)]
async fn a_catch_up_that_fails_ends_the_watch() {
    let setup = Setup::new();
    setup.log.publish(5, 1, 2);
    drop(setup.watch(alice()).await);
    settle().await;
    let mut watch = setup.resume(alice(), Position::START).await;
    setup.log.set_mode(Mode::Fails);
    assert!(matches!(watch.expect().await, Update::Failed(_)));
    assert!(timeout(seconds(1), watch.next()).await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_subscription_is_unregistered() {
    let setup = Setup::new();
    let one = setup.watch(alice()).await;
    let mut other = setup.watch(alice()).await;
    assert_eq!((setup.registered(), setup.hub.state().watching), (2, 2));
    drop(one);
    assert_eq!((setup.registered(), setup.hub.state().watching), (1, 1));
    setup.log.publish(1, 1, 2);
    assert_eq!(other.expect_events(1).await, [1]);
    drop(other);
    assert_eq!((setup.registered(), setup.hub.state().watching), (0, 0));
    assert!(setup.hub.state().watchers.is_empty());

    // One that is given up while it opens does not count either.
    let setup = Setup::new();
    setup.log.set_mode(Mode::Hangs);
    assert!(timeout(seconds(5), setup.hub.watch(alice(), None)).await.is_err());
    assert_eq!(setup.hub.state().watching, 0);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_left_does_not_catch_up() {
    let setup = Setup::new();
    // Of other users, so that no send fails, and five reads until the ring begins.
    setup.log.publish(15_000, 3, 4);
    setup.log.held.send_replace(true);
    let watch = setup.resume(alice(), Position::START).await;
    settle().await;
    drop(watch);
    setup.log.held.send_replace(false);
    settle().await;
    assert_eq!(setup.log.count_reads(Read::Entries), 1);
    assert_eq!(setup.registered(), 0);
}
