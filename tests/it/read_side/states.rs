//! `GetReadState` and `BatchGetReadStates` over the wire: what both users of a conversation have
//! read.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use markread::proto::{GetReadStateResponse, ReadCursor, ReadState};
use markread_harness::caller::{Caller, Refusal, number};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tokio::task::JoinSet;
use tonic::{Code, Response};

use super::{MAX_ID, assert_no_quota, quota, reads_used};
use crate::answers::{assert_denied, bad_fields, retry_delay};

fn state_of(answer: Response<GetReadStateResponse>) -> ReadState {
    answer.into_inner().state.expect("always present")
}

async fn state(caller: &Caller, recipient: u64) -> ReadState {
    state_of(caller.state(recipient).await.unwrap())
}

/// Reads a state by a single call and by a batch of one, which must agree.
async fn state_by_both(caller: &Caller, recipient: u64) -> ReadState {
    let alone = state(caller, recipient).await;
    let batch = caller.states(&[recipient]).await.unwrap().into_inner().states;
    assert_eq!(batch, [alone]);
    alone
}

fn message(cursor: Option<ReadCursor>) -> Option<u64> {
    cursor.map(|cursor| cursor.last_read_event_id)
}

async fn mine_and_theirs_are_what_each_has_read(server: &Server) {
    let (reader, recipient) = (server.caller(READER), server.caller(RECIPIENT));
    let mine = reader.mark(RECIPIENT, MESSAGE).await.unwrap().cursor;
    let theirs = recipient.mark(READER, MESSAGE - 1).await.unwrap().cursor;
    assert_eq!((mine.recipient_id, theirs.recipient_id), (RECIPIENT, READER));
    let expected = ReadState { recipient_id: RECIPIENT, mine: Some(mine), theirs: Some(theirs) };
    assert_eq!(state_by_both(&reader, RECIPIENT).await, expected);
    let expected = ReadState { recipient_id: READER, mine: Some(theirs), theirs: Some(mine) };
    assert_eq!(state_by_both(&recipient, READER).await, expected);
}

async fn a_cursor_that_was_never_set_is_absent(server: &Server) {
    let (reader, recipient) = (server.caller(1), server.caller(2));
    let nothing = ReadState { recipient_id: 2, mine: None, theirs: None };
    assert_eq!(state_by_both(&reader, 2).await, nothing);
    let cursor = Some(reader.mark(2, 1).await.unwrap().cursor);
    assert_eq!(state_by_both(&reader, 2).await, ReadState { mine: cursor, ..nothing });
    let seen = ReadState { recipient_id: 1, mine: None, theirs: cursor };
    assert_eq!(state_by_both(&recipient, 1).await, seen);
    let farthest = ReadState { recipient_id: MAX_ID, mine: None, theirs: None };
    assert_eq!(state_by_both(&reader, MAX_ID).await, farthest);
}

async fn a_conversation_with_oneself_has_one_cursor_on_both_sides(server: &Server) {
    let caller = server.caller(3);
    let cursor = Some(caller.mark(3, MESSAGE).await.unwrap().cursor);
    let expected = ReadState { recipient_id: 3, mine: cursor, theirs: cursor };
    assert_eq!(state_by_both(&caller, 3).await, expected);
}

async fn a_third_user_sees_only_what_is_about_themselves(server: &Server) {
    let (one, two, third) = (server.caller(11), server.caller(12), server.caller(13));
    one.mark(12, 5).await.unwrap();
    two.mark(11, 6).await.unwrap();
    for other in [11, 12] {
        let nothing = ReadState { recipient_id: other, mine: None, theirs: None };
        assert_eq!(state_by_both(&third, other).await, nothing);
    }
    one.mark(13, 7).await.unwrap();
    third.mark(12, 8).await.unwrap();
    let states = third.states(&[11, 12]).await.unwrap().into_inner().states;
    let read: Vec<_> = states.iter().map(|it| (message(it.mine), message(it.theirs))).collect();
    assert_eq!(read, [(None, Some(7)), (Some(8), None)]);
    let theirs = states[0].theirs.unwrap();
    assert_eq!(theirs.recipient_id, 13, "the caller");
    let page = third.page(0, "").await.unwrap().into_inner();
    assert_eq!(page.cursors, [states[1].mine.unwrap()], "and lists only their own");
}

async fn states_come_in_order_repeats_included(server: &Server) {
    let caller = server.caller(21);
    for n in 0..40_u64 {
        let (mine, theirs) = (100 + n, 140 + n / 2);
        caller.mark(mine, 1000 + n).await.unwrap();
        server.caller(theirs).mark(21, 2000 + n).await.unwrap();
    }
    // Each of those and as many unknown ones, over and over.
    let recipients: Vec<_> = (0..500_u64).map(|n| 100 + n * 37 % 120).collect();
    let states = caller.states(&recipients).await.unwrap().into_inner().states;
    assert_eq!(states.len(), 500);
    for (state, to) in states.iter().zip(recipients) {
        let mine = (100..140).contains(&to).then(|| 900 + to);
        let theirs = (140..160).contains(&to).then(|| 2001 + 2 * (to - 140));
        let read = (message(state.mine), message(state.theirs));
        assert_eq!((state.recipient_id, read), (to, (mine, theirs)));
        assert!(state.mine.is_none_or(|cursor| cursor.recipient_id == to));
        assert!(state.theirs.is_none_or(|cursor| cursor.recipient_id == 21));
    }
}

async fn invalid_ids_and_batches_are_refused_at_no_cost(server: &Server) {
    let caller = server.caller(31);
    let before = quota(caller.state(1).await.unwrap().metadata());
    let assert_invalid = |denied: &Refusal, field: &str| {
        assert_denied(denied, Code::InvalidArgument, "INVALID_PARAMETER");
        assert_eq!(bad_fields(denied), [field]);
        assert!(denied.message.contains(field), "{denied:?}");
        assert_no_quota(&denied.metadata);
    };
    for recipient in [0, MAX_ID + 1, u64::MAX] {
        assert_invalid(&caller.state(recipient).await.unwrap_err(), "recipient_id");
        for (recipients, item) in [
            (vec![recipient], "recipient_ids[0]"),
            (vec![1, recipient, 2], "recipient_ids[1]"),
            ([vec![1; 499], vec![0]].concat(), "recipient_ids[499]"),
        ] {
            assert_invalid(&caller.states(&recipients).await.unwrap_err(), item);
        }
    }
    // Each bad one is a violation, up to twenty.
    let denied = caller.states(&[1, 0, 2, MAX_ID + 1]).await.unwrap_err();
    assert_eq!(bad_fields(&denied), ["recipient_ids[1]", "recipient_ids[3]"]);
    let denied = caller.states(&[0; 500]).await.unwrap_err();
    let first_twenty: Vec<_> = (0..20).map(|index| format!("recipient_ids[{index}]")).collect();
    assert_eq!(bad_fields(&denied), first_twenty);
    for many in [0, 501, 1000] {
        assert_invalid(&caller.states(&vec![1; many]).await.unwrap_err(), "recipient_ids");
    }
    let (limit, remaining) = quota(caller.state(1).await.unwrap().metadata());
    assert_eq!((limit, remaining + 1), before, "only the last one cost");
}

/// The read quota of this server is three calls.
async fn a_reader_over_the_read_quota_can_still_mark(server: &Server) {
    let caller = server.caller(READER);
    let first = caller.state(RECIPIENT).await.unwrap();
    assert_eq!(quota(first.metadata()), (3, 2));
    let reset = number(first.metadata(), "x-rate-limit-reset");
    let batch = caller.states(&[RECIPIENT; 500]).await.unwrap();
    assert_eq!(quota(batch.metadata()), (3, 1), "a batch costs one");
    let page = caller.page(1000, "").await.unwrap();
    assert_eq!(quota(page.metadata()), (3, 0), "and so does a page");

    for _ in 0..2 {
        let denials = [
            caller.state(RECIPIENT).await.unwrap_err(),
            caller.states(&[RECIPIENT, READER]).await.unwrap_err(),
            caller.page(0, "").await.unwrap_err(),
        ];
        for denied in denials {
            assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
            let violations = &denied.details.quota_failure().expect("a QuotaFailure").violations;
            assert_eq!(violations.len(), 1);
            assert!(!violations[0].subject.is_empty() && !violations[0].description.is_empty());
            assert_eq!(number(&denied.metadata, "grpc-retry-pushback-ms"), -1);
            assert_eq!(quota(&denied.metadata), (3, 0));
            assert_eq!(number(&denied.metadata, "x-rate-limit-reset"), reset);
            let until_reset = Duration::from_secs(u64::try_from(reset).unwrap())
                .saturating_sub(SystemTime::now().duration_since(UNIX_EPOCH).unwrap());
            let delay = retry_delay(&denied);
            assert!(delay.abs_diff(until_reset) < Duration::from_secs(5), "{delay:?}");
        }
    }
    let marked = caller.mark(RECIPIENT, MESSAGE).await.expect("marks have a quota of their own");
    assert_eq!(quota(&marked.metadata), (1000, 999));
    let batch = caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.unwrap();
    assert_eq!(quota(batch.metadata()), (1000, 998));
    let other = server.caller(READER + 1).state(READER).await;
    assert!(other.is_ok(), "each reader has its own quota: {other:?}");
}

/// Runs each behaviour on a server with Redis and on one with the embedded store.
macro_rules! on_both {
    ($($behaviour:ident($($flag:expr),*);)*) => {
        mod on_redis {
            use super::{Redis, Server};
            $(#[tokio::test]
            async fn $behaviour() {
                let redis = Redis::start().await;
                super::$behaviour(&Server::on_with(&redis, &[$($flag),*]).await).await;
            })*
        }
        mod dev {
            use super::Server;
            $(#[tokio::test]
            async fn $behaviour() {
                super::$behaviour(&Server::dev(&[$($flag),*]).await).await;
            })*
        }
    };
}

on_both! {
    mine_and_theirs_are_what_each_has_read();
    a_cursor_that_was_never_set_is_absent();
    a_conversation_with_oneself_has_one_cursor_on_both_sides();
    a_third_user_sees_only_what_is_about_themselves();
    states_come_in_order_repeats_included();
    invalid_ids_and_batches_are_refused_at_no_cost();
    a_reader_over_the_read_quota_can_still_mark("--read-rate-limit", "3");
}

#[tokio::test]
async fn read_at_is_when_the_event_was_made() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    for (message, events) in [(MESSAGE, 1), (MESSAGE, 1), (MESSAGE + 1, 2), (1, 2)] {
        // No two marks in the same millisecond.
        tokio::time::sleep(Duration::from_millis(20)).await;
        caller.mark(RECIPIENT, message).await.unwrap();
        let cursor = state(&caller, RECIPIENT).await.mine.unwrap();
        let read_at = cursor.read_at.unwrap();
        assert_eq!(read_at.nanos % 1_000_000, 0, "to the millisecond");
        let read_at_ms = read_at.seconds * 1000 + i64::from(read_at.nanos) / 1_000_000;
        let payloads = redis.payloads().await;
        assert_eq!(payloads.len(), events);
        let payload: serde_json::Value = serde_json::from_str(&payloads[events - 1]).unwrap();
        let event = &payload["direct_message_mark_read_events"][0];
        assert_eq!(event["created_timestamp"], read_at_ms.to_string());
        assert_eq!(event["last_read_event_id"], cursor.last_read_event_id.to_string());
    }
}

#[tokio::test]
async fn a_read_is_one_evalsha_and_writes_the_read_quota_alone() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    let before = redis.contents().await;
    redis.run::<()>("CONFIG RESETSTAT").await;
    for _ in 0..5 {
        caller.state(RECIPIENT).await.unwrap();
    }
    let recipients: Vec<_> = (RECIPIENT..RECIPIENT + 500).collect();
    caller.states(&recipients).await.unwrap();
    caller.page(0, "").await.unwrap();
    assert_eq!(redis.calls("evalsha").await, 7);

    let key = format!("markread:read_quota:{READER}");
    assert_eq!(reads_used(&redis, READER).await, Some(7));
    let ttl_ms: i64 = redis.run(&format!("PTTL {key}")).await;
    assert!((1..=900_000).contains(&ttl_ms), "{ttl_ms}");
    redis.run::<()>(&format!("DEL {key}")).await;
    assert_eq!(redis.contents().await, before);
}

#[tokio::test]
async fn the_read_quota_is_10_000_by_default_under_its_own_key() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let answer = server.caller(READER).state(RECIPIENT).await.unwrap();
    assert_eq!(quota(answer.metadata()), (10_000, 9_999));
    redis.run::<()>(&format!("SET markread:read_quota:{READER} 9999 PX 60000")).await;
    let answer = server.caller(READER).state(RECIPIENT).await.unwrap();
    assert_eq!(quota(answer.metadata()), (10_000, 0));
    let denied = server.caller(READER).state(RECIPIENT).await.unwrap_err();
    assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    assert_eq!(reads_used(&redis, READER).await, Some(10_000), "a denied call takes nothing");
    assert_eq!(redis.used(READER).await, None, "the other quota is unchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_serve_exactly_the_read_quota_of_each_window() {
    let redis = Redis::start().await;
    let flags = ["--read-rate-limit", "25", "--rate-window", "15s"];
    let servers = [Server::on_with(&redis, &flags).await, Server::on_with(&redis, &flags).await];
    let mut tasks = JoinSet::new();
    for task in 0..40 {
        let caller = servers[task % 2].caller(READER);
        tasks.spawn(async move {
            match task % 3 {
                0 => caller.state(RECIPIENT).await.map(|_| ()),
                1 => caller.states(&[RECIPIENT, READER]).await.map(|_| ()),
                _ => caller.page(0, "").await.map(|_| ()),
            }
        });
    }
    let answers = tasks.join_all().await;
    let denials: Vec<_> = answers.iter().filter_map(|answer| answer.as_ref().err()).collect();
    assert_eq!(denials.len(), 15);
    assert!(denials.iter().all(|denied| denied.reason == "RATE_LIMIT_EXCEEDED"), "{denials:?}");
    assert_eq!(reads_used(&redis, READER).await, Some(25));

    let wait = denials.iter().map(|denied| retry_delay(denied)).max().unwrap();
    assert!(wait <= Duration::from_secs(15), "{wait:?}");
    tokio::time::sleep(wait + Duration::from_millis(500)).await;
    for server in &servers {
        server.caller(READER).state(RECIPIENT).await.expect("a new window");
    }
}

#[tokio::test]
async fn a_corrupt_cursor_fails_the_read() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (reader, spoil) in [
        (1, "SET markread:cursors:1 text"),
        (2, "HSET markread:cursors:2 9 text -9 1"),
        (3, "HSET markread:cursors:3 9 5 -9 text"),
        (4, "RPUSH markread:read_quota:4 1"),
        (5, "SET markread:read_quota:5 text"),
    ] {
        redis.run::<()>(spoil).await;
        let before = redis.contents().await;
        let caller = server.caller(reader);
        let denials = [
            caller.state(9).await.unwrap_err(),
            caller.states(&[8, 9]).await.unwrap_err(),
            caller.page(0, "").await.unwrap_err(),
        ];
        for denied in denials {
            assert_denied(&denied, Code::Internal, "INTERNAL");
            assert!(denied.details.retry_info().is_none(), "{spoil}: a retry does not help");
        }
        // The cost of such a read is not specified; the stored data is unchanged.
        let key = spoil.split(' ').nth(1).unwrap();
        let of = |contents: Vec<(String, Vec<u8>)>| contents.into_iter().find(|it| it.0 == key);
        assert_eq!(of(redis.contents().await), of(before), "{spoil}");
    }
}
