//! `markread webhook`, the commands of operators.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use markread_harness::Redis;
use markread_harness::binary::command;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

mod checks;
mod receive;
mod redeliver;
mod subscriptions;

/// Longest time of a command.
const LIMIT: Duration = Duration::from_secs(20);

/// Runs `markread webhook` on a Redis. Returns the exit status, standard output and standard error.
async fn webhook(redis: &Redis, args: &[&str]) -> (i32, String, String) {
    webhook_with(redis, args, "").await
}

/// The same with this standard input.
async fn webhook_with(redis: &Redis, args: &[&str], input: &str) -> (i32, String, String) {
    let mut command = command(&["webhook"]);
    command.args(args).args(["--redis-url", &redis.url()]).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let input = input.to_owned();
    // A command that fails early takes none of it.
    tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let ended = timeout(LIMIT, process.wait_with_output()).await;
    let Output { status, stdout, stderr } = ended.expect("it ends by itself").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn a_redis_that_is_away_is_named_after_5_s() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let began = Instant::now();
    let (status, stdout, stderr) = webhook(&redis, &["list", "crm"]).await;
    assert_eq!((status, &*stdout), (1, ""), "{stderr}");
    assert!(stderr.contains("Connection refused"), "{stderr}");
    assert!((5..8).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test]
async fn another_layout_is_status_2() {
    let redis = Redis::start().await;
    redis.run::<()>("HSET markread:layout version 9 partitions 1").await;
    let (status, _, stderr) = webhook(&redis, &["subscribe", "crm", "1"]).await;
    assert_eq!(status, 2, "{stderr}");
    assert!(stderr.contains('9') && stderr.contains("version"), "{stderr}");
    assert_eq!(redis.run::<u64>("EXISTS markread:subscriptions:crm").await, 0);
}
