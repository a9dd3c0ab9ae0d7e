//! Connections that are lost, each alone.

use super::*;
use crate::store::redis::connection::Connections;

/// The connections in the order in which they are opened.
const CALLS: usize = 0;
const PROBES: usize = 1;
const TAIL: usize = 2;

impl Setup {
    /// Returns the connections that received this command since the last look.
    fn received_by(&self, name: &str) -> Vec<usize> {
        let received = std::mem::take(&mut self.state().received);
        let by = received.iter().filter(|command| command.name() == name);
        let mut by: Vec<_> = by.map(|command| command.connection).collect();
        by.sort_unstable();
        by.dedup();
        by
    }

    /// Answers new connections as another Redis, and says why calls have no connection.
    fn answer_as_another_redis(&self) {
        self.intercept(|command| {
            let is_new = command.name() == "INFO" && command.connection > TAIL;
            is_new.then(|| fake::now(Resp::text("run_id:2\r\n")))
        });
    }

    fn cause(&self) -> String {
        self.parts.connections.calls().unwrap_err().to_string()
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_lost_connection_is_replaced_and_at_once() {
    for (lost, calls, probes, kept_alive) in
        [(CALLS, 3, 1, [2, 3]), (PROBES, 0, 3, [0, 2]), (TAIL, 0, 1, [0, 3])]
    {
        let setup = Setup::ready().await;
        let mut health = setup.parts.connections.health();
        health.mark_unchanged();
        setup.state().quota = Some(RATE_LIMIT.calls);
        setup.deny();
        setup.redis.close_connection(lost);
        settle().await;
        settle().await;
        assert_eq!(setup.redis.attempts().len(), 4);
        assert_eq!(setup.calls().await, Some(calls), "lost: {lost}");
        assert!(setup.parts.connections.tail().is_ok());
        // At a reconnect of the calls they are dropped.
        assert_eq!(setup.is_denied(), lost != CALLS, "lost: {lost}");

        setup.received_by("");
        sleep(ms(10_000)).await;
        assert_eq!(setup.redis.attempts().len(), 4);
        assert_eq!(setup.received_by("HMGET"), [probes], "lost: {lost}");
        sleep(ms(1000)).await;
        assert_eq!(setup.received_by("TIME"), kept_alive);
        assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_for_calls_has_scripts_and_layout_before_it_is_used() {
    let setup = Setup::ready().await;
    setup.intercept(|command| match (command.name(), command.connection) {
        ("SCRIPT", 3) => Some(fake::after(ms(100), Resp::text("0"))),
        _ => None,
    });
    setup.received_by("");
    setup.redis.close_connection(CALLS);
    sleep(ms(299)).await;
    assert_eq!(setup.calls().await, Some(PROBES));
    sleep(ms(3)).await;
    assert_eq!(setup.calls().await, Some(3));
    let received = setup.state().received.clone();
    let names = received.iter().filter(|command| command.connection == 3).map(Command::name);
    let prepared = ["EVAL", "EVAL", "SCRIPT", "SCRIPT", "SCRIPT", "HSETNX", "HMGET", "EVAL"];
    assert_eq!(names.collect::<Vec<_>>(), [&["INFO"][..], &prepared, &["PING"]].concat());
}

#[tokio::test(start_paused = true)]
async fn calls_go_on_over_the_connection_for_probes_as_long_as_needed() {
    for reachable in [Reachable::Hangs, Reachable::Refuses] {
        let setup = Setup::ready().await;
        let mut health = setup.parts.connections.health();
        health.mark_unchanged();
        setup.redis.set_reachable(reachable);
        setup.redis.close_connection(CALLS);
        for _ in 0..100 {
            settle().await;
            assert_eq!(setup.calls().await, Some(PROBES));
            sleep(ms(199)).await;
        }
        setup.redis.set_reachable(Reachable::Yes);
        sleep(ms(2402)).await;
        assert!(setup.calls().await.is_some_and(|number| number > TAIL));
        assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    }
}

#[tokio::test(start_paused = true)]
async fn probes_go_on_over_the_connection_for_calls_as_long_as_needed() {
    let setup = Setup::ready().await;
    setup.redis.set_reachable(Reachable::Refuses);
    setup.redis.close_connection(PROBES);
    setup.received_by("");
    sleep(ms(10_000)).await;
    assert_eq!(setup.received_by("HMGET"), [CALLS]);
    assert!(matches!(setup.health(), StoreHealth::Ready { .. }));

    // The last one that is alive is lost too.
    setup.redis.close_connection(CALLS);
    settle().await;
    assert_eq!(setup.calls().await, None);
    sleep(ms(3000)).await;
    assert!(matches!(setup.health(), StoreHealth::Away(_)));
    setup.redis.set_reachable(Reachable::Yes);
    setup.wait_until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn all_are_replaced_if_another_redis_answers() {
    for lost in [CALLS, PROBES, TAIL] {
        let setup = Setup::ready().await;
        setup.state().quota = Some(RATE_LIMIT.calls);
        setup.deny();
        setup.answer_as_another_redis();
        setup.redis.close_connection(lost);
        settle().await;
        settle().await;
        assert_eq!(setup.calls().await, None);
        assert!(setup.cause().contains("another Redis answers"), "{}", setup.cause());
        assert!(setup.parts.connections.tail().is_err());
        sleep(ms(402)).await;
        assert_eq!(setup.calls().await, Some(4));
        assert!(!setup.is_denied());
        sleep(ms(5000)).await;
        assert_eq!(setup.redis.attempts().len(), 7);
        assert_eq!(setup.received_by("HMGET").last(), Some(&5));
    }
}

#[tokio::test(start_paused = true)]
async fn connections_to_different_redises_are_not_used_together() {
    let setup = Setup::new();
    setup.intercept(|command| {
        let is_other = command.name() == "INFO" && command.connection == TAIL;
        is_other.then(|| fake::now(Resp::text("run_id:2\r\n")))
    });
    setup.run();
    settle().await;
    assert_eq!(setup.calls().await, None);
    assert!(setup.state().layout.is_empty());
    sleep(ms(402)).await;
    assert_eq!(setup.calls().await, Some(3));
}

#[tokio::test(start_paused = true)]
async fn all_are_replaced_if_redis_does_not_reveal_its_run_id() {
    for info in [None, Some("redis_version:7.0.15\r\n")] {
        let setup = Setup::new();
        setup.state().info = info;
        setup.run();
        setup.wait_until_ready().await;
        // A probe without an answer is no reason to leave a connection.
        setup.intercept(|command| {
            let is_late = command.name() == "HMGET";
            is_late.then(|| fake::after(ms(1100), Resp::nil()))
        });
        sleep(ms(2050)).await;
        setup.answer_again();
        sleep(ms(10_000)).await;
        assert_eq!((setup.redis.attempts().len(), setup.calls().await), (3, Some(CALLS)));

        setup.redis.close_connection(TAIL);
        settle().await;
        assert_eq!(setup.calls().await, None);
        sleep(ms(402)).await;
        assert_eq!(setup.calls().await, Some(3));
        assert_eq!(setup.redis.attempts().len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_hangs_alone_is_replaced_alone() {
    for (hangs, calls) in [(CALLS, 3), (TAIL, 0)] {
        let setup = Setup::ready().await;
        let mut health = setup.parts.connections.health();
        health.mark_unchanged();
        setup.intercept(move |command| (command.connection == hangs).then(fake::never));
        sleep(ms(3900)).await;
        assert_eq!(setup.redis.attempts().len(), 3);
        sleep(ms(200)).await;
        assert_eq!(setup.redis.attempts().len(), 4);
        assert_eq!(setup.calls().await, Some(calls));
        assert!(setup.parts.connections.tail().is_ok());
        setup.received_by("");
        sleep(ms(10_000)).await;
        assert_eq!(setup.redis.attempts().len(), 4);
        assert!(setup.received_by("TIME").contains(&3));
        assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_calls_wait_for_replicas_is_left_alone() {
    let ack = Ack { replicas: 1, fsync: false, timeout: Duration::from_secs(20), connections: 4 };
    for (ack, hangs, opened, replaced) in
        [(None, CALLS, 3, 1), (Some(ack), CALLS, 7, 0), (Some(ack), TAIL + 1, 7, 0)]
    {
        let setup = Setup::with(1, ack);
        setup.run();
        setup.wait_until_ready().await;
        setup.intercept(move |command| (command.connection == hangs).then(fake::never));
        sleep(ms(20_000)).await;
        assert_eq!(setup.redis.attempts().len(), opened + replaced);
        // Past the time of its call it hangs.
        sleep(ms(10_000)).await;
        assert_eq!(setup.redis.attempts().len(), opened + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_answers_late_since_it_blocks_is_left_alone() {
    let setup = Setup::ready().await;
    setup.intercept(|command| {
        let blocks = command.connection == TAIL;
        blocks.then(|| fake::after(ms(1000), Resp::nil()))
    });
    sleep(ms(30_000)).await;
    assert_eq!(setup.redis.attempts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn no_connection_is_replaced_alone_while_redis_hangs() {
    let setup = Setup::ready().await;
    let hangs = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let still = Arc::clone(&hangs);
    setup.intercept(move |_| still.load(Ordering::Relaxed).then(fake::never));
    setup.redis.set_reachable(Reachable::Hangs);
    sleep(ms(20_000)).await;
    // They stay in use until there are others.
    assert!(setup.parts.connections.calls().is_ok());
    assert!(matches!(setup.health(), StoreHealth::Away(_)));
    hangs.store(false, Ordering::Relaxed);
    setup.redis.set_reachable(Reachable::Yes);
    setup.wait_until_ready().await;
    assert!(setup.calls().await.is_some_and(|number| number > TAIL));
}

#[tokio::test(start_paused = true)]
async fn a_connection_for_probes_that_hangs_alone_is_replaced_without_a_word() {
    let setup = Setup::ready().await;
    let mut health = setup.parts.connections.health();
    health.mark_unchanged();
    setup.intercept(|command| (command.connection == PROBES).then(fake::never));
    sleep(ms(2010)).await;
    assert_eq!(setup.redis.attempts().len(), 4);
    setup.received_by("");
    sleep(ms(10_000)).await;
    assert_eq!(setup.received_by("HMGET"), [3]);
    assert_eq!((setup.redis.attempts().len(), setup.calls().await), (4, Some(CALLS)));
    assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
}

#[tokio::test(start_paused = true)]
async fn attempts_to_replace_a_connection_have_a_pause_between_them() {
    let setup = Setup::ready().await;
    // Each new connection is closed at once.
    setup.intercept(|command| {
        let is_new = command.connection > TAIL;
        is_new.then(|| -> Reply { Box::pin(async { None }) })
    });
    setup.redis.close_connection(TAIL);
    sleep(ms(20_000)).await;
    let attempts = setup.redis.attempts();
    assert!(attempts.len() > 20, "{}", attempts.len());
    for two in attempts[3..].windows(2) {
        let between = two[1] - two[0];
        assert!((ms(100)..=ms(1402)).contains(&between), "{between:?}");
    }
    assert_eq!(setup.calls().await, Some(CALLS));
    assert!(matches!(setup.health(), StoreHealth::Ready { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_master_found_demoted_at_a_new_connection_is_left_at_once() {
    let setup = Setup::ready().await;
    setup.intercept(|command| {
        let demoted = command.name() == "HSETNX";
        demoted.then(|| fake::now(Resp::error("READONLY You can't write against a read only")))
    });
    setup.redis.close_connection(CALLS);
    settle().await;
    settle().await;
    assert_eq!(setup.calls().await, None);
    let cause = setup.cause();
    let expected = "the store is unavailable: not connected: READONLY You can't write";
    assert!(cause.starts_with(expected), "{cause}");
    sleep(ms(3000)).await;
    let StoreHealth::Away(cause) = setup.health() else { panic!("it is ready") };
    assert!(cause.contains("READONLY"), "{cause}");
}

/// The connections that the calls of three workers use.
async fn calls_of_three(setup: &Setup) -> [Option<usize>; 3] {
    [setup.calls_of(0).await, setup.calls_of(1).await, setup.calls_of(2).await]
}

#[tokio::test(start_paused = true)]
async fn a_workers_calls_go_on_over_probes_then_over_another_workers() {
    // In the order in which they are opened: 0 to 2 are the workers', 3 is for probes, 4 for the tail.
    let setup = Setup::of_workers(3);
    setup.run();
    setup.wait_until_ready().await;
    assert_eq!(setup.redis.attempts().len(), 5);
    assert_eq!(calls_of_three(&setup).await, [Some(0), Some(1), Some(2)]);
    let mut health = setup.parts.connections.health();
    health.mark_unchanged();
    setup.redis.set_reachable(Reachable::Refuses);
    for (lost, calls) in [
        (1, [Some(0), Some(3), Some(2)]),
        (3, [Some(0), Some(0), Some(2)]),
        (0, [Some(2), Some(2), Some(2)]),
    ] {
        setup.redis.close_connection(lost);
        settle().await;
        assert_eq!(calls_of_three(&setup).await, calls, "lost: {lost}");
    }
    setup.received_by("");
    sleep(ms(10_000)).await;
    assert_eq!(setup.received_by("HMGET"), [2], "probes go on over the last one");
    assert!(!health.has_changed().unwrap(), "{:?}", setup.health());

    setup.redis.set_reachable(Reachable::Yes);
    sleep(ms(3000)).await;
    let [first, second, third] = calls_of_three(&setup).await;
    assert!(first > Some(4) && second > Some(4) && first != second, "{first:?} {second:?}");
    assert_eq!(third, Some(2), "it was never lost");

    setup.redis.set_reachable(Reachable::Hangs);
    setup.redis.close_connections();
    settle().await;
    assert_eq!(calls_of_three(&setup).await, [None, None, None]);
}

#[tokio::test(start_paused = true)]
async fn each_workers_idle_connection_is_kept_alive() {
    let setup = Setup::of_workers(3);
    setup.run();
    setup.wait_until_ready().await;
    setup.received_by("");
    sleep(ms(1500)).await;
    assert_eq!(setup.received_by("TIME"), [0, 1, 2, 4]);
    // One that hangs is replaced, and no other.
    setup.intercept(|command| (command.connection == 1).then(fake::never));
    sleep(ms(6000)).await;
    assert_eq!(setup.redis.attempts().len(), 6);
    assert_eq!(calls_of_three(&setup).await, [Some(0), Some(5), Some(2)]);
}

/// A call that waits for an acknowledgement has a connection as long as one of its worker's lives, in the
/// order in which calls came.
#[tokio::test(start_paused = true)]
async fn connections_for_acknowledged_calls_are_replaced_alone() {
    let ack = Some(Ack {
        replicas: 1,
        fsync: false,
        timeout: Duration::from_millis(100),
        connections: 4,
    });
    let setup = Setup::with(1, ack);
    let connections = Arc::clone(&setup.parts.connections);
    setup.run();
    setup.wait_until_ready().await;
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(connections.free_for_ack().await.unwrap());
    }
    let waits = |connections: &Arc<Connections>| {
        let connections = Arc::clone(connections);
        tokio::spawn(async move { connections.free_for_ack().await.unwrap() })
    };
    let [first, second] = [waits(&connections), waits(&connections)];
    settle().await;
    assert!(!first.is_finished() && !second.is_finished());
    // A lost one is replaced, and the new one is free, though a call still waits on the old one.
    setup.redis.close_connection(TAIL + 2);
    let _first = first.await.unwrap();
    settle().await;
    assert!(!second.is_finished());
    assert_eq!(setup.redis.attempts().len(), 8);
    assert_eq!(setup.calls().await, Some(CALLS));
    drop(taken);
    drop(second.await.unwrap());

    // Without any of them, calls have the connection for calls.
    setup.redis.set_reachable(Reachable::Refuses);
    for number in 0..setup.redis.attempts().len() {
        if number > TAIL {
            setup.redis.close_connection(number);
        }
    }
    settle().await;
    let free = connections.free_for_ack().await.unwrap();
    assert_eq!(number_of(free.connection()).await, CALLS);
}
