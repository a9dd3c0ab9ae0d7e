//! Failed items of a batch, and the items that are done nevertheless.

use std::collections::BTreeMap;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::{MESSAGE, OUTCOMES, READER, RECIPIENT, Raw, Redis, Server, eventually, raw};
use prost::Message;
use tonic::Code;

use super::{INTERNAL, INVALID, LIMITED, advanced, errors, events, items, marks};
use crate::answers::outcomes::counted;
use crate::answers::{assert_denied, assert_store_unavailable, assert_untouched, bad_fields};
use crate::read_side::{MAX_ID, assert_no_quota, quota};

/// Longer than it takes until a Redis that is back is used again.
const RECOVERY: Duration = Duration::from_secs(15);

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
    // A valid item after each invalid one; the quota is three.
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
        assert_eq!(error.retry_delay, None, "a retry does not help");
    }
    assert_eq!(invalid.len(), table.len());
    assert_eq!(quota(answer.metadata()), (3, 0));
    assert_eq!(redis.used(READER).await, Some(3));
}

#[tokio::test]
async fn a_batch_without_a_valid_item_is_invalid_and_does_not_reach_the_quota() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    redis.run::<()>("CONFIG RESETSTAT").await;
    let marks = [(0, 0), (RECIPIENT, 0), (MAX_ID + 1, MESSAGE)];
    let denied = server.caller(READER).mark_batch(&marks).await.unwrap_err();
    assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
    let fields = [
        "requests[0].last_read_event_id",
        "requests[0].recipient_id",
        "requests[1].last_read_event_id",
        "requests[2].recipient_id",
    ];
    assert_eq!(bad_fields(&denied), fields);
    assert_no_quota(&denied.metadata);
    assert_eq!(redis.calls("evalsha").await, 0);
    assert_untouched(&redis, READER).await;
    eventually("each item is counted", Duration::from_secs(5), async || {
        (counted(&server).await["invalid"].to_bits() == 3_f64.to_bits()).then_some(())
    })
    .await;

    // With one valid item the others fail alone.
    let marks = [marks.as_slice(), &[(RECIPIENT, MESSAGE)]].concat();
    let answer = server.caller(READER).mark_batch(&marks).await.unwrap();
    assert_eq!(items(&answer), [INVALID, INVALID, INVALID, Ok((RECIPIENT, MESSAGE, true))]);
}

#[tokio::test]
async fn errors_of_a_batch_are_in_proportion_to_the_request() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    // An empty request is two bytes.
    let denied = caller.mark_batch(&[(0, 0); 500]).await.unwrap_err();
    let fields = bad_fields(&denied);
    assert_eq!((fields.len(), fields[19]), (20, "requests[9].recipient_id"));
    let raw = Raw::to(&server).await;
    let head =
        raw.grpc("/markread.v1.MarkReadService/BatchMarkRead", &Credentials::token_of(READER));
    let answer = raw.send(head, raw::frame(&[0x0a, 0].repeat(500))).await.unwrap();
    assert_eq!(bad_fields(&answer.refusal()).len(), 20);
    let bytes: usize = answer.head.values().map(http::HeaderValue::len).sum();
    assert!(bytes < 6 * 1024, "{bytes} bytes, where header lists of 8 KiB are accepted");

    let marks = [vec![(0, 0); 499], vec![(RECIPIENT, MESSAGE)]].concat();
    let answer = caller.mark_batch(&marks).await.unwrap();
    assert_eq!(items(&answer)[498..], [INVALID, Ok((RECIPIENT, MESSAGE, true))]);
    let errors = errors(&answer);
    assert!(errors[19].message.contains("must be"), "{:?}", errors[19]);
    assert_eq!(errors[20].message, "last_read_event_id, recipient_id");
    let bytes = answer.get_ref().encoded_len();
    assert!(bytes < 40 * 1024, "{bytes} bytes for a kilobyte");
}

#[tokio::test]
async fn batches_of_0_and_501_items_are_invalid() {
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
            assert_eq!((error.code, error.retry_delay), (13, None), "a retry does not help");
        }
        assert_eq!(quota(answer.metadata()), (1000, 998), "a failed item costs nothing");
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
async fn an_outage_fails_the_whole_batch_and_counts_each_item() {
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
    // The users are cached from here on, so that only the marks are sent to Redis.
    caller.mark_batch(&marks(1..=50, 1)).await.unwrap();
    redis.freeze();
    let denied = caller.mark_batch(&marks(1..=50, 2)).await.unwrap_err();
    assert_store_unavailable(&denied);
    redis.thaw();
    eventually("Redis does what was sent", RECOVERY, async || {
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
