//! What watchers missed, beyond the ring: shared reads, their order, their size and their price.

use super::*;
use crate::service::watch::backlog::Backlog;
use crate::service::watch::lag::Place;
use crate::store::Loss;

/// Events that are newer than the ring's first, after a start.
const IN_RING: u64 = 10_000;

/// A log with this many entries beyond the ring, none of which concerns a watcher.
fn log_beyond_the_ring(entries: u64) -> Setup {
    let setup = Setup::new();
    setup.log.publish(entries + IN_RING, 8, 9);
    setup
}

async fn resume_all(setup: &Setup, users: std::ops::RangeInclusive<u64>) -> Vec<Subscription> {
    let mut all = Vec::new();
    for id in users {
        all.push(setup.resume(user(id), Position::START).await);
    }
    all
}

/// Waits until so many watchers are registered. Returns how long that took.
async fn caught_up(setup: &Setup, watchers: usize) -> Duration {
    let began = Instant::now();
    while setup.registered() < watchers {
        assert!(began.elapsed() < seconds(600), "{} of {watchers}", setup.registered());
        sleep(ms(10)).await;
    }
    began.elapsed()
}

#[tokio::test(start_paused = true)]
async fn watchers_at_one_position_share_the_reads() {
    let setup = log_beyond_the_ring(100_000);
    // A read is under way when most of them come.
    let _watches = resume_all(&setup, 101..=150).await;
    caught_up(&setup, 50).await;
    let reads = setup.log.count_reads(Read::Entries);
    assert!((200..=450).contains(&reads), "{reads} reads, where one scan takes 200");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_joins_a_scan_that_reaches_its_position() {
    let setup = log_beyond_the_ring(100_000);
    let _first = setup.resume(alice(), Position::START).await;
    let _ahead = setup.resume(user(2), position(90_000)).await;
    caught_up(&setup, 2).await;
    let reads = setup.log.count_reads(Read::Entries);
    assert!((200..=230).contains(&reads), "{reads} reads, where one scan takes 200");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_for_watchers_that_have_left() {
    let setup = log_beyond_the_ring(300_000);
    let watches = resume_all(&setup, 101..=356).await;
    sleep(ms(100)).await;
    let reads = || setup.log.count_reads(Read::Entries);
    let before = reads();
    sleep(ms(100)).await;
    assert!(reads() > before, "they are still behind");
    drop(watches);
    // The read that is under way ends.
    settle().await;
    let last = reads();
    sleep(seconds(10)).await;
    assert_eq!(reads(), last);
    assert_eq!(setup.hub.state().watching, 0);

    // The next one is served.
    let _watch = setup.resume(alice(), position(299_000)).await;
    caught_up(&setup, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_given_up_when_its_watchers_have_left() {
    let setup = log_beyond_the_ring(50_000);
    let watches = resume_all(&setup, 101..=110).await;
    settle().await;
    setup.log.set_mode(Mode::Hangs);
    settle().await;
    drop(watches);
    sleep(ms(100)).await;
    setup.log.set_mode(Mode::Answers);
    let began = Instant::now();
    let _watch = setup.resume(alice(), position(49_000)).await;
    caught_up(&setup, 1).await;
    assert!(began.elapsed() < seconds(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_short_backlog_does_not_wait_for_long_ones() {
    let setup = log_beyond_the_ring(300_000);
    let _long = resume_all(&setup, 101..=300).await;
    sleep(ms(200)).await;
    let _short = setup.resume(alice(), position(270_000)).await;
    let before = setup.log.count_reads(Read::Entries);
    caught_up(&setup, 1).await;
    let reads = setup.log.count_reads(Read::Entries) - before;
    assert!((60..=140).contains(&reads), "{reads} reads, of which it needs 60");
    // The others go on meanwhile.
    assert!(setup.hub.state().watchers.contains_key(&alice()));
    caught_up(&setup, 201).await;
}

#[tokio::test(start_paused = true)]
async fn short_backlogs_without_end_do_not_stop_a_long_one() {
    let setup = log_beyond_the_ring(50_000);
    let _long = setup.resume(alice(), Position::START).await;
    let began = Instant::now();
    while !setup.hub.state().watchers.contains_key(&alice()) {
        assert!(began.elapsed() < seconds(60), "the long one is served");
        let short = setup.resume(user(3), position(45_000)).await;
        sleep(ms(20)).await;
        drop(short);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_with_many_backlogs_has_one_share() {
    let setup = log_beyond_the_ring(100_000);
    let mut many = Vec::new();
    for nth in 0..60 {
        many.push(setup.resume(user(5), position(1_000 + 700 * nth)).await);
    }
    sleep(ms(50)).await;
    let _other = setup.resume(alice(), position(500)).await;
    let before = setup.log.count_reads(Read::Entries);
    while !setup.hub.state().watchers.contains_key(&alice()) {
        sleep(ms(10)).await;
    }
    let reads = setup.log.count_reads(Read::Entries) - before;
    assert!(reads <= 900, "{reads} reads, of which it needs 200");
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_does_not_read_holds_up_no_other() {
    let setup = Setup::new();
    setup.log.publish(60_000, 1, 2);
    let mut slow = setup.resume(alice(), Position::START).await;
    let mut other = setup.resume(user(2), Position::START).await;
    assert_eq!(other.expect_events(60_000).await, numbers(1..=60_000));
    settle().await;
    assert_eq!(setup.registered(), 1);
    let reads = setup.log.count_reads(Read::Entries);
    sleep(seconds(60)).await;
    assert_eq!(setup.log.count_reads(Read::Entries), reads, "nothing is read for one that waits");
    // It goes on by itself where it was.
    assert_eq!(slow.expect_events(60_000).await, numbers(1..=60_000));
}

#[tokio::test(start_paused = true)]
async fn each_thousand_entries_beyond_the_ring_cost_one_read() {
    for (behind, price) in [(999, 0), (1_000, 1), (25_499, 25), (30_000, 30)] {
        let setup = log_beyond_the_ring(40_000);
        let _watch = setup.resume(alice(), position(40_000 - behind)).await;
        caught_up(&setup, 1).await;
        sleep(ms(10)).await;
        let paid = setup.log.paid(alice());
        // The last read may go on into the ring.
        assert!((price..=price + 1).contains(&paid), "{paid} for {behind}");
    }
    // What is in the ring costs nothing.
    let setup = log_beyond_the_ring(40_000);
    let _watch = setup.resume(alice(), position(40_000)).await;
    caught_up(&setup, 1).await;
    assert_eq!(setup.log.paid(alice()), 0);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_leaves_pays_for_what_was_read() {
    let setup = log_beyond_the_ring(300_000);
    let watch = setup.resume(alice(), Position::START).await;
    while setup.log.count_reads(Read::Entries) < 15 {
        sleep(ms(1)).await;
    }
    drop(watch);
    sleep(ms(10)).await;
    // 336 entries in three reads, then 500 in each; the last may still have been under way.
    assert!((5..=6).contains(&setup.log.paid(alice())), "{}", setup.log.paid(alice()));
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_where_the_read_quota_does() {
    let setup = log_beyond_the_ring(300_000);
    setup.log.set_left(25);
    let mut watch = setup.resume(alice(), Position::START).await;
    let Update::OverQuota { quota, .. } = watch.expect().await else { panic!("over quota") };
    assert_eq!(quota.remaining, 0);
    assert!(timeout(seconds(1), watch.next()).await.unwrap().is_none());
    assert_eq!(setup.log.paid(alice()), 25, "what was left");
    let reads = setup.log.count_reads(Read::Entries);
    assert!((60..=64).contains(&reads), "{reads}: 30,000 entries");
    sleep(seconds(10)).await;
    assert_eq!(setup.log.count_reads(Read::Entries), reads);

    // One that has enough left is served.
    let setup = log_beyond_the_ring(300_000);
    setup.log.set_left(301);
    let _watch = setup.resume(alice(), Position::START).await;
    caught_up(&setup, 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_trimming_overtakes_gets_a_gap() {
    let setup = Setup::new();
    setup.log.publish(60_000, 1, 2);
    let mut watch = setup.resume(alice(), Position::START).await;
    assert_eq!(watch.expect_events(500).await, numbers(1..=500));
    setup.log.trim(30_000);
    let mut last = 500;
    loop {
        match watch.expect().await {
            Update::Event { event, .. } => last = event.position.entry().ms,
            Update::Gap => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(last < 30_000, "{last}");
    assert_eq!(watch.expect_events(30_000).await, numbers(30_001..=60_000));
}

#[tokio::test(start_paused = true)]
async fn each_watcher_of_a_read_that_trimming_overtook_gets_a_gap() {
    let log = Arc::new(FakeLog::default());
    log.publish(2_000, 1, 2);
    log.trim(1_000);
    for hindmost in [Position::START, position(100)] {
        let backlog = Arc::new(Backlog::new(log.clone(), Arc::new(Semaphore::new(1))));
        // The foremost is served first, and then the hindmost, whose read passes the others.
        let after = [position(1_500), hindmost, position(500), position(1_001)];
        let pieces = after.map(|after| {
            let backlog = Arc::clone(&backlog);
            let place = Place::new(after);
            tokio::spawn(async move { backlog.read(alice(), place).await.unwrap() })
        });
        settle().await;
        let before = log.count_reads(Read::Entries);
        let running = tokio::spawn(backlog.run());
        let mut gaps = Vec::new();
        for (after, piece) in after.into_iter().zip(pieces) {
            let piece = piece.await.unwrap();
            let first = piece.events.first().unwrap().position;
            assert_eq!(first, position(1_001.max(after.entry().ms + 1)));
            gaps.push(piece.loss != Loss::Nothing);
        }
        running.abort();
        assert_eq!(log.count_reads(Read::Entries) - before, 2, "they share a read");
        assert_eq!(gaps, [false, hindmost != Position::START, true, false]);
    }
}

#[tokio::test(start_paused = true)]
async fn reads_are_as_large_as_entries_allow() {
    for (bytes, limit) in [(370, 500), (5_000, 52), (33_000, 7), (1_000_000, 1)] {
        let setup = log_beyond_the_ring(5_000);
        setup.log.set_entry_bytes(bytes);
        let _watch = setup.resume(alice(), Position::START).await;
        caught_up(&setup, 1).await;
        let limits = setup.log.limits();
        assert_eq!(limits[0], 16, "the first is small, whatever comes");
        assert!(limits[1..].iter().all(|of_read| *of_read <= limit), "{bytes}: {limits:?}");
        assert_eq!(limits.last(), Some(&limit), "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_every_event_concerns_gets_few_at_a_time() {
    let setup = Setup::new();
    setup.log.publish(IN_RING + 5_000, 1, 2);
    let mut readers = Vec::new();
    for _ in 0..100 {
        let mut watch = setup.resume(alice(), Position::START).await;
        readers.push(tokio::spawn(async move { watch.expect_events(5_000).await.len() }));
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), 5_000);
    }
    let limits = setup.log.limits();
    let few = limits.iter().filter(|limit| **limit <= 20).count();
    assert!(few > 200, "{few} of {} reads", limits.len());
}

/// Nothing is left after the watcher's position, and while that is read more comes than the ring keeps.
#[tokio::test(start_paused = true)]
async fn what_leaves_the_ring_during_a_read_that_finds_nothing_is_read() {
    let setup = Setup::new();
    let _other = setup.watch(user(7)).await;
    setup.hub.state().logs[0].ring_max = 10;
    setup.log.publish(20, 1, 2);
    sleep(seconds(2)).await;
    for number in 6..=20 {
        setup.log.erase(number);
    }
    sleep(seconds(2)).await;
    setup.log.held.send_replace(true);
    let mut watch = setup.resume(alice(), position(5)).await;
    sleep(ms(100)).await;
    assert_eq!(setup.log.count_reads(Read::Entries), 1);
    setup.log.publish(30, 1, 2);
    sleep(ms(100)).await;
    setup.log.held.send_replace(false);
    sleep(seconds(2)).await;
    let mut numbers = Vec::new();
    while let Some(update) = watch.try_next() {
        if let Update::Event { event, .. } = update {
            numbers.push(event.position.entry().ms);
        }
    }
    assert_eq!(numbers, (21..=50).collect::<Vec<_>>());
}
