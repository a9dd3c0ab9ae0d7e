//! A rolling restart of three servers behind one client under load (grpc-go, `tests/clients/retries`): with a retry
//! policy, as gRPC clients have it, not one call fails.

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::tools::{file, output};
use markread_harness::{READER, RECIPIENT, Redis, Server, free_port};
use nix::sys::signal::Signal;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(60);

/// How many readers mark at the same time.
const READERS: u64 = 8;

/// Each server is restarted so often.
const ROUNDS: usize = 3;

/// What the client counted.
#[derive(Debug, Deserialize)]
struct Calls {
    ok: u64,
    failed: HashMap<String, u64>,
    /// The last message that was acknowledged, by reader.
    last: Vec<u64>,
}

/// The client, under way.
struct Client {
    process: Child,
}

impl Client {
    async fn start(retries: &str, addresses: &[String]) -> Self {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{retries}-client"));
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".");
        build.current_dir(file("tests/clients/retries"));
        output(build).await;
        let tokens = (READER..READER + READERS).map(|reader| match Credentials::token_of(reader) {
            Credentials::Authorization(token) => token,
            other => panic!("{other:?} is not a token"),
        });
        let process = Command::new(program)
            .args([retries, &addresses.join(",")])
            .args(tokens)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { process }
    }

    /// Ends the load, and returns what it was.
    async fn end(mut self) -> Calls {
        drop(self.process.stdin.take());
        let mut line = String::new();
        let mut stdout = self.process.stdout.take().unwrap();
        timeout(LIMIT, stdout.read_to_string(&mut line)).await.expect("it ends").unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

/// Servers on one Redis, each on an address that it keeps.
struct Servers {
    redis: Redis,
    addresses: Vec<String>,
    running: Vec<Server>,
}

impl Servers {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let addresses: Vec<_> = (0..3).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut running = Vec::new();
        for address in &addresses {
            running.push(Self::serve(&redis, address).await);
        }
        Self { redis, addresses, running }
    }

    async fn serve(redis: &Redis, address: &str) -> Server {
        let limits = ["--rate-limit", "100000000", "--edge-rate", "1000000"];
        let flags = [&["--listen", address], &limits[..]].concat();
        Server::on_with(redis, &flags).await
    }

    /// Ends each server in turn, and starts it again once it has gone.
    async fn restart(&mut self, signal: Signal) {
        for (server, address) in self.running.iter_mut().zip(&self.addresses) {
            sleep(Duration::from_millis(500)).await;
            server.signal(signal);
            server.exit(LIMIT).await;
            *server = Self::serve(&self.redis, address).await;
        }
    }

    /// Each acknowledged message advanced once and is in Redis; no other was published twice.
    async fn agree(&self, calls: &Calls) {
        let mut events: HashMap<u64, Vec<u64>> = HashMap::new();
        for (reader, _, message) in self.redis.events().await {
            events.entry(reader).or_default().push(message);
        }
        for (reader, &last) in (READER..).zip(&calls.last) {
            let cursor = self.redis.cursors(reader).await[&RECIPIENT];
            assert!(cursor >= last, "{reader}: {cursor} {last}");
            let heard = &events[&reader];
            assert!(heard.is_sorted_by(|earlier, later| earlier < later), "{reader}: {heard:?}");
            assert_eq!(heard.last(), Some(&cursor), "{reader}");
        }
    }
}

#[tokio::test]
async fn a_client_that_retries_sees_no_rolling_restart() {
    let mut servers = Servers::start().await;
    let client = Client::start("retries", &servers.addresses).await;
    for _ in 0..ROUNDS {
        servers.restart(Signal::SIGTERM).await;
    }
    let calls = client.end().await;
    assert!(calls.failed.is_empty() && calls.ok > 1_000, "{calls:?}");
    servers.agree(&calls).await;
    // Each message of each reader was asked for and acknowledged.
    assert_eq!(calls.last.iter().sum::<u64>(), calls.ok, "{calls:?}");
}

/// The same load shows servers that are killed to a client that does not retry.
#[tokio::test]
async fn a_client_that_does_not_retry_sees_servers_that_are_killed() {
    let mut servers = Servers::start().await;
    let client = Client::start("once", &servers.addresses).await;
    servers.restart(Signal::SIGKILL).await;
    let calls = client.end().await;
    assert!(!calls.failed.is_empty() && calls.ok > 100, "{calls:?}");
    servers.agree(&calls).await;
}
