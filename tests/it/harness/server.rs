//! A real process of `markread serve`, on ports that the system chooses.

use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::caller::{Caller, Credentials};
use super::{Redis, eventually};

const LIMIT: Duration = Duration::from_secs(10);

/// The secret that test servers verify tokens with.
pub(crate) const SECRET: &str = "a secret of the tests, long enough for HS256";

pub(crate) struct Server {
    process: Child,
    /// Where gRPC is served: `127.0.0.1:port`.
    pub(crate) address: String,
    /// Where the operators' pages are served.
    pub(crate) ops: String,
    lines: Arc<Mutex<Vec<String>>>,
    dev: bool,
}

impl Server {
    /// A server on this Redis, ready, that takes tokens signed with [`SECRET`].
    pub(crate) async fn on(redis: &Redis) -> Self {
        Self::on_with(redis, &[]).await
    }

    /// The same with more flags.
    pub(crate) async fn on_with(redis: &Redis, flags: &[&str]) -> Self {
        let server = Self::on_unready(redis, flags).await;
        server.wait_until_ready().await;
        server
    }

    /// The same, which may not be ready.
    pub(crate) async fn on_unready(redis: &Redis, flags: &[&str]) -> Self {
        Self::on_in(redis, flags, &[]).await
    }

    /// The same, with these variables in its environment.
    pub(crate) async fn on_in(redis: &Redis, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::at(&redis.url(), flags, variables).await
    }

    /// A server on whatever is at this URL.
    pub(crate) async fn at(url: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let own = ["--redis-url", url, "--jwt-secret-file", secret.to_str().unwrap()];
        Self::spawn_in(&[&own, flags].concat(), false, variables).await
    }

    /// A server with the embedded store.
    pub(crate) async fn dev(flags: &[&str]) -> Self {
        let server = Self::spawn(&[&["--dev"], flags].concat(), true).await;
        server.wait_until_ready().await;
        server
    }

    /// A server with just these flags, listening.
    pub(crate) async fn spawn(flags: &[&str], dev: bool) -> Self {
        Self::spawn_in(flags, dev, &[]).await
    }

    /// The same, with these variables in its environment.
    pub(crate) async fn spawn_in(flags: &[&str], dev: bool, variables: &[(&str, &str)]) -> Self {
        let mut process = command(&["serve", "--listen", "127.0.0.1:0"])
            .args(["--ops-listen", "127.0.0.1:0", "--log-format", "json"])
            .args(flags)
            .envs(variables.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });
        let listening = eventually("the server listens", LIMIT, async || {
            lines.lock().unwrap().iter().find(|line| line.contains("\"listening\"")).cloned()
        })
        .await;
        let listening: serde_json::Value = serde_json::from_str(&listening).unwrap();
        let address = |name: &str| listening[name].as_str().unwrap().to_owned();
        Self { process, address: address("grpc"), ops: address("ops"), lines, dev }
    }

    /// What it has logged so far, a line each.
    pub(crate) fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    pub(crate) async fn wait_until_ready(&self) {
        eventually("the server is ready", LIMIT, async || {
            (self.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    /// Whether `grpc.health.v1.Health` says that it is serving.
    pub(crate) async fn is_serving(&self) -> bool {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(self.channel()).check(request).await.unwrap();
        answer.into_inner().status() == ServingStatus::Serving
    }

    /// A page of the operators' port: status and body.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let (head, body) = http1(
            &self.ops,
            &format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n"),
        )
        .await
        .expect("the operators' port answers");
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body)
    }

    /// The value of a metric, by its full name and labels as `/metrics` prints them.
    pub(crate) async fn metric(&self, series: &str) -> Option<f64> {
        let (_, page) = self.get("/metrics").await;
        let line =
            page.lines().find(|line| line.split_once(' ').is_some_and(|(name, _)| name == series));
        line.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub(crate) fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// A caller with a connection of its own, authenticated as this user.
    pub(crate) fn caller(&self, user: u64) -> Caller {
        let credentials =
            if self.dev { Credentials::UserId(user) } else { Credentials::token_of(user) };
        Caller::new(self.channel(), credentials)
    }

    /// A caller that sends what is given, and nothing else, to say who it is.
    pub(crate) fn stranger(&self, credentials: Credentials) -> Caller {
        Caller::new(self.channel(), credentials)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for its exit.
    pub(crate) async fn exit(&mut self, limit: Duration) -> ExitStatus {
        timeout(limit, self.process.wait()).await.expect("it exits in time").unwrap()
    }
}

/// The binary, with nothing of the environment that could configure it; it ends with the test.
pub(crate) fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_markread"));
    let names = std::env::vars().map(|(name, _)| name);
    let ours = names.filter(|name| {
        name.starts_with("MARKREAD_") || name.starts_with("OTEL_") || name == "RUST_LOG"
    });
    ours.for_each(|name| {
        command.env_remove(name);
    });
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Sends bytes as they are and reads until the other side closes: head and body of the answer, or
/// nothing where it closed without one.
pub(crate) async fn http1(address: &str, request: &str) -> Option<(String, String)> {
    exchange(TcpStream::connect(address).await.ok()?, request).await
}

/// The same on a connection that is there.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Option<(String, String)> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer)).await.expect("an answer in time").ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
