//! A real `redis-server` on a free port, with a directory of its own.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::{eventually, free_port, schema};

const START_LIMIT: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_millis(250);

pub(crate) struct Redis {
    dir: TempDir,
    pub(crate) port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl Redis {
    /// A Redis that keeps nothing.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A Redis with more settings, as on its command line: `["--appendonly", "yes"]`.
    pub(crate) async fn with(settings: &[&str]) -> Self {
        let mut redis = Self::down(settings);
        redis.restart().await;
        redis
    }

    /// A Redis that is not there yet.
    pub(crate) fn down(settings: &[&str]) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            port: free_port(),
            settings: settings.iter().map(ToString::to_string).collect(),
            process: None,
        }
    }

    /// Starts it, on its port and its data.
    pub(crate) async fn restart(&mut self) {
        self.launch();
        self.answers().await;
    }

    /// Starts it, and does not wait until it answers.
    pub(crate) fn launch(&mut self) {
        assert!(self.process.is_none(), "it runs already");
        let process = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--enable-debug-command", "yes"])
            .args(["--dir", self.dir.path().to_str().unwrap()])
            .args(&self.settings)
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("redis-server is installed");
        self.process = Some(process);
    }

    /// Waits until it answers a PING.
    pub(crate) async fn answers(&self) {
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
    pub(crate) async fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().await.unwrap();
    }

    /// Stops it as the system would on a machine without time: it keeps its connections.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).unwrap();
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.as_ref().and_then(Child::id).expect("it runs")
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        self.try_connection().await.expect("Redis runs")
    }

    async fn try_connection(&self) -> Option<MultiplexedConnection> {
        let client = redis::Client::open(self.url()).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(START_LIMIT));
        client.get_multiplexed_async_connection_with_config(&config).await.ok()
    }

    /// Runs one command, as `redis-cli` would: words by spaces.
    pub(crate) async fn run<T: redis::FromRedisValue>(&self, command: &str) -> T {
        cmd(command).query_async(&mut self.connection().await).await.expect(command)
    }

    /// Runs one command that keeps Redis busy: it is sent, and its end is not waited for.
    pub(crate) async fn run_on(&self, command: &str) {
        let mut connection = self.connection().await;
        let cmd = cmd(command);
        let ended = cmd.query_async::<redis::Value>(&mut connection);
        assert!(timeout(PING_LIMIT, ended).await.is_err(), "{command} has ended already");
    }

    /// How many hashes a reader's cursors are spread over; 0 where they are in one, the reader's.
    pub(crate) async fn buckets(&self, reader: u64) -> u64 {
        let buckets: Option<u64> =
            self.run(&format!("HGET markread:cursors:{reader} buckets")).await;
        buckets.unwrap_or_default()
    }

    /// A reader's cursors: recipient to message.
    pub(crate) async fn cursors(&self, reader: u64) -> HashMap<u64, u64> {
        let key = format!("markread:cursors:{reader}");
        let keys = match self.buckets(reader).await {
            0 => vec![key],
            buckets => (0..buckets).map(|bucket| format!("{key}:{bucket}")).collect(),
        };
        let mut fields: HashMap<String, String> = HashMap::new();
        for key in keys {
            let hash: HashMap<String, String> = self.run(&format!("HGETALL {key}")).await;
            fields.extend(hash);
        }
        let cursors = fields.iter().filter(|(field, _)| !field.starts_with('-'));
        cursors.map(|(field, id)| (field.parse().unwrap(), id.parse().unwrap())).collect()
    }

    /// Stores a user object, or what is none.
    pub(crate) async fn put_user(&self, user: u64, value: &[u8]) {
        let mut set = redis::cmd("SET");
        set.arg(format!("user:{user}")).arg(value);
        set.query_async::<()>(&mut self.connection().await).await.unwrap();
    }

    /// Calls used in a reader's window.
    pub(crate) async fn used(&self, reader: u64) -> Option<u64> {
        self.run(&format!("GET markread:quota:{reader}")).await
    }

    /// How often a command was called, by scripts too.
    pub(crate) async fn calls(&self, command: &str) -> u64 {
        let stats: String = self.run("INFO commandstats").await;
        let line = stats.lines().find(|line| line.starts_with(&format!("cmdstat_{command}:")));
        line.map_or(0, |line| line.split(['=', ',']).nth(1).unwrap().parse().unwrap())
    }

    /// All that it holds: each key with its value as `DUMP` tells it.
    pub(crate) async fn contents(&self) -> Vec<(String, Vec<u8>)> {
        let mut keys: Vec<String> = self.run("KEYS *").await;
        keys.sort();
        let mut contents = Vec::new();
        for key in keys {
            let value = self.run(&format!("DUMP {key}")).await;
            contents.push((key, value));
        }
        contents
    }

    /// The payloads of the stream, oldest first.
    pub(crate) async fn payloads(&self) -> Vec<String> {
        let fields = self.entries().await.into_iter().map(HashMap::from_iter);
        fields.map(|mut fields: HashMap<_, _>| fields.remove("payload").unwrap()).collect()
    }

    /// The entries of the stream, oldest first: names and values, in order.
    pub(crate) async fn entries(&self) -> Vec<Vec<(String, String)>> {
        let entries: Vec<(String, Vec<(String, String)>)> =
            self.run("XRANGE direct_message_mark_read_events - +").await;
        entries.into_iter().map(|(_, fields)| fields).collect()
    }

    /// The events of the stream, oldest first: reader, recipient, message.
    pub(crate) async fn events(&self) -> Vec<(u64, u64, u64)> {
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

/// Whatever a test was about, the payloads that it leaves are valid.
impl Drop for Redis {
    fn drop(&mut self) {
        if std::thread::panicking() || self.process.is_none() {
            return;
        }
        // One that is frozen, or lets nobody in, has been looked at enough.
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
