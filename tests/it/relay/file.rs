//! The file with the webhooks: read again when it changes, and never replaced by one with a mistake.

use std::time::Duration;

use markread_harness::events::{payload, publish};
use markread_harness::receiver::{CONSUMER_SECRET, Secrets};
use markread_harness::relay::TO_LOOPBACK;
use markread_harness::{Receiver, Redis, Relay, WebhookFile};
use nix::sys::signal::Signal;
use tokio::time::sleep;

use super::{ALL, QUIET, SOON, wait_until_done};

const NEXT: &str = "the next consumer secret";

#[tokio::test]
async fn webhooks_come_and_go_with_the_file() {
    let redis = Redis::start().await;
    let (first, second) = (Receiver::start().await, Receiver::start().await);
    let file = WebhookFile::of(&[("first", &first, ALL)]);
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    first.wait_for(1, SOON).await;
    file.write_of(&[("first", &first, ALL), ("second", &second, ALL)]);
    // A new webhook gets what is in the stream.
    second.wait_for(1, SOON).await;
    file.write_of(&[("second", &second, ALL)]);
    sleep(Duration::from_secs(4)).await;
    publish(&redis, &[payload(1, 2, 2)]).await;
    second.wait_for(2, SOON).await;
    sleep(QUIET).await;
    assert_eq!(first.attempts(), 1);
    // What has not changed is not checked again.
    assert_eq!((first.checks().len(), second.checks().len()), (1, 1));
    // What comes back goes on where it was.
    file.write_of(&[("first", &first, ALL), ("second", &second, ALL)]);
    first.wait_for(2, SOON).await;
    assert_eq!((first.assert_in_order(), second.assert_in_order()), (0, 0));
}

#[tokio::test]
async fn a_secret_rotates_without_a_restart() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;

    // Both sides know both.
    let both = Secrets {
        consumer: vec![NEXT.into(), CONSUMER_SECRET.into()],
        standard: vec![NEXT.into(), CONSUMER_SECRET.into()],
    };
    receiver.know(both);
    let previous = file.put("previous", CONSUMER_SECRET);
    let next = file.put("next", NEXT);
    let entry = |secret: &str, more: &str| {
        format!(
            "[[webhook]]\nname = \"main\"\nurl = {:?}\nsecret_file = {secret:?}\n{ALL}\n{more}",
            receiver.url()
        )
    };
    file.write(&entry(&next, &format!("previous_secret_file = {previous:?}\n")));
    receiver.wait_for_checks(2, SOON).await;
    publish(&redis, &[payload(1, 2, 2)]).await;
    receiver.wait_for(2, SOON).await;

    // The old one is gone.
    receiver.know(Secrets::one(NEXT.as_bytes()));
    file.write(&entry(&next, ""));
    relay.signal(Signal::SIGHUP);
    receiver.wait_for_checks(3, SOON).await;
    publish(&redis, &[payload(1, 2, 3)]).await;
    receiver.wait_for(3, SOON).await;

    // A secret's own file changes, and the file with the webhooks does not.
    receiver.know(Secrets::one(b"the last secret of all"));
    file.put("next", "the last secret of all");
    receiver.wait_for_checks(4, SOON).await;
    publish(&redis, &[payload(1, 2, 4)]).await;
    receiver.wait_for(4, SOON).await;
    assert_eq!(receiver.assert_in_order(), 0);
    assert!(!relay.log().join("\n").contains("secret of"), "no secret is in the log");
}

#[tokio::test]
async fn standard_webhooks_may_have_a_secret_of_their_own() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let key = b"24 bytes or more, and 64 at most".to_vec();
    receiver.know(Secrets { consumer: vec![CONSUMER_SECRET.into()], standard: vec![key] });
    let file = WebhookFile::new("");
    let standard = file.put("standard", "whsec_MjQgYnl0ZXMgb3IgbW9yZSwgYW5kIDY0IGF0IG1vc3Q=\n");
    let more = format!("{ALL}\nstandard_secret_file = {standard:?}");
    file.write_of(&[("main", &receiver, &more)]);
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
}

/// Contents with a mistake, and words of the line that names it.
fn mistakes(good: &str) -> Vec<(String, Vec<&'static str>)> {
    vec![
        (good.replace("name =", "name "), vec!["line 2"]),
        (good.replace("url = \"", "url = \"ftp+"), vec!["line 3"]),
        (format!("{good}\ncolour = \"red\"\n"), vec!["colour", "line"]),
        (format!("{good}\n{good}"), vec!["main"]),
        (good.replace("\"main\"", "\"a b\""), vec!["line 2"]),
        (good.replace("/secret\"", "/absent\""), vec!["absent"]),
        (good.replace("secret_file", "# secret_file"), vec!["secret_file"]),
        (good.replace("\"all\"", "\"some\""), vec!["users", "line 5"]),
    ]
}

#[tokio::test]
async fn a_mistake_keeps_the_last_good_file_and_names_the_line() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let good = file.entry("main", &receiver.url(), ALL);
    let relay = Relay::on(&redis, &file).await;
    for (event, (content, words)) in (1..).zip(mistakes(&good)) {
        let seen = relay.log().len();
        file.write(&content);
        relay.signal(Signal::SIGHUP);
        let line =
            markread_harness::eventually(&format!("{words:?} for {content}"), SOON, async || {
                let lines = relay.log();
                let mut lines = lines.into_iter().skip(seen);
                lines.find(|line| words.iter().all(|word| line.contains(word)))
            })
            .await;
        assert!(line.contains("webhooks.toml") || line.contains("absent"), "{line}");
        publish(&redis, &[payload(1, 2, event)]).await;
        receiver.wait_for(event as usize, SOON).await;
        let (status, page) = relay.get("/readyz").await;
        assert!(status == 200 && page.contains("the last good webhooks are in use"), "{page}");
    }
    // The right one again.
    let other = Receiver::start().await;
    file.write_of(&[("other", &other, ALL)]);
    relay.signal(Signal::SIGHUP);
    other.wait_for(8, SOON).await;
    wait_until_done(&redis, "other").await;
    let (_, page) = relay.get("/readyz").await;
    assert!(!page.contains("the last good webhooks are in use"), "{page}");
}

#[tokio::test]
async fn a_mistake_at_the_start_is_one_line_and_status_2() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let url = redis.url();
    let flags = [&["--redis-url", &url][..], &TO_LOOPBACK].concat();
    let file = WebhookFile::new("");
    let good = file.entry("main", &receiver.url(), ALL);
    for (content, words) in mistakes(&good) {
        file.write(&content);
        let mut relay = Relay::spawn(&flags, &file, &[]);
        let status = relay.exit(SOON).await;
        assert_eq!(status.code(), Some(2), "{content}: {}", relay.log().join("\n"));
        let line = relay.wait_for_line(&words).await;
        assert!(line.contains("webhooks"), "{line}");
    }
    // Plain HTTP has to be allowed.
    file.write(&good);
    let mut relay = Relay::spawn(&["--redis-url", &url, "--allow-private"], &file, &[]);
    assert_eq!(relay.exit(SOON).await.code(), Some(2));
    relay.wait_for_line(&["--allow-http"]).await;
    assert_eq!(receiver.connections(), 0);
}
