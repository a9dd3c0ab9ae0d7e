//! A real `markread relay` process, and the file with its webhooks.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::binary::{command, command_of, path};
use crate::receiver::CONSUMER_SECRET;
use crate::sentinels::MASTER_NAME;
use crate::server::get;
use crate::{Receiver, Redis, RedisCluster, Sentinels, eventually, free_port};

const LIMIT: Duration = Duration::from_secs(20);

/// What lets a relay deliver to receivers of tests.
pub const TO_LOOPBACK: [&str; 2] = ["--allow-http", "--allow-private"];

/// A file with webhooks, in a directory of its own that also has their secrets.
pub struct WebhookFile {
    dir: TempDir,
}

impl WebhookFile {
    /// A file with this content.
    pub fn new(content: &str) -> Self {
        let file = Self { dir: tempfile::tempdir().unwrap() };
        file.put("secret", CONSUMER_SECRET);
        file.write(content);
        file
    }

    /// A file with webhooks of these names and more lines each, to receivers with the usual secret.
    pub fn of(webhooks: &[(&str, &Receiver, &str)]) -> Self {
        let file = Self::new("");
        file.write_of(webhooks);
        file
    }

    /// Replaces the content, in one step, as [`WebhookFile::of`] has it.
    pub fn write_of(&self, webhooks: &[(&str, &Receiver, &str)]) {
        let entries =
            webhooks.iter().map(|(name, receiver, more)| self.entry(name, &receiver.url(), more));
        self.write(&entries.collect::<String>());
    }

    /// The lines of a webhook with the usual secret.
    pub fn entry(&self, name: &str, url: &str, more: &str) -> String {
        let secret = self.path_of("secret");
        format!("[[webhook]]\nname = {name:?}\nurl = {url:?}\nsecret_file = {secret:?}\n{more}\n")
    }

    /// Replaces the content, in one step.
    pub fn write(&self, content: &str) {
        self.put("webhooks.toml", content);
    }

    /// Writes a file beside it, in one step, and returns its path.
    pub fn put(&self, name: &str, content: &str) -> String {
        let path = self.path_of(name);
        let new = format!("{path}.new");
        std::fs::write(&new, content).unwrap();
        std::fs::rename(new, &path).unwrap();
        path
    }

    fn path_of(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("webhooks.toml")
    }
}

/// A relay process.
pub struct Relay {
    process: Child,
    /// The address of the operators' pages.
    pub ops: String,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    /// Starts a relay that may deliver to loopback, and waits until it is ready.
    pub async fn on(redis: &Redis, file: &WebhookFile) -> Self {
        Self::on_with(redis, file, &[]).await
    }

    /// The same as [`Relay::on`], with more flags.
    pub async fn on_with(redis: &Redis, file: &WebhookFile, flags: &[&str]) -> Self {
        Self::at(&["--redis-url", &redis.url()], file, flags, &[]).await
    }

    /// Starts a relay on a cluster, and waits until it is ready.
    pub async fn on_cluster(cluster: &RedisCluster, file: &WebhookFile, flags: &[&str]) -> Self {
        Self::at(&cluster_flags(&cluster.url()), file, flags, &[]).await
    }

    /// Starts a relay on a group with Sentinels, and waits until it is ready.
    pub async fn on_sentinels(group: &Sentinels, file: &WebhookFile, flags: &[&str]) -> Self {
        let url = group.url();
        let mode = ["--redis-mode", "sentinel", "--redis-sentinel-master", MASTER_NAME];
        Self::at(&[&mode[..], &["--redis-url", &url]].concat(), file, flags, &[]).await
    }

    /// Starts a relay with these flags of Redis, more flags and environment variables, and waits until it is
    /// ready.
    pub async fn at(
        redis: &[&str],
        file: &WebhookFile,
        flags: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let relay = Self::spawn(&[redis, &TO_LOOPBACK, flags].concat(), file, variables);
        relay.wait_until_ready().await;
        relay
    }

    /// Starts a relay with these flags only, without waiting for anything.
    pub fn spawn(flags: &[&str], file: &WebhookFile, variables: &[(&str, &str)]) -> Self {
        Self::of_binary(&path(), flags, file, variables)
    }

    /// The same as [`Relay::spawn`], with another binary.
    pub fn of_binary(
        binary: &Path,
        flags: &[&str],
        file: &WebhookFile,
        variables: &[(&str, &str)],
    ) -> Self {
        let ops = format!("127.0.0.1:{}", free_port());
        let own = ["relay", "--log-format", "json", "--ops-listen", &ops];
        let mut process = command_of(binary, &own);
        process.arg("--webhooks").arg(file.path()).args(flags);
        process.envs(variables.iter().copied()).stderr(Stdio::piped());
        let mut process = process.spawn().unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let mut stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&lines);
        tokio::spawn(async move {
            while let Ok(Some(line)) = stderr.next_line().await {
                sink.lock().unwrap().push(line);
            }
        });
        Self { process, ops, lines }
    }

    /// Waits until `/readyz` says that it is ready.
    pub async fn wait_until_ready(&self) {
        let began = Instant::now();
        while get(&self.ops, "/readyz").await.is_none_or(|(status, _)| status != 200) {
            let log = || self.log().join("\n");
            assert!(began.elapsed() < LIMIT, "the relay is not ready: {}", log());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a log line that contains all of these words, and returns it.
    pub async fn wait_for_line(&self, words: &[&str]) -> String {
        eventually(&format!("a line with {words:?}"), LIMIT, async || {
            let has_all = |line: &String| words.iter().all(|word| line.contains(word));
            self.log().into_iter().find(has_all)
        })
        .await
    }

    /// Status and body of a page on the operators' port.
    pub async fn get(&self, path: &str) -> (u16, String) {
        get(&self.ops, path).await.expect("the operators' port answers")
    }

    /// The sum of all series of a metric whose labels contain these words, and how many those are.
    pub async fn series(&self, name: &str, labels: &[&str]) -> (f64, usize) {
        let (_, page) = self.get("/metrics").await;
        let values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (known, of) = series.split_once('{').unwrap_or((series, ""));
            let is_it = known == name && labels.iter().all(|label| of.contains(label));
            is_it.then(|| value.parse::<f64>().unwrap())
        });
        values.fold((0.0, 0), |(sum, count), value| (sum + value, count + 1))
    }

    /// The sum of all series of a metric whose labels contain these words.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        self.series(name, labels).await.0
    }

    /// Waits until a metric has a value that is right.
    pub async fn wait_for_metric(
        &self,
        name: &str,
        labels: &[&str],
        is_right: impl Fn(f64) -> bool,
    ) {
        eventually(&format!("{name}{labels:?} is right"), LIMIT, async || {
            is_right(self.metric(name, labels).await).then_some(())
        })
        .await;
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

    /// Stops the process with SIGSTOP, as if its machine had no time for it.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`Relay::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Waits until the process exits.
    pub async fn exit(&mut self, limit: Duration) -> ExitStatus {
        timeout(limit, self.process.wait()).await.expect("it exits in time").unwrap()
    }

    /// Sends SIGTERM, and waits until it has exited with status 0.
    pub async fn stop(&mut self, limit: Duration) {
        self.signal(Signal::SIGTERM);
        let status = self.exit(limit).await;
        assert_eq!(status.code(), Some(0), "{status}\n{}", self.log().join("\n"));
    }

    /// Resident memory, in bytes.
    pub fn rss_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        1024 * line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()
    }
}

/// The flags of a cluster.
pub fn cluster_flags(url: &str) -> [&str; 4] {
    ["--redis-mode", "cluster", "--redis-url", url]
}

/// Runs `markread webhook` with these arguments and these flags of Redis.
pub async fn webhook(redis: &[&str], arguments: &[&str]) -> Output {
    let mut program: Command = command(&["webhook"]);
    program.args(arguments).args(redis);
    timeout(LIMIT, program.output()).await.expect("it ends in time").unwrap()
}

/// The same as [`webhook`], on this Redis. Panics if it fails, and returns what it printed.
pub async fn webhook_on(redis: &Redis, arguments: &[&str]) -> String {
    let output = webhook(&["--redis-url", &redis.url()], arguments).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {printed}{errors}");
    printed
}
