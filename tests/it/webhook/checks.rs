//! `markread webhook check`.

use std::collections::BTreeMap;
use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::receiver::{CheckReply, Reply};
use markread_harness::relay::TO_LOOPBACK;
use markread_harness::{Receiver, Redis, WebhookFile};

use super::webhook;

async fn check(redis: &Redis, file: &WebhookFile) -> (i32, String, String) {
    let path = file.path();
    let args = ["check", "crm", "--webhooks", path.to_str().unwrap()];
    webhook(redis, &[&args[..], &TO_LOOPBACK].concat()).await
}

/// The lines without the times in them.
fn without_times(text: &str) -> Vec<String> {
    let without = |line: &str| {
        let words = line.split(' ');
        let is_time = |word: &&str| word.starts_with("20") && word.contains('T');
        words.filter(|word| !is_time(word)).collect::<Vec<_>>().join(" ")
    };
    text.lines().map(without).collect()
}

#[tokio::test]
async fn a_check_says_the_result_and_the_state() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    let (status, stdout, stderr) = check(&redis, &file).await;
    assert_eq!((status, &*stderr), (0, ""));
    assert_eq!(without_times(&stdout), ["crm passed the check", "verified:", "paused: no"]);

    receiver.answer_checks(CheckReply::Other(Reply::Status(500)));
    for _ in 0..2 {
        let (status, stdout, stderr) = check(&redis, &file).await;
        assert_eq!((status, &*stderr), (1, "markread: crm could not be checked: answered 500\n"));
        let lines = without_times(&stdout);
        assert_eq!(lines, ["verified:", "paused: no"], "how long it may fail is the relay's");
    }

    receiver.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let (status, stdout, stderr) = check(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(stderr.starts_with("markread: crm was refused, and is paused: "), "{stderr}");
    assert!(without_times(&stdout)[1].starts_with("paused since: "), "{stdout}");
    receiver.answer_checks(CheckReply::Other(Reply::Status(503)));
    let (status, stdout, _) = check(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(without_times(&stdout)[1].starts_with("paused since: "), "it stays so: {stdout}");

    receiver.answer_checks(CheckReply::Right);
    let (status, stdout, _) = check(&redis, &file).await;
    assert_eq!(status, 0);
    let expected = ["crm passed the check: it is no longer paused", "verified:", "paused: no"];
    assert_eq!(without_times(&stdout), expected);
}

#[tokio::test]
async fn what_redis_has_stays_in_its_line() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    check(&redis, &file).await;
    let key = "markread:relay:state:crm";
    let mut set = redis::cmd("HSET");
    set.arg(key).arg("paused_at_ms").arg(5).arg("pause_reason").arg("a\nb\u{1b}[2J");
    set.arg("pause_is_passing").arg(0).arg("pause_settings").arg("x");
    set.query_async::<()>(&mut redis.connection().await).await.unwrap();
    receiver.answer_checks(CheckReply::Other(Reply::Status(500)));
    let (_, stdout, _) = check(&redis, &file).await;
    let line = stdout.lines().last().unwrap();
    assert_eq!(line, "paused since: 1970-01-01T00:00:00Z, with other settings: a\\nb\\u{1b}[2J");
}

/// What the flags of the command or its machine decide says nothing of the relays.
#[tokio::test]
async fn a_refusal_of_the_own_machine_is_not_written() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let ca = Authority::new().await;
    let certificate = ca.issue("server", "DNS:localhost,IP:127.0.0.1").await;
    let over_tls = Receiver::over_tls(&certificate, None).await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    assert_eq!(check(&redis, &file).await.0, 0);
    let before: BTreeMap<String, String> = redis.run("HGETALL markread:relay:state:crm").await;
    file.write_of(&[("crm", &over_tls, "")]);
    let (status, _, stderr) = check(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(
        stderr.contains("crm was refused: ") && stderr.contains("not written down"),
        "{stderr}"
    );
    let after: BTreeMap<String, String> = redis.run("HGETALL markread:relay:state:crm").await;
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_check_with_another_file_leaves_the_pause_of_the_relays() {
    let redis = Redis::start().await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    receiver.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let (file, other_file) =
        (WebhookFile::of(&[("crm", &receiver, "")]), WebhookFile::of(&[("crm", &other, "")]));
    assert_eq!(check(&redis, &file).await.0, 1);
    let (status, stdout, _) = check(&redis, &other_file).await;
    assert_eq!(status, 0);
    let lines = without_times(&stdout);
    assert_eq!(lines[0], "crm passed the check");
    assert!(
        lines[2].starts_with("paused since: ") && lines[2].contains("other settings"),
        "{stdout}"
    );
    // Nor does a refusal with it replace that pause.
    other.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let (status, _, stderr) = check(&redis, &other_file).await;
    assert_eq!(status, 1);
    assert!(stderr.starts_with("markread: crm was refused: "), "{stderr}");
    receiver.answer_checks(CheckReply::Right);
    let (status, stdout, _) = check(&redis, &file).await;
    assert_eq!(status, 0);
    assert!(stdout.starts_with("crm passed the check: it is no longer paused\n"), "{stdout}");
}

#[tokio::test]
async fn a_pause_that_is_written_during_a_check_stays() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    assert_eq!(check(&redis, &file).await.0, 0);
    let key = "markread:relay:state:crm";
    let settings: String = redis.run(&format!("HGET {key} verified_settings")).await;
    receiver.answer_checks(CheckReply::Late(Duration::from_secs(1)));
    let write = async {
        receiver.wait_for_checks(2, Duration::from_secs(10)).await;
        let mut set = redis::cmd("HSET");
        set.arg(key).arg("paused_at_ms").arg(5).arg("pause_reason").arg("410");
        set.arg("pause_is_passing").arg(0).arg("pause_settings").arg(&settings);
        set.query_async::<()>(&mut redis.connection().await).await.unwrap();
    };
    let ((status, stdout, _), ()) = tokio::join!(check(&redis, &file), write);
    assert_eq!(status, 0);
    let lines = without_times(&stdout);
    assert_eq!(
        (&*lines[0], &*lines[2]),
        ("crm passed the check", "paused since: 1970-01-01T00:00:00Z: 410")
    );
}
