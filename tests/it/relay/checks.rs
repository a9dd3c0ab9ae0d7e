//! The check of a receiver (CRC), and the pauses that follow from it and from 410.

use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::events::{payload, publish};
use markread_harness::receiver::{CONSUMER_SECRET, CheckReply, Reply, Secrets};
use markread_harness::relay::{TO_LOOPBACK, webhook};
use markread_harness::{Receiver, Redis, Relay, WebhookFile, eventually};
use tokio::time::sleep;

use super::{ALL, QUIET, SOON, pending, wait_until_done};

/// Runs `markread webhook check main`. Returns its exit status and what it printed.
pub(super) async fn check(redis: &Redis, file: &WebhookFile) -> (Option<i32>, String) {
    let path = file.path();
    let own = ["check", "main", "--webhooks", path.to_str().unwrap()];
    let output = webhook(&["--redis-url", &redis.url()], &[&own[..], &TO_LOOPBACK].concat()).await;
    let printed = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(printed).unwrap())
}

/// Waits until a relay says everywhere that the webhook `main` is paused, and nothing is sent.
async fn assert_paused(relay: &Relay, receiver: &Receiver, attempts: usize, words: &[&str]) {
    relay.wait_for_metric("markread_relay_paused", &["webhook=\"main\""], |is| is == 1.0).await;
    relay.wait_for_line(&[&["paused", "main"], words].concat()).await;
    let is_warning = |line: &str| {
        line.starts_with("warning: ") && line.contains("main") && line.contains("paused")
    };
    eventually("a warning says so", SOON, async || {
        let (status, page) = relay.get("/readyz").await;
        assert_eq!(status, 200, "{page}");
        page.lines().any(is_warning).then_some(())
    })
    .await;
    sleep(QUIET).await;
    assert_eq!(receiver.attempts(), attempts);
}

/// Lets a receiver that is paused at once pass again: a check does it, and nothing else.
async fn is_paused_until_a_check_passes(reply: CheckReply, words: &[&str]) {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_checks(reply);
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    assert_paused(&relay, &receiver, 0, words).await;
    assert_eq!(receiver.checks().len(), 1, "it is not checked again by itself");
    let (code, printed) = check(&redis, &file).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(words.iter().all(|word| printed.contains(word)), "{words:?}: {printed}");

    receiver.answer_checks(CheckReply::Right);
    sleep(QUIET).await;
    assert_eq!(receiver.attempts(), 0);
    let (code, printed) = check(&redis, &file).await;
    assert_eq!(code, Some(0), "{printed}");
    receiver.wait_for(1, SOON).await;
    relay.wait_for_metric("markread_relay_paused", &[], |is_paused| is_paused == 0.0).await;
    let refused = relay.metric("markread_relay_checks_total", &["outcome=\"refused\""]).await;
    assert_eq!(refused, 1.0);
    wait_until_done(&redis, "main").await;
    assert_eq!(pending(&redis, "main").await, 0);
}

#[tokio::test]
async fn a_wrong_token_pauses_at_once() {
    let by_another = CheckReply::By(b"another secret".to_vec());
    is_paused_until_a_check_passes(by_another, &["token"]).await;
}

#[tokio::test]
async fn a_body_without_the_token_pauses_at_once() {
    let other = Reply::With(200, Vec::new(), b"{\"ok\":true}".to_vec());
    is_paused_until_a_check_passes(CheckReply::Other(other), &[]).await;
}

#[tokio::test]
async fn a_redirect_pauses_at_once_and_is_not_followed() {
    let elsewhere = Receiver::start().await;
    let reply = Reply::redirect(302, &elsewhere.url());
    is_paused_until_a_check_passes(CheckReply::Other(reply), &["302"]).await;
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn other_settings_end_a_pause_too() {
    let redis = Redis::start().await;
    let (wrong, right) = (Receiver::start().await, Receiver::start().await);
    wrong.answer_checks(CheckReply::By(b"another secret".to_vec()));
    let file = WebhookFile::of(&[("main", &wrong, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    assert_paused(&relay, &wrong, 0, &["token"]).await;
    file.write_of(&[("main", &right, ALL)]);
    right.wait_for(1, SOON).await;
    assert_eq!((wrong.attempts(), right.checks().len()), (0, 1));
}

#[tokio::test]
async fn a_check_that_fails_is_tried_again_and_pauses_after_the_grace() {
    for reply in [Reply::Status(500), Reply::Status(404), Reply::Close, Reply::Hang] {
        let redis = Redis::start().await;
        let receiver = Receiver::start().await;
        receiver.answer_checks(CheckReply::Other(reply.clone()));
        let file = WebhookFile::of(&[("main", &receiver, ALL)]);
        let relay = Relay::on_with(&redis, &file, &["--check-grace", "2s"]).await;
        publish(&redis, &[payload(1, 2, 1)]).await;
        receiver.wait_for_checks(2, SOON).await;
        assert_paused(&relay, &receiver, 0, &[]).await;
        // That one ends by itself.
        receiver.answer_checks(CheckReply::Right);
        receiver.wait_for(1, SOON).await;
        relay.wait_for_metric("markread_relay_paused", &[], |is_paused| is_paused == 0.0).await;
        let failed = relay.metric("markread_relay_checks_total", &["outcome=\"failed\""]).await;
        assert!(failed >= 2.0, "{reply:?}: {failed}");
    }
}

#[tokio::test]
async fn a_receiver_that_is_away_at_first_gets_everything_later() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.go_down().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1), payload(1, 2, 2)]).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(relay.metric("markread_relay_paused", &[]).await, 0.0, "the grace is 4 h");
    receiver.come_up().await;
    receiver.wait_for(2, SOON).await;
    assert_eq!(receiver.assert_in_order(), 0);
    let verified = relay.metric("markread_relay_verified_timestamp_seconds", &[]).await;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - verified).abs() < 60.0, "{verified}");
}

/// All processes share what is known of a webhook.
#[tokio::test]
async fn one_check_is_enough_for_all_processes_and_later_ones() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relays = [Relay::on(&redis, &file).await, Relay::on(&redis, &file).await];
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    let mut later = Relay::on(&redis, &file).await;
    sleep(QUIET).await;
    later.stop(SOON).await;
    assert_eq!(receiver.checks().len(), 1);
}

#[tokio::test]
async fn gone_pauses_until_a_check_passes() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(410));
    let file = WebhookFile::of(&[("main", &receiver, ALL)]);
    let relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1), payload(1, 2, 2)]).await;
    receiver.wait_for_attempts(1, SOON).await;
    assert_paused(&relay, &receiver, 1, &["410"]).await;
    receiver.answer(Reply::Status(200));
    sleep(QUIET).await;
    assert_eq!(receiver.attempts(), 1);
    let (code, printed) = check(&redis, &file).await;
    assert_eq!(code, Some(0), "{printed}");
    receiver.wait_for(2, SOON).await;
    let letters: u64 = redis.run("XLEN markread:dead_letters:main").await;
    assert_eq!(letters, 0);
    let gone = relay.metric("markread_relay_attempts_total", &["outcome=\"gone\""]).await;
    assert_eq!(gone, 1.0);
}

#[tokio::test]
async fn over_tls_certificates_of_both_sides_must_be_right() {
    let (ca, other_ca) = (Authority::new().await, Authority::new().await);
    let certificate = ca.issue("server", "IP:127.0.0.1").await;
    let wrong_name = ca.issue("wrong", "DNS:example.org").await;
    let client = ca.issue("client", "DNS:relay").await;
    let lines = |ca: &Authority| format!("{ALL}\nca_file = {:?}", ca.file());
    let with_client =
        format!("{}\ncert_file = {:?}\nkey_file = {:?}", lines(&ca), client.chain, client.key);
    for (name, certificate, client_ca, lines, is_right) in [
        ("right", &certificate, None, lines(&ca), true),
        ("with a client's", &certificate, Some(&ca), with_client, true),
        ("without a client's", &certificate, Some(&ca), lines(&ca), false),
        ("of another CA", &certificate, None, lines(&other_ca), false),
        ("of no known CA", &certificate, None, ALL.to_owned(), false),
        ("of another name", &wrong_name, None, lines(&ca), false),
    ] {
        let redis = Redis::start().await;
        let receiver = Receiver::over_tls(certificate, client_ca).await;
        let file = WebhookFile::of(&[("main", &receiver, &lines)]);
        let relay = Relay::on(&redis, &file).await;
        publish(&redis, &[payload(1, 2, 1)]).await;
        if is_right {
            receiver.wait_for(1, SOON).await;
        } else {
            println!("{name}");
            assert_paused(&relay, &receiver, 0, &[]).await;
            assert_eq!(receiver.checks().len(), 0);
            let (code, printed) = check(&redis, &file).await;
            assert_eq!(code, Some(1), "{name}: {printed}");
        }
    }
}

/// While a secret rotates, a check may be answered by either.
#[tokio::test]
async fn a_check_answered_by_the_previous_secret_passes() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.know(Secrets {
        consumer: vec![b"the next secret of all".to_vec(), CONSUMER_SECRET.into()],
        standard: vec![b"the next secret of all".to_vec(), CONSUMER_SECRET.into()],
    });
    receiver.answer_checks(CheckReply::By(CONSUMER_SECRET.into()));
    let file = WebhookFile::new("");
    let (next, previous) =
        (file.put("next", "the next secret of all"), file.put("secret", CONSUMER_SECRET));
    file.write(&format!(
        "[[webhook]]\nname = \"main\"\nurl = {:?}\nsecret_file = {next:?}\n\
         previous_secret_file = {previous:?}\n{ALL}\n",
        receiver.url()
    ));
    let _relay = Relay::on(&redis, &file).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    // The receiver verifies Twitter's signature by the new secret, and Standard Webhooks' by both.
    receiver.wait_for(1, SOON).await;
}
