//! A real `markread serve` process, on ports that the system chooses.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::binary::{command_of, path};
use crate::caller::{Caller, Credentials};
use crate::sentinels::MASTER_NAME;
use crate::{Redis, RedisCluster, Sentinels, eventually};

const LIMIT: Duration = Duration::from_secs(10);

/// The secret that test servers verify tokens with, as [`Credentials::token_of`] signs them.
pub const SECRET: &str = "a secret of the tests, long enough for HS256";

/// The variable with the number of worker threads, which otherwise depends on the machine.
const WORKER_THREADS: &str = "MARKREAD_WORKER_THREADS";

/// A server process.
pub struct Server {
    process: Child,
    /// The address of gRPC and HTTP, as `127.0.0.1:port`.
    pub address: String,
    /// The address of the operators' pages.
    pub ops: String,
    lines: Arc<Mutex<Vec<String>>>,
    dev: bool,
    /// Holds the files that its flags name, if the harness wrote them: the server reads them again.
    files: Option<TempDir>,
}

impl Server {
    /// Starts a server on this Redis that takes tokens signed with [`SECRET`], and waits until it
    /// is ready.
    pub async fn on(redis: &Redis) -> Self {
        Self::on_with(redis, &[]).await
    }

    /// The same as [`Server::on`], with more flags.
    pub async fn on_with(redis: &Redis, flags: &[&str]) -> Self {
        let server = Self::on_unready(redis, flags).await;
        server.wait_until_ready().await;
        server
    }

    /// The same as [`Server::on_with`], without waiting until it is ready.
    pub async fn on_unready(redis: &Redis, flags: &[&str]) -> Self {
        Self::on_in(redis, flags, &[]).await
    }

    /// The same as [`Server::on_unready`], with these environment variables.
    pub async fn on_in(redis: &Redis, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::at(&redis.url(), flags, variables).await
    }

    /// The same as [`Server::on_in`], on the Redis at this URL.
    pub async fn at(url: &str, flags: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::of_binary(&path(), url, flags, variables).await
    }

    /// The same as [`Server::at`], with another binary, such as one of an earlier version.
    pub async fn of_binary(
        binary: &Path,
        url: &str,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut command = command_of(binary, &[]);
        command.envs(variables.iter().copied());
        Self::at_by(command, url, flags).await
    }

    /// The same as [`Server::at`], with a command that runs a `markread` binary with the arguments
    /// that are added to it.
    pub async fn at_by(command: Command, url: &str, flags: &[&str]) -> Self {
        Self::with_secret(command, &[&["--redis-url", url], flags].concat()).await
    }

    /// The same as [`Server::started_by`], taking tokens signed with [`SECRET`].
    pub async fn with_secret(command: Command, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let own = ["--jwt-secret-file", secret.to_str().unwrap()];
        let server = Self::started_by(command, &[&own, flags].concat(), false).await;
        Self { files: Some(dir), ..server }
    }

    /// Starts a server on a cluster, and waits until it is ready.
    pub async fn on_cluster(cluster: &RedisCluster, flags: &[&str]) -> Self {
        let server = Self::on_cluster_unready(cluster, flags).await;
        server.wait_until_ready().await;
        server
    }

    /// The same as [`Server::on_cluster`], without waiting until it is ready.
    pub async fn on_cluster_unready(cluster: &RedisCluster, flags: &[&str]) -> Self {
        Self::at(&cluster.url(), &[&["--redis-mode", "cluster"], flags].concat(), &[]).await
    }

    /// Starts a server on a group with Sentinels, and waits until it is ready.
    pub async fn on_sentinels(group: &Sentinels, flags: &[&str]) -> Self {
        let own = ["--redis-mode", "sentinel", "--redis-sentinel-master", MASTER_NAME];
        let server = Self::at(&group.url(), &[&own, flags].concat(), &[]).await;
        server.wait_until_ready().await;
        server
    }

    /// Starts a server with the embedded store, and waits until it is ready.
    pub async fn dev(flags: &[&str]) -> Self {
        let server = Self::spawn(&[&["--dev"], flags].concat(), true).await;
        server.wait_until_ready().await;
        server
    }

    /// Starts a server with these flags only, and waits until it listens.
    pub async fn spawn(flags: &[&str], dev: bool) -> Self {
        Self::spawn_in(flags, dev, &[]).await
    }

    /// The same as [`Server::spawn`], with these environment variables.
    pub async fn spawn_in(flags: &[&str], dev: bool, variables: &[(&str, &str)]) -> Self {
        let mut command = command_of(&path(), &[]);
        command.envs(variables.iter().copied());
        Self::started_by(command, flags, dev).await
    }

    /// The same as [`Server::spawn`], with a command that runs a `markread` binary with the arguments
    /// that are added to it. It has one worker thread, unless its flags or variables say otherwise, and listens
    /// on a port that the system chooses, unless its flags have a `--listen`.
    pub async fn started_by(mut command: Command, flags: &[&str], dev: bool) -> Self {
        if !command.as_std().get_envs().any(|(name, _)| name == WORKER_THREADS) {
            command.env(WORKER_THREADS, "1");
        }
        let listen: &[_] =
            if flags.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut process = command
            .args(["serve", "--ops-listen", "127.0.0.1:0"])
            .args(listen)
            .args(["--log-format", "json"])
            .args(flags)
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
        let (address, ops) = (address("grpc"), address("ops"));
        Self { process, address, ops, lines, dev, files: None }
    }

    /// The file with the secret that tokens are verified with, if the harness wrote it.
    pub fn secret_file(&self) -> PathBuf {
        self.files.as_ref().expect("the harness wrote it").path().join("secret")
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits until `/readyz` says that it is ready.
    pub async fn wait_until_ready(&self) {
        eventually("the server is ready", LIMIT, async || {
            (self.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
    }

    /// Whether `grpc.health.v1.Health` says that it is serving.
    pub async fn is_serving(&self) -> bool {
        let request = HealthCheckRequest { service: String::new() };
        let answer = HealthClient::new(self.channel()).check(request).await.unwrap();
        answer.into_inner().status() == ServingStatus::Serving
    }

    /// Status and body of a page on the operators' port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.ops, path).await.expect("the operators' port answers")
    }

    /// The value of a series in `/metrics`, by its name and labels as printed there.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let (_, page) = self.get("/metrics").await;
        let line =
            page.lines().find(|line| line.split_once(' ').is_some_and(|(name, _)| name == series));
        line.map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// A new connection, opened with the first call.
    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.address)).unwrap().connect_lazy()
    }

    /// A caller with its own connection, authenticated as this user.
    pub fn caller(&self, user: u64) -> Caller {
        let credentials =
            if self.dev { Credentials::UserId(user) } else { Credentials::token_of(user) };
        Caller::new(self.channel(), credentials)
    }

    /// A caller with its own connection and these credentials.
    pub fn stranger(&self, credentials: Credentials) -> Caller {
        Caller::new(self.channel(), credentials)
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        self.process.kill().await.unwrap();
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits until the process exits.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        timeout(limit, self.process.wait()).await.expect("it exits in time").unwrap()
    }
}

/// Status and body of a page, or `None` where it was not answered.
pub async fn get(address: &str, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
    let (head, body) = http1(address, &request).await?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// Sends a request as it is, and returns head and body of the answer, or `None` where the server
/// closed without one.
pub async fn http1(address: &str, request: &str) -> Option<(String, String)> {
    exchange(TcpStream::connect(address).await.ok()?, request).await
}

/// The same as [`http1`], on an open connection.
pub async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &str,
) -> Option<(String, String)> {
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    timeout(LIMIT, stream.read_to_end(&mut answer))
        .await
        .expect("the request is answered in time")
        .ok()?;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.to_owned(), body.to_owned()))
}
