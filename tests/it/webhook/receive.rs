//! `markread webhook receive`, which a relay delivers to.

use std::process::{Output, Stdio};
use std::time::Duration;

use markread_harness::binary::command;
use markread_harness::events::{payload, publish};
use markread_harness::receiver::CONSUMER_SECRET;
use markread_harness::{READER, RECIPIENT, Redis, Relay, WebhookFile, free_port};
use serde_json::Value;
use tokio::process::Child;
use tokio::time::timeout;

use super::LIMIT;
use crate::command_line::{Files, refused};

/// Starts a receiver at a port.
fn receive(port: u16, secret: &str, args: &[&str]) -> Child {
    let listen = format!("127.0.0.1:{port}");
    let mut command =
        command(&["webhook", "receive", "--listen", &listen, "--secret-file", secret]);
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command.spawn().unwrap()
}

async fn end(process: Child) -> (i32, String, String) {
    let ended = timeout(LIMIT, process.wait_with_output()).await;
    let Output { status, stdout, stderr } = ended.expect("it ends by itself").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

#[tokio::test]
async fn events_of_a_relay_are_verified_and_printed() {
    let redis = Redis::start().await;
    let (files, port) = (Files::new(), free_port());
    let secret = files.write("secret", CONSUMER_SECRET);
    let receiver = receive(port, &secret, &["--expect", "2", "--timeout", "15s"]);
    let file = WebhookFile::new("");
    file.write(&file.entry("crm", &format!("http://127.0.0.1:{port}/events"), "users = \"all\""));
    let _relay = Relay::on(&redis, &file).await;
    let payloads = [payload(READER, RECIPIENT, 1), payload(READER, RECIPIENT, 2)];
    let entries = publish(&redis, &payloads).await;
    let (status, stdout, stderr) = end(receiver).await;
    assert_eq!((status, stderr), (0, format!("listening at http://127.0.0.1:{port}\n")));
    let lines: Vec<Value> =
        stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{stdout}");
    for ((line, payload), entry) in lines.iter().zip(&payloads).zip(&entries) {
        assert_eq!(line["webhook_id"], format!("0-{entry}-{RECIPIENT}"));
        assert_eq!(line["for_user_id"], RECIPIENT.to_string());
        let mut body = line["body"].clone();
        body.as_object_mut().unwrap().remove("for_user_id");
        assert_eq!(body, serde_json::from_str::<Value>(payload).unwrap());
    }
}

#[tokio::test]
async fn with_another_secret_nothing_is_received() {
    let redis = Redis::start().await;
    let (files, port) = (Files::new(), free_port());
    let secret = files.write("secret", "another consumer secret");
    let receiver = receive(port, &secret, &["--expect", "1", "--timeout", "3s"]);
    let file = WebhookFile::new("");
    file.write(&file.entry("crm", &format!("http://127.0.0.1:{port}/"), "users = \"all\""));
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(READER, RECIPIENT, 1)]).await;
    relay.wait_for_line(&["crm", "secret"]).await;
    let (status, stdout, stderr) = end(receiver).await;
    assert_eq!((status, &*stdout), (1, ""));
    assert!(stderr.ends_with("markread: only 0 of 1 events came in time\n"), "{stderr}");
}

#[tokio::test]
async fn a_port_in_use_is_status_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let files = Files::new();
    let secret = files.write("secret", CONSUMER_SECRET);
    let args = ["webhook", "receive", "--listen", &address, "--secret-file", &secret];
    let line = refused(1, &args, &[]).await;
    assert!(line.contains("--listen") && line.contains("in use"), "{line}");
}

#[tokio::test]
async fn a_signal_ends_it() {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    let files = Files::new();
    let secret = files.write("secret", CONSUMER_SECRET);
    for (args, expected) in [(&[][..], 0), (&["--expect", "1"], 1)] {
        let receiver = receive(free_port(), &secret, args);
        tokio::time::sleep(Duration::from_millis(500)).await;
        let id = Pid::from_raw(receiver.id().unwrap().try_into().unwrap());
        kill(id, Signal::SIGTERM).unwrap();
        let (status, _, stderr) = end(receiver).await;
        assert_eq!(status, expected, "{stderr}");
    }
}
