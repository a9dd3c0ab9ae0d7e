//! Each refusal in both protocols: its words, the values in them, and what a client is told besides.

use std::collections::HashMap;
use std::time::Duration;

use ::http::HeaderMap;
use http_body_util::BodyExt;
use tonic::Status;
use tonic_types::StatusExt;

use super::*;
use crate::domain::{BadField, Flaw, InvalidId, MessageId, Quota, ReadCursor, UserId};
use crate::edge::routing::Target;
use crate::proto::Rpc;
use crate::telemetry::metrics::MarkOutcome;

const QUOTA: Quota = Quota { limit: 15, remaining: 0, reset_at_ms: 900_001 };

/// A refusal, its message, the values in it, and its delay in milliseconds: the least and the greatest.
type Row = (Refusal, &'static str, &'static [(&'static str, &'static str)], Option<(u64, u64)>);

fn missing(name: &'static str) -> BadField {
    BadField::new(name, InvalidId::Missing)
}

fn invalid(name: &'static str) -> BadField {
    BadField::new(name, "x".parse::<UserId>().unwrap_err())
}

fn over_quota() -> Refusal {
    Refusal::OverQuota { quota: QUOTA, retry_after: Duration::from_millis(1_500) }
}

fn refusals() -> Vec<Row> {
    use Refusal::*;
    let token = CredentialsInvalid(Flaw::Token("the token has expired"));
    let signature = CredentialsInvalid(Flaw::Signature("the signature does not match"));
    let timestamp = CredentialsInvalid(Flaw::Timestamp { window_seconds: 300 });
    let spread = Some((100, 1_000));
    vec![
        (MalformedMessage, "the bytes are not one message of the method's type", &[], None),
        (Compressed, "compressed messages are not accepted", &[], None),
        (
            MessageTooLarge { max_bytes: 64 },
            "the request is over 64 bytes",
            &[("max_bytes", "64")],
            None,
        ),
        (Unknown, "unknown method or path", &[], None),
        (WrongHttpMethod, "this path accepts POST only", &[], None),
        (WrongContentType { accepts: "a/b" }, "this path accepts a/b only", &[], None),
        (MalformedHttp("two lengths"), "two lengths", &[], None),
        (CredentialsMissing, "the call carries no credentials", &[], None),
        (token, "the token has expired", &[], None),
        (signature, "the signature does not match", &[], None),
        (
            timestamp,
            "the timestamp is more than 300 s from the server's clock",
            &[("window_seconds", "300")],
            None,
        ),
        (IdentityUnavailable, "tokens cannot be verified yet: retry", &[], spread),
        (UserContextRequired("no user"), "no user", &[], None),
        (
            over_quota(),
            "the quota of 15 calls in a window is used up",
            &[("limit", "15")],
            Some((1_500, 1_500)),
        ),
        (
            WatcherTooSlow { resume_after: "7-0".to_owned() },
            "the watcher is too slow: resume after the last update",
            &[("resume_after", "7-0")],
            None,
        ),
        (TooManyOfReader, "too many calls of this reader are under way: retry", &[], spread),
        (ConnectionAge, "the connection has reached its age: reconnect", &[], Some((0, 0))),
        (
            Overloaded,
            "this server is overloaded: retry later or elsewhere",
            &[],
            Some((1_000, 2_000)),
        ),
        (
            EdgeLimited(Duration::from_millis(10)),
            "too many calls from this address: retry after 1 s",
            &[("retry_delay_seconds", "1")],
            Some((1_000, 1_000)),
        ),
        (
            EdgeLimited(Duration::from_secs(2)),
            "too many calls from this address: retry after 2 s",
            &[("retry_delay_seconds", "2")],
            Some((2_000, 2_000)),
        ),
        (
            EdgeLimited(Duration::from_millis(2_001)),
            "too many calls from this address: retry after 3 s",
            &[("retry_delay_seconds", "3")],
            Some((2_001, 2_001)),
        ),
        (StoreUnavailable, "the store is unavailable: retry", &[], spread),
        (Draining, "this server is shutting down: retry elsewhere", &[], spread),
        (DeadlineExceeded, "the call's deadline passed", &[], None),
        (RequestTimeout, "the request was not complete in time", &[], None),
        (Internal, "internal error", &[], None),
    ]
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(|value| value.to_str().unwrap())
}

fn assert_quota(headers: &HeaderMap, is_there: bool) {
    let shown = ["limit", "remaining", "reset"]
        .map(|name| text(headers, &format!("x-rate-limit-{name}")).map(str::to_owned));
    let expected = ["15", "0", "901"].map(|value| is_there.then(|| value.to_owned()));
    assert_eq!(shown, expected);
}

#[test]
fn over_grpc_a_refusal_has_words_details_and_a_delay() {
    for (refusal, message, values, delay) in refusals() {
        let row = row(&refusal);
        let status = grpc::status(refusal.clone());
        assert_eq!((status.code(), status.message()), (row.code, message), "{refusal:?}");
        let headers = status.metadata().clone().into_headers();
        let is_over_quota = matches!(refusal, Refusal::OverQuota { .. });
        assert_quota(&headers, is_over_quota);
        let is_compressed = matches!(refusal, Refusal::Compressed);
        let encoding = is_compressed.then_some("identity");
        assert_eq!(text(&headers, "grpc-accept-encoding"), encoding, "{refusal:?}");

        let details = status.get_error_details();
        let info = details.error_info();
        assert_eq!(info.map(|info| info.reason.as_str()), row.reason, "{refusal:?}");
        if let Some(info) = info {
            let values = values.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            let expected: HashMap<String, String> = values.collect();
            assert_eq!((info.domain.as_str(), &info.metadata), ("markread", &expected));
        }
        let quota = details.quota_failure().map(|failure| {
            let violation = &failure.violations[0];
            (violation.subject.as_str(), violation.description.as_str())
        });
        assert_eq!(quota, is_over_quota.then_some(("reader", message)), "{refusal:?}");
        assert_eq!(
            details.bad_request().map(|bad| bad.field_violations[0].description.as_str()),
            matches!(refusal, Refusal::MalformedMessage).then_some(message)
        );
        assert_delay(&status, delay, is_over_quota);
    }
}

/// Asserts that gRPC's own retries wait as long as `RetryInfo` says, or do not happen.
fn assert_delay(status: &Status, bounds: Option<(u64, u64)>, is_over_quota: bool) {
    let details = status.get_error_details();
    let delay = details.retry_info().map(|retry| retry.retry_delay.unwrap());
    let pushback = status.metadata().get("grpc-retry-pushback-ms");
    let pushback = pushback.map(|ms| ms.to_str().unwrap().parse::<i64>().unwrap());
    let Some((least, greatest)) = bounds else {
        assert_eq!((delay, pushback), (None, None), "{status:?}");
        return;
    };
    let delay = u64::try_from(delay.unwrap().as_millis()).unwrap();
    assert!((least..=greatest).contains(&delay), "{status:?}");
    let expected = if is_over_quota { -1 } else { delay.try_into().unwrap() };
    assert_eq!(pushback, Some(expected), "{status:?}");
}

#[tokio::test]
async fn over_http_a_refusal_has_words_and_headers() {
    for (refusal, message, ..) in refusals() {
        let response = http::response(&refusal);
        let row = row(&refusal);
        assert_eq!(response.status(), row.http_status, "{refusal:?}");
        let headers = response.headers().clone();
        assert_eq!(text(&headers, "content-type"), Some("application/json"));
        assert_quota(&headers, matches!(refusal, Refusal::OverQuota { .. }));
        let expect = |name, value: Option<&str>| {
            assert_eq!(text(&headers, name), value, "{refusal:?}: {name}");
        };
        expect("allow", matches!(refusal, Refusal::WrongHttpMethod).then_some("POST"));
        expect("connection", matches!(refusal, Refusal::MalformedHttp(_)).then_some("close"));
        let challenges: Vec<_> = headers.get_all("www-authenticate").iter().collect();
        let expected: &[&str] = match refusal {
            Refusal::CredentialsMissing => {
                &["Bearer realm=\"markread\"", "OAuth realm=\"markread\""]
            }
            Refusal::CredentialsInvalid(Flaw::Token(_)) => {
                &["Bearer realm=\"markread\", error=\"invalid_token\""]
            }
            Refusal::CredentialsInvalid(_) => &["OAuth realm=\"markread\""],
            _ => &[],
        };
        assert_eq!(challenges, expected, "{refusal:?}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let error = serde_json::json!({ "code": row.v1_code, "message": message });
        assert_eq!(body, serde_json::json!({ "errors": [error] }), "{refusal:?}");
    }
}

#[tokio::test]
async fn bad_fields_are_each_named_missing_ones_first_over_http() {
    let fields = vec![invalid("recipient_id"), missing("last_read_event_id")];
    let problem = fields[0].problem.to_string();
    let refusal = Refusal::BadFields(fields);
    let status = grpc::status(refusal.clone());
    let words =
        [format!("recipient_id {problem}"), format!("last_read_event_id {}", InvalidId::Missing)];
    assert_eq!(status.message(), words.join("; "));
    let details = status.get_error_details();
    let named = &details.error_info().unwrap().metadata["fields"];
    assert_eq!(named, "recipient_id, last_read_event_id");
    let violations = &details.bad_request().unwrap().field_violations;
    assert_eq!(
        violations.iter().map(|bad| bad.field.as_str()).collect::<Vec<_>>(),
        ["recipient_id", "last_read_event_id"]
    );
    assert_eq!(violations[0].description, problem);

    let body = http::response(&refusal).into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let error = |code: u16, message: &str| serde_json::json!({ "code": code, "message": message });
    let expected = [error(38, &words[1]), error(44, &words[0])];
    assert_eq!(body, serde_json::json!({ "errors": expected }));
}

#[test]
fn of_bad_items_the_message_names_the_first() {
    let fields: Vec<_> = (3..9).map(|n| missing("recipient_id").of_item("requests", n)).collect();
    let first = fields[0].to_string();
    assert!(first.starts_with("requests[3].recipient_id "), "{first}");
    let status = grpc::status(Refusal::BadFields(fields));
    assert_eq!(status.message(), first);
    assert_eq!(status.get_error_details().bad_request().unwrap().field_violations.len(), 6);
}

#[test]
fn an_items_error_is_in_full_or_short() {
    let fields = vec![missing("recipient_id"), invalid("last_read_event_id")];
    let refusal = Refusal::BadFields(fields.clone());
    let full = grpc::batch_error(&refusal, true);
    assert_eq!((full.code, full.reason.as_str()), (3, "INVALID_PARAMETER"));
    assert_eq!(full.message, format!("{}; {}", fields[0], fields[1]));
    assert_eq!(full.retry_delay, None);
    let short = grpc::batch_error(&refusal, false);
    assert_eq!(short.message, "recipient_id, last_read_event_id");

    let limited = grpc::batch_error(&over_quota(), false);
    assert_eq!((limited.code, limited.reason.as_str()), (8, "RATE_LIMIT_EXCEEDED"));
    assert_eq!(limited.message, "the quota of 15 calls in a window is used up");
    let delay = limited.retry_delay.unwrap();
    assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
}

#[test]
fn a_refused_mark_is_counted_and_answered_in_its_protocol() {
    let route = |protocol, target| Route { protocol, target };
    let mark = Target::Rpc(Rpc::MarkRead);
    for (route, content_type, marks) in [
        (
            route(Protocol::Grpc, mark),
            "application/grpc",
            MarkOutcomes::One(MarkOutcome::Unavailable),
        ),
        (
            route(Protocol::Http, Target::MarkReadJson),
            "application/json",
            MarkOutcomes::One(MarkOutcome::Unavailable),
        ),
        (
            route(Protocol::Grpc, Target::Rpc(Rpc::GetReadState)),
            "application/grpc",
            MarkOutcomes::None,
        ),
    ] {
        let answer = Answer::refused(route, Refusal::StoreUnavailable);
        assert_eq!(text(answer.response.headers(), "content-type"), Some(content_type));
        assert_eq!(answer.marks, marks);
        let changed = answer.map(|mut response| {
            response.headers_mut().insert("x-changed", 1.into());
            response
        });
        assert_eq!(text(changed.response.headers(), "x-changed"), Some("1"));
        assert_eq!(changed.marks, marks);
    }
    let other = Answer::new(Response::new(Body::empty()));
    assert_eq!(other.marks, MarkOutcomes::None);
}

#[test]
fn a_mark_is_counted_by_what_became_of_it() {
    let cursor = ReadCursor {
        recipient: UserId::try_from(7).unwrap(),
        last_read_event_id: MessageId::try_from(8).unwrap(),
        read_at_ms: 9,
    };
    let (quota, retry_after) = (QUOTA, Duration::ZERO);
    for (result, outcome) in [
        (Ok(Outcome::Advanced { cursor, quota }), MarkOutcome::Advanced),
        (Ok(Outcome::Unchanged { cursor, quota }), MarkOutcome::Noop),
        (Ok(Outcome::OverQuota { quota, retry_after }), MarkOutcome::Limited),
        (Err(Refusal::StoreUnavailable), MarkOutcome::Unavailable),
    ] {
        assert_eq!(mark_outcome(&result), outcome, "{result:?}");
    }
}

#[test]
fn each_mark_of_an_answer_is_counted_once() {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    ::metrics::with_local_recorder(&recorder, || {
        let metrics = Metrics::default();
        MarkOutcomes::None.count(&metrics);
        MarkOutcomes::One(MarkOutcome::Advanced).count(&metrics);
        MarkOutcomes::Each(vec![MarkOutcome::Noop, MarkOutcome::Limited, MarkOutcome::Noop])
            .count(&metrics);
    });
    let page = handle.render();
    for (outcome, count) in [("advanced", 1), ("noop", 2), ("limited", 1), ("internal", 0)] {
        let line = format!("markread_mark_read_total{{outcome=\"{outcome}\"}} {count}\n");
        assert!(page.contains(&line), "{line}{page}");
    }
}
