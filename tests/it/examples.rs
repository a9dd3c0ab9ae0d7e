//! The programs in `examples/` work with real servers.

use std::path::Path;
use std::time::Duration;

use markread_harness::tools::{self, file, output};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tokio::process::Command;

/// The line that both clients print.
fn marked() -> String {
    format!("{READER} read up to {MESSAGE}\n")
}

#[tokio::test]
async fn the_rust_client_marks_and_watches() {
    let server = Server::dev(&[]).await;
    let example = Path::new(env!("CARGO_BIN_EXE_markread")).with_file_name("examples");
    let mut example = Command::new(example.join("mark_and_watch"));
    example.arg(format!("http://{}", server.address));
    assert_eq!(output(example).await, format!("advanced: true\n{}", marked()));
}

#[tokio::test]
async fn the_python_client_marks_and_watches() {
    let server = Server::dev(&[]).await;
    let stubs = tempfile::tempdir().unwrap();
    let into = stubs.path().to_str().unwrap();
    let mut protoc = Command::new(tools::python());
    protoc.args(["-m", "grpc_tools.protoc", "-I"]).arg(file("proto"));
    protoc.args([format!("--python_out={into}"), format!("--grpc_python_out={into}")]);
    protoc.arg(file("proto/markread/v1/mark_read.proto"));
    output(protoc).await;
    let mut example = Command::new(tools::python());
    example.arg(file("examples/mark_and_watch.py")).arg(&server.address).env("PYTHONPATH", into);
    assert_eq!(output(example).await, format!("advanced: True\n{}", marked()));
}

#[tokio::test]
async fn a_consumer_takes_over_what_a_dead_one_had_taken() {
    let redis = Redis::start().await;
    redis.put_user(READER, br#"{"name":"Ada"}"#).await;
    let server = Server::on(&redis).await;
    for message in 1..=3 {
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
    }
    // A consumer that takes two events and disappears.
    let stream = "direct_message_mark_read_events";
    redis.run::<()>(&format!("XGROUP CREATE {stream} receipts 0")).await;
    let take = format!("XREADGROUP GROUP receipts dead COUNT 2 STREAMS {stream} >");
    redis.run::<redis::Value>(&take).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;

    let mut consumer = Command::new(tools::python());
    consumer.arg(file("examples/consume.py")).args([&redis.url(), "living", "3"]);
    let line = |message: u64| format!("Ada read up to {message} of {RECIPIENT}\n");
    assert_eq!(output(consumer).await, [line(1), line(2), line(3)].concat());
    let pending: (u64, redis::Value, redis::Value, redis::Value) =
        redis.run(&format!("XPENDING {stream} receipts")).await;
    assert_eq!(pending.0, 0, "every event is acknowledged");
}
