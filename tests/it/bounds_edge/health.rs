//! Health is answered whatever else is refused, so it has bounds of its own.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::operator::Operator;
use markread_harness::raw::frame;
use markread_harness::{Raw, Server, eventually};
use prost::Message;
use tokio::time::sleep;
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{CHECK, LIMIT, WATCH, assert_refusal, begin, refused_by};

const SERVICE: &str = "markread.v1.MarkReadService";

fn request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn a_watch_is_kept_past_every_timeout() {
    // An hour of the defaults, in seconds.
    let flags = ["--idle-timeout", "500ms", "--send-timeout", "500ms"];
    let calls = ["--call-timeout", "500ms", "--handshake-timeout", "500ms"];
    let server = Server::dev(&[flags, calls].concat()).await;
    let mut watches = Vec::new();
    for service in ["", SERVICE] {
        let mut client = HealthClient::new(server.channel());
        let mut watch = client.watch(request(service)).await.unwrap().into_inner();
        assert_eq!(watch.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
        watches.push(watch);
    }
    sleep(Duration::from_secs(5)).await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    for mut watch in watches {
        // Still open: it tells that the server leaves.
        let update = watch.next().await.unwrap();
        let told = update.is_ok_and(|update| update.status() == ServingStatus::NotServing);
        assert!(told);
    }
}

#[tokio::test]
async fn a_connection_watches_a_service_once() {
    let server = Server::dev(&[]).await;
    let mut client = HealthClient::new(server.channel());
    let first = client.watch(request(SERVICE)).await.unwrap();
    // Clients read UNIMPLEMENTED as "no health checking", and call all the same.
    let second = client.watch(request(SERVICE)).await.unwrap_err();
    assert_eq!(second.code(), Code::Unimplemented, "{second:?}");
    assert!(refused_by(&server, "unidentified_streams").await >= 1.0);
    client.watch(request("")).await.expect("another service");
    let mut other = HealthClient::new(server.channel());
    other.watch(request(SERVICE)).await.expect("another connection");
    drop(first);
    eventually("its place is free again", LIMIT, async || {
        client.clone().watch(request(SERVICE)).await.ok()
    })
    .await;
}

#[tokio::test]
async fn half_sent_requests_are_few() {
    let server = Server::dev(&["--call-timeout", "10m"]).await;
    let raw = Raw::to(&server).await;
    let mut held = Vec::new();
    for n in 0..8 {
        held.push(begin(&raw, [CHECK, WATCH][n % 2]).await);
    }
    for path in [CHECK, WATCH] {
        let refused = begin(&raw, path).await.answer().await.unwrap().refusal();
        assert_refusal(&refused, "EDGE_LIMIT_EXCEEDED");
    }
    // A request in one piece waits for nobody.
    let whole = frame(&request("").encode_to_vec());
    let answer = raw.send(raw.grpc(CHECK, &Credentials::Nothing), whole.clone()).await.unwrap();
    assert_eq!(answer.grpc_status().code(), Code::Ok);
    drop(held);
    eventually("a half-sent request is accepted again", LIMIT, async || {
        let mut call = begin(&raw, CHECK).await;
        sleep(Duration::from_millis(50)).await;
        call.body.send_data(whole.clone().into(), true).ok()?;
        (call.answer().await.ok()?.grpc_status().code() == Code::Ok).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_is_short() {
    let server = Server::dev(&[]).await;
    let operator = Operator::new(&server);
    let longest = operator.health(&"x".repeat(4096 - 3)).await.unwrap_err();
    assert_eq!(longest.code(), Code::NotFound);
    let longer = operator.health(&"x".repeat(4096 - 2)).await.unwrap_err();
    assert_eq!(longer.code(), Code::ResourceExhausted);
}
