//! A call waits for a place among its reader's calls: after identity, before its message is looked at.

use std::time::Duration;

use markread::proto::ListReadCursorsRequest;
use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ, OpenCall, RawAnswer};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server};
use prost::Message;
use tonic::Code;

use super::{assert_too_many, begin, places_are_taken, refused};
use crate::answers::assert_denied;
use crate::read_side::reads_used;

const ONE: [&str; 4] = ["--reader-concurrency", "1", "--call-timeout", "3s"];

/// Takes the one place of a reader: a page takes it before its message has come.
async fn hold(raw: &Raw) -> OpenCall {
    let held = begin(raw, "ListReadCursors", READER).await;
    places_are_taken(raw, "MarkRead", READER).await;
    held
}

fn page() -> Vec<u8> {
    raw::frame(&ListReadCursorsRequest::default().encode_to_vec())
}

/// Makes a call right after one that keeps the one place until its own timeout, a tenth of a second
/// later than the other gives up. On a machine that stands still for as long, again.
async fn without_place<T>(
    raw: &Raw,
    call: impl AsyncFn() -> T,
    is_refused: impl Fn(&T) -> bool,
) -> T {
    for _ in 0..5 {
        let _held = begin(raw, "ListReadCursors", READER).await;
        let answer = call().await;
        if is_refused(&answer) {
            return answer;
        }
    }
    panic!("never refused")
}

fn is_busy(answer: &RawAnswer) -> bool {
    answer.refusal().reason == "CONCURRENCY_LIMIT_EXCEEDED"
}

#[tokio::test]
async fn a_call_that_gets_no_place_in_time_is_refused() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let other = server.caller(READER + 1);
    let bad = raw::frame(&raw::request(0, 0));
    let call = async || {
        // Others do not wait, and the store answers.
        let others = async {
            for message in 1..=3 {
                other.mark(RECIPIENT, message).await.unwrap();
            }
        };
        tokio::join!(raw.mark_read(READER, bad.clone()), others).0
    };
    assert_too_many(&without_place(&raw, call, is_busy).await.refusal());
    assert_eq!(redis.used(READER).await, None);
    assert!(refused(&server, "reader_concurrency").await > 0.5);

    // With a place it is served.
    let mut held = hold(&raw).await;
    let caller = server.caller(READER);
    let waiting = tokio::spawn(async move { caller.mark(RECIPIENT, 1).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    held.body.send_data(page().into(), true).unwrap();
    assert_eq!(held.answer().await.unwrap().grpc_status().code(), Code::Ok);
    assert!(waiting.await.unwrap().unwrap().advanced);
}

#[tokio::test]
async fn a_mark_whose_message_does_not_come_takes_no_place() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let mut half = Vec::new();
    for _ in 0..100 {
        half.push(begin(&raw, "MarkRead", READER).await);
    }
    for message in 1..=10 {
        assert!(server.caller(READER).mark(RECIPIENT, message).await.unwrap().advanced);
    }
    for call in half {
        let refusal = call.answer().await.unwrap().refusal();
        assert_denied(&refusal, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_the_callers() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let _held = hold(&raw).await;
    let late = raw.mark_within("300m", READER, RECIPIENT, MESSAGE).await;
    assert_denied(&late.refusal(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_eq!(redis.used(READER).await, None);
    let in_time = raw.mark_within("300m", READER + 1, RECIPIENT, MESSAGE).await;
    assert!(in_time.marked().unwrap().advanced);
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable_to_those_that_wait() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let caller = server.caller(READER);
    redis.freeze();
    let calls = [1, 2, 3].map(|message| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.mark(RECIPIENT, message).await })
    });
    for call in calls {
        crate::answers::assert_store_unavailable(&call.await.unwrap().unwrap_err());
    }
    redis.thaw();
}

#[tokio::test]
async fn identity_is_looked_at_before_and_the_message_after_the_place() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let large = raw::frame(&vec![0; 64 * 1024 + 1]);
    let bad = raw::frame(&raw::request(0, 0));
    // With a place: what is wrong with the message.
    let answer = raw.mark_read(READER, large.clone()).await.refusal();
    assert_denied(&answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let answer = raw.mark_read(READER, bad.clone()).await.refusal();
    assert_denied(&answer, Code::InvalidArgument, "INVALID_PARAMETER");

    let other = server.caller(READER + 1);
    let call = async || {
        let nobody = raw.grpc(MARK_READ, &Credentials::Nothing);
        let (answer, nobodys, others) = tokio::join!(
            raw.mark_read(READER, bad.clone()),
            raw.send(nobody, bad.clone()),
            other.mark(RECIPIENT, MESSAGE)
        );
        let nobodys = nobodys.unwrap().refusal();
        assert_denied(&nobodys, Code::Unauthenticated, "CREDENTIALS_MISSING");
        others.unwrap();
        answer
    };
    assert_too_many(&without_place(&raw, call, is_busy).await.refusal());
}

#[tokio::test]
async fn a_message_that_cannot_be_read_does_not_wait_for_a_place() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let large = raw::frame(&vec![0; 64 * 1024 + 1]);
    let malformed = raw::frame(&[0xff; 3]);
    let _held = hold(&raw).await;
    for path in [MARK_READ, "/markread.v1.MarkReadService/GetReadState"] {
        let send = async |message: &Vec<u8>| {
            let head = raw.grpc(path, &Credentials::token_of(READER)).header("grpc-timeout", "1S");
            raw.send(head, message.clone()).await.unwrap().refusal()
        };
        assert_denied(&send(&large).await, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert_denied(&send(&malformed).await, Code::InvalidArgument, "INVALID_PARAMETER");
    }
    // One that can be read waits.
    let late = raw.mark_within("50m", READER, RECIPIENT, MESSAGE).await;
    assert_denied(&late.refusal(), Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
}

#[tokio::test]
async fn two_pages_at_a_time_and_light_calls_pass_those_that_wait() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "20s"]).await;
    let raw = Raw::to(&server).await;
    let mut first = begin(&raw, "ListReadCursors", READER).await;
    let _second = begin(&raw, "BatchGetReadStates", READER).await;
    places_are_taken(&raw, "ListReadCursors", READER).await;
    let before = reads_used(&redis, READER).await.unwrap_or_default();
    let caller = server.caller(READER);
    let waiting: [_; 50] = std::array::from_fn(|_| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.page(0, "").await })
    });
    for message in 1..=50 {
        caller.mark(RECIPIENT, message).await.unwrap();
        caller.state(RECIPIENT).await.unwrap();
    }
    server.caller(READER + 1).page(0, "").await.unwrap();
    assert!(waiting.iter().all(|page| !page.is_finished()));
    // One that ends lets all others through, one at a time.
    first.body.send_data(page().into(), true).unwrap();
    first.answer().await.unwrap();
    for page in waiting {
        page.await.unwrap().unwrap();
    }
    assert_eq!(reads_used(&redis, READER).await, Some(before + 50 + 1 + 50));
}

#[tokio::test]
async fn the_http_endpoint_has_the_same_places() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let post = async |reader| {
        let Credentials::Authorization(token) = Credentials::token_of(reader) else { panic!() };
        let head = raw.post("/1.1/direct_messages/mark_read.json").header("authorization", token);
        let head = head.header("content-type", "application/x-www-form-urlencoded");
        let form = format!("last_read_event_id={MESSAGE}&recipient_id={RECIPIENT}");
        raw.send(head, form).await.unwrap()
    };
    let call = async || {
        let (answer, others) = tokio::join!(post(READER), post(READER + 1));
        assert_eq!(others.status, 204);
        answer
    };
    let answer = without_place(&raw, call, |answer| answer.status == 429).await;
    assert_eq!(answer.head["retry-after"], "1");
    assert_eq!(answer.error_codes(), [88]);
    // The calls that held the place end at their timeouts.
    let answer = post(READER).await;
    assert_eq!(answer.status, 204, "{answer:?}");
}
