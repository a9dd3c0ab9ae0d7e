//! Every byte that reaches the port gets a status of the table or an HTTP/2 protocol error: never a
//! panic, a hang or a log flood.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use super::harness::caller::{Credentials, Denied};
use super::harness::raw::{self, Raw};
use super::harness::{MESSAGE, READER, RECIPIENT, Redis, Server};

mod bodies;
mod connections;
mod frames;
mod heads;
mod storm;

/// What the server ends by itself it ends within this, on whatever machine.
const LIMIT: Duration = Duration::from_secs(20);

/// Lines that a server logs in a life without events: where it listens, that Redis answers.
const QUIET_LINES: usize = 4;

/// A server under attack, whose Redis gives no reason for a warning.
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

    /// The process that was started serves on, has said nothing of it all, and the reader's quota
    /// is as it was after so many calls that were served.
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

/// What the reader's call, which is valid, is made of.
fn valid_frame() -> Vec<u8> {
    raw::frame(&raw::request(RECIPIENT, MESSAGE))
}

fn reader() -> Credentials {
    Credentials::token_of(READER)
}

/// Bytes that are no message, told as such.
#[track_caller]
fn assert_invalid(denied: &Denied, what: &str) {
    assert_eq!(denied.code, Code::InvalidArgument, "{what}: {denied:?}");
    assert_eq!(denied.reason, "INVALID_PARAMETER", "{what}");
    let violations = &denied.details.bad_request().expect("a BadRequest").field_violations;
    assert!(!violations.is_empty(), "{what}");
}

/// Sends bytes, keeps its own side open, and reads until the server closes.
pub(crate) async fn until_closed(address: &str, bytes: &[u8]) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut from_server, mut to_server) = stream.into_split();
    let heard = async {
        let mut heard = Vec::new();
        // However it closes: with a reset where bytes were left unread.
        let _ = from_server.read_to_end(&mut heard).await;
        heard
    };
    let said = async { drop(to_server.write_all(bytes).await) };
    let (heard, ()) = timeout(LIMIT, async { tokio::join!(heard, said) })
        .await
        .unwrap_or_else(|_| panic!("closed in time: {:?}", &bytes[..bytes.len().min(64)]));
    heard
}
