//! Entries that are erased from a stream that is watched.

use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::{READER, RECIPIENT, Redis, Server};
use tokio::time::timeout;

use super::LIMIT;
use super::watcher::{Watcher, ids};

const STREAM: &str = "direct_message_mark_read_events";

/// More than a read of the tail and the ring of a server that starts have together.
const ENTRIES: usize = 13_000;

/// A stream of events that concern no watcher. Returns its IDs.
async fn stream_of_others(redis: &Redis, server: &Server) -> Vec<String> {
    server.caller(50).mark(51, 1).await.unwrap();
    let payload = redis.payloads().await.remove(0);
    let mut fill = redis::cmd("EVAL");
    fill.arg("for i = 2, ARGV[2] do redis.call('XADD', KEYS[1], '*', 'payload', ARGV[1]) end");
    fill.arg(1).arg(STREAM).arg(payload).arg(ENTRIES);
    let mut connection = redis.connection().await;
    fill.query_async::<()>(&mut connection).await.unwrap();
    let entries: Vec<(String, Vec<String>)> = redis.run(&format!("XRANGE {STREAM} - +")).await;
    assert_eq!(entries.len(), ENTRIES);
    entries.into_iter().map(|(id, _)| id).collect()
}

/// Reads until the event for this message. Returns how many gaps came before.
async fn gaps_before(watcher: &mut Watcher, message: u64) -> usize {
    let mut gaps = 0;
    let hear = async {
        loop {
            match watcher.next().await {
                Update::Event(event) if ids(&event) == (READER, RECIPIENT, message) => return,
                Update::Gap(_) => gaps += 1,
                _ => {}
            }
        }
    };
    let heard = timeout(LIMIT, hear).await.is_ok();
    assert!(heard, "message {message} is not heard: {gaps} gaps");
    gaps
}

#[tokio::test]
async fn a_loss_after_an_erasure_does_not_make_watchers_deaf() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let entries = stream_of_others(&redis, &server).await;
    let (mut live, _) = Watcher::open(&server, READER).await;
    redis.run::<u64>(&format!("XDEL {STREAM} {}", entries[ENTRIES - 10])).await;
    // Another server found that something was lost.
    redis.run::<u64>("HSET markread:layout gap_before 1-0").await;
    let caller = server.caller(READER);
    assert!(matches!(live.next().await, Update::Gap(_)));
    caller.mark(RECIPIENT, 7).await.unwrap();
    let gaps = gaps_before(&mut live, 7).await;
    assert!(gaps <= 2, "{gaps} gaps");
    caller.mark(RECIPIENT, 8).await.unwrap();
    assert_eq!(gaps_before(&mut live, 8).await, 0);
}

#[tokio::test]
async fn an_erasure_is_at_most_one_gap_for_a_watcher_that_resumes() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let entries = stream_of_others(&redis, &server).await;
    redis.run::<u64>(&format!("XDEL {STREAM} {}", entries[ENTRIES - 10])).await;
    server.caller(READER).mark(RECIPIENT, 7).await.unwrap();
    let later = Server::on(&redis).await;
    for (after, expected) in [("0-0", 0), (&*entries[1], 1), (&*entries[ENTRIES - 5], 0)] {
        let mut back = Watcher::after(&later, READER, after).await;
        assert_eq!(gaps_before(&mut back, 7).await, expected, "after {after}");
    }
}

#[tokio::test]
async fn a_gap_by_an_erasure_goes_on_where_the_watcher_was() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let (mut live, _) = Watcher::open(&server, READER).await;
    let mut places = Vec::new();
    for message in 1..=5 {
        caller.mark(RECIPIENT, message).await.unwrap();
        places.push(live.event().await.id);
    }
    redis.run::<u64>(&format!("XDEL {STREAM} {}", places[3])).await;
    let mut back = Watcher::after(&server, READER, &places[1]).await;
    assert!(matches!(back.next().await, Update::Gap(_)));
    let next = back.event().await;
    assert_ne!(ids(&next).2, 1, "not from the beginning");
    assert_eq!(next.id, places[2]);
}
