//! Watches: who hears of which mark, and resuming without a loss.

mod bursts;
mod cluster;
mod erasures;
mod foreign;
mod losses;
pub(crate) mod watcher;

use std::collections::HashSet;
use std::time::Duration;

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Credentials, Refusal};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::Code;

use self::watcher::{Watcher, ids};
use crate::answers::tokens::{seconds_from_now, with_claims};

const LIMIT: Duration = Duration::from_secs(20);

/// A third user.
const STRANGER: u64 = 42;

#[tokio::test]
async fn only_reader_and_recipient_hear_of_a_mark() {
    let redis = Redis::start().await;
    let (server, other) = (Server::on(&redis).await, Server::on(&redis).await);
    let (mut reader, _) = Watcher::open(&server, READER).await;
    let (mut recipient, _) = Watcher::open(&server, RECIPIENT).await;
    let (mut stranger, _) = Watcher::open(&server, STRANGER).await;
    // Marks at any server.
    let answer = other.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let event = reader.event().await;
    assert_eq!(ids(&event), (READER, RECIPIENT, MESSAGE));
    assert_eq!(event.created_at, answer.cursor.read_at);
    assert_eq!(recipient.event().await, event);
    // Nobody hears of a no-op.
    other.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    stranger.hears_nothing().await;
    reader.hears_nothing().await;
    other.caller(STRANGER).mark(STRANGER, 5).await.unwrap();
    assert_eq!(ids(&stranger.event().await), (STRANGER, STRANGER, 5));
    stranger.hears_nothing().await;
}

#[tokio::test]
async fn a_watcher_that_resumes_at_any_server_misses_nothing() {
    const MARKS: u64 = 3_000;
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "1000000"];
    let server = Server::on_with(&redis, &flags).await;
    let (mut watcher, mut place) = Watcher::open(&server, RECIPIENT).await;
    let mut marking = JoinSet::new();
    for reader in 1..=4 {
        let caller = server.caller(reader);
        marking.spawn(async move {
            for message in 1..=MARKS / 4 {
                caller.mark(RECIPIENT, message).await.unwrap();
            }
        });
    }
    let (mut events, mut known) = (Vec::new(), HashSet::new());
    let mut at = None;
    while events.len() < usize::try_from(MARKS).unwrap() {
        // Ended after every few hundred events, and resumed from its place.
        for _ in 0..300 {
            let event = watcher.event().await;
            place.clone_from(&event.id);
            if known.insert(event.id.clone()) {
                events.push(ids(&event));
            }
            if events.len() == usize::try_from(MARKS).unwrap() {
                break;
            }
        }
        drop(watcher);
        // Also at a server that was started later.
        let new = Server::on_with(&redis, &flags).await;
        watcher = Watcher::after(&new, RECIPIENT, &place).await;
        at = Some(new);
    }
    drop(at);
    marking.join_all().await;
    assert_eq!(events, redis.events().await);
}

#[tokio::test]
async fn a_watch_from_the_oldest_hears_everything() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for message in 1..=3 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        let mut watcher = Watcher::after(server, READER, "0-0").await;
        for message in 1..=3 {
            assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, message));
        }
        watcher.hears_nothing().await;
    }
    server.caller(READER).mark(RECIPIENT, 4).await.unwrap();
    let mut watcher = Watcher::after(&server, READER, "0-0").await;
    for message in 1..=4 {
        assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, message));
    }
}

#[tokio::test]
async fn possible_losses_are_reported_as_a_gap_first() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (watcher, place) = Watcher::open(&server, READER).await;
    drop(watcher);
    for message in 1..=10 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    // Nothing has been trimmed yet.
    let mut back = Watcher::after(&server, READER, &place).await;
    assert_eq!(ids(&back.event().await), (READER, RECIPIENT, 1));

    redis.run::<()>("XTRIM direct_message_mark_read_events MAXLEN 4").await;
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        let mut back = Watcher::after(server, READER, &place).await;
        assert!(matches!(back.next().await, Update::Gap(_)), "the first update is a gap");
        for message in 7..=10 {
            assert_eq!(ids(&back.event().await), (READER, RECIPIENT, message));
        }
    }
    // A place beyond this stream: it was flushed, or another Redis has taken over.
    let ahead = seconds_from_now(30) * 1000;
    let mut back = Watcher::after(&server, READER, &format!("{ahead}-0")).await;
    assert!(matches!(back.next().await, Update::Gap(_)), "beyond the last entry");
}

#[tokio::test]
async fn watchers_follow_a_redis_that_comes_back() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let server = Server::on(&redis).await;
    let (mut watcher, _) = Watcher::open(&server, READER).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 1));
    redis.kill().await;
    redis.restart().await;
    eventually("it marks again", LIMIT, async || caller.mark(RECIPIENT, 2).await.ok()).await;
    assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, 2));
}

#[tokio::test]
async fn an_invalid_place_is_refused_at_no_cost() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let ahead = format!("{}-0", seconds_from_now(120) * 1000);
    for after in ["x", "1", "1-", "-1", "01-0", "1-0-0", " 1-0", "99999999999999999999-0", &ahead] {
        let opened = Watcher::try_open(&server, Credentials::token_of(READER), after).await;
        let denied = opened.err().expect(after);
        assert_eq!((denied.code, &*denied.reason), (Code::InvalidArgument, "INVALID_PARAMETER"));
        let violations = &denied.details.bad_request().unwrap().field_violations;
        assert_eq!(violations[0].field, "after", "{after:?}");
    }
    let nobody = Watcher::try_open(&server, Credentials::Nothing, "").await.err().unwrap();
    assert_eq!(nobody.reason, "CREDENTIALS_MISSING");
}

#[tokio::test]
async fn opening_a_watch_costs_one_read() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--read-rate-limit", "2"]).await;
    let (mut first, _) = Watcher::open(&server, READER).await;
    let (_second, _) = Watcher::open(&server, READER).await;
    let third = Watcher::try_open(&server, Credentials::token_of(READER), "").await;
    assert_eq!(third.err().unwrap().reason, "RATE_LIMIT_EXCEEDED");
    for message in 1..=5 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
        first.event().await;
    }
    assert_eq!(server.metric("markread_watchers").await, Some(2.0));
    drop(first);
    eventually("one is gone", LIMIT, async || {
        (server.metric("markread_watchers").await == Some(1.0)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_watch_ends_with_its_token() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    // The leeway is included.
    let token = with_claims(json!({ "exp": seconds_from_now(-28) }));
    let watcher = Watcher::try_open(&server, token, "").await.unwrap();
    let denied = watcher.end().await;
    assert_eq!((denied.code, &*denied.reason), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
}

#[tokio::test]
async fn a_watch_ends_at_the_drain_without_delaying_it() {
    let redis = Redis::start().await;
    let mut server = Server::on(&redis).await;
    let (watcher, _) = Watcher::open(&server, READER).await;
    server.signal(Signal::SIGTERM);
    let denied = watcher.end().await;
    assert_eq!((denied.code, &*denied.reason), (Code::Unavailable, "DRAINING"));
    assert!(server.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_can_resume() {
    const MARKS: u64 = 12_000;
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let (mut watcher, _) = Watcher::open(&server, RECIPIENT).await;
    let mut marking = JoinSet::new();
    for reader in 1..=8 {
        let caller = server.caller(reader);
        marking.spawn(async move {
            for message in 1..=MARKS / 8 {
                caller.mark(RECIPIENT, message).await.unwrap();
            }
        });
    }
    marking.join_all().await;
    let mut last = String::new();
    let (denied, events) = timeout(LIMIT, async {
        let mut events = 0;
        loop {
            match watcher.0.message().await {
                Ok(Some(message)) => {
                    if let Some(Update::Event(event)) = message.update {
                        (last, events) = (event.id, events + 1);
                    }
                }
                Ok(None) => panic!("the watch ended without a status"),
                Err(status) => return (Refusal::from(status), events),
            }
        }
    })
    .await
    .expect("the watch ends in time");
    // Its stream was reset, since its windows had no room for what came before a status.
    assert_eq!(denied.code, Code::ResourceExhausted, "{denied:?}");
    let mut back = Watcher::after(&server, RECIPIENT, &last).await;
    for _ in events..MARKS {
        back.event().await;
    }
    back.hears_nothing().await;
}

#[tokio::test]
async fn the_embedded_store_is_watched_like_redis() {
    let server = Server::dev(&["--stream-maxlen", "5"]).await;
    let open = async |after: &str| {
        Watcher::try_open(&server, Credentials::UserId(READER), after).await.unwrap()
    };
    let mut watcher = open("").await;
    let Update::Heartbeat(heartbeat) = watcher.next().await else {
        panic!("the first update is not a heartbeat")
    };
    for message in 1..=8 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
        assert_eq!(ids(&watcher.event().await), (READER, RECIPIENT, message));
    }
    let mut back = open(&heartbeat.id).await;
    assert!(matches!(back.next().await, Update::Gap(_)));
    for message in 4..=8 {
        assert_eq!(ids(&back.event().await), (READER, RECIPIENT, message));
    }
}

#[tokio::test]
async fn any_number_of_watchers_is_one_reader_in_redis() {
    const WATCHERS: u64 = 200;
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let channel = server.channel();
    let mut watchers = Vec::new();
    for user in 1..=WATCHERS {
        let mut client = MarkReadServiceClient::new(channel.clone());
        let mut request = tonic::Request::new(WatchMarkReadEventsRequest::default());
        let Credentials::Authorization(token) = Credentials::token_of(user) else { panic!() };
        request.metadata_mut().insert("authorization", token.parse().unwrap());
        watchers.push(Watcher(client.watch_mark_read_events(request).await.unwrap().into_inner()));
    }
    assert_eq!(server.metric("markread_watchers").await, Some(200.0));
    // Between two of its reads a reader waits for nothing.
    eventually("one client waits for events, and no second", LIMIT, async || {
        let blocked = redis.info("INFO clients").await["blocked_clients"].clone();
        assert!(["0", "1"].contains(&blocked.as_str()), "{blocked} clients wait");
        (blocked == "1").then_some(())
    })
    .await;
    server.caller(1).mark(WATCHERS, 5).await.unwrap();
    assert_eq!(ids(&watchers[0].event().await), (1, WATCHERS, 5));
    let last = watchers.last_mut().unwrap();
    assert_eq!(ids(&last.event().await), (1, WATCHERS, 5));
}
