//! The refusals that these methods share: "Answers" in `docs/contract.md`.

use std::time::{Duration, Instant};

use markread::proto::batch_mark_read_result::Result as ItemResult;
use markread::proto::{
    BatchGetReadStatesRequest, BatchMarkReadRequest, GetReadStateRequest, ListReadCursorsRequest,
    MarkReadRequest,
};
use markread_harness::caller::{Caller, Credentials, Refusal};
use markread_harness::{MESSAGE, OUTCOMES, READER, RECIPIENT, Raw, Redis, Server, eventually, raw};
use prost::Message;
use serde_json::json;
use tonic::Code;

use crate::answers::outcomes::counted;
use crate::answers::tokens::with_claims;
use crate::answers::{assert_denied, assert_no_secret, assert_store_unavailable, assert_untouched};

const RECOVERY: Duration = Duration::from_secs(15);

/// The methods, each with a valid request.
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

async fn refusal(raw: &Raw, method: &str, credentials: &Credentials, message: &[u8]) -> Refusal {
    let path = format!("/markread.v1.MarkReadService/{method}");
    let answer = raw.send(raw.grpc(&path, credentials), raw::frame(message)).await.unwrap();
    answer.refusal()
}

/// Calls all four methods, which must be refused.
async fn refusals(caller: &Caller) -> [Refusal; 4] {
    [
        caller.mark_batch(&[(RECIPIENT, MESSAGE)]).await.unwrap_err(),
        caller.state(RECIPIENT).await.unwrap_err(),
        caller.states(&[RECIPIENT]).await.unwrap_err(),
        caller.page(0, "").await.unwrap_err(),
    ]
}

/// Asserts that a batch which Redis refuses is unavailable, either as a whole or in each item.
pub(crate) async fn assert_batch_unavailable(caller: &Caller) {
    let answer = caller.mark_batch(&[(RECIPIENT, MESSAGE), (RECIPIENT + 1, 1)]).await;
    let results = match answer {
        Err(denied) => return assert_store_unavailable(&denied),
        Ok(answer) => answer.into_inner().results,
    };
    assert_eq!(results.len(), 2);
    for result in results {
        let Some(ItemResult::Error(error)) = result.result else { panic!("{result:?}") };
        assert_eq!((error.code, error.reason.as_str()), (14, "STORE_UNAVAILABLE"));
        assert_no_secret(&error.message);
        let delay = Duration::try_from(error.retry_delay.expect("a retry is safe")).unwrap();
        assert!((100..=1000).contains(&delay.as_millis()), "{delay:?}");
    }
}

/// Waits until all four methods are served again.
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
async fn missing_credentials_come_before_every_other_check() {
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
async fn malformed_messages_are_invalid_and_long_ones_too_large() {
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
async fn a_killed_redis_makes_all_methods_unavailable() {
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
async fn a_hanging_redis_is_unavailable_within_the_call_timeout() {
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
async fn a_callers_deadline_ends_every_method() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "20s"]).await;
    served(&server.caller(READER)).await;
    let raw = Raw::to(&server).await;
    redis.freeze();
    for (method, good) in methods() {
        let path = format!("/markread.v1.MarkReadService/{method}");
        let head = raw.grpc(&path, &Credentials::token_of(READER)).header("grpc-timeout", "200m");
        let denied = raw.send(head, raw::frame(&good)).await.unwrap().refusal();
        assert_denied(&denied, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn the_guard_comes_before_every_method() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--edge-rate", "1", "--edge-burst", "2"]).await;
    let caller = server.caller(READER);
    let mut stopped = [0; 4];
    // One more passes each second, however slow these calls are.
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
async fn durations_are_measured_by_method_and_status() {
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

#[tokio::test]
async fn reads_are_not_counted_as_marks() {
    let mut redis = Redis::start().await;
    let flags = ["--read-rate-limit", "3", "--call-timeout", "2s"];
    let server = Server::on_with(&redis, &flags).await;
    let caller = server.caller(READER);
    let stranger = server.stranger(Credentials::Nothing);
    let raw = Raw::to(&server).await;
    caller.state(RECIPIENT).await.unwrap();
    caller.states(&[RECIPIENT]).await.unwrap();
    caller.page(0, "").await.unwrap();
    for (code, caller, recipient) in [
        (Code::ResourceExhausted, &caller, RECIPIENT),
        (Code::InvalidArgument, &caller, 0),
        (Code::Unauthenticated, &stranger, RECIPIENT),
        (Code::PermissionDenied, &server.stranger(with_claims(json!({ "sub": "me" }))), 1),
    ] {
        assert_eq!(caller.state(recipient).await.unwrap_err().code, code);
        assert_eq!(caller.states(&[recipient]).await.unwrap_err().code, code);
        assert_eq!(
            caller.page(0, if recipient == 0 { "x" } else { "" }).await.unwrap_err().code,
            code
        );
    }
    redis.freeze();
    let other = Credentials::token_of(READER + 1);
    for (method, good) in &methods()[1..] {
        let path = format!("/markread.v1.MarkReadService/{method}");
        let head = raw.grpc(&path, &other).header("grpc-timeout", "200m");
        let denied = raw.send(head, raw::frame(good)).await.unwrap().refusal();
        assert_eq!(denied.code, Code::DeadlineExceeded);
        assert_eq!(refusal(&raw, method, &other, b"\xff").await.code, Code::InvalidArgument);
    }
    redis.kill().await;
    assert_eq!(server.caller(READER + 1).state(1).await.unwrap_err().code, Code::Unavailable);
    // A later mark is counted, so every earlier call would be by then.
    let mut expected = OUTCOMES.map(|outcome| (outcome, 0.0));
    stranger.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    expected.iter_mut().filter(|(name, _)| *name == "unauthenticated").for_each(|it| it.1 = 1.0);
    eventually("the mark is counted", Duration::from_secs(5), async || {
        (counted(&server).await["unauthenticated"] >= 1.0).then_some(())
    })
    .await;
    assert_eq!(counted(&server).await, expected.into());
}

#[tokio::test]
async fn a_redis_without_memory_is_unavailable_and_unchanged() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    served(&caller).await;
    let before = redis.contents().await;
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    assert_batch_unavailable(&caller).await;
    for denied in [
        caller.state(RECIPIENT).await.unwrap_err(),
        caller.states(&[RECIPIENT]).await.unwrap_err(),
        caller.page(0, "").await.unwrap_err(),
    ] {
        assert_store_unavailable(&denied);
    }
    assert_eq!(redis.contents().await, before);
    redis.run::<()>("CONFIG SET maxmemory 0").await;
    served(&caller).await;
}

#[tokio::test]
async fn marks_wait_for_replicas_and_reads_do_not() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--replicas-ack", "1"]).await;
    let caller = server.caller(READER);
    for _ in 0..2 {
        // The second batch has only no-ops, which wait for the replica as well.
        assert_batch_unavailable(&caller).await;
    }
    caller.state(RECIPIENT).await.unwrap();
    caller.states(&[RECIPIENT]).await.unwrap();
    caller.page(0, "").await.unwrap();
}
