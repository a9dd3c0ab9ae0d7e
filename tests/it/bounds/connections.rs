//! Connections of a peer, idle ones, and their age.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Credentials, Refusal};
use markread_harness::operator::Operator;
use markread_harness::raw::MARK_READ;
use markread_harness::wire::{self, Frame, PREFACE, SETTINGS};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually};
use tokio::net::{TcpSocket, TcpStream};
use tokio_stream::StreamExt;
use tonic::Code;

use super::refused;

const LIMIT: Duration = Duration::from_secs(20);

/// Connects from an address of loopback.
async fn connect_from(server: &Server, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let address: IpAddr = address.parse().unwrap();
    socket.bind(SocketAddr::new(address, 0)).unwrap();
    socket.connect(server.address.parse().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_peer_has_its_own_number_of_connections() {
    let server = Server::dev(&["--max-connections-per-peer", "2"]).await;
    let first = Raw::to(&server).await;
    let _second = Raw::to(&server).await;
    for _ in 0..3 {
        wire::closed(&mut wire::tcp(&server.address, b"").await).await;
    }
    assert!(refused(&server, "connections_per_peer").await >= 3.0);
    assert!(refused(&server, "connections").await < 1.0);
    // Another peer is served, and this one has a connection again once it closes one.
    let other = connect_from(&server, "127.0.0.2").await;
    let (mut requests, connection) = h2::client::handshake(other).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://localhost/nothing").body(()).unwrap();
    let (answer, _) = requests.send_request(request, true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 404);
    drop(first);
    let caller = server.caller(READER);
    eventually("a connection is free", LIMIT, async || caller.mark(RECIPIENT, MESSAGE).await.ok())
        .await;
    let lines = server.log().into_iter().filter(|line| line.contains("per-peer")).count();
    assert_eq!(lines, 1, "a peer fills no log");
}

#[tokio::test]
async fn without_a_bound_a_peer_has_any_number_of_connections() {
    let server = Server::dev(&["--max-connections-per-peer", "0"]).await;
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(Raw::to(&server).await);
    }
    for raw in &open {
        assert_eq!(raw.send(raw.post("/nothing"), "").await.unwrap().status, 404);
    }
}

/// Reads until the server closes. Returns whether GOAWAY came before, and answers pings.
async fn goaway_before_the_end(stream: &mut TcpStream) -> bool {
    let mut goaway = false;
    while let Some(frame) = Frame::read(stream).await {
        goaway |= frame.kind == Frame::GOAWAY;
        if frame.kind == Frame::PING && frame.flags == 0 {
            let pong = [&[0, 0, 8, Frame::PING, 1, 0, 0, 0, 0][..], &frame.payload].concat();
            // It may be closed by now.
            let _ = tokio::io::AsyncWriteExt::write_all(stream, &pong).await;
        }
    }
    goaway
}

#[tokio::test]
async fn a_connection_without_a_call_is_closed_though_it_answers_pings() {
    let flags = ["--idle-timeout", "2s", "--keepalive-interval", "500ms", "--call-timeout", "60s"];
    let server = Server::dev(&flags).await;
    let mut idle = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
    // It differs in nothing but a call that is under way.
    let raw = Raw::to(&server).await;
    let mut call = raw.begin(raw.grpc(MARK_READ, &Credentials::UserId(READER))).await.unwrap();
    assert!(goaway_before_the_end(&mut idle).await);
    assert!((refused(&server, "idle_timeout").await - 1.0).abs() < 0.5);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let message = markread_harness::raw::request(RECIPIENT, MESSAGE);
    call.body.send_data(markread_harness::raw::frame(&message).into(), true).unwrap();
    assert!(call.answer().await.unwrap().marked().unwrap().advanced);
}

#[tokio::test]
async fn the_age_of_a_connection_ends_a_watch_with_its_place() {
    let redis = Redis::start().await;
    let flags = ["--max-connection-age", "1s", "--max-connection-age-grace", "1s"];
    let server = Server::on_with(&redis, &flags).await;
    let mut client = MarkReadServiceClient::new(server.channel());
    let mut open = async |after: &str| {
        let message = WatchMarkReadEventsRequest { after: after.to_owned() };
        let request = server.caller(READER).authenticated(message);
        client.watch_mark_read_events(request).await.unwrap().into_inner()
    };
    let mut watch = open("").await;
    server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    let mut updates = Vec::new();
    let ended = loop {
        match watch.next().await.expect("it ends with a status") {
            Ok(update) => updates.push(update.update.unwrap()),
            Err(status) => break Refusal::from(status),
        }
    };
    assert_eq!((ended.code, &*ended.reason), (Code::Unavailable, "CONNECTION_AGE"));
    let delay = ended.details.retry_info().unwrap().retry_delay;
    assert_eq!(delay, Some(Duration::ZERO));
    assert!(matches!(updates[..], [Update::Heartbeat(_), Update::Event(_), Update::Heartbeat(_)]));
    let Some(Update::Heartbeat(last)) = updates.last() else { unreachable!() };
    // From there on nothing is missed and nothing is heard twice.
    server.caller(READER).mark(RECIPIENT, 2).await.unwrap();
    let mut watch = open(&last.id).await;
    let Some(Update::Event(event)) = watch.next().await.unwrap().unwrap().update else { panic!() };
    assert_eq!(event.last_read_event_id, 2);
    assert!((refused(&server, "connection_age").await - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn an_age_of_0_is_none() {
    let flags = ["--max-connection-age", "0s", "--max-connection-age-grace", "0s"];
    let server = Server::dev(&flags).await;
    let operator = Operator::new(&server);
    let mut health = operator.watch_health("").await;
    health.next().await.unwrap().unwrap();
    assert!(tokio::time::timeout(Duration::from_secs(3), health.next()).await.is_err());
}

#[tokio::test]
async fn a_preface_alone_does_not_begin_a_connection() {
    let server = Server::dev(&["--handshake-timeout", "1s"]).await;
    let mut begun = wire::tcp(&server.address, &[PREFACE, SETTINGS].concat()).await;
    wire::closed(&mut wire::tcp(&server.address, PREFACE).await).await;
    wire::closed(&mut wire::tcp(&server.address, &[PREFACE, &SETTINGS[..8]].concat()).await).await;
    // The one with its first frame is still served.
    tokio::io::AsyncWriteExt::write_all(&mut begun, &Frame::head_of_call(1)).await.unwrap();
    while Frame::read(&mut begun).await.expect("it is open").stream != 1 {}
}
