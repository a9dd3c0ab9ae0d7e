//! `markread webhook redeliver`, beside what `relay::redeliver` has of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use markread_harness::events::payload;
use markread_harness::receiver::{CheckReply, Reply};
use markread_harness::relay::TO_LOOPBACK;
use markread_harness::{Receiver, Redis, WebhookFile};

use super::webhook;

const LETTERS: &str = "markread:dead_letters:crm";

/// Adds a dead letter of a delivery.
async fn add(redis: &Redis, id: &str, payload: &str) {
    let (_, user) = id.rsplit_once('-').unwrap();
    let mut add = redis::cmd("XADD");
    add.arg(LETTERS).arg("*").arg("webhook_id").arg(id).arg("for_user_id").arg(user);
    add.arg("partition").arg(0).arg("entry_id").arg("5-0").arg("payload").arg(payload);
    add.arg("reason").arg("max_attempts").arg("attempts").arg(20);
    add.query_async::<()>(&mut redis.connection().await).await.unwrap();
}

/// Adds a letter for each of these users and messages, all of one reader.
async fn add_all(redis: &Redis, letters: &[(u64, u64)]) {
    for (n, (user, message)) in letters.iter().enumerate() {
        add(redis, &format!("0-{}-0-{user}", n + 1), &payload(9, *user, *message)).await;
    }
}

async fn redeliver(redis: &Redis, file: &WebhookFile) -> (i32, String, String) {
    redeliver_with(redis, file, &[]).await
}

async fn redeliver_with(
    redis: &Redis,
    file: &WebhookFile,
    flags: &[&str],
) -> (i32, String, String) {
    let path = file.path();
    let args = ["redeliver", "crm", "--webhooks", path.to_str().unwrap()];
    webhook(redis, &[&args[..], &TO_LOOPBACK, flags].concat()).await
}

/// Lets the first attempt get this answer, and those after it 200.
fn answer_first(receiver: &Receiver, reply: Reply) {
    let is_first = AtomicBool::new(true);
    receiver.answer_by(move |_| {
        if is_first.swap(false, Ordering::Relaxed) { reply.clone() } else { Reply::Status(200) }
    });
}

async fn left(redis: &Redis) -> u64 {
    redis.run(&format!("XLEN {LETTERS}")).await
}

#[tokio::test]
async fn what_has_no_event_is_skipped_and_counted() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1)]).await;
    add(&redis, "0-7-0-1", "not an event").await;
    let entry = "partition 0 entry_id 8-0 reason no_payload attempts 0";
    redis.run::<()>(&format!("XADD {LETTERS} * {entry}")).await;
    redis.run::<()>(&format!("XADD {LETTERS} * anything else")).await;
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (0, "1 dead letter delivered, 3 without an event skipped\n"));
    assert_eq!(stderr, "crm passed the check\n");
    assert_eq!(left(&redis).await, 3);
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (0, "0 dead letters delivered, 3 without an event skipped\n"));
    assert_eq!(stderr, "", "it was checked");
    // Payloads that are left must be events.
    redis.run::<()>(&format!("DEL {LETTERS}")).await;
}

#[tokio::test]
async fn it_stops_at_ten_failures_in_a_row() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(500));
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    let letters: Vec<_> = (1..=40).map(|user| (user, 1)).collect();
    add_all(&redis, &letters).await;
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (1, ""));
    let last = stderr.lines().last().unwrap();
    let expected = "markread: 10 dead letters in a row failed, the last one with: answered 500: \
                    0 dead letters delivered, ";
    assert!(last.starts_with(expected), "{last}");
    // Those in flight are waited for.
    let attempts = receiver.attempts();
    assert!(
        (10..=25).contains(&attempts) && last.ends_with(&format!(", {attempts} failed")),
        "{last}"
    );
    assert_eq!(left(&redis).await, 40);
}

#[tokio::test]
async fn a_conversation_is_not_overtaken() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1), (2, 1), (1, 2), (2, 2)]).await;
    let is_first = AtomicBool::new(true);
    receiver.answer_by(move |arrival| {
        let fails = arrival.lane.for_user == 1 && is_first.swap(false, Ordering::Relaxed);
        Reply::Status(if fails { 500 } else { 200 })
    });
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (1, ""));
    let expected = "markread: 2 dead letters delivered, 1 failed, 1 not sent, behind one of their \
                    conversation that failed";
    assert_eq!(stderr.lines().last().unwrap(), expected);
    assert_eq!(left(&redis).await, 2);
    let (status, stdout, _) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (0, "2 dead letters delivered\n"));
    let accepted = receiver.accepted();
    let order: Vec<_> =
        accepted.iter().map(|arrival| (arrival.lane.for_user, arrival.message)).collect();
    assert_eq!(order, [(2, 1), (2, 2), (1, 1), (1, 2)]);
}

#[tokio::test]
async fn gone_ends_it() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer(Reply::Status(410));
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &(1..=40).map(|user| (user, 1)).collect::<Vec<_>>()).await;
    let (status, _, stderr) = redeliver(&redis, &file).await;
    assert_eq!(status, 1);
    let last = stderr.lines().last().unwrap();
    let attempts = receiver.attempts();
    assert!(last.contains("410") && last.ends_with(&format!(", {attempts} failed")), "{last}");
    assert!((1..=16).contains(&attempts), "{attempts}");
    assert_eq!(left(&redis).await, 40);
}

#[tokio::test]
async fn a_receiver_that_asks_for_less_is_waited_for() {
    for (answer, seconds, least) in [(429, "1", 1), (500, "1", 1), (503, "2", 2), (429, "0", 1)] {
        let redis = Redis::start().await;
        let receiver = Receiver::start().await;
        let file = WebhookFile::of(&[("crm", &receiver, "")]);
        add_all(&redis, &[(1, 1), (1, 2)]).await;
        let retry_after = vec![format!("retry-after: {seconds}")];
        answer_first(&receiver, Reply::With(answer, retry_after, Vec::new()));
        let (status, stdout, stderr) = redeliver(&redis, &file).await;
        assert_eq!((status, &*stdout), (0, "2 dead letters delivered\n"), "{stderr}");
        let at: Vec<_> = receiver.arrivals().iter().map(|arrival| arrival.at).collect();
        assert_eq!(at.len(), 3);
        assert!(at[1] - at[0] >= Duration::from_millis(least * 1000 - 50), "{answer} {seconds}");
    }
}

#[tokio::test]
async fn a_receiver_that_asks_to_wait_for_long_ends_it() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1), (1, 2), (1, 3)]).await;
    let retry_after = vec!["retry-after: 120".to_owned()];
    receiver.answer(Reply::With(503, retry_after, Vec::new()));
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (1, ""));
    let last = stderr.lines().last().unwrap();
    assert!(last.starts_with("markread: the receiver asks to wait until 20"), "{last}");
    assert!(last.contains("Z: 0 dead letters delivered, 1 failed, 2 not sent"), "{last}");
    assert_eq!((receiver.attempts(), left(&redis).await), (1, 3));
}

#[tokio::test]
async fn a_paused_webhook_without_letters_stays_paused() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    receiver.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1)]).await;
    assert_eq!(redeliver(&redis, &file).await.0, 1);
    receiver.answer_checks(CheckReply::Right);
    let (status, stdout, stderr) = redeliver_with(&redis, &file, &["--user", "2"]).await;
    assert_eq!((status, &*stdout, &*stderr), (0, "0 dead letters delivered\n", ""));
    assert_eq!(receiver.checks().len(), 1);
    let paused: u64 = redis.run("HEXISTS markread:relay:state:crm paused_at_ms").await;
    assert_eq!(paused, 1);
}

#[tokio::test]
async fn an_id_that_is_not_there_is_said() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1)]).await;
    let (status, _, stderr) = redeliver_with(&redis, &file, &["--id", "0-9-9-1"]).await;
    let expected = "markread: no dead letter of crm has the ID 0-9-9-1: 0 dead letters delivered\n";
    assert_eq!((status, &*stderr), (1, expected));
    let (status, stdout, _) = redeliver_with(&redis, &file, &["--id", "0-1-0-1"]).await;
    assert_eq!((status, &*stdout), (0, "1 dead letter delivered\n"));
}

#[tokio::test]
async fn conversations_go_at_the_same_time_and_of_two_commands_one_works() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    let letters: Vec<_> =
        (1..=3).flat_map(|message| (1..=16).map(move |user| (user, message))).collect();
    add_all(&redis, &letters).await;
    let late = Reply::After(Duration::from_millis(500), Box::new(Reply::Status(200)));
    receiver.answer_by(move |_| late.clone());
    let second = async {
        receiver.wait_for_attempts(1, Duration::from_secs(10)).await;
        redeliver(&redis, &file).await
    };
    let began = Instant::now();
    let ((status, stdout, stderr), second) = tokio::join!(redeliver(&redis, &file), second);
    assert_eq!((status, &*stdout), (0, "48 dead letters delivered\n"), "{stderr}");
    // One after the other would take 24 s.
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    assert_eq!(second.0, 1);
    assert!(second.2.contains("another redelivery of crm is running"), "{}", second.2);
    assert_eq!((receiver.attempts(), receiver.overlaps()), (48, 0));
    assert_eq!(receiver.assert_in_order(), 0);
    // The right is given back at the end.
    let (status, stdout, _) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (0, "0 dead letters delivered\n"));
}

#[tokio::test]
async fn a_paused_webhook_must_pass_a_check_first() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let file = WebhookFile::of(&[("crm", &receiver, "")]);
    add_all(&redis, &[(1, 1)]).await;
    receiver.answer_checks(CheckReply::By(b"another consumer secret".to_vec()));
    let (status, _, stderr) = redeliver(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(stderr.contains("crm was not checked with these settings, and must pass"), "{stderr}");
    let (status, _, stderr) = redeliver(&redis, &file).await;
    assert_eq!(status, 1);
    assert!(stderr.contains("crm is paused ("), "{stderr}");
    assert_eq!((receiver.attempts(), left(&redis).await), (0, 1));
    receiver.answer_checks(CheckReply::Right);
    let (status, stdout, stderr) = redeliver(&redis, &file).await;
    assert_eq!((status, &*stdout), (0, "1 dead letter delivered\n"));
    assert_eq!(stderr, "crm passed the check: it is no longer paused\n");
}
