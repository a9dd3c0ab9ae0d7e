//! Connections to Redis that are closed or forgotten, while Redis serves on.

use std::net::SocketAddr;
use std::time::Duration;

use markread_harness::caller::Refusal;
use markread_harness::{Proxy, READER, RECIPIENT, Redis, Server, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

use super::load::UNLIMITED;
use crate::answers::assert_store_unavailable;
use crate::read_side::watch::watcher::Watcher;

/// How long marks come in: several times each idle limit.
const TRAFFIC: Duration = Duration::from_secs(12);

/// 50 marks a second.
const PACE: Duration = Duration::from_millis(20);

/// Longer than it takes to notice a connection that hangs, and to replace it.
const REPLACED: Duration = Duration::from_secs(6);

/// What may have been sent on a connection when it is closed.
const IN_FLIGHT: usize = 2;

/// Marks at a steady pace for some time, whether or not they are answered, and returns what was refused.
async fn refused(server: &Server, pace: Duration, time: Duration) -> Vec<Refusal> {
    let caller = server.caller(READER);
    let mut calls = JoinSet::new();
    let (mut ticks, began) = (interval(pace), Instant::now());
    while began.elapsed() < time {
        ticks.tick().await;
        let caller = caller.clone();
        let message = u64::try_from(began.elapsed().as_micros()).unwrap() + 1;
        calls.spawn(async move { caller.mark(RECIPIENT, message).await });
    }
    assert!(!calls.is_empty());
    calls.join_all().await.into_iter().filter_map(Result::err).collect()
}

/// Asserts that no mark fails on the Redis at this URL, while somebody watches and while nobody does.
async fn assert_all_marked(url: &str) {
    let server = Server::at(url, &UNLIMITED, &[]).await;
    let beside = Server::at(url, &UNLIMITED, &[]).await;
    server.wait_until_ready().await;
    beside.wait_until_ready().await;
    let (mut events, _) = Watcher::open(&beside, READER + 1).await;
    let (unwatched, watched) =
        tokio::join!(refused(&server, PACE, TRAFFIC), refused(&beside, PACE, TRAFFIC));
    let refused = (unwatched.len(), watched.len());
    assert_eq!(refused, (0, 0), "{:?}", unwatched.iter().chain(&watched).next());
    // The watcher hears what comes now.
    server.caller(READER + 1).mark(RECIPIENT, 1).await.unwrap();
    events.event().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mark_fails_where_redis_closes_idle_connections() {
    let redis = Redis::with(&["--timeout", "1"]).await;
    assert_all_marked(&redis.url()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mark_fails_behind_a_proxy_that_closes_idle_connections() {
    let redis = Redis::start().await;
    let proxy = Proxy::closing_idle(&redis, Duration::from_millis(1500)).await;
    assert_all_marked(&proxy.url()).await;
}

#[tokio::test]
async fn idle_connections_are_kept_open() {
    let redis = Redis::with(&["--timeout", "2"]).await;
    let server = Server::on(&redis).await;
    let before = connections(&redis).await;
    let refused = refused(&server, Duration::from_secs(3), TRAFFIC).await;
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(connections(&redis).await, before);
}

/// A connection of a server, as Redis lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    pub(crate) address: SocketAddr,
    /// The last command.
    pub(crate) command: String,
}

impl Listed {
    fn parse(line: &str) -> Self {
        let field = |name: &str| {
            let mut values = line.split(' ').filter_map(|field| field.strip_prefix(name));
            values.next().expect("it has the field")
        };
        Self {
            id: field("id=").parse().unwrap(),
            address: field("addr=").parse().unwrap(),
            command: field("cmd=").to_owned(),
        }
    }
}

/// The server's connections. The harness's own end with their commands.
pub(crate) async fn listed(redis: &Redis) -> Vec<Listed> {
    let clients: String = redis.run("CLIENT LIST TYPE normal").await;
    let others = clients.lines().filter(|line| !line.contains("cmd=client"));
    let mut listed: Vec<_> = others.map(Listed::parse).collect();
    listed.sort();
    listed
}

/// The IDs of the server's connections.
pub(crate) async fn connections(redis: &Redis) -> Vec<u64> {
    listed(redis).await.into_iter().map(|listed| listed.id).collect()
}

/// The connections of a server with one worker: first that for calls, on which a mark comes.
async fn calls_first(redis: &Redis, server: &Server) -> Vec<Listed> {
    eventually("a mark is the last command of one", REPLACED, async || {
        server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
        let mut listed = listed(redis).await;
        let calls = listed.iter().position(|listed| listed.command == "evalsha")?;
        listed.swap(0, calls);
        Some(listed)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_connection_that_was_closed_is_replaced() {
    for (number, may_fail) in [(0, IN_FLIGHT), (1, 0), (2, 0)] {
        let redis = Redis::start().await;
        let server = Server::on_with(&redis, &UNLIMITED).await;
        let listed = calls_first(&redis, &server).await;
        let mut kept: Vec<_> = listed.iter().map(|listed| listed.id).collect();
        assert_eq!(kept.len(), 3, "{kept:?}");
        let closed = kept.remove(number);
        let close = async {
            sleep(Duration::from_secs(1)).await;
            redis.run::<u64>(&format!("CLIENT KILL ID {closed}")).await;
            eventually("it is replaced", REPLACED, async || {
                let now = connections(&redis).await;
                let all_kept = kept.iter().all(|id| now.contains(id));
                assert!(all_kept, "{kept:?} are alive, and now {now:?} are used");
                (now.len() == 3 && !now.contains(&closed)).then_some(())
            })
            .await;
        };
        let traffic = refused(&server, PACE, Duration::from_secs(3));
        let (refused, ()) = tokio::join!(traffic, close);
        assert!(refused.len() <= may_fail, "connection {number}: {refused:?}");
        refused.iter().for_each(assert_store_unavailable);
        assert_eq!(server.get("/readyz").await.0, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_connection_that_hangs_is_replaced() {
    for number in 0..3 {
        let redis = Redis::start().await;
        let proxy = Proxy::to(&redis).await;
        let server = Server::at(&proxy.url(), &UNLIMITED, &[]).await;
        server.wait_until_ready().await;
        let (mut watcher, _) = Watcher::open(&server, READER).await;
        proxy.forget(calls_first(&redis, &server).await[number].address);
        let traffic = refused(&server, PACE, REPLACED);
        let replace = eventually("it is replaced", REPLACED, async || {
            assert_eq!(server.get("/readyz").await.0, 200);
            (proxy.accepted() == 4).then_some(())
        });
        let (refused, ()) = tokio::join!(traffic, replace);
        assert_eq!(refused.is_empty(), number != 0, "connection {number}: {refused:?}");
        refused.iter().for_each(assert_store_unavailable);

        server.caller(READER).mark(RECIPIENT, u64::MAX >> 1).await.unwrap();
        while watcher.event().await.last_read_event_id != u64::MAX >> 1 {}
        assert_eq!((proxy.accepted(), server.get("/readyz").await.0), (4, 200));
    }
}
