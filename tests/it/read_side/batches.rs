//! `BatchMarkRead` over the wire: many calls of `MarkRead` in one step.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread::proto::batch_mark_read_result::Result as ItemResult;
use markread::proto::{BatchMarkReadError, BatchMarkReadResponse};
use markread_harness::caller::number;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tokio::task::JoinSet;
use tonic::{Code, Response};

use super::{MANY, quota};
use crate::answers::{assert_denied, assert_no_secret, bad_fields};

mod failures;

/// Recipient, message and whether the cursor advanced, or code and reason of a failure.
type Item<'a> = Result<(u64, u64, bool), (Code, &'a str)>;

const INVALID: Item<'_> = Err((Code::InvalidArgument, "INVALID_PARAMETER"));
const LIMITED: Item<'_> = Err((Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED"));
const INTERNAL: Item<'_> = Err((Code::Internal, "INTERNAL"));

fn item(result: &ItemResult) -> Item<'_> {
    match result {
        ItemResult::Response(marked) => {
            let cursor = marked.cursor.as_ref().expect("every answer has a cursor");
            assert!(cursor.read_at.is_some());
            Ok((cursor.recipient_id, cursor.last_read_event_id, marked.advanced))
        }
        ItemResult::Error(error) => Err((Code::from(error.code), &error.reason)),
    }
}

fn results(answer: &Response<BatchMarkReadResponse>) -> impl Iterator<Item = &ItemResult> {
    answer
        .get_ref()
        .results
        .iter()
        .map(|result| result.result.as_ref().expect("a mark or an error"))
}

fn items(answer: &Response<BatchMarkReadResponse>) -> Vec<Item<'_>> {
    results(answer).map(item).collect()
}

/// The failed items, after checks that hold for each of them.
fn errors(answer: &Response<BatchMarkReadResponse>) -> Vec<&BatchMarkReadError> {
    let errors = results(answer).filter_map(|result| match result {
        ItemResult::Response(_) => None,
        ItemResult::Error(error) => Some(error),
    });
    let errors: Vec<_> = errors.collect();
    for error in &errors {
        assert!(!error.message.is_empty(), "{error:?}");
        assert_no_secret(&format!("{error:?}"));
    }
    errors
}

/// Marks of this message with each of these recipients.
fn marks(recipients: impl Iterator<Item = u64>, message: u64) -> Vec<(u64, u64)> {
    recipients.map(|recipient| (recipient, message)).collect()
}

fn advanced(marks: &[(u64, u64)]) -> Vec<Item<'static>> {
    marks.iter().map(|&(recipient, message)| Ok((recipient, message, true))).collect()
}

/// The reader's events of these marks, if each advances.
fn events(marks: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
    marks.iter().map(|&(recipient, message)| (READER, recipient, message)).collect()
}

#[tokio::test]
async fn five_hundred_marks_are_done_in_order_by_one_evalsha() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    // All messages differ, and no sort would give this order.
    let marks: Vec<_> = (0..500).map(|n| (1 + n * 7 % 500, MESSAGE + n)).collect();
    redis.run::<()>("CONFIG RESETSTAT").await;
    let answer = caller.mark_batch(&marks).await.unwrap();
    assert_eq!(redis.calls("evalsha").await, 1);

    assert_eq!(items(&answer), advanced(&marks));
    assert_eq!(quota(answer.metadata()), (1000, 500), "after the whole batch");
    assert_eq!(redis.used(READER).await, Some(500));
    assert_eq!(redis.cursors(READER).await, marks.iter().copied().collect());
    assert_eq!(redis.events().await, events(&marks));

    // The time of each advance is that of its event, to the millisecond.
    let payloads = redis.payloads().await;
    for (result, payload) in results(&answer).zip(payloads) {
        let ItemResult::Response(marked) = result else { panic!("{result:?}") };
        let read_at = marked.cursor.as_ref().unwrap().read_at.unwrap();
        let read_at_ms = read_at.seconds * 1000 + i64::from(read_at.nanos) / 1_000_000;
        assert!(payload.contains(&format!(r#""created_timestamp":"{read_at_ms}""#)), "{payload}");
    }
}

#[tokio::test]
async fn items_beyond_the_quota_are_denied_one_by_one() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark_batch(&marks(1001..=1500, 1)).await.unwrap();
    let answer = caller.mark_batch(&marks(1001..=1020, 2)).await.unwrap();
    assert_eq!(quota(answer.metadata()), (1000, 480));
    let reset = number(answer.metadata(), "x-rate-limit-reset");

    let all = marks(1..=500, MESSAGE);
    let answer = caller.mark_batch(&all).await.unwrap();
    let (within, beyond) = all.split_at(480);
    let expected = [advanced(within), vec![LIMITED; beyond.len()]].concat();
    assert_eq!(items(&answer), expected);
    let errors = errors(&answer);
    assert_eq!(errors.len(), 20);
    for error in errors {
        assert_eq!(error.code, 8);
        let delay = error.retry_delay.expect("until the reset");
        let delay = Duration::try_from(delay).unwrap();
        let until_reset = Duration::from_secs(u64::try_from(reset).unwrap())
            .saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
        assert!(delay.abs_diff(until_reset) < Duration::from_secs(5), "{delay:?}");
    }
    assert_eq!(quota(answer.metadata()), (1000, 0));
    assert_eq!(number(answer.metadata(), "x-rate-limit-reset"), reset);
    assert_eq!(redis.used(READER).await, Some(1000), "exactly what was left");
    let cursors = redis.cursors(READER).await;
    assert!(within.iter().all(|(recipient, message)| cursors[recipient] == *message));
    assert!(beyond.iter().all(|(recipient, _)| !cursors.contains_key(recipient)));
    let published = redis.events().await;
    assert_eq!(published.len(), 1000);
    assert_eq!(published[520..], events(within));
}

#[tokio::test]
async fn a_batch_with_every_item_denied_is_ok_and_changes_nothing() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "2"]).await;
    let caller = server.caller(READER);
    caller.mark_batch(&marks(1..=2, 1)).await.unwrap();
    let before = redis.contents().await;
    // The first denial is by Redis, the second from memory.
    for _ in 0..3 {
        let answer = caller.mark_batch(&marks(1..=3, 2)).await.unwrap();
        assert_eq!(items(&answer), [LIMITED; 3]);
        assert!(errors(&answer).iter().all(|error| error.retry_delay.is_some()));
        assert_eq!(quota(answer.metadata()), (2, 0));
        assert_eq!(redis.contents().await, before);
    }
    let other = server.caller(READER + 1).mark_batch(&marks(1..=2, 1)).await.unwrap();
    assert_eq!(items(&other), advanced(&marks(1..=2, 1)), "each reader has its own quota");
}

#[tokio::test]
async fn repeated_conversations_are_marked_as_by_several_calls() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let marks = [
        (RECIPIENT, MESSAGE),
        (RECIPIENT, MESSAGE - 1),
        (READER, 1),
        (RECIPIENT, MESSAGE),
        (RECIPIENT, MESSAGE + 1),
        (RECIPIENT, MESSAGE + 2),
    ];
    let answer = caller.mark_batch(&marks).await.unwrap();
    assert_eq!(
        items(&answer),
        [
            Ok((RECIPIENT, MESSAGE, true)),
            Ok((RECIPIENT, MESSAGE, false)),
            Ok((READER, 1, true)),
            Ok((RECIPIENT, MESSAGE, false)),
            Ok((RECIPIENT, MESSAGE + 1, true)),
            Ok((RECIPIENT, MESSAGE + 2, true)),
        ]
    );
    assert_eq!(quota(answer.metadata()), (1000, 994), "no-ops count");
    assert_eq!(redis.used(READER).await, Some(6));
    assert_eq!(redis.events().await, events(&[marks[0], marks[2], marks[4], marks[5]]));
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE + 2), (READER, 1)].into());

    let again = caller.mark_batch(&marks[..2]).await.unwrap();
    assert_eq!(items(&again), [Ok((RECIPIENT, MESSAGE + 2, false)); 2]);
    assert_eq!(redis.payloads().await.len(), 4);
}

#[tokio::test]
async fn a_batch_does_and_publishes_what_single_calls_would() {
    let (together, apart) = (Redis::start().await, Redis::start().await);
    let flags = ["--rate-limit", "40"];
    let (batching, calling) =
        (Server::on_with(&together, &flags).await, Server::on_with(&apart, &flags).await);
    // Repeats, no-ops and zeros, and more than the quota.
    let marks: Vec<_> = (1..=60).map(|n| (n * n % 7, n * 7919 % 31)).collect();
    let answer = batching.caller(READER).mark_batch(&marks).await.unwrap();
    let results = items(&answer);
    let caller = calling.caller(READER);
    for (&(recipient, message), in_batch) in marks.iter().zip(&results) {
        let alone = caller.mark(recipient, message).await;
        let alone = alone.as_ref().map_or_else(
            |denied| Err((denied.code, denied.reason.as_str())),
            |answer| {
                Ok((answer.cursor.recipient_id, answer.cursor.last_read_event_id, answer.advanced))
            },
        );
        assert_eq!(*in_batch, alone, "{message} of {recipient}");
    }
    for outcome in [INVALID, LIMITED] {
        assert!(results.contains(&outcome), "{results:?}");
    }
    assert_eq!(together.events().await, apart.events().await);
    assert_eq!(together.cursors(READER).await, apart.cursors(READER).await);
    assert_eq!((together.used(READER).await, apart.used(READER).await), (Some(40), Some(40)));
}

#[tokio::test]
async fn a_dev_server_marks_batches_too() {
    let server = Server::dev(&["--rate-limit", "5"]).await;
    let caller = server.caller(READER);
    let marks = [(1, 5), (1, 4), (0, 1), (2, MESSAGE), (1, 6), (3, 1), (4, 1), (5, 1)];
    let answer = caller.mark_batch(&marks).await.unwrap();
    let started = [Ok((1, 5, true)), Ok((1, 5, false)), INVALID, Ok((2, MESSAGE, true))];
    assert_eq!(items(&answer)[..4], started);
    assert_eq!(items(&answer)[4..], [Ok((1, 6, true)), Ok((3, 1, true)), LIMITED, LIMITED]);
    assert_eq!(quota(answer.metadata()), (5, 0));
    for many in [0, 501] {
        let denied = caller.mark_batch(&vec![(1, 1); many]).await.unwrap_err();
        assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
        assert_eq!(bad_fields(&denied), ["requests"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_batches_advance_each_conversation_once() {
    let redis = Redis::start().await;
    let servers = [Server::on_with(&redis, &MANY).await, Server::on_with(&redis, &MANY).await];
    let mut tasks = JoinSet::new();
    for task in 0..8 {
        let caller = servers[task % 2].caller(READER);
        tasks.spawn(async move {
            let mut advances = 0;
            for message in 1..=10 {
                let answer = caller.mark_batch(&marks(1..=100, message)).await.unwrap();
                for item in items(&answer) {
                    let (_, cursor, moved) = item.unwrap();
                    assert!(cursor >= message && (!moved || cursor == message));
                    advances += u64::from(moved);
                }
            }
            advances
        });
    }
    let advances: u64 = tasks.join_all().await.into_iter().sum();
    assert_eq!(advances, redis.run::<u64>("XLEN direct_message_mark_read_events").await);
    let mut published = redis.events().await;
    published.sort_unstable();
    published.dedup();
    assert_eq!(published.len(), usize::try_from(advances).unwrap(), "each event once");
    assert_eq!(redis.cursors(READER).await, marks(1..=100, 10).into_iter().collect());
    assert_eq!(redis.used(READER).await, Some(8000));
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_at_several_servers_take_exactly_the_quota() {
    let redis = Redis::start().await;
    let servers = [Server::on(&redis).await, Server::on(&redis).await];
    let mut tasks = JoinSet::new();
    for (task, server) in (0..12).zip(servers.iter().cycle()) {
        let caller = server.caller(READER);
        // 1116 in all, so the quota ends within a batch.
        tasks.spawn(async move {
            let first = 1 + task * 93;
            let answer = caller.mark_batch(&marks(first..first + 93, MESSAGE)).await.unwrap();
            let done: Vec<_> = items(&answer).iter().map(Result::is_ok).collect();
            assert!(done.is_sorted_by(|a, b| a >= b), "the denied items are the last: {done:?}");
            assert!(items(&answer).iter().all(|item| item.is_ok() || *item == LIMITED));
            done.iter().filter(|done| **done).count()
        });
    }
    let done: usize = tasks.join_all().await.into_iter().sum();
    assert_eq!((done, redis.used(READER).await), (1000, Some(1000)));
    assert_eq!(redis.cursors(READER).await.len(), 1000);
    assert_eq!(redis.payloads().await.len(), 1000);
}

#[tokio::test]
async fn user_objects_past_1_mib_of_a_batch_appear_by_their_id() {
    const OBJECT_BYTES: usize = 15_000;
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let object = |user: u64| {
        let head = format!(r#"{{"id":"{user}","name":""#);
        format!("{head}{}\"}}", "x".repeat(OBJECT_BYTES - head.len() - 2))
    };
    for user in 1..=100 {
        redis.put_user(user, object(user).as_bytes()).await;
    }
    let all = marks(1..=100, MESSAGE);
    let answer = server.caller(READER).mark_batch(&all).await.unwrap();
    assert_eq!(items(&answer), advanced(&all));
    assert_eq!(redis.events().await, events(&all));
    let mut whole = 0;
    for (payload, user) in redis.payloads().await.iter().zip(1..) {
        if payload.contains(&format!(r#""{user}":{}"#, object(user))) {
            whole += 1;
        } else {
            let by_id = format!(r#""{user}":{{"id":"{user}"}}"#);
            assert!(payload.contains(&by_id), "{}", &payload[..payload.len().min(500)]);
        }
    }
    let fit = 1024 * 1024 / OBJECT_BYTES;
    assert!((fit - 1..=fit).contains(&whole), "{whole}");
}
