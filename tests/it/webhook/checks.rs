//! `markread webhook check`.

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
        assert_eq!(lines, ["verified:", "failing since: answered 500", "paused: no"]);
    }

    receiver.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let (status, stdout, stderr) = check(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(stderr.starts_with("markread: crm was refused, and is paused: "), "{stderr}");
    assert!(without_times(&stdout)[2].starts_with("paused since: "), "{stdout}");
    receiver.answer_checks(CheckReply::Other(Reply::Status(503)));
    let (status, stdout, _) = check(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(without_times(&stdout)[2].starts_with("paused since: "), "it stays so: {stdout}");

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
    assert_eq!(line, "paused since: 1970-01-01T00:00:00Z: a\\nb\\u{1b}[2J");
}
