//! `BatchMarkRead` over the wire: so many calls of `MarkRead`, in one step.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread::proto::batch_mark_read_result::Result as Became;
use markread::proto::{BatchMarkReadError, BatchMarkReadResponse};
use tokio::task::JoinSet;
use tonic::{Code, Response};

use super::{MANY, MAX_ID, assert_no_quota, quota};
use crate::answers::outcomes::counted;
use crate::answers::{
    assert_denied, assert_no_secret, assert_store_unavailable, assert_untouched, bad_fields,
};
use crate::harness::caller::number;
use crate::harness::{MESSAGE, OUTCOMES, READER, RECIPIENT, Redis, Server, eventually};

/// Recipient, message and whether the cursor advanced; or why not.
type Item<'a> = Result<(u64, u64, bool), (Code, &'a str)>;

const INVALID: Item<'_> = Err((Code::InvalidArgument, "INVALID_PARAMETER"));
const LIMITED: Item<'_> = Err((Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED"));
const INTERNAL: Item<'_> = Err((Code::Internal, "INTERNAL"));

/// In this time, and less, a Redis that is back is used again.
const RECOVERY: Duration = Duration::from_secs(15);

fn item(became: &Became) -> Item<'_> {
    match became {
        Became::Response(marked) => {
            let cursor = marked.cursor.as_ref().expect("a cursor in every answer");
            assert!(cursor.read_at.is_some());
            Ok((cursor.recipient_id, cursor.last_read_event_id, marked.advanced))
        }
        Became::Error(error) => Err((Code::from(error.code), &error.reason)),
    }
}

fn became(answer: &Response<BatchMarkReadResponse>) -> impl Iterator<Item = &Became> {
    answer.get_ref().results.iter().map(|result| result.result.as_ref().expect("one of the two"))
}

fn items(answer: &Response<BatchMarkReadResponse>) -> Vec<Item<'_>> {
    became(answer).map(item).collect()
}

/// The items that were not done, with what holds of each.
fn errors(answer: &Response<BatchMarkReadResponse>) -> Vec<&BatchMarkReadError> {
    let errors = became(answer).filter_map(|became| match became {
        Became::Response(_) => None,
        Became::Error(error) => Some(error),
    });
    let errors: Vec<_> = errors.collect();
    for error in &errors {
        assert!(!error.message.is_empty(), "{error:?}");
        assert_no_secret(&format!("{error:?}"));
    }
    errors
}

/// Marks of this message in so many conversations.
fn marks(recipients: impl Iterator<Item = u64>, message: u64) -> Vec<(u64, u64)> {
    recipients.map(|recipient| (recipient, message)).collect()
}

fn advanced(marks: &[(u64, u64)]) -> Vec<Item<'static>> {
    marks.iter().map(|&(recipient, message)| Ok((recipient, message, true))).collect()
}

/// Events that a reader's marks leave, where each advances.
fn events(marks: &[(u64, u64)]) -> Vec<(u64, u64, u64)> {
    marks.iter().map(|&(recipient, message)| (READER, recipient, message)).collect()
}

#[tokio::test]
async fn five_hundred_conversations_are_marked_in_order_by_one_evalsha() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    // No two messages are the same, and the order is none that a sort would give.
    let marks: Vec<_> = (0..500).map(|n| (1 + n * 7 % 500, MESSAGE + n)).collect();
    redis.run::<()>("CONFIG RESETSTAT").await;
    let answer = caller.mark_batch(&marks).await.unwrap();
    assert_eq!(redis.calls("evalsha").await, 1);
    assert_eq!((redis.calls("eval").await, redis.calls("fcall").await), (0, 0));

    assert_eq!(items(&answer), advanced(&marks));
    assert_eq!(quota(answer.metadata()), (1000, 500), "after the whole batch");
    assert_eq!(redis.used(READER).await, Some(500));
    assert_eq!(redis.cursors(READER).await, marks.iter().copied().collect());
    assert_eq!(redis.events().await, events(&marks));

    // Of the batch's advances, each is the event's to the millisecond.
    let payloads = redis.payloads().await;
    for (became, payload) in became(&answer).zip(payloads) {
        let Became::Response(marked) = became else { panic!("{became:?}") };
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
async fn a_batch_of_which_every_item_is_denied_is_ok_and_changes_nothing() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "2"]).await;
    let caller = server.caller(READER);
    caller.mark_batch(&marks(1..=2, 1)).await.unwrap();
    let before = redis.contents().await;
    // By Redis, and from memory.
    for _ in 0..3 {
        let answer = caller.mark_batch(&marks(1..=3, 2)).await.unwrap();
        assert_eq!(items(&answer), [LIMITED; 3]);
        assert!(errors(&answer).iter().all(|error| error.retry_delay.is_some()));
        assert_eq!(quota(answer.metadata()), (2, 0));
        assert_eq!(redis.contents().await, before);
    }
    let other = server.caller(READER + 1).mark_batch(&marks(1..=2, 1)).await.unwrap();
    assert_eq!(items(&other), advanced(&marks(1..=2, 1)), "a quota is one reader's");
}

#[tokio::test]
async fn a_conversation_in_several_items_is_marked_as_by_several_calls() {
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
async fn a_batch_does_and_publishes_what_so_many_calls_would() {
    let (together, apart) = (Redis::start().await, Redis::start().await);
    let flags = ["--rate-limit", "40"];
    let (batching, calling) =
        (Server::on_with(&together, &flags).await, Server::on_with(&apart, &flags).await);
    // Repeats, no-ops, zeros and more than the quota, mixed.
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
async fn invalid_items_fail_alone_and_cost_nothing() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "3"]).await;
    let table: [(u64, u64, &[&str]); 6] = [
        (0, MESSAGE, &["recipient_id"]),
        (RECIPIENT, 0, &["last_read_event_id"]),
        (MAX_ID + 1, MESSAGE, &["recipient_id"]),
        (RECIPIENT, MAX_ID + 1, &["last_read_event_id"]),
        (u64::MAX, u64::MAX, &["last_read_event_id", "recipient_id"]),
        (0, 0, &["last_read_event_id", "recipient_id"]),
    ];
    // One that is valid behind each that is not; the quota is three's.
    let marks: Vec<_> = table
        .iter()
        .zip(1..)
        .flat_map(|(&(recipient, message, _), n)| [(recipient, message), (n, MAX_ID)])
        .collect();
    let answer = server.caller(READER).mark_batch(&marks).await.unwrap();
    let done = |n| Ok((n, MAX_ID, true));
    assert_eq!(
        items(&answer),
        [
            [INVALID, done(1), INVALID, done(2), INVALID, done(3)],
            [INVALID, LIMITED, INVALID, LIMITED, INVALID, LIMITED]
        ]
        .concat()
    );
    let errors = errors(&answer);
    let invalid: Vec<_> = errors.iter().filter(|error| error.code == 3).collect();
    for (error, (.., fields)) in invalid.iter().zip(table) {
        for field in ["last_read_event_id", "recipient_id"] {
            assert_eq!(error.message.contains(field), fields.contains(&field), "{error:?}");
        }
        assert_eq!(error.retry_delay, None, "a retry does not mend it");
    }
    assert_eq!(invalid.len(), table.len());
    assert_eq!(quota(answer.metadata()), (3, 0));
    assert_eq!(redis.used(READER).await, Some(3));
}

#[tokio::test]
async fn a_batch_of_invalid_items_does_not_reach_the_quota() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    redis.run::<()>("CONFIG RESETSTAT").await;
    let marks = [(0, 0), (RECIPIENT, 0), (MAX_ID + 1, MESSAGE)];
    let answer = server.caller(READER).mark_batch(&marks).await.unwrap();
    assert_eq!(items(&answer), [INVALID; 3]);
    errors(&answer);
    assert_no_quota(answer.metadata());
    assert_eq!(redis.calls("evalsha").await, 0);
    assert_untouched(&redis, READER).await;
}

#[tokio::test]
async fn no_item_and_501_items_are_invalid_as_a_whole() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    for many in [0, 501, 1000] {
        let denied = caller.mark_batch(&marks(1..=many, 1)).await.unwrap_err();
        assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
        assert_eq!(bad_fields(&denied), ["requests"], "{many}");
        assert_no_quota(&denied.metadata);
    }
    assert_untouched(&redis, READER).await;
    let answer = caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.unwrap();
    assert_eq!(items(&answer), [Ok((RECIPIENT, MESSAGE, true))]);
}

#[tokio::test]
async fn a_corrupt_cursor_fails_its_conversations_items_alone() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (reader, corrupt) in (1..).zip(["2 text -2 1", "2 0 -2 1", "2 007 -2 1"]) {
        redis.run::<()>(&format!("HSET markread:cursors:{reader} {corrupt}")).await;
        let marks = [(1, MESSAGE), (2, MESSAGE), (3, MESSAGE), (2, MESSAGE + 1)];
        let answer = server.caller(reader).mark_batch(&marks).await.unwrap();
        let done = |recipient| Ok((recipient, MESSAGE, true));
        assert_eq!(items(&answer), [done(1), INTERNAL, done(3), INTERNAL], "{corrupt}");
        for error in errors(&answer) {
            assert_eq!((error.code, error.retry_delay), (13, None), "a retry does not mend it");
        }
        assert_eq!(quota(answer.metadata()), (1000, 998), "what failed cost nothing");
        assert_eq!(redis.used(reader).await, Some(2));
        let published = redis.events().await;
        assert_eq!(published[published.len() - 2..], [(reader, 1, MESSAGE), (reader, 3, MESSAGE)]);
        assert_eq!(published.len(), usize::try_from(2 * reader).unwrap());
    }
}

#[tokio::test]
async fn each_item_is_counted_under_its_outcome() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "4"]).await;
    let (caller, spoilt) = (server.caller(READER), server.caller(READER + 1));
    redis.run::<()>(&format!("SET markread:cursors:{} text", READER + 1)).await;
    let marks = [(0, 0), (1, 5), (1, 5), (2, 5), (1, 4), (3, 5), (0, 5), (4, 5), (5, 5)];
    caller.mark_batch(&marks).await.unwrap();
    let failed = spoilt.mark_batch(&[(1, 1), (2, 1)]).await.unwrap();
    assert_eq!(items(&failed), [INTERNAL; 2]);

    let mut expected: BTreeMap<_, _> = OUTCOMES.map(|name| (name, 0.0)).into();
    let counts =
        [("advanced", 2.0), ("noop", 2.0), ("limited", 3.0), ("invalid", 2.0), ("internal", 2.0)];
    expected.extend(counts);
    eventually("all are counted", Duration::from_secs(5), async || {
        (counted(&server).await == expected).then_some(())
    })
    .await;
    assert_eq!(server.metric("markread_events_published_total").await, Some(2.0));
}

#[tokio::test]
async fn redis_away_fails_the_whole_batch_and_each_item_is_counted() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    redis.kill().await;
    let denied = caller.mark_batch(&marks(1..=5, MESSAGE)).await.unwrap_err();
    assert_store_unavailable(&denied);
    assert_no_quota(&denied.metadata);
    eventually("each is counted", Duration::from_secs(5), async || {
        (counted(&server).await["unavailable"].to_bits() == 5_f64.to_bits()).then_some(())
    })
    .await;

    redis.restart().await;
    let answer = eventually("the batch is served", RECOVERY, async || {
        caller.mark_batch(&marks(1..=5, MESSAGE)).await.ok()
    })
    .await;
    assert_eq!(items(&answer), advanced(&marks(1..=5, MESSAGE)));
}

#[tokio::test]
async fn a_batch_whose_answer_was_lost_is_a_no_op_when_it_is_retried() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    // The users are known from here on, so that what Redis is sent is the marks.
    caller.mark_batch(&marks(1..=50, 1)).await.unwrap();
    redis.freeze();
    let denied = caller.mark_batch(&marks(1..=50, 2)).await.unwrap_err();
    assert_store_unavailable(&denied);
    redis.thaw();
    eventually("Redis does what it was sent", RECOVERY, async || {
        (redis.payloads().await.len() == 100).then_some(())
    })
    .await;

    let retried = eventually("the retry is served", RECOVERY, async || {
        caller.mark_batch(&marks(1..=50, 2)).await.ok()
    })
    .await;
    let expected: Vec<_> = (1..=50).map(|recipient| Ok((recipient, 2, false))).collect();
    assert_eq!(items(&retried), expected);
    let published = [events(&marks(1..=50, 1)), events(&marks(1..=50, 2))].concat();
    assert_eq!(redis.events().await, published, "each once");
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
async fn batches_racing_on_the_same_conversations_advance_each_but_once() {
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
        // 1116 in all; where the quota ends, it ends within a batch.
        tasks.spawn(async move {
            let first = 1 + task * 93;
            let answer = caller.mark_batch(&marks(first..first + 93, MESSAGE)).await.unwrap();
            let done: Vec<_> = items(&answer).iter().map(Result::is_ok).collect();
            assert!(done.is_sorted_by(|a, b| a >= b), "what is denied stands last: {done:?}");
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
async fn user_objects_past_4_mib_of_a_batch_appear_by_their_id() {
    const OBJECT_BYTES: usize = 60_000;
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
    let fit = 4 * 1024 * 1024 / OBJECT_BYTES;
    assert!((fit - 1..=fit).contains(&whole), "{whole}");
}
