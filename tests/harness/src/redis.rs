//! A real `redis-server` on a free port, with its own directory.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::tools::tool;
use crate::{eventually, free_port, schema};

const START_LIMIT: Duration = Duration::from_secs(30);
const PING_LIMIT: Duration = Duration::from_millis(250);

/// A master waits for its replicas for 10 s by default before it exits.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(20);

/// A Redis process, or the port and directory that one will use.
pub struct Redis {
    dir: TempDir,
    /// The port on 127.0.0.1.
    pub port: u16,
    /// The program, which takes the arguments of `redis-server`.
    server: OsString,
    settings: Vec<String>,
    /// The variables of its environment that it is started with besides those of the test.
    pub variables: Vec<(String, String)>,
    is_sentinel: bool,
    has_file: bool,
    process: Option<Child>,
    frozen: AtomicBool,
}

/// The program that tests start as Redis: `redis-server`, unless a variable names another.
pub fn default_server() -> OsString {
    tool("MARKREAD_TEST_REDIS_SERVER", "redis-server")
}

impl Redis {
    /// Starts a Redis that persists nothing.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a Redis with more settings, as on its command line: `["--appendonly", "yes"]`.
    pub async fn with(settings: &[&str]) -> Self {
        let mut redis = Self::down(settings);
        redis.restart().await;
        redis
    }

    /// A Redis that has not been started.
    pub fn down(settings: &[&str]) -> Self {
        Self::of_server(default_server(), settings)
    }

    /// The same as [`Redis::down`], of another program than the tests' default.
    pub fn of_server(server: impl Into<OsString>, settings: &[&str]) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            server: server.into(),
            settings: settings.iter().map(ToString::to_string).collect(),
            variables: Vec::new(),
            is_sentinel: false,
            has_file: false,
            process: None,
            frozen: AtomicBool::new(false),
        }
    }

    /// One that has not been started, of the same program and with the same settings as another.
    pub fn like(other: &Self) -> Self {
        let settings: Vec<_> = other.settings.iter().map(String::as_str).collect();
        Self::of_server(&other.server, &settings)
    }

    /// Makes its next start one of another program, with the data that it has. Returns the program of now.
    pub fn run_as(&mut self, server: impl Into<OsString>) -> OsString {
        std::mem::replace(&mut self.server, server.into())
    }

    /// Gives it a configuration file with these lines, to which its settings are added and which it rewrites
    /// when it is told to: so a server that Sentinels have promoted or demoted starts in that role again.
    pub fn write_file(&mut self, lines: &str) {
        std::fs::write(self.file(), lines).unwrap();
        self.has_file = true;
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("redis.conf")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A Sentinel, whose configuration is the file at [`Redis::sentinel_file`].
    pub fn sentinel(server: impl Into<OsString>) -> Self {
        let mut sentinel = Self::of_server(server, &[]);
        sentinel.is_sentinel = true;
        sentinel
    }

    /// The configuration of a Sentinel, which it writes to itself.
    pub fn sentinel_file(&self) -> PathBuf {
        self.dir.path().join("sentinel.conf")
    }

    /// The value of a setting that it was made with.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let mut settings = self.settings.iter();
        settings.find(|setting| *setting == name)?;
        settings.next().map(String::as_str)
    }

    /// Starts it on its port with its data, and waits until it answers.
    pub async fn restart(&mut self) {
        self.launch();
        self.wait_until_up().await;
    }

    /// Starts it, without waiting until it answers.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new(&self.server);
        if self.is_sentinel {
            command.arg(self.sentinel_file()).arg("--sentinel");
        } else {
            command.args(self.has_file.then(|| self.file()));
            command.args(["--save", "", "--enable-debug-command", "yes"]);
        }
        let process = command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--dir", self.dir.path().to_str().unwrap()])
            .args(&self.settings)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the server is installed");
        self.process = Some(process);
    }

    /// Waits until it answers a PING.
    pub async fn wait_until_up(&self) {
        let ping = async || {
            let mut connection = self.try_connection().await?;
            redis::cmd("PING").query_async::<()>(&mut connection).await.ok()
        };
        eventually("Redis answers", START_LIMIT, async || {
            timeout(PING_LIMIT, ping()).await.ok().flatten()
        })
        .await;
    }

    /// `kill -9`.
    pub async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().await.unwrap();
        self.frozen = AtomicBool::new(false);
    }

    /// Ends it by SHUTDOWN: it saves what it is to keep, and waits for its replicas.
    pub async fn shut_down(&mut self) {
        let mut connection = self.connection().await;
        // The connection is closed without an answer.
        let _ = cmd("SHUTDOWN").query_async::<()>(&mut connection).await;
        let mut process = self.process.take().expect("it runs");
        timeout(SHUTDOWN_LIMIT, process.wait()).await.expect("it exits in time").unwrap();
    }

    /// Whether it has ended by itself. It can be started again then.
    pub fn has_exited(&mut self) -> bool {
        let process = self.process.as_mut().expect("it was started");
        let has_exited = process.try_wait().unwrap().is_some();
        if has_exited {
            self.process = None;
        }
        has_exited
    }

    /// Whether it runs, and is not frozen.
    pub fn is_running(&self) -> bool {
        self.process.is_some() && !self.frozen.load(Ordering::Relaxed)
    }

    /// Whether it was started and not killed; it may be frozen.
    pub fn has_process(&self) -> bool {
        self.process.is_some()
    }

    /// Stops the process with SIGSTOP: connections stay open, and nothing is answered.
    pub fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
        self.signal(Signal::SIGSTOP);
    }

    /// Ends [`Redis::freeze`].
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
        self.frozen.store(false, Ordering::Relaxed);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.process.as_ref().and_then(Child::id).expect("it runs")
    }

    /// The URL that servers connect to.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Opens a connection.
    pub async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.expect("Redis runs")
    }

    async fn try_connection(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(START_LIMIT));
        client.get_multiplexed_async_connection_with_config(&config).await.ok()
    }

    /// Runs a command; spaces separate its words.
    pub async fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        cmd(command).query_async(&mut self.connection().await).await.expect(command)
    }

    /// The same as [`Redis::run`], or `None` if it fails or takes long.
    pub async fn try_run<T: redis::FromRedisValue>(&self, command: &str) -> Option<T> {
        let reply = async {
            let mut connection = self.try_connection().await?;
            cmd(command).query_async(&mut connection).await.ok()
        };
        timeout(4 * PING_LIMIT, reply).await.ok().flatten()
    }

    /// Sends a command that keeps Redis busy, without waiting for its end.
    pub async fn run_on(&self, command: &str) {
        let mut connection = self.connection().await;
        let cmd = cmd(command);
        let ended = cmd.query_async::<redis::Value>(&mut connection);
        assert!(timeout(PING_LIMIT, ended).await.is_err(), "{command} has ended already");
    }

    /// How many buckets a reader's cursors are in; 0 where they are in the reader's own hash.
    pub async fn buckets(&self, reader: u64) -> u64 {
        self.placed(reader).await.0
    }

    /// The number of a reader's buckets, and what a bucket's key has between the reader's and its
    /// number: nothing in the placement of layout version 1, `k` in that of version 2.
    async fn placed(&self, reader: u64) -> (u64, &'static str) {
        let key = format!("markread:cursors:{reader}");
        let (plain, keyed): (Option<u64>, Option<u64>) =
            self.run(&format!("HMGET {key} buckets keyed_buckets")).await;
        keyed.map_or((plain.unwrap_or_default(), ""), |keyed| (keyed, "k"))
    }

    /// The keys of a reader's buckets.
    pub async fn bucket_keys(&self, reader: u64) -> Vec<String> {
        let (buckets, letter) = self.placed(reader).await;
        (0..buckets).map(|bucket| format!("markread:cursors:{reader}:{letter}{bucket}")).collect()
    }

    /// A reader's cursors, wherever they are: the message of each recipient.
    pub async fn cursors(&self, reader: u64) -> HashMap<u64, u64> {
        let key = format!("markread:cursors:{reader}");
        let plain: Option<u64> = self.run(&format!("HGET {key} buckets")).await;
        let mut keys: Vec<_> =
            (0..plain.unwrap_or_default()).map(|bucket| format!("{key}:{bucket}")).collect();
        keys.extend(self.bucket_keys(reader).await);
        keys.push(key);
        keys.sort_unstable();
        keys.dedup();
        let mut cursors = HashMap::new();
        for key in keys {
            let hash: HashMap<String, String> = self.run(&format!("HGETALL {key}")).await;
            for (field, id) in hash {
                let Ok(recipient) = field.parse::<u64>() else { continue };
                let other = cursors.insert(recipient, id.parse().unwrap());
                assert_eq!(other, None, "a cursor is in one hash only");
            }
        }
        cursors
    }

    /// Stores a user object, valid or not.
    pub async fn put_user(&self, user: u64, value: &[u8]) {
        let mut set = redis::cmd("SET");
        set.arg(format!("user:{user}")).arg(value);
        set.query_async::<()>(&mut self.connection().await).await.unwrap();
    }

    /// Marks that a reader has used of the current window, or `None` before the first.
    pub async fn used(&self, reader: u64) -> Option<u64> {
        self.run(&format!("GET markread:quota:{reader}")).await
    }

    /// How often a command was called, scripts included.
    pub async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run("INFO commandstats").await;
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse().unwrap())
    }

    /// The commands that scripts run during some work, as MONITOR shows them.
    pub async fn script_commands<T>(&self, work: impl Future<Output = T>) -> (T, Vec<Vec<String>>) {
        const END: &str = "the work has ended";
        let monitor = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let mut monitor = BufReader::new(monitor);
        monitor.get_mut().write_all(b"MONITOR\r\n").await.unwrap();
        let mut line = String::new();
        monitor.read_line(&mut line).await.unwrap();
        assert_eq!(line, "+OK\r\n");
        let read = async {
            let mut commands = Vec::new();
            loop {
                let mut line = String::new();
                monitor.read_line(&mut line).await.unwrap();
                if line.contains(END) {
                    return commands;
                }
                if let Some((_, words)) = line.split_once(" lua] ") {
                    let words = words.trim().trim_matches('"').split("\" \"");
                    commands.push(words.map(str::to_owned).collect());
                }
            }
        };
        let work = async {
            let done = work.await;
            let mut end = redis::cmd("ECHO");
            end.arg(END).query_async::<()>(&mut self.connection().await).await.unwrap();
            done
        };
        tokio::join!(work, read)
    }

    /// All keys in order, with their values as `DUMP` returns them.
    pub async fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> = self.run("KEYS *").await;
        keys.sort();
        let mut contents = Vec::new();
        for key in keys {
            let value = self.run(&format!("DUMP {key}")).await;
            contents.push((key, value));
        }
        contents
    }

    /// The payloads in the stream, oldest first.
    pub async fn payloads(&self) -> Vec<String> {
        let fields = self.entries().await.into_iter().map(HashMap::from_iter);
        fields.map(|mut fields: HashMap<_, _>| fields.remove("payload").unwrap()).collect()
    }

    /// The fields of each entry in the stream, oldest first.
    pub async fn entries(&self) -> Vec<Vec<(String, String)>> {
        let entries: Vec<(String, Vec<(String, String)>)> =
            self.run("XRANGE direct_message_mark_read_events - +").await;
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    /// The entries of a stream by its key, oldest first: the ID and the fields of each.
    pub async fn stream(&self, key: &str) -> Vec<((u64, u64), HashMap<String, String>)> {
        let entries: Vec<(String, HashMap<String, String>)> =
            self.run(&format!("XRANGE {key} - +")).await;
        let number = |text: &str| text.parse().unwrap();
        let with_id = entries.into_iter().map(|(id, fields)| {
            let (ms, sequence) = id.split_once('-').unwrap();
            ((number(ms), number(sequence)), fields)
        });
        with_id.collect()
    }

    /// Reader, recipient and message of each event in the stream, oldest first.
    pub async fn events(&self) -> Vec<(u64, u64, u64)> {
        let id = |value: &serde_json::Value| value.as_str().unwrap().parse().unwrap();
        let payloads = self.payloads().await;
        let events = payloads.iter().map(|payload| {
            let payload: serde_json::Value = serde_json::from_str(payload).unwrap();
            let event = &payload["direct_message_mark_read_events"][0];
            let recipient = id(&event["target"]["recipient_id"]);
            (id(&event["sender_id"]), recipient, id(&event["last_read_event_id"]))
        });
        events.collect()
    }
}

/// Checks that every payload which a test leaves behind is valid.
impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() || self.process.is_none() {
            return;
        }
        // A Redis that is frozen or refuses connections cannot be checked.
        let Some(payloads) = self.left_payloads() else { return };
        for payload in payloads {
            let problem = schema::problem(&payload);
            assert!(problem.is_none(), "{} in {payload}", problem.unwrap_or_default());
        }
    }
}

impl Redis {
    fn left_payloads(&self) -> Option<Vec<String>> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(PING_LIMIT).ok()?;
        connection.set_read_timeout(Some(4 * PING_LIMIT)).ok()?;
        let scan = cmd("SCAN 0 COUNT 1000000 TYPE stream").query(&mut connection);
        let (_, streams): (u64, Vec<String>) = scan.ok()?;
        let entries = streams.iter().flat_map(|stream| {
            let range = cmd(&format!("XRANGE {stream} - +")).query(&mut connection);
            let entries: Vec<(String, HashMap<String, String>)> = range.unwrap_or_default();
            entries
        });
        Some(entries.filter_map(|(_, mut fields)| fields.remove("payload")).collect())
    }
}

fn cmd(command: &str) -> redis::Cmd {
    let mut words = command.split_whitespace();
    let mut cmd = redis::cmd(words.next().unwrap());
    words.for_each(|word| {
        cmd.arg(word);
    });
    cmd
}
