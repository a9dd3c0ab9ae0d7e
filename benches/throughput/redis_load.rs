//! Redis's own limit: scripts through `redis-benchmark`.

use tokio::process::Command;

use crate::harness::Redis;

/// What anybody would write first.
const NAIVE: &str = "
local used = redis.call('INCR', KEYS[1])
if used == 1 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
local time = redis.call('TIME')
local cursor = redis.call('HGET', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
redis.call('XADD', KEYS[3], 'MAXLEN', '~', '1000000', '*', 'payload', ARGV[4])
return {used, time[1], cursor}";

const PAYLOAD: &str = r#"{"direct_message_mark_read_events":[{"created_timestamp":"1518127183443","sender_id":"2000000000","last_read_event_id":"1000000000000000000","target":{"recipient_id":"1234567890123456789"}}],"users":{"2000000000":{"id":"2000000000"},"1234567890123456789":{"id":"1234567890123456789"}}}"#;

/// The step itself, as a server sends it.
const STEP: &str = concat!(
    include_str!("../../src/store/redis/common.lua"),
    "\n",
    include_str!("../../src/store/redis/mark_read.lua"),
);

/// A command that `redis-benchmark` repeats, with random numbers below so many in it.
pub(crate) struct Repeated {
    port: String,
    numbers: u64,
    words: Vec<String>,
}

/// What repeating it came to.
pub(crate) struct Repetition {
    pub(crate) per_second: f64,
    pub(crate) median_us: f64,
}

impl Repeated {
    /// Runs it so many times.
    pub(crate) async fn run(&self, clients: u32, pipeline: u32, times: u32) -> Repetition {
        let output = Command::new("redis-benchmark")
            .args(["-p", &self.port, "-c", &clients.to_string(), "-P", &pipeline.to_string()])
            .args(["-n", &times.to_string(), "-r", &self.numbers.to_string(), "--csv"])
            .args(["--precision", "3"])
            .args(&self.words)
            .output()
            .await
            .expect("redis-benchmark is installed");
        let table = String::from_utf8(output.stdout).unwrap();
        let line = table.lines().last().unwrap();
        // The name may have commas in it, and is quoted as the rest is: calls a second, then ms.
        let fields: Vec<&str> = line.trim_matches('"').split("\",\"").collect();
        let [per_second, _, _, median_ms, ..] = fields[fields.len() - 7..] else { unreachable!() };
        let number = |text: &str| text.parse::<f64>().expect("a number");
        Repetition { per_second: number(per_second), median_us: 1000.0 * number(median_ms) }
    }
}

async fn load(redis: &Redis, script: &str) -> String {
    let mut load = ::redis::cmd("SCRIPT");
    load.arg("LOAD").arg(script);
    load.query_async(&mut redis.connection().await).await.unwrap()
}

/// The naive script, for 500 readers.
pub(crate) async fn naive(redis: &Redis) -> Repeated {
    let sha = load(redis, NAIVE).await;
    let words = [
        "EVALSHA",
        &sha,
        "3",
        "naive:quota:__rand_int__",
        "naive:cursors:__rand_int__",
        "naive:events",
        "900000",
        "1234567890123456789",
        "1000000000000000000",
        PAYLOAD,
    ];
    let words = words.map(str::to_owned).into();
    Repeated { port: redis.port.to_string(), numbers: 500, words }
}

/// The very script. What `redis-benchmark` puts in does not rise, so nearly each call is some reader's
/// first, which advances.
pub(crate) async fn step(redis: &Redis) -> Repeated {
    let sha = load(redis, STEP).await;
    let words = [
        "EVALSHA",
        &sha,
        "3",
        "step:events",
        "step:quota:__rand_int__",
        "step:cursors:__rand_int__",
        "999999999999",
        "900000",
        "1000000",
        "0",
        "2000000000",
        "1",
        "1234567890123456789",
        "1__rand_int__",
        "",
    ];
    let words = words.map(str::to_owned).into();
    Repeated { port: redis.port.to_string(), numbers: 100_000_000, words }
}
