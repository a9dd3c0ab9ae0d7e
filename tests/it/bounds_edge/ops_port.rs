//! The operators' port answers while the other one is busy, and while file descriptors are used up.

use std::process::Command;

use markread_harness::server::http1;
use markread_harness::wire::{self, closed};
use markread_harness::{MESSAGE, READER, RECIPIENT, Server, eventually};
use tokio::net::TcpStream;

use super::LIMIT;

const GET: &str = "GET /livez HTTP/1.1\r\nhost: ops\r\n\r\n";

/// The number of file descriptors of a process.
fn descriptors(process: u32) -> usize {
    std::fs::read_dir(format!("/proc/{process}/fd")).unwrap().count()
}

#[tokio::test]
async fn it_answers_without_file_descriptors() {
    let server = Server::dev(&[]).await;
    let limit = descriptors(server.id()) + 30;
    let limited = Command::new("prlimit")
        .args([format!("--pid={}", server.id()), format!("--nofile={limit}:{limit}")])
        .status();
    assert!(limited.unwrap().success());
    let mut held = Vec::new();
    for _ in 0..60 {
        // The kernel accepts them; the server cannot.
        held.push(TcpStream::connect(&server.address).await.unwrap());
    }
    eventually("there are no descriptors left", LIMIT, async || {
        server.log().iter().any(|line| line.contains("could be accepted")).then_some(())
    })
    .await;
    for _ in 0..20 {
        let (status_line, body) = http1(&server.ops, GET).await.expect("it answers");
        assert!(status_line.contains(" 200 ") && body == "ok\n", "{status_line}");
    }
    drop(held);
    let caller = server.caller(READER);
    eventually("calls are served again", LIMIT, async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
}

#[tokio::test]
async fn its_oldest_connection_makes_room() {
    let server = Server::dev(&[]).await;
    let mut oldest = wire::tcp(&server.ops, b"GET").await;
    let mut held = Vec::new();
    for _ in 0..64 {
        held.push(wire::tcp(&server.ops, b"GET").await);
    }
    closed(&mut oldest).await;
    assert_eq!(server.get("/livez").await.0, 200);
}

#[tokio::test]
async fn a_slow_request_is_cut_off() {
    let server = Server::dev(&[]).await;
    let mut slow = wire::tcp(&server.ops, b"GET /livez HT").await;
    closed(&mut slow).await;
    // One request a connection: the answer ends it.
    assert!(http1(&server.ops, GET).await.is_some());
}
