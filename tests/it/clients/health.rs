//! A gRPC client with client-side health checking (grpc-go, `tests/clients/health`).

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use markread_harness::Server;
use markread_harness::tools::{file, output};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(30);

/// The client, connected.
struct Client {
    _process: Child,
    calls: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    async fn start(address: &str) -> Self {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("health-client");
        let mut build = Command::new("go");
        build.args(["build", "-o"]).arg(&program).arg(".");
        build.current_dir(file("tests/clients/health"));
        output(build).await;
        let mut process = Command::new(program)
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let calls = process.stdin.take().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { _process: process, calls, lines }
    }

    /// Reads lines until one begins like this, and returns it.
    async fn line(&mut self, begin: &str) -> String {
        loop {
            let line = timeout(LIMIT, self.lines.next_line()).await.expect(begin).unwrap().unwrap();
            if line.starts_with(begin) {
                return line;
            }
        }
    }

    /// Makes a call, and returns the name of its status.
    async fn call(&mut self) -> String {
        self.calls.write_all(b"\n").await.unwrap();
        self.line("call ").await.split_off("call ".len())
    }
}

#[tokio::test]
async fn grpc_go_watches_health_past_every_timeout() {
    let idle = ["--idle-timeout", "500ms", "--send-timeout", "500ms"];
    let calls = ["--call-timeout", "500ms", "--handshake-timeout", "500ms"];
    let pings = ["--keepalive-interval", "500ms", "--drain-delay", "60s"];
    let server = Server::dev(&[idle, calls, pings].concat()).await;
    let mut client = Client::start(&server.address).await;
    client.line("state READY").await;
    for _ in 0..5 {
        assert_eq!(client.call().await, "InvalidArgument");
        sleep(Duration::from_secs(1)).await;
    }
    // Calls are still accepted: only Health says that the server leaves.
    server.signal(Signal::SIGTERM);
    client.line("state TRANSIENT_FAILURE").await;
    assert_eq!(client.call().await, "Unavailable");
}
