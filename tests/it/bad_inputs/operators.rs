//! The operators' port, which needs no credentials.

use markread_harness::{Redis, Server};

use super::{Section, assert_keys};
use crate::bad_input::until_closed;

#[tokio::test]
async fn operators_port() {
    let mut section = Section::new(
        "Operators' port",
        "`--ops-listen`, which serves `GET /livez`, `/readyz` and `/metrics`.",
        &["what is sent", "answer"],
    );
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let host = "host: ops\r\nconnection: close\r\n";
    for (what, request) in [
        ("`GET /`", format!("GET / HTTP/1.1\r\n{host}\r\n")),
        ("`GET /unknown`", format!("GET /unknown HTTP/1.1\r\n{host}\r\n")),
        ("`GET /livez/`", format!("GET /livez/ HTTP/1.1\r\n{host}\r\n")),
        ("`GET /../livez`", format!("GET /../livez HTTP/1.1\r\n{host}\r\n")),
        ("`GET /LIVEZ`", format!("GET /LIVEZ HTTP/1.1\r\n{host}\r\n")),
        ("`POST /metrics`", format!("POST /metrics HTTP/1.1\r\n{host}content-length: 0\r\n\r\n")),
        ("`DELETE /readyz`", format!("DELETE /readyz HTTP/1.1\r\n{host}\r\n")),
        ("not HTTP: `GARBAGE`", "GARBAGE\r\n\r\n".to_owned()),
        ("HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        (
            "a header of 100 KiB",
            format!("GET /livez HTTP/1.1\r\n{host}a: {}\r\n\r\n", "x".repeat(102_400)),
        ),
    ] {
        let received = until_closed(&server.ops, request.as_bytes()).await;
        let received = String::from_utf8_lossy(&received);
        let status = received.strip_prefix("HTTP/1.1 ").map(|rest| &rest[..3]);
        section.row(&[what, status.unwrap_or("closed")]);
    }
    assert_eq!(server.get("/livez").await, (200, "ok\n".to_owned()), "it still serves");
    assert_keys(&redis, &[]).await;
    section.check();
}
