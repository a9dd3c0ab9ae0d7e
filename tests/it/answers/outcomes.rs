//! `markread_mark_read_total`: each answer counts once, under its outcome.

use std::collections::BTreeMap;
use std::time::Duration;

use markread_harness::caller::{Answer, Credentials, Refusal};
use markread_harness::{OUTCOMES, READER, RECIPIENT, Raw, Redis, Server, eventually};
use serde_json::json;
use tonic::Code;

use super::tokens::with_claims;

/// The outcome of an answer.
fn outcome(answer: &Result<Answer, Refusal>) -> &'static str {
    match answer {
        Ok(answer) if answer.advanced => "advanced",
        Ok(_) => "noop",
        Err(denied) => match (denied.code, denied.reason.as_str()) {
            (Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED") => "limited",
            (Code::ResourceExhausted, "EDGE_LIMIT_EXCEEDED") => "edge_limited",
            (Code::InvalidArgument, _) => "invalid",
            (Code::Unauthenticated, _) => "unauthenticated",
            (Code::PermissionDenied, _) => "forbidden",
            (Code::Unavailable, _) => "unavailable",
            (Code::DeadlineExceeded, _) => "deadline",
            (Code::Internal, _) => "internal",
            other => panic!("no outcome: {other:?}"),
        },
    }
}

/// The count of each outcome in `/metrics`.
pub(crate) async fn counted(server: &Server) -> BTreeMap<&'static str, f64> {
    let mut counted = BTreeMap::new();
    for outcome in OUTCOMES {
        let series = format!("markread_mark_read_total{{outcome=\"{outcome}\"}}");
        let count = server.metric(&series).await;
        counted.insert(outcome, count.unwrap_or_else(|| panic!("{series} is missing")));
    }
    counted
}

#[tokio::test]
async fn each_outcome_is_counted_once_for_each_answer() {
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "2", "--call-timeout", "1s"];
    let edge = ["--edge-rate", "1", "--edge-burst", "20"];
    let server = Server::on_with(&redis, &[&flags[..], &edge].concat()).await;
    let mut expected: BTreeMap<&str, f64> = OUTCOMES.map(|outcome| (outcome, 0.0)).into();
    assert_eq!(counted(&server).await, expected, "every series exists from the start");

    let caller = server.caller(READER);
    redis.run::<()>(&format!("SET markread:cursors:{} text", READER + 1)).await;
    let mut answers = vec![
        (caller.mark(RECIPIENT, 1).await, "advanced"),
        (caller.mark(RECIPIENT, 1).await, "noop"),
        (caller.mark(RECIPIENT, 1).await, "limited"),
        (caller.mark(RECIPIENT, 1).await, "limited"),
        (caller.mark(0, 0).await, "invalid"),
        (server.stranger(Credentials::Nothing).mark(RECIPIENT, 1).await, "unauthenticated"),
        (
            server.stranger(with_claims(json!({ "sub": "me" }))).mark(RECIPIENT, 1).await,
            "forbidden",
        ),
        (server.caller(READER + 1).mark(RECIPIENT, 1).await, "internal"),
    ];
    let raw = Raw::to(&server).await;
    redis.freeze();
    let late = raw.mark_within("200m", READER + 2, RECIPIENT, 1).await.refusal();
    answers.push((Err(late), "deadline"));
    answers.push((server.caller(READER + 2).mark(RECIPIENT, 1).await, "unavailable"));
    redis.thaw();
    let stranger = server.stranger(Credentials::Nothing);
    for _ in 0..100 {
        let answer = stranger.mark(RECIPIENT, 1).await;
        let stopped = outcome(&answer) == "edge_limited";
        answers.push((answer, if stopped { "edge_limited" } else { "unauthenticated" }));
        if stopped {
            break;
        }
    }

    for (answer, wanted) in &answers {
        assert_eq!(outcome(answer), *wanted, "{answer:?}");
        *expected.get_mut(wanted).unwrap() += 1.0;
    }
    assert!(expected.values().all(|count| *count > 0.0), "{expected:?}");
    eventually("all are counted", Duration::from_secs(5), async || {
        (counted(&server).await == expected).then_some(())
    })
    .await;
    assert_eq!(server.metric("markread_events_published_total").await, Some(1.0));
}
