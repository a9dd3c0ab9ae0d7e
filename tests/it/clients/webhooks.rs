//! Libraries that receive webhooks, as published: one of Twitter's Account Activity API, and one of Standard
//! Webhooks. A real relay delivers to them.

use std::collections::HashMap;

use markread_harness::events::{payload, publish};
use markread_harness::receiver::CONSUMER_SECRET;
use markread_harness::tools::{self, output, tool};
use markread_harness::{Redis, Relay, WebhookFile, free_port};
use serde_json::Value;
use tokio::process::Command;

/// How many events are delivered, of 50 readers.
const EVENTS: usize = 1_000;

const NAME: &str = "Zo\u{eb} \u{1f4ec}";

/// A script of `tests/clients` with these arguments.
fn receiver(script: &str, arguments: &[&str]) -> Command {
    let mut receiver = Command::new("node");
    receiver.arg(tools::file("tests/clients").join(script)).args(arguments);
    receiver.env("NODE_PATH", tool("MARKREAD_TEST_NODE_PATH", ""));
    receiver
}

/// Delivers events to a receiver at a port, and returns what that made of them and of the webhook's file.
async fn deliver(receiver: Command, port: &str, more: &str, file: &WebhookFile) -> Value {
    let redis = Redis::start().await;
    let url = format!("http://127.0.0.1:{port}/webhook");
    file.write(&file.entry("main", &url, &format!("users = \"all\"\n{more}")));
    let of_receiver = output(receiver);
    let relay = async {
        let relay = Relay::on(&redis, file).await;
        let events = (1..=1_000).map(|event| {
            let reader = event % 50 + 1;
            let user = format!(r#"{{"id":"{reader}"}}"#);
            let named = format!(r#"{{"id":"{reader}","name":"{NAME}"}}"#);
            payload(reader, 9_000, event).replace(&user, &named)
        });
        publish(&redis, &events.collect::<Vec<_>>()).await;
        relay
    };
    let (printed, _relay) = tokio::join!(of_receiver, relay);
    serde_json::from_str(&printed).unwrap()
}

/// Asserts that all events were verified, each once, in order for each reader.
#[track_caller]
fn assert_all(result: &Value) {
    let deliveries = result["deliveries"].as_array().unwrap();
    assert_eq!(deliveries.len(), EVENTS, "{}", result["errors"]);
    let mut last: HashMap<&str, u64> = HashMap::new();
    for delivery in deliveries {
        let id = delivery[0].as_str().unwrap();
        assert!(id.starts_with("0-") && id.ends_with("-9000"), "{id}");
        let text = |index: usize| delivery[1][index].as_str().unwrap();
        assert_eq!((text(0), text(3)), ("9000", NAME));
        let message = text(2).parse().unwrap();
        assert!(last.insert(text(1), message).is_none_or(|before| before < message), "{delivery}");
    }
}

#[tokio::test]
async fn twitter_autohook_verifies_every_event_and_answers_checks() {
    let (port, file) = (free_port().to_string(), WebhookFile::new(""));
    let count = EVENTS.to_string();
    let receiver = receiver("twitter_autohook.cjs", &[&port, CONSUMER_SECRET, &count]);
    let result = deliver(receiver, &port, "", &file).await;
    assert_all(&result);
    assert!(result["checks"].as_u64() >= Some(1), "{}", result["checks"]);
    // It looks for a signature at checks too, and goes on without one.
    let errors = result["errors"].as_array().unwrap();
    let of_checks = |error: &Value| {
        error.as_str().unwrap().contains("header x-twitter-webhooks-signature not found")
    };
    assert!(Some(errors.len().try_into().unwrap()) <= result["checks"].as_u64(), "{errors:?}");
    assert!(errors.iter().all(of_checks), "{errors:?}");
}

/// The twin: signed by another secret, none is verified, so that the test above shows something.
#[tokio::test]
async fn twitter_autohook_refuses_what_another_secret_has_signed() {
    let (port, file) = (free_port().to_string(), WebhookFile::new(""));
    // Checks may be answered by the previous secret.
    let previous = file.put("previous", CONSUMER_SECRET);
    file.put("secret", "another consumer secret");
    let receiver = receiver("twitter_autohook.cjs", &[&port, CONSUMER_SECRET, "1", "10"]);
    let result =
        deliver(receiver, &port, &format!("previous_secret_file = {previous:?}"), &file).await;
    assert_eq!(result["deliveries"], Value::Array(Vec::new()));
    assert!(result["errors"].to_string().contains("Cannot validate webhook signature"), "{result}");
}

#[tokio::test]
async fn standardwebhooks_verifies_every_event_by_the_consumer_secret() {
    let (port, file) = (free_port().to_string(), WebhookFile::new(""));
    let count = EVENTS.to_string();
    let receiver = receiver("standardwebhooks.cjs", &[&port, CONSUMER_SECRET, "raw", &count]);
    let result = deliver(receiver, &port, "", &file).await;
    assert_eq!(result["errors"], Value::Array(Vec::new()));
    assert_all(&result);
}

#[tokio::test]
async fn standardwebhooks_verifies_every_event_by_a_secret_of_its_own() {
    const SECRET: &str = "whsec_MjQgYnl0ZXMgb3IgbW9yZSwgYW5kIDY0IGF0IG1vc3Q=";
    let (port, file) = (free_port().to_string(), WebhookFile::new(""));
    let standard = file.put("standard", SECRET);
    let count = EVENTS.to_string();
    let receiver = receiver("standardwebhooks.cjs", &[&port, CONSUMER_SECRET, SECRET, &count]);
    let more = format!("standard_secret_file = {standard:?}");
    let result = deliver(receiver, &port, &more, &file).await;
    assert_eq!(result["errors"], Value::Array(Vec::new()));
    assert_all(&result);
}

/// The twin of those.
#[tokio::test]
async fn standardwebhooks_refuses_what_another_secret_has_signed() {
    let (port, file) = (free_port().to_string(), WebhookFile::new(""));
    let standard = file.put("standard", "whsec_YW5vdGhlciBzZWNyZXQsIG9mIDMyIGJ5dGVzISEhISE=");
    let own = "whsec_MjQgYnl0ZXMgb3IgbW9yZSwgYW5kIDY0IGF0IG1vc3Q=";
    let mut receiver = receiver("standardwebhooks.cjs", &[&port, CONSUMER_SECRET, own, "1"]);
    receiver.arg("10");
    let more = format!("standard_secret_file = {standard:?}");
    let result = deliver(receiver, &port, &more, &file).await;
    assert_eq!(result["deliveries"], Value::Array(Vec::new()));
    assert!(result["errors"].to_string().contains("No matching signature found"), "{result}");
}
