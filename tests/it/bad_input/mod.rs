//! Malformed input gets a documented status or an HTTP/2 protocol error, and never causes a panic,
//! a hang or a flood of log lines.

use std::time::Duration;

use markread_harness::caller::{Credentials, Refusal};
use markread_harness::raw::{self, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

mod bodies;
mod connections;
mod frames;
mod heads;
mod storm;

/// Longer than the server takes to end anything by itself, even on a slow machine.
const LIMIT: Duration = Duration::from_secs(20);

/// The most lines that a server logs without events: where it listens, that Redis answers.
const QUIET_LINES: usize = 4;

/// A server under attack, on a Redis that causes no warnings.
pub(crate) struct Target {
    pub(crate) redis: Redis,
    pub(crate) server: Server,
}

impl Target {
    pub(crate) async fn start() -> Self {
        let redis = Redis::with(&["--appendonly", "yes"]).await;
        let flags = ["--call-timeout", "1s", "--handshake-timeout", "1s"];
        let server = Server::on_with(&redis, &flags).await;
        Self { redis, server }
    }

    pub(crate) async fn raw(&self) -> Raw {
        Raw::to(&self.server).await
    }

    /// Asserts that the same process still serves, has logged nothing, and that the reader's quota
    /// has been used by `served` calls only.
    pub(crate) async fn assert_unharmed_after(&self, served: u64) {
        let answer = self.server.caller(READER).mark(RECIPIENT, MESSAGE).await;
        answer.expect("a valid mark is served");
        assert_eq!(self.redis.used(READER).await, Some(served + 1), "refused calls take no quota");
        let log = self.server.log();
        assert!(log.len() <= QUIET_LINES, "{} lines, such as {:?}", log.len(), log.last());
        for line in &log {
            let loud = ["WARN", "ERROR", "panicked"].into_iter().find(|word| line.contains(word));
            assert_eq!(loud, None, "{line}");
        }
    }
}

/// The message of a valid call, with its prefix.
fn valid_frame() -> Vec<u8> {
    raw::frame(&raw::request(RECIPIENT, MESSAGE))
}

fn reader() -> Credentials {
    Credentials::token_of(READER)
}

/// Asserts that a refusal says that the bytes are not a valid message.
#[track_caller]
fn assert_invalid(denied: &Refusal, what: &str) {
    assert_eq!(denied.code, Code::InvalidArgument, "{what}: {denied:?}");
    assert_eq!(denied.reason, "INVALID_PARAMETER", "{what}");
    let violations = &denied.details.bad_request().expect("a BadRequest").field_violations;
    assert!(!violations.is_empty(), "{what}");
}

/// Sends bytes, keeps the connection open, and reads until the server closes it.
pub(crate) async fn until_closed(address: &str, bytes: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from_server, mut to_server) = stream.into_split();
    let received = async {
        let mut received = Vec::new();
        // It may close with a reset, where it has left bytes unread.
        let _ = from_server.read_to_end(&mut received).await;
        received
    };
    let sent = async { drop(to_server.write_all(bytes).await) };
    let (received, ()) = timeout(LIMIT, async { tokio::join!(received, sent) })
        .await
        .unwrap_or_else(|_| panic!("not closed in time: {:?}", &bytes[..bytes.len().min(64)]));
    received
}
