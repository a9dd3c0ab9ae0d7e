//! DRAINING: calls on a connection whose client has not heard of the drain yet.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::signal::Signal;
use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tonic::Code;

use super::{assert_denied, retry_delay};

/// A proxy that can hold back what the server sends.
struct Gate {
    address: String,
    open: watch::Sender<bool>,
}

impl Gate {
    async fn before(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (open, mut is_open) = watch::channel(true);
        let server = server.address.clone();
        tokio::spawn(async move {
            let (client, _) = listener.accept().await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let server = TcpStream::connect(server).await.unwrap();
            let (from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { copy(&mut from_client, &mut to_server).await });
            let mut buffer = vec![0; 64 * 1024];
            loop {
                from_server.readable().await.unwrap();
                is_open.wait_for(|open| *open).await.unwrap();
                match from_server.try_read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => {
                        let mut bytes = &buffer[..read];
                        copy(&mut bytes, &mut to_client).await.unwrap();
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                    Err(_) => break,
                }
            }
        });
        Self { address, open }
    }
}

#[tokio::test]
async fn the_drain_refuses_new_calls_and_finishes_those_in_flight() {
    let redis = Redis::start().await;
    let flags = ["--drain-delay", "0s", "--drain", "30s", "--call-timeout", "30s"];
    let mut server = Server::on_with(&redis, &flags).await;
    let gate = Gate::before(&server).await;
    let raw = Raw::connect(&gate.address).await;
    let me = Credentials::token_of(READER);
    let body = raw::frame(&raw::request(RECIPIENT, MESSAGE));
    let (half, rest) = body.split_at(7);
    let mut under_way = raw.begin(raw.grpc(MARK_READ, &me)).await.unwrap();
    under_way.body.send_data(half.to_vec().into(), false).unwrap();
    // An answer to a later call on the connection shows that the server has received it.
    let answer = raw.send(raw.grpc("/unknown", &me), body.clone()).await.unwrap();
    assert_eq!(answer.grpc_status().code(), Code::Unimplemented);

    gate.open.send(false).unwrap();
    server.signal(Signal::SIGTERM);
    eventually("the drain begins", Duration::from_secs(10), async || {
        TcpStream::connect(&server.address).await.is_err().then_some(())
    })
    .await;
    assert_eq!(server.get("/readyz").await.0, 503);
    assert_eq!(server.get("/livez").await.0, 200);

    let late = raw.begin(raw.grpc(MARK_READ, &me)).await.unwrap();
    let refused = "markread_mark_read_total{outcome=\"unavailable\"}";
    eventually("the late call is refused", Duration::from_secs(10), async || {
        (server.metric(refused).await == Some(1.0)).then_some(())
    })
    .await;
    // The client hears of the drain only now, together with the answer.
    gate.open.send(true).unwrap();
    let denied = late.answer().await.unwrap().refusal();
    assert_denied(&denied, Code::Unavailable, "DRAINING");
    assert!(retry_delay(&denied) > Duration::ZERO);

    assert_eq!(redis.used(READER).await, None, "a refused call takes no quota");
    under_way.body.send_data(rest.to_vec().into(), true).unwrap();
    let answer = under_way.answer().await.unwrap();
    assert_eq!(answer.grpc_status().code(), Code::Ok);
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    assert_eq!(redis.used(READER).await, Some(1));
    assert!(server.exit(Duration::from_secs(10)).await.success());
}
