//! A stream that is replaced: flushed, lost with Redis's data, or gone back in a failover.

use std::collections::HashSet;
use std::time::Duration;

use markread::proto::MarkReadEvent;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::Credentials;
use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::LIMIT;
use super::watcher::{Watcher, ids};

const STREAM: &str = "direct_message_mark_read_events";

/// Longer than a server takes to find that the stream is another.
const FOUND: Duration = Duration::from_secs(4);

/// The next update that is not a heartbeat.
async fn next(watcher: &mut Watcher) -> Option<MarkReadEvent> {
    loop {
        match watcher.next().await {
            Update::Event(event) => return Some(event),
            Update::Gap(_) => return None,
            Update::Heartbeat(_) => {}
        }
    }
}

/// Marks messages, and returns the IDs of their events as a watcher hears them.
async fn mark(server: &Server, watcher: &mut Watcher, messages: &[u64]) -> Vec<String> {
    let mut heard = Vec::new();
    for message in messages {
        server.caller(READER).mark(RECIPIENT, *message).await.unwrap();
        let event = watcher.event().await;
        assert_eq!(ids(&event), (READER, RECIPIENT, *message));
        heard.push(event.id);
    }
    heard
}

/// Reads updates until these messages were heard after the last gap. Returns how many gaps came.
async fn hear_after_gap(watcher: &mut Watcher, messages: &[u64]) -> usize {
    let (mut gaps, mut heard) = (0, Vec::new());
    let hear = async {
        while gaps == 0 || heard != messages {
            if let Some(event) = next(watcher).await {
                heard.push(ids(&event).2);
            } else {
                gaps += 1;
                heard.clear();
            }
        }
    };
    assert!(timeout(LIMIT, hear).await.is_ok(), "{gaps} gaps, then {heard:?}");
    gaps
}

#[tokio::test]
async fn a_place_from_before_a_flush_gets_a_gap_at_every_server() {
    let redis = Redis::start().await;
    let (server, other) = (Server::on(&redis).await, Server::on(&redis).await);
    let (mut live, _) = Watcher::open(&server, READER).await;
    let (mut quiet, empty) = Watcher::open(&other, READER).await;
    let places = mark(&server, &mut live, &[1, 2, 3]).await;
    redis.run::<()>("FLUSHALL").await;
    server.caller(READER).mark(RECIPIENT, 9).await.unwrap();
    // At once, and when it is found.
    for wait in [Duration::ZERO, FOUND] {
        sleep(wait).await;
        let later = Server::on(&redis).await;
        for server in [&server, &other, &later] {
            for place in &places {
                let mut back = Watcher::after(server, READER, place).await;
                hear_after_gap(&mut back, &[9]).await;
            }
        }
    }
    assert_eq!(hear_after_gap(&mut live, &[9]).await, 1);
    assert_eq!(hear_after_gap(&mut quiet, &[9]).await, 1);
    let mut back = Watcher::after(&other, READER, &empty).await;
    hear_after_gap(&mut back, &[9]).await;
    // Nothing is lost after the new event, nor to those who want what there is.
    let nine = mark(&server, &mut live, &[10]).await.remove(0);
    let mut back = Watcher::after(&other, READER, "0-0").await;
    for message in [9, 10] {
        assert_eq!(ids(&back.event().await).2, message);
    }
    let mut back = Watcher::after(&server, READER, &nine).await;
    assert_eq!(mark(&server, &mut back, &[11]).await.len(), 1);
}

#[tokio::test]
async fn a_live_watcher_hears_a_new_stream_whose_ids_are_lower() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    let ahead = crate::answers::tokens::seconds_from_now(40) * 1000;
    redis.run::<()>(&format!("XADD {STREAM} {ahead}-0 x y")).await;
    let place = mark(&server, &mut live, &[1]).await.remove(0);
    assert_eq!(place, format!("{ahead}-1"));
    redis.run::<()>("FLUSHALL").await;
    let messages: Vec<_> = (2..=11).collect();
    for message in &messages {
        server.caller(READER).mark(RECIPIENT, *message).await.unwrap();
    }
    assert_eq!(hear_after_gap(&mut live, &messages).await, 1);
    // It is a gap at a server that was just started too, until IDs are past what was lost.
    sleep(FOUND).await;
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        let mut back = Watcher::after(server, READER, &place).await;
        hear_after_gap(&mut back, &messages).await;
    }
}

#[tokio::test]
async fn quiet_watchers_hear_one_gap_and_then_none() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    mark(&server, &mut live, &[1]).await;
    redis.run::<()>("FLUSHALL").await;
    assert!(next(&mut live).await.is_none(), "a gap");
    sleep(FOUND).await;
    // What an empty stream's heartbeat gives is resumed without a gap, also after the next event.
    let (_watch, empty) = Watcher::open(&server, READER).await;
    let mut back = Watcher::after(&server, READER, &empty).await;
    back.hears_nothing().await;
    server.caller(READER).mark(RECIPIENT, 2).await.unwrap();
    for server in [&server, &Server::on(&redis).await] {
        let mut back = Watcher::after(server, READER, &empty).await;
        assert_eq!(ids(&back.event().await).2, 2);
    }
    // But not after the next flush.
    redis.run::<()>("FLUSHALL").await;
    sleep(FOUND).await;
    server.caller(READER).mark(RECIPIENT, 3).await.unwrap();
    for server in [&server, &Server::on(&redis).await] {
        let mut back = Watcher::after(server, READER, &empty).await;
        hear_after_gap(&mut back, &[3]).await;
    }
}

#[tokio::test]
async fn a_redis_that_restarts_empty_is_a_gap_and_one_with_its_data_is_not() {
    for persists in [false, true] {
        let settings = ["--appendonly", if persists { "yes" } else { "no" }];
        let mut redis = Redis::with(&[&settings[..], &["--appendfsync", "always"]].concat()).await;
        let server = Server::on(&redis).await;
        let (mut live, _) = Watcher::open(&server, READER).await;
        let place = mark(&server, &mut live, &[1, 2]).await.pop().unwrap();
        redis.kill().await;
        redis.restart().await;
        let caller = server.caller(READER);
        eventually("it marks again", LIMIT, async || caller.mark(RECIPIENT, 3).await.ok()).await;
        let later = Server::on(&redis).await;
        if persists {
            assert_eq!(ids(&live.event().await).2, 3);
            sleep(FOUND).await;
            live.hears_nothing().await;
        } else {
            hear_after_gap(&mut live, &[3]).await;
        }
        for server in [&server, &later] {
            let mut back = Watcher::after(server, READER, &place).await;
            if persists {
                assert_eq!(ids(&back.event().await).2, 3);
            } else {
                hear_after_gap(&mut back, &[3]).await;
            }
        }
    }
}

#[tokio::test]
async fn a_failover_that_loses_entries_is_a_gap() {
    let redis = Redis::start().await;
    let replica = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    let kept = mark(&server, &mut live, &[1, 2, 3]).await.pop().unwrap();
    replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", redis.port)).await;
    eventually("the replica has the entries", LIMIT, async || {
        (replica.run::<u64>(&format!("XLEN {STREAM}")).await == 3).then_some(())
    })
    .await;
    replica.run::<()>("REPLICAOF NO ONE").await;
    let lost = mark(&server, &mut live, &[4, 5]).await.pop().unwrap();
    // It takes over what the replica has.
    redis.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", replica.port)).await;
    eventually("the entries are lost", LIMIT, async || {
        (redis.run::<u64>(&format!("XLEN {STREAM}")).await == 3).then_some(())
    })
    .await;
    redis.run::<()>("REPLICAOF NO ONE").await;
    let caller = server.caller(READER);
    eventually("it marks again", LIMIT, async || caller.mark(RECIPIENT, 6).await.ok()).await;
    hear_after_gap(&mut live, &[1, 2, 3, 6]).await;
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        for place in [&kept, &lost] {
            let mut back = Watcher::after(server, READER, place).await;
            hear_after_gap(&mut back, &[1, 2, 3, 6]).await;
        }
    }
}

#[tokio::test]
async fn a_layout_that_is_deleted_alone_is_no_loss_and_a_stream_is() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    let place = mark(&server, &mut live, &[1]).await.remove(0);
    sleep(FOUND).await;
    redis.run::<()>("DEL markread:layout").await;
    sleep(FOUND).await;
    live.hears_nothing().await;
    redis.run::<()>(&format!("DEL {STREAM}")).await;
    assert!(next(&mut live).await.is_none(), "a gap");
    sleep(FOUND).await;
    let lost: String = redis.run("HGET markread:layout gap_before").await;
    assert_eq!(lost, place);
    // It is kept when the layout is lost again.
    redis.run::<()>("DEL markread:layout").await;
    eventually("it is written again", LIMIT, async || {
        redis.run::<Option<String>>("HGET markread:layout gap_before").await
    })
    .await;
}

#[tokio::test]
async fn a_place_is_accepted_though_the_clock_went_back() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    let ahead = crate::answers::tokens::seconds_from_now(3_600) * 1000;
    redis.run::<()>(&format!("XADD {STREAM} {ahead}-0 x y")).await;
    let place = mark(&server, &mut live, &[1]).await.remove(0);
    assert_eq!(place, format!("{ahead}-1"));
    let mut back = Watcher::after(&server, READER, &place).await;
    mark(&server, &mut back, &[2]).await;
    // Beyond the last ID too, for 60 s.
    let beyond = format!("{}-0", ahead + 60_001);
    let refused = Watcher::try_open(&server, Credentials::token_of(READER), &beyond).await;
    assert_eq!(refused.err().unwrap().reason, "INVALID_PARAMETER");
    let beyond = format!("{}-0", ahead + 60_000);
    let mut back = Watcher::after(&server, READER, &beyond).await;
    assert!(next(&mut back).await.is_none(), "a gap");
}

#[tokio::test]
async fn twelve_flushes_under_load_lose_nothing_that_is_in_the_stream_afterwards() {
    const READERS: u64 = 6;
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "1000000"];
    let server = Server::on_with(&redis, &flags).await;
    let other = Server::on_with(&redis, &flags).await;
    let (mut live, _) = Watcher::open(&server, RECIPIENT).await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut marking = JoinSet::new();
    for reader in 1..=READERS {
        let caller = other.caller(reader);
        let stopped = stopped.clone();
        marking.spawn(async move {
            for message in 1.. {
                if *stopped.borrow() {
                    return;
                }
                // A mark may fail while the layout is written again.
                let _ = caller.mark(RECIPIENT, message).await;
                sleep(Duration::from_millis(2)).await;
            }
        });
    }
    let heard = tokio::spawn(async move {
        let (mut events, mut gaps) = (HashSet::new(), Vec::new());
        while let Ok(update) = timeout(Duration::from_secs(5), next(&mut live)).await {
            match update {
                Some(event) => {
                    events.insert(event.id);
                }
                None => gaps.push(Instant::now()),
            }
        }
        (events, gaps)
    });
    let mut flushes = Vec::new();
    for n in 0..12_u64 {
        sleep(Duration::from_millis(150 + 137 * (n % 7))).await;
        redis.run::<()>("FLUSHALL").await;
        flushes.push(Instant::now());
    }
    eventually("there are new entries", LIMIT, async || {
        (redis.run::<u64>(&format!("XLEN {STREAM}")).await > 100).then_some(())
    })
    .await;
    stop.send_replace(true);
    marking.join_all().await;
    let (events, gaps) = heard.await.unwrap();
    let left: Vec<(String, Vec<(String, String)>)> =
        redis.run(&format!("XRANGE {STREAM} - +")).await;
    assert!(left.len() > 100, "{} entries", left.len());
    let missed = left.iter().filter(|(id, _)| !events.contains(id)).count();
    assert_eq!(missed, 0, "of {}", left.len());
    // A gap comes for each flush, and one for those that follow each other at once.
    for flush in flushes {
        let after = gaps.iter().any(|gap| *gap >= flush && *gap <= flush + FOUND);
        assert!(after, "no gap after a flush; {} gaps", gaps.len());
    }
}
