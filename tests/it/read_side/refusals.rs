//! What every one of these calls is refused for, whatever it asks: CONTRACT section 4, "Answers".

use std::time::{Duration, Instant};

use markread::proto::{
    BatchGetReadStatesRequest, BatchMarkReadRequest, GetReadStateRequest, ListReadCursorsRequest,
    MarkReadRequest,
};
use prost::Message;
use serde_json::json;
use tonic::Code;

use crate::answers::tokens::with_claims;
use crate::answers::{assert_denied, assert_store_unavailable, assert_untouched};
use crate::harness::caller::{Caller, Credentials, Denied};
use crate::harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server, eventually, raw};

const RECOVERY: Duration = Duration::from_secs(15);

/// The methods, and a good request of each.
fn methods() -> [(&'static str, Vec<u8>); 4] {
    let mark = MarkReadRequest { last_read_event_id: MESSAGE, recipient_id: RECIPIENT };
    let states = BatchGetReadStatesRequest { recipient_ids: vec![RECIPIENT] };
    [
        ("BatchMarkRead", BatchMarkReadRequest { requests: vec![mark] }.encode_to_vec()),
        ("GetReadState", GetReadStateRequest { recipient_id: RECIPIENT }.encode_to_vec()),
        ("BatchGetReadStates", states.encode_to_vec()),
        ("ListReadCursors", ListReadCursorsRequest::default().encode_to_vec()),
    ]
}

async fn refusal(raw: &Raw, method: &str, credentials: &Credentials, message: &[u8]) -> Denied {
    let path = format!("/markread.v1.MarkReadService/{method}");
    let answer = raw.send(raw.grpc(&path, credentials), raw::frame(message)).await.unwrap();
    answer.denied()
}

/// All four, by one caller, each of which is to be refused.
async fn refusals(caller: &Caller) -> [Denied; 4] {
    [
        caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.unwrap_err(),
        caller.state(RECIPIENT).await.unwrap_err(),
        caller.states(&[RECIPIENT]).await.unwrap_err(),
        caller.page(0, "").await.unwrap_err(),
    ]
}

/// All four are served again.
async fn served(caller: &Caller) {
    eventually("all are served", RECOVERY, async || {
        caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.ok()?;
        caller.state(RECIPIENT).await.ok()?;
        caller.states(&[RECIPIENT]).await.ok()?;
        caller.page(0, "").await.ok()
    })
    .await;
}

#[tokio::test]
async fn who_does_not_say_who_they_are_is_refused_before_anything_else() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    let basic = Credentials::Authorization("Basic dTpw".to_owned());
    let nobody = with_claims(json!({ "sub": "me" }));
    let large = vec![0; 70_000];
    for (method, good) in methods() {
        for message in [&good[..], b"", b"\xff", &large] {
            let denied = refusal(&raw, method, &Credentials::Nothing, message).await;
            assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
            let denied = refusal(&raw, method, &Credentials::UserId(READER), message).await;
            assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_MISSING");
            let denied = refusal(&raw, method, &basic, message).await;
            assert_denied(&denied, Code::Unauthenticated, "CREDENTIALS_INVALID");
            let denied = refusal(&raw, method, &nobody, message).await;
            assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");
        }
    }
    assert_untouched(&redis, READER).await;
}

#[tokio::test]
async fn bytes_that_are_no_message_are_invalid_and_too_many_too_large() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    let reader = Credentials::token_of(READER);
    for (method, good) in methods() {
        for trash in [&b"\xff"[..], b"\x0a", b"\x0a\xff\xff", &[&good[..], b"\x07"].concat()] {
            let denied = refusal(&raw, method, &reader, trash).await;
            assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
        }
        let denied = refusal(&raw, method, &reader, &vec![0; 64 * 1024 + 1]).await;
        assert_denied(&denied, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    }
    assert_untouched(&redis, READER).await;
    assert_eq!(super::reads_used(&redis, READER).await, None);
}

#[tokio::test]
async fn a_redis_that_was_killed_makes_all_unavailable_until_it_is_back() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    served(&caller).await;
    redis.kill().await;
    for denied in refusals(&caller).await {
        assert_store_unavailable(&denied);
        super::assert_no_quota(&denied.metadata);
    }
    redis.restart().await;
    served(&caller).await;
}

#[tokio::test]
async fn a_redis_that_hangs_makes_all_unavailable_within_the_call_timeout() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "500ms"]).await;
    let caller = server.caller(READER);
    served(&caller).await;
    redis.freeze();
    let began = Instant::now();
    for denied in refusals(&caller).await {
        assert_store_unavailable(&denied);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    redis.thaw();
    served(&caller).await;
}

#[tokio::test]
async fn a_deadline_of_the_callers_own_ends_all() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "20s"]).await;
    served(&server.caller(READER)).await;
    let raw = Raw::to(&server).await;
    redis.freeze();
    for (method, good) in methods() {
        let path = format!("/markread.v1.MarkReadService/{method}");
        let head = raw.grpc(&path, &Credentials::token_of(READER)).header("grpc-timeout", "200m");
        let denied = raw.send(head, raw::frame(&good)).await.unwrap().denied();
        assert_denied(&denied, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn the_guard_stands_before_all() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--edge-rate", "1", "--edge-burst", "2"]).await;
    let caller = server.caller(READER);
    let mut stopped = [0; 4];
    // One more passes each second, however slowly these go.
    for _ in 0..100 {
        let refused = [
            caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.err(),
            caller.state(RECIPIENT).await.err(),
            caller.states(&[RECIPIENT]).await.err(),
            caller.page(0, "").await.err(),
        ];
        for (denied, stopped) in refused.into_iter().zip(&mut stopped) {
            if let Some(denied) = denied {
                assert_denied(&denied, Code::ResourceExhausted, "EDGE_LIMIT_EXCEEDED");
                super::assert_no_quota(&denied.metadata);
                *stopped += 1;
            }
        }
        if stopped.iter().all(|times| *times > 0) {
            return;
        }
    }
    panic!("not all were stopped: {stopped:?}");
}

#[tokio::test]
async fn durations_of_all_are_measured_by_method_and_status() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    served(&server.caller(READER)).await;
    for (method, _) in methods() {
        let series = format!(
            "rpc_server_call_duration_seconds_count{{\
             rpc_method=\"markread.v1.MarkReadService/{method}\",\
             rpc_response_status_code=\"OK\"}}"
        );
        eventually(&series, Duration::from_secs(5), async || server.metric(&series).await).await;
    }
}
