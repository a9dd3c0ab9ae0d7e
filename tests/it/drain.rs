//! How a server exits: readiness ends first, calls in flight are finished, and no client delays it
//! longer than promised.

use std::time::{Duration, Instant};

use markread_harness::caller::Credentials;
use markread_harness::operator::Operator;
use markread_harness::raw::{MARK_READ, OpenCall};
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

/// Longer than an exit takes that waits for nothing, even on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(5);

/// Numbers of worker threads.
const THREADS: [&str; 2] = ["1", "4"];

const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

async fn wait_until_unready(server: &Server) {
    eventually("readiness has ended", AT_ONCE, async || {
        (server.get("/readyz").await.0 == 503).then_some(())
    })
    .await;
}

/// Asserts that the server exits within this time, with status 0.
async fn leaves(mut server: Server, limit: Duration) {
    let status = server.exit(limit).await;
    assert_eq!(status.code(), Some(0), "{status}\n{}", server.log().join("\n"));
}

/// A call on its own connection of which only the head is sent.
async fn half_sent_call(server: &Server, path: &str) -> OpenCall {
    let raw = Raw::to(server).await;
    raw.begin(raw.grpc(path, &Credentials::UserId(READER))).await.unwrap()
}

#[tokio::test]
async fn readiness_ends_first_and_calls_are_served_in_the_delay() {
    const DELAY: Duration = Duration::from_secs(2);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::dev(&["--drain-delay", "2s"]).await;
        let began = Instant::now();
        server.signal(signal);
        wait_until_unready(&server).await;
        let (_, cause) = server.get("/readyz").await;
        assert!(cause.contains("draining"), "{cause}");
        assert_eq!(server.get("/livez").await.0, 200);
        let operator = Operator::new(&server);
        let status = operator.health("").await;
        // On a new connection, too.
        let marked = server.caller(READER).mark(RECIPIENT, MESSAGE).await;
        if began.elapsed() < DELAY {
            assert_eq!(status.unwrap(), ServingStatus::NotServing);
            assert!(marked.unwrap().advanced);
        }
        leaves(server, DELAY + AT_ONCE).await;
        assert!(began.elapsed() >= DELAY, "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn calls_in_flight_are_finished_on_all_threads() {
    for threads in THREADS {
        let redis = Redis::start().await;
        let flags = ["--call-timeout", "20s", "--worker-threads", threads];
        let server = Server::on_with(&redis, &flags).await;
        let callers: Vec<_> = (READER..READER + 8).map(|reader| server.caller(reader)).collect();
        for caller in &callers {
            caller.mark(RECIPIENT, 1).await.unwrap();
        }
        redis.freeze();
        let calls = callers
            .into_iter()
            .map(|caller| async move { caller.mark(RECIPIENT, MESSAGE).await.unwrap().advanced });
        let calls: Vec<_> = calls.map(tokio::spawn).collect();
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.signal(Signal::SIGTERM);
        wait_until_unready(&server).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(calls.iter().all(|call| !call.is_finished()));
        assert_eq!(server.get("/livez").await.0, 200);
        redis.thaw();
        for call in calls {
            assert!(call.await.unwrap());
        }
        leaves(server, AT_ONCE).await;
        for reader in READER..READER + 8 {
            assert_eq!(redis.cursors(reader).await[&RECIPIENT], MESSAGE);
        }
    }
}

#[tokio::test]
async fn a_client_that_never_finishes_does_not_extend_the_drain() {
    let half_a_head = b"POST /1.1/direct_messages/mark_read.json HTTP/1.1\r\nhost: x\r\n";
    let half_a_body = b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nhalf";
    for threads in THREADS {
        let long = ["--call-timeout", "60s", "--handshake-timeout", "60s"];
        let flags = [&["--drain", "2s", "--worker-threads", threads], &long[..]].concat();
        let server = Server::dev(&flags).await;
        let address = &server.address;
        let _held = (
            wire::tcp(address, b"").await,
            wire::tcp(address, &PREFACE[..10]).await,
            wire::tcp(address, PREFACE).await,
            wire::tcp(address, &[PREFACE, SETTINGS].concat()).await,
            wire::tcp(address, half_a_head).await,
            wire::tcp(address, half_a_body).await,
            half_sent_call(&server, MARK_READ).await,
            half_sent_call(&server, REFLECTION).await,
        );
        server.signal(Signal::SIGTERM);
        leaves(server, Duration::from_secs(2) + AT_ONCE).await;
    }
}

#[tokio::test]
async fn an_idle_client_does_not_delay_the_exit() {
    for threads in THREADS {
        let flags = ["--drain", "60s", "--handshake-timeout", "60s", "--worker-threads", threads];
        let server = Server::dev(&flags).await;
        let _silent = wire::tcp(&server.address, b"").await;
        let _idle = (Raw::to(&server).await, Raw::to(&server).await);
        let caller = server.caller(READER);
        caller.mark(RECIPIENT, MESSAGE).await.unwrap();
        server.signal(Signal::SIGTERM);
        leaves(server, AT_ONCE).await;
    }
}

#[tokio::test]
async fn a_call_that_crosses_the_drain_is_refused_as_draining() {
    let server = Server::dev(&["--drain", "60s"]).await;
    // This client answers no ping, so the server cannot know that it has read the GOAWAY.
    let mut stream = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
    while Frame::read(&mut stream).await.expect("settings first").kind != Frame::SETTINGS {}
    server.signal(Signal::SIGTERM);
    while Frame::read(&mut stream).await.expect("GOAWAY first").kind != Frame::GOAWAY {}
    stream.write_all(&Frame::head_of_call(1)).await.unwrap();
    while Frame::read(&mut stream).await.expect("an answer first").stream != 1 {}
    let refused = server.metric("markread_mark_read_total{outcome=\"unavailable\"}").await;
    assert_eq!(refused, Some(1.0));
    server.signal(Signal::SIGTERM);
    leaves(server, AT_ONCE).await;
}

#[tokio::test]
async fn streams_end_with_the_drain() {
    let server = Server::dev(&["--drain", "60s"]).await;
    let operator = Operator::new(&server);
    let mut health = operator.watch_health("").await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let (asks, mut reflection) = operator.open_reflection().await;
    server.signal(Signal::SIGTERM);

    // Where readiness ends only with the drain, a watcher may not hear of it.
    let ended = match health.next().await.unwrap() {
        Ok(update) => {
            assert_eq!(update.status(), ServingStatus::NotServing);
            health.next().await.unwrap().unwrap_err()
        }
        Err(ended) => ended,
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let ended = reflection.next().await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    // As every client does that has heard so.
    drop(asks);
    leaves(server, AT_ONCE).await;
}

#[tokio::test]
async fn a_health_watcher_that_ignores_its_end_is_not_awaited() {
    let server = Server::dev(&["--drain", "60s"]).await;
    let _ignored = Operator::new(&server).watch_health("").await;
    server.signal(Signal::SIGTERM);
    leaves(server, AT_ONCE).await;
}

#[tokio::test]
async fn a_health_watcher_hears_before_the_drain_begins() {
    let server = Server::dev(&["--drain-delay", "1s"]).await;
    let mut health = Operator::new(&server).watch_health("").await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    server.signal(Signal::SIGTERM);
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    leaves(server, AT_ONCE).await;
}

#[tokio::test]
async fn a_server_whose_redis_is_down_or_hangs_exits_as_well() {
    let down = Redis::down(&[]);
    let server = Server::on_unready(&down, &[]).await;
    server.signal(Signal::SIGTERM);
    leaves(server, AT_ONCE).await;

    let hanging = Redis::start().await;
    let server = Server::on(&hanging).await;
    hanging.freeze();
    server.signal(Signal::SIGTERM);
    leaves(server, AT_ONCE).await;
    hanging.thaw();
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    for (threads, delay) in THREADS.into_iter().flat_map(|n| [(n, "0s"), (n, "60s")]) {
        let times = ["--drain", "60s", "--call-timeout", "60s", "--drain-delay", delay];
        let flags = [&["--worker-threads", threads], &times[..]].concat();
        let server = Server::dev(&flags).await;
        let _held = half_sent_call(&server, MARK_READ).await;
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
        server.signal(Signal::SIGTERM);
        wait_until_unready(&server).await;
        server.signal(Signal::SIGTERM);
        leaves(server, AT_ONCE).await;
    }
}
