//! `examples/consume.py`, which people copy, gets every event whatever happens to it or to Redis.

use std::collections::HashSet;
use std::process::Stdio;
use std::time::Duration;

use markread_harness::tools::{self, file, output};
use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

const STREAM: &str = "direct_message_mark_read_events";
const LIMIT: Duration = Duration::from_secs(60);

/// The example with its own `handle`.
const UNCHANGED: &str = "";

/// The example with work that takes a while, so that something can happen in the middle of it.
const SLOW: &str = "
handle = consume.handle
def slow(event):
    time.sleep(0.01)
    handle(event)
consume.handle = slow";

/// A running consumer.
struct Consumer {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    log: Lines<BufReader<ChildStderr>>,
}

impl Consumer {
    /// Starts a consumer that runs until it is dropped. The Python code `change` is run first.
    fn start(redis: &Redis, name: &str, change: &str) -> Self {
        let code =
            format!("import time, consume\n{change}\nconsume.main('{}', '{name}')", redis.url());
        let mut command = Command::new(tools::python());
        command.args(["-c", &code]).env("PYTHONPATH", file("examples"));
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.kill_on_drop(true).spawn().expect("Python is installed");
        let output = BufReader::new(process.stdout.take().unwrap()).lines();
        let log = BufReader::new(process.stderr.take().unwrap()).lines();
        Self { process, output, log }
    }

    /// The message of the next event that it handles.
    async fn handled(&mut self) -> u64 {
        let line = next(&mut self.output).await;
        let message = line.split("read up to ").nth(1).and_then(|rest| rest.split(' ').next());
        message.and_then(|message| message.parse().ok()).unwrap_or_else(|| panic!("{line}"))
    }

    async fn all_handled<const N: usize>(&mut self) -> [u64; N] {
        let mut messages = [0; N];
        for message in &mut messages {
            *message = self.handled().await;
        }
        messages
    }

    /// The next line of its log.
    async fn logged(&mut self) -> String {
        next(&mut self.log).await
    }
}

async fn next(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>) -> String {
    let line = timeout(LIMIT, lines.next_line()).await.expect("it writes a line");
    line.unwrap().expect("it runs")
}

/// Adds an event as a server does.
async fn add(redis: &Redis, message: u64) {
    let [reader, recipient] = [READER, RECIPIENT].map(|id| id.to_string());
    let payload = json!({
        "direct_message_mark_read_events": [{
            "created_timestamp": "1",
            "sender_id": reader,
            "last_read_event_id": message.to_string(),
            "target": {"recipient_id": recipient},
        }],
        "users": {&reader: {"id": reader}, &recipient: {"id": recipient}},
    });
    add_fields(redis, &[(b"payload", payload.to_string().as_bytes())]).await;
}

async fn add_fields(redis: &Redis, fields: &[(&[u8], &[u8])]) {
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*").arg(fields);
    add.query_async::<()>(&mut redis.connection().await).await.unwrap();
}

/// Waits until everything that was delivered is acknowledged.
async fn all_is_acknowledged(redis: &Redis) {
    eventually("every entry is acknowledged", LIMIT, async || {
        let pending: (u64, redis::Value, redis::Value, redis::Value) =
            redis.run(&format!("XPENDING {STREAM} receipts")).await;
        (pending.0 == 0).then_some(())
    })
    .await;
}

/// Has a consumer of this name take entries and disappear.
async fn take(redis: &Redis, name: &str, count: usize) {
    redis.run::<()>(&format!("XGROUP CREATE {STREAM} receipts 0")).await;
    let take = format!("XREADGROUP GROUP receipts {name} COUNT {count} STREAMS {STREAM} >");
    redis.run::<redis::Value>(&take).await;
}

#[tokio::test]
async fn a_consumer_takes_over_what_a_dead_one_had_taken() {
    let redis = Redis::start().await;
    redis.put_user(READER, br#"{"name":"Ada"}"#).await;
    let server = Server::on(&redis).await;
    for message in 1..=3 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    take(&redis, "dead", 2).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;

    let mut consumer = Command::new(tools::python());
    consumer.arg(file("examples/consume.py")).args([&redis.url(), "living", "3"]);
    let line = |message: u64| format!("Ada read up to {message} of {RECIPIENT}\n");
    assert_eq!(output(consumer).await, [line(1), line(2), line(3)].concat());
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn entries_that_are_not_events_are_skipped() {
    let redis = Redis::start().await;
    let deep = "[".repeat(100_000);
    let digits = "1".repeat(5_000);
    let foreign: [&[(&[u8], &[u8])]; 10] = [
        &[(b"name", b"caf\xe9")],
        &[(b"\xff\xfe", b"\x00")],
        &[(b"payload", b"")],
        &[(b"payload", b"{")],
        &[(b"payload", b"{\"caf\xe9\": 1}")],
        &[(b"payload", b"\xff\xfe\x00")],
        &[(b"payload", deep.as_bytes())],
        &[(b"payload", digits.as_bytes())],
        &[(b"payload", b"[]")],
        &[(b"payload", br#"{"direct_message_mark_read_events": [], "users": {}}"#)],
    ];
    add(&redis, 1).await;
    for fields in foreign {
        add_fields(&redis, fields).await;
    }
    add(&redis, 2).await;

    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.all_handled().await, [1, 2]);
    for _ in foreign {
        assert!(consumer.logged().await.starts_with("skipped "));
    }
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn fields_of_other_bytes_beside_the_payload_do_no_harm() {
    let redis = Redis::start().await;
    add(&redis, 1).await;
    let (_, payload) = redis.entries().await.remove(0).remove(0);
    add_fields(&redis, &[(b"\xff", b"\xe9"), (b"payload", payload.as_bytes())]).await;
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.all_handled().await, [1, 1]);
}

#[tokio::test]
async fn after_a_flush_the_consumer_goes_on_from_the_beginning() {
    let redis = Redis::start().await;
    add(&redis, 1).await;
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.handled().await, 1);
    for message in 2..4 {
        redis.run::<()>("FLUSHALL").await;
        add(&redis, message).await;
        assert_eq!(consumer.handled().await, message);
    }
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn a_consumer_waits_for_a_redis_that_is_not_there_yet() {
    let mut redis = Redis::down(&[]);
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert!(consumer.logged().await.starts_with("trying again: "));
    redis.restart().await;
    add(&redis, 1).await;
    assert_eq!(consumer.handled().await, 1);
}

#[tokio::test]
async fn no_event_is_lost_when_redis_restarts_in_the_middle() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let expected: HashSet<u64> = (1..=200).collect();
    for message in 1..=200 {
        add(&redis, message).await;
    }
    let mut consumer = Consumer::start(&redis, "one", SLOW);
    let mut handled: HashSet<u64> = consumer.all_handled::<20>().await.into();
    redis.kill().await;
    redis.restart().await;
    while handled != expected {
        handled.insert(consumer.handled().await);
    }
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn an_event_is_handled_again_when_the_consumer_is_killed_in_the_middle_of_it() {
    let redis = Redis::start().await;
    for message in 1..=4 {
        add(&redis, message).await;
    }
    let hanging = "
handle = consume.handle
def hang_at_the_third(event):
    if event['last_read_event_id'] == '3':
        print('hangs', flush=True)
        time.sleep(600)
    handle(event)
consume.handle = hang_at_the_third";
    let mut consumer = Consumer::start(&redis, "one", hanging);
    assert_eq!(consumer.all_handled().await, [1, 2]);
    assert_eq!(next(&mut consumer.output).await, "hangs");
    consumer.process.kill().await.unwrap();

    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.all_handled().await, [3, 4]);
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn after_a_restart_without_its_data_the_consumer_goes_on() {
    let mut redis = Redis::start().await;
    add(&redis, 1).await;
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.handled().await, 1);
    redis.kill().await;
    redis.restart().await;
    add(&redis, 2).await;
    assert_eq!(consumer.handled().await, 2);
}

#[tokio::test]
async fn a_restarted_consumer_first_finishes_what_it_had_taken() {
    let redis = Redis::start().await;
    for message in 1..=3 {
        add(&redis, message).await;
    }
    take(&redis, "one", 2).await;
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.all_handled().await, [1, 2, 3]);
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn an_entry_that_was_deleted_before_it_was_finished_is_passed_over() {
    let redis = Redis::start().await;
    for message in 1..=3 {
        add(&redis, message).await;
    }
    take(&redis, "one", 2).await;
    let entries: Vec<(String, redis::Value)> = redis.run(&format!("XRANGE {STREAM} - +")).await;
    redis.run::<()>(&format!("XDEL {STREAM} {}", entries[0].0)).await;
    let mut consumer = Consumer::start(&redis, "one", UNCHANGED);
    assert_eq!(consumer.all_handled().await, [2, 3]);
    all_is_acknowledged(&redis).await;
}

#[tokio::test]
async fn an_event_whose_work_failed_is_handled_again() {
    let redis = Redis::start().await;
    for message in 1..=2 {
        add(&redis, message).await;
    }
    let failing = "
handle, failures = consume.handle, [OSError('no network')]
def fail_once(event):
    if failures: raise failures.pop()
    handle(event)
consume.handle = fail_once";
    let mut consumer = Consumer::start(&redis, "one", failing);
    assert_eq!(consumer.all_handled().await, [2, 1]);
    assert!(consumer.logged().await.contains("OSError('no network')"));
    all_is_acknowledged(&redis).await;
    assert!(consumer.process.try_wait().unwrap().is_none(), "it runs");
}
