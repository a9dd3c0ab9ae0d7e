//! What a mark over HTTP does to cursor, event and metrics: the same as a mark over gRPC.

use std::collections::BTreeMap;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::{MESSAGE, OUTCOMES, READER, RECIPIENT, Raw, Redis, Server, eventually};
use serde_json::json;

use super::client::{BOTH, Http1, HttpRequest};
use super::{EXAMPLE, assert_done, assert_refused, examples, parameters, unix_seconds};
use crate::answers::tokens::with_claims;

/// The event of Twitter's example, for users without stored objects ("The event" in
/// `docs/contract.md`).
fn payload(reader: u64, created: u64) -> String {
    let event = format!(r#"{{"created_timestamp":"{created}","sender_id":"{reader}","#)
        + r#""last_read_event_id":"8754578330382663743","#
        + r#""target":{"recipient_id":"3805104374"}}"#;
    let [reader, recipient] =
        [reader, RECIPIENT].map(|user| format!(r#""{user}":{{"id":"{user}"}}"#));
    format!(r#"{{"direct_message_mark_read_events":[{event}],"users":{{{reader},{recipient}}}}}"#)
}

#[tokio::test]
async fn twitters_example_marks_by_form_and_query_in_both_versions() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let mut reader = READER;
    for version in BOTH {
        for request in examples() {
            reader += 1;
            let rate = assert_done(&request.clone().of(reader).over(version, &server).await);
            assert_eq!((rate.limit, rate.remaining), (1000, 999));
            assert!(rate.reset.abs_diff(unix_seconds() + 900) < 60, "{rate:?}");
            let cursor = [(RECIPIENT, MESSAGE)].into();
            assert_eq!(redis.cursors(reader).await, cursor, "{version:?} {request:?}");
            let field = format!("HGET markread:cursors:{reader} -{RECIPIENT}");
            let created: u64 = redis.run(&field).await;
            assert!((created / 1000).abs_diff(unix_seconds()) < 60, "{created}");
            let payloads = redis.payloads().await;
            assert_eq!(payloads.last().unwrap(), &payload(reader, created));

            // The same again and an older message: no-ops, which count and publish no event.
            let older = [MESSAGE - 1, 1].map(|message| parameters(RECIPIENT, message));
            let older =
                older.map(|older| [HttpRequest::form(older.clone()), HttpRequest::query(&older)]);
            let later = [request].into_iter().chain(older.into_iter().flatten());
            for (request, used) in later.zip(2..) {
                let rate = assert_done(&request.of(reader).over(version, &server).await);
                assert_eq!(rate.remaining, 1000 - used);
                assert_eq!(redis.used(reader).await, Some(used));
            }
            assert_eq!(redis.cursors(reader).await, cursor);
            assert_eq!(redis.payloads().await, payloads);
        }
    }
    assert_eq!(redis.payloads().await.len(), 4);
}

#[tokio::test]
async fn http_and_grpc_share_one_cursor_and_one_quota() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "5"]).await;
    let caller = server.caller(READER);
    let [http1, http2] = BOTH;
    let mark = |message| HttpRequest::form(parameters(RECIPIENT, message));

    assert_done(&mark(10).over(http1, &server).await);
    let seen = caller.mark(RECIPIENT, 10).await.unwrap();
    assert!(!seen.advanced);
    assert_eq!(seen.cursor.last_read_event_id, 10);
    assert!(caller.mark(RECIPIENT, 11).await.unwrap().advanced);
    assert_done(&mark(10).over(http2, &server).await);
    let last = assert_done(&mark(12).over(http2, &server).await);
    assert_eq!(last.remaining, 0);

    assert_eq!(caller.mark(RECIPIENT, 13).await.unwrap_err().reason, "RATE_LIMIT_EXCEEDED");
    for version in BOTH {
        assert_refused(&mark(13).over(version, &server).await, 429, &[88]);
    }
    let of_the_reader = |message| (READER, RECIPIENT, message);
    assert_eq!(redis.events().await, [10, 11, 12].map(of_the_reader));
    assert_eq!(redis.used(READER).await, Some(5));
}

#[tokio::test]
async fn one_http_1_connection_carries_one_request_after_another() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let mut connection = Http1::to(&server).await;
    let mark = |message| HttpRequest::form(parameters(RECIPIENT, message));
    for message in [1, 2, 3] {
        assert_done(&connection.send(&mark(message)).await);
        assert_done(&connection.send(&HttpRequest::query(&parameters(RECIPIENT, message))).await);
        // A refusal leaves the connection open for the next request.
        assert_refused(&connection.send(&mark(0)).await, 400, &[44]);
        let nobodys = mark(9).by(&Credentials::Nothing);
        assert_refused(&connection.send(&nobodys).await, 401, &[32]);
    }
    // Sent together, answered in order.
    let breath = [mark(4), HttpRequest::query("recipient_id=1"), mark(5).target("/"), mark(6)];
    connection.write(&breath.map(|request| request.bytes()).concat()).await;
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(connection.answer().await.expect("an answer"));
    }
    assert_eq!(assert_done(&answers[0]).remaining, 1000 - 7);
    assert_refused(&answers[1], 400, &[38]);
    assert_refused(&answers[2], 404, &[34]);
    assert_eq!(assert_done(&answers[3]).remaining, 1000 - 8);
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, 6)].into());
    assert_eq!(redis.used(READER).await, Some(8));
}

#[tokio::test]
async fn one_http_2_connection_carries_requests_and_grpc_calls() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    let mut calls = tokio::task::JoinSet::new();
    for message in 1..=20 {
        let same = raw.clone();
        calls.spawn(async move {
            let answer = HttpRequest::form(parameters(RECIPIENT, message)).on(&same).await.unwrap();
            assert_done(&answer).remaining
        });
        let answer = HttpRequest::form("recipient_id=1").on(&raw).await.unwrap();
        assert_refused(&answer, 400, &[38]);
    }
    let mut remaining = calls.join_all().await;
    remaining.sort_unstable();
    assert_eq!(remaining, (980..1000).collect::<Vec<_>>(), "each took one mark of the quota");
    assert!(raw.mark_within("10S", READER, RECIPIENT, 21).await.marked().unwrap().advanced);
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, 21)].into());
}

#[tokio::test]
async fn with_dev_the_caller_is_who_the_header_names() {
    let server = Server::dev(&["--rate-limit", "4"]).await;
    let me = Credentials::UserId(READER);
    let mut remaining = Vec::new();
    for version in BOTH {
        for request in examples() {
            // `authorization` is ignored.
            let request = request.by(&me).header("authorization", "Bearer nonsense");
            remaining.push(assert_done(&request.over(version, &server).await).remaining);
        }
        let nobody = HttpRequest::form(EXAMPLE).by(&Credentials::token_of(READER));
        assert_refused(&nobody.clone().over(version, &server).await, 401, &[32]);
        for user in ["me", "0", "007", "9223372036854775808"] {
            let user = nobody.clone().header("x-user-id", user);
            assert_refused(&user.over(version, &server).await, 403, &[220]);
        }
    }
    assert_eq!(remaining, [3, 2, 1, 0]);
    let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(denied.reason, "RATE_LIMIT_EXCEEDED", "gRPC counts for the same reader");
    let other = server.caller(READER + 1).mark(RECIPIENT, MESSAGE).await.unwrap();
    assert!(other.advanced);
}

/// The counts of `markread_mark_read_total` that are not 0.
async fn counted(server: &Server) -> BTreeMap<&'static str, f64> {
    let mut counted = BTreeMap::new();
    for outcome in OUTCOMES {
        let series = format!("markread_mark_read_total{{outcome=\"{outcome}\"}}");
        counted.insert(outcome, server.metric(&series).await.expect("the series exists"));
    }
    counted.retain(|_, count| *count != 0.0);
    counted
}

#[tokio::test]
async fn each_outcome_over_http_is_counted_once() {
    let mut redis = Redis::start().await;
    let flags = ["--rate-limit", "2", "--edge-rate", "1", "--edge-burst", "40"];
    let server = Server::on_with(&redis, &flags).await;
    redis.run::<()>(&format!("SET markread:cursors:{} text", READER + 1)).await;
    let mark = || HttpRequest::form(EXAMPLE);
    let mut expected: BTreeMap<&str, f64> = BTreeMap::new();
    for (n, version) in (0..).zip(BOTH) {
        let reader = READER + 10 + n;
        for (request, status, outcome) in [
            (mark().of(reader), 204, "advanced"),
            (mark().of(reader), 204, "noop"),
            (mark().of(reader), 429, "limited"),
            (mark().of(reader), 429, "limited"),
            (HttpRequest::query("recipient_id=%zz"), 400, "invalid"),
            (mark().by(&Credentials::Nothing), 401, "unauthenticated"),
            (mark().header("authorization", "Bearer x"), 401, "unauthenticated"),
            (mark().by(&with_claims(json!({ "sub": "me" }))), 403, "forbidden"),
            (mark().of(READER + 1), 500, "internal"),
        ] {
            assert_eq!(request.over(version, &server).await.status, status, "{outcome}");
            *expected.entry(outcome).or_default() += 1.0;
        }
    }
    redis.kill().await;
    for version in BOTH {
        assert_eq!(mark().over(version, &server).await.status, 503);
        *expected.entry("unavailable").or_default() += 1.0;
    }
    // Requests until the guard stops one.
    for n in 0.. {
        assert!(n < 200, "the guard stops none of 200 requests");
        let status = mark().by(&Credentials::Nothing).over(BOTH[n % 2], &server).await.status;
        let outcome = if status == 429 { "edge_limited" } else { "unauthenticated" };
        *expected.entry(outcome).or_default() += 1.0;
        if status == 429 {
            break;
        }
    }
    eventually("all are counted", Duration::from_secs(5), async || {
        (counted(&server).await == expected).then_some(())
    })
    .await;
    // A second, late count would show by now.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(counted(&server).await, expected);
    assert_eq!(server.metric("markread_events_published_total").await, Some(2.0));
    assert_eq!(server.metric("markread_edge_limited_total").await, Some(1.0));
}
