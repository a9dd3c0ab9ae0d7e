//! Watching: who is told of what, and what a watcher that comes back has missed.

use std::collections::HashSet;
use std::time::Duration;

use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread::proto::{MarkReadEvent, WatchMarkReadEventsRequest, WatchMarkReadEventsResponse};
use nix::sys::signal::Signal;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic::{Code, Streaming};

use super::super::answers::tokens::{seconds_from_now, with_claims};
use super::super::harness::caller::{Credentials, Denied};
use super::super::harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};

const LIMIT: Duration = Duration::from_secs(20);

/// A third user.
const STRANGER: u64 = 42;

struct Watcher(Streaming<WatchMarkReadEventsResponse>);

impl Watcher {
    async fn try_open(
        server: &Server,
        credentials: Credentials,
        after: &str,
    ) -> Result<Self, Denied> {
        let mut request =
            tonic::Request::new(WatchMarkReadEventsRequest { after: after.to_owned() });
        let metadata = request.metadata_mut();
        match credentials {
            Credentials::Authorization(value) => {
                metadata.insert("authorization", value.parse().unwrap());
            }
            Credentials::UserId(user) => {
                metadata.insert("x-user-id", user.to_string().parse().unwrap());
            }
            Credentials::Nothing => {}
        }
        // A small window: what a client does not read waits at the server.
        let address = format!("http://{}", server.address);
        let endpoint = Endpoint::from_shared(address).unwrap();
        let channel = endpoint.initial_stream_window_size(16 * 1024).connect_lazy();
        let mut client = MarkReadServiceClient::new(channel);
        Ok(Self(client.watch_mark_read_events(request).await?.into_inner()))
    }

    /// A watcher from now on, and where that is.
    async fn open(server: &Server, user: u64) -> (Self, String) {
        let mut watcher = Self::after(server, user, "").await;
        let Update::Heartbeat(heartbeat) = watcher.next().await else {
            panic!("a heartbeat first")
        };
        (watcher, heartbeat.id)
    }

    async fn after(server: &Server, user: u64, after: &str) -> Self {
        Self::try_open(server, Credentials::token_of(user), after).await.unwrap()
    }

    async fn next(&mut self) -> Update {
        let message = timeout(LIMIT, self.0.message()).await.expect("an update in time");
        message.unwrap().expect("an update").update.expect("one of them")
    }

    /// The next event, whatever heartbeats come before it.
    async fn event(&mut self) -> MarkReadEvent {
        loop {
            match self.next().await {
                Update::Event(event) => return event,
                Update::Heartbeat(_) => {}
                Update::Gap(gap) => panic!("{gap:?}"),
            }
        }
    }

    /// How it ends, past what it is told before.
    async fn end(mut self) -> Denied {
        let end = async {
            loop {
                match self.0.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it ends without a status"),
                    Err(status) => return Denied::from(status),
                }
            }
        };
        timeout(LIMIT, end).await.expect("it ends in time")
    }

    /// Nothing comes for a while.
    async fn hears_nothing(&mut self) {
        let heard = timeout(Duration::from_millis(500), self.event()).await;
        assert!(heard.is_err(), "{heard:?}");
    }
}

fn told(event: &MarkReadEvent) -> (u64, u64, u64) {
    (event.sender_id, event.recipient_id, event.last_read_event_id)
}

#[tokio::test]
async fn readers_and_recipients_are_told_and_nobody_else() {
    let redis = Redis::start().await;
    let (server, other) = (Server::on(&redis).await, Server::on(&redis).await);
    let (mut reader, _) = Watcher::open(&server, READER).await;
    let (mut recipient, _) = Watcher::open(&server, RECIPIENT).await;
    let (mut stranger, _) = Watcher::open(&server, STRANGER).await;
    // By whichever server it was marked.
    let answer = other.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let event = reader.event().await;
    assert_eq!(told(&event), (READER, RECIPIENT, MESSAGE));
    assert_eq!(event.created_at, answer.cursor.read_at);
    assert_eq!(recipient.event().await, event);
    // A no-op tells nobody anything.
    other.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    stranger.hears_nothing().await;
    reader.hears_nothing().await;
    other.caller(STRANGER).mark(STRANGER, 5).await.unwrap();
    assert_eq!(told(&stranger.event().await), (STRANGER, STRANGER, 5));
    stranger.hears_nothing().await;
}

#[tokio::test]
async fn a_watcher_that_comes_back_has_missed_nothing_at_whichever_server() {
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
    let (mut heard, mut known) = (Vec::new(), HashSet::new());
    let mut at = None;
    while heard.len() < usize::try_from(MARKS).unwrap() {
        // Killed after every few hundred events, and back from where it was.
        for _ in 0..300 {
            let event = watcher.event().await;
            place.clone_from(&event.id);
            if known.insert(event.id.clone()) {
                heard.push(told(&event));
            }
            if heard.len() == usize::try_from(MARKS).unwrap() {
                break;
            }
        }
        drop(watcher);
        // A server that was not there when it happened, too.
        let new = Server::on_with(&redis, &flags).await;
        watcher = Watcher::after(&new, RECIPIENT, &place).await;
        at = Some(new);
    }
    drop(at);
    marking.join_all().await;
    assert_eq!(heard, redis.events().await);
}

#[tokio::test]
async fn from_the_oldest_everything_is_told_however_long_ago() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for message in 1..=3 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        let mut watcher = Watcher::after(server, READER, "0-0").await;
        for message in 1..=3 {
            assert_eq!(told(&watcher.event().await), (READER, RECIPIENT, message));
        }
        watcher.hears_nothing().await;
    }
    server.caller(READER).mark(RECIPIENT, 4).await.unwrap();
    let mut watcher = Watcher::after(&server, READER, "0-0").await;
    for message in 1..=4 {
        assert_eq!(told(&watcher.event().await), (READER, RECIPIENT, message));
    }
}

#[tokio::test]
async fn what_may_be_lost_is_told_as_a_gap_first() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (watcher, place) = Watcher::open(&server, READER).await;
    drop(watcher);
    for message in 1..=10 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    // Nothing was removed yet.
    let mut back = Watcher::after(&server, READER, &place).await;
    assert_eq!(told(&back.event().await), (READER, RECIPIENT, 1));

    redis.run::<()>("XTRIM direct_message_mark_read_events MAXLEN 4").await;
    let later = Server::on(&redis).await;
    for server in [&server, &later] {
        let mut back = Watcher::after(server, READER, &place).await;
        assert!(matches!(back.next().await, Update::Gap(_)), "the first message");
        for message in 7..=10 {
            assert_eq!(told(&back.event().await), (READER, RECIPIENT, message));
        }
    }
    // A place that this stream never had: it was flushed, or another took over.
    let ahead = seconds_from_now(30) * 1000;
    let mut back = Watcher::after(&server, READER, &format!("{ahead}-0")).await;
    assert!(matches!(back.next().await, Update::Gap(_)), "past the last that was given");
}

#[tokio::test]
async fn a_redis_that_comes_back_is_followed_from_where_it_was() {
    let mut redis = Redis::with(&["--appendonly", "yes", "--appendfsync", "always"]).await;
    let server = Server::on(&redis).await;
    let (mut watcher, _) = Watcher::open(&server, READER).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 1).await.unwrap();
    assert_eq!(told(&watcher.event().await), (READER, RECIPIENT, 1));
    redis.kill().await;
    redis.restart().await;
    eventually("it marks again", LIMIT, async || caller.mark(RECIPIENT, 2).await.ok()).await;
    assert_eq!(told(&watcher.event().await), (READER, RECIPIENT, 2));
}

#[tokio::test]
async fn a_place_that_is_none_is_a_bad_field_and_costs_nothing() {
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
async fn opening_costs_one_read_and_no_more() {
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
    // The leeway is part of it.
    let token = with_claims(json!({ "exp": seconds_from_now(-28) }));
    let watcher = Watcher::try_open(&server, token, "").await.unwrap();
    let denied = watcher.end().await;
    assert_eq!((denied.code, &*denied.reason), (Code::Unauthenticated, "CREDENTIALS_INVALID"));
}

#[tokio::test]
async fn a_watch_ends_at_the_drain_and_holds_nothing_up() {
    let redis = Redis::start().await;
    let mut server = Server::on(&redis).await;
    let (watcher, _) = Watcher::open(&server, READER).await;
    server.signal(Signal::SIGTERM);
    let denied = watcher.end().await;
    assert_eq!((denied.code, &*denied.reason), (Code::Unavailable, "DRAINING"));
    assert!(server.exit(Duration::from_secs(5)).await.success());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off_and_told_where_to_resume() {
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
    let (denied, heard) = timeout(LIMIT, async {
        let mut heard = 0;
        loop {
            match watcher.0.message().await {
                Ok(Some(message)) => {
                    if let Some(Update::Event(event)) = message.update {
                        (last, heard) = (event.id, heard + 1);
                    }
                }
                Ok(None) => panic!("it ends without a status"),
                Err(status) => return (Denied::from(status), heard),
            }
        }
    })
    .await
    .expect("it ends in time");
    assert_eq!((denied.code, &*denied.reason), (Code::ResourceExhausted, "WATCHER_TOO_SLOW"));
    assert_eq!(denied.details.error_info().unwrap().metadata["resume_after"], last);
    let mut back = Watcher::after(&server, RECIPIENT, &last).await;
    for _ in heard..MARKS {
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
    let Update::Heartbeat(heartbeat) = watcher.next().await else { panic!("a heartbeat first") };
    for message in 1..=8 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
        assert_eq!(told(&watcher.event().await), (READER, RECIPIENT, message));
    }
    let mut back = open(&heartbeat.id).await;
    assert!(matches!(back.next().await, Update::Gap(_)));
    for message in 4..=8 {
        assert_eq!(told(&back.event().await), (READER, RECIPIENT, message));
    }
}

#[tokio::test]
async fn however_many_watch_redis_has_one_reader_waiting() {
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
    let clients: String = redis.run("INFO clients").await;
    assert!(clients.contains("blocked_clients:1\r\n"), "{clients}");
    server.caller(1).mark(WATCHERS, 5).await.unwrap();
    assert_eq!(told(&watchers[0].event().await), (1, WATCHERS, 5));
    let last = watchers.last_mut().unwrap();
    assert_eq!(told(&last.event().await), (1, WATCHERS, 5));
}
