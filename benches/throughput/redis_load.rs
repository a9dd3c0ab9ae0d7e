//! The limit of Redis: scripts run by `redis-benchmark`.
//!
//! It replaces [`RANDOM`] by a number below [`SIDE`], so calls are spread over the readers and
//! conversations of the workloads. Messages begin with the number of the run: the first mark of a
//! run in a conversation advances, later ones do so by chance.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use markread_harness::{Redis, Server};
use tokio::process::Command;
use tokio_stream::StreamExt;

use crate::process::cpu_seconds;
use crate::workloads::{CURSORS, SIDE};

/// The script that one would write first.
const NAIVE: &str = include_str!("../naive/script.lua");

const PAYLOAD: &str = include_str!("../naive/payload.json").trim_ascii_end();

const STREAM: &str = "direct_message_mark_read_events";

/// Placeholder for a number below [`SIDE`], of twelve digits.
const RANDOM: &str = "__rand_int__";
const RANDOM_RECIPIENT: &str = "1234567__rand_int__";
const RANDOM_MESSAGE: &str = "<run>__rand_int__";
const FIRST_RUN: u64 = 1_000_000;

/// As many calls as there are conversations: most of these advance.
const STEPS: u64 = CURSORS;

/// A command that `redis-benchmark` repeats.
pub(crate) struct Repeated {
    port: String,
    redis: u32,
    words: Vec<String>,
    run: AtomicU64,
}

/// The figures of a repetition.
pub(crate) struct Repetition {
    pub(crate) per_second: f64,
    pub(crate) median_us: f64,
    pub(crate) redis_us: f64,
}

impl Repeated {
    fn new(redis: &Redis, words: Vec<String>) -> Self {
        let run = AtomicU64::new(FIRST_RUN);
        Self { port: redis.port.to_string(), redis: redis.id(), words, run }
    }

    /// Runs it this many times.
    pub(crate) async fn run(&self, clients: u32, pipeline: u32, times: u64) -> Repetition {
        let run = self.run.fetch_add(1, Ordering::Relaxed).to_string();
        let before = cpu_seconds(self.redis);
        let output = Command::new("redis-benchmark")
            .args(["-p", &self.port, "-c", &clients.to_string(), "-P", &pipeline.to_string()])
            .args(["-n", &times.to_string(), "-r", &SIDE.to_string(), "--csv"])
            .args(["--precision", "3"])
            .args(self.words.iter().map(|word| word.replace("<run>", &run)))
            .output()
            .await
            .expect("redis-benchmark is installed");
        let spent = cpu_seconds(self.redis) - before;
        let table = String::from_utf8(output.stdout).unwrap();
        let line = table.lines().last().unwrap();
        // The name may contain commas, and is quoted like the rest: calls a second, then ms.
        let fields: Vec<&str> = line.trim_matches('"').split("\",\"").collect();
        let [per_second, _, _, median_ms, ..] = fields[fields.len() - 7..] else { unreachable!() };
        let number = |text: &str| {
            text.parse::<f64>().unwrap_or_else(|_| panic!("redis-benchmark has no numbers: {line}"))
        };
        Repetition {
            per_second: number(per_second),
            median_us: 1000.0 * number(median_ms),
            redis_us: spent * 1e6 / times as f64,
        }
    }
}

/// The naive script.
pub(crate) async fn naive(redis: &Redis) -> Repeated {
    let mut load = ::redis::cmd("SCRIPT");
    load.arg("LOAD").arg(NAIVE);
    let sha: String = load.query_async(&mut redis.connection().await).await.unwrap();
    let of_reader = |what: &str| format!("naive:{what}:{RANDOM}{RANDOM}");
    let (quota, cursors) = (of_reader("quota"), of_reader("cursors"));
    let keys = ["EVALSHA", &sha, "3", &quota, &cursors, "naive:events"];
    let words = [&keys[..], &["900000", RANDOM_RECIPIENT, RANDOM_MESSAGE, PAYLOAD]].concat();
    let naive = Repeated::new(redis, words.into_iter().map(str::to_owned).collect());
    // Creates nearly all conversations.
    naive.run(50, 16, 4 * STEPS).await;
    naive
}

/// The service's own script, as the server sends it for one mark.
pub(crate) struct OwnScript {
    redis: ::redis::aio::MultiplexedConnection,
    repeated: Repeated,
    advanced: AtomicU64,
    run: AtomicU64,
}

impl OwnScript {
    pub(crate) async fn new(redis: &Redis, server: &Server) -> Self {
        let repeated = Repeated::new(redis, sent_for_one_mark(redis, server).await);
        repeated.run(50, 16, 4 * STEPS).await;
        let redis = redis.connection().await;
        Self { redis, repeated, advanced: AtomicU64::new(0), run: AtomicU64::new(0) }
    }

    /// Runs it as often as there are conversations.
    pub(crate) async fn run(&self, clients: u32, pipeline: u32) -> Repetition {
        let before = self.events().await;
        let repetition = self.repeated.run(clients, pipeline, STEPS).await;
        self.advanced.fetch_add(self.events().await - before, Ordering::Relaxed);
        self.run.fetch_add(STEPS, Ordering::Relaxed);
        repetition
    }

    /// The share of its runs that advanced a cursor.
    pub(crate) fn advanced(&self) -> f64 {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed) as f64;
        of(&self.advanced) / of(&self.run)
    }

    async fn events(&self) -> u64 {
        let mut info = ::redis::cmd("XINFO");
        info.arg("STREAM").arg(STREAM);
        let info: HashMap<String, ::redis::Value> =
            info.query_async(&mut self.redis.clone()).await.unwrap();
        ::redis::from_redis_value(info["entries-added"].clone()).unwrap()
    }
}

/// The command that the server sends to Redis for one mark, with placeholders for the reader in
/// keys, the recipient and the message.
async fn sent_for_one_mark(redis: &Redis, server: &Server) -> Vec<String> {
    const READER: u64 = 1_999_999_999;
    const RECIPIENT: u64 = 1_234_567_777_777_777_777;
    const MESSAGE: u64 = 1_000_000_888_888_888_888;
    let client = ::redis::Client::open(redis.url()).unwrap();
    let mut commands = client.get_async_monitor().await.unwrap().into_on_message::<String>();
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let call = loop {
        let command = commands.next().await.unwrap();
        if let Some((_, call)) = command.split_once("\"EVALSHA\"") {
            break call.trim().to_owned();
        }
    };
    // MONITOR prints each word in quotes, and quotes in it after a backslash.
    let words = call[1..call.len() - 1].split("\" \"");
    let words: Vec<String> = words.map(|word| word.replace("\\\"", "\"")).collect();
    let keys: usize = words[1].parse().unwrap();
    let words = words.into_iter().enumerate().map(|(at, word)| {
        let is_key = (2..2 + keys).contains(&at);
        let reader = if is_key { &[RANDOM, RANDOM].concat() } else { &READER.to_string() };
        word.replace(&READER.to_string(), reader)
            .replace(&RECIPIENT.to_string(), RANDOM_RECIPIENT)
            .replace(&MESSAGE.to_string(), RANDOM_MESSAGE)
    });
    std::iter::once("EVALSHA".to_owned()).chain(words).collect()
}
