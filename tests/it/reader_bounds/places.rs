//! A call waits for a place among its reader's calls: after identity, before its message is looked at.

use std::time::{Duration, Instant};

use markread::proto::ListReadCursorsRequest;
use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ};
use markread_harness::server::http1;
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server};
use prost::Message;
use tonic::Code;

use super::{assert_too_many, begin, refused};
use crate::answers::assert_denied;
use crate::read_side::reads_used;

const ONE: [&str; 4] = ["--reader-concurrency", "1", "--call-timeout", "3s"];

#[tokio::test]
async fn a_call_that_gets_no_place_in_time_is_refused() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let (caller, other) = (server.caller(READER), server.caller(READER + 1));
    let mut held = begin(&raw, "MarkRead", READER).await;
    let waiting = tokio::spawn({
        let caller = caller.clone();
        async move { caller.mark(RECIPIENT, 1).await }
    });
    // Others do not wait, and the store answers.
    for message in 1..=3 {
        other.mark(RECIPIENT, message).await.unwrap();
    }
    // The call that holds the place ends first, since its message does not come.
    held.body.send_data(raw::frame(b"").into(), false).unwrap();
    let refusal = held.answer().await.unwrap().refusal();
    assert_denied(&refusal, Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    assert_too_many(&waiting.await.unwrap().unwrap_err());
    assert_eq!(redis.used(READER).await, None);
    assert!((refused(&server, "reader_concurrency").await - 1.0).abs() < 0.5);

    // With a place it is served.
    let mut held = begin(&raw, "MarkRead", READER).await;
    let waiting = tokio::spawn(async move { caller.mark(RECIPIENT, 1).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    held.body.send_data(raw::frame(&raw::request(RECIPIENT, 2)).into(), true).unwrap();
    assert!(held.answer().await.unwrap().marked().unwrap().advanced);
    assert!(!waiting.await.unwrap().unwrap().advanced, "it came second");
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_the_callers() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let _held = begin(&raw, "MarkRead", READER).await;
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
    let large = vec![0; 64 * 1024 + 1];
    let bad = raw::frame(&raw::request(0, 0));
    // With a place: what is wrong with the message.
    let answer = raw.mark_read(READER, large.clone()).await.refusal();
    assert_denied(&answer, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let answer = raw.mark_read(READER, bad.clone()).await.refusal();
    assert_denied(&answer, Code::InvalidArgument, "INVALID_PARAMETER");

    let _held = begin(&raw, "MarkRead", READER).await;
    let nobody = raw.grpc(MARK_READ, &Credentials::Nothing);
    let answer = raw.send(nobody, large.clone()).await.unwrap().refusal();
    assert_denied(&answer, Code::Unauthenticated, "CREDENTIALS_MISSING");
    let other = server.caller(READER + 1);
    let (large, bad, ()) =
        tokio::join!(raw.mark_read(READER, large), raw.mark_read(READER, bad), async {
            other.mark(RECIPIENT, MESSAGE).await.unwrap();
        });
    assert_too_many(&large.refusal());
    assert_too_many(&bad.refusal());
}

#[tokio::test]
async fn two_pages_at_a_time_and_light_calls_pass_those_that_wait() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "4s"]).await;
    let raw = Raw::to(&server).await;
    let began = Instant::now();
    let mut first = begin(&raw, "ListReadCursors", READER).await;
    let _second = begin(&raw, "BatchGetReadStates", READER).await;
    let caller = server.caller(READER);
    let waiting = [(); 50].map(|()| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.page(0, "").await })
    });
    for message in 1..=50 {
        caller.mark(RECIPIENT, message).await.unwrap();
        caller.state(RECIPIENT).await.unwrap();
    }
    server.caller(READER + 1).page(0, "").await.unwrap();
    if began.elapsed() < Duration::from_secs(3) {
        assert!(waiting.iter().all(|page| !page.is_finished()));
    }
    // One that ends lets all others through, one at a time.
    let page = raw::frame(&ListReadCursorsRequest::default().encode_to_vec());
    first.body.send_data(page.into(), true).unwrap();
    first.answer().await.unwrap();
    for page in waiting {
        page.await.unwrap().unwrap();
    }
    assert_eq!(reads_used(&redis, READER).await, Some(50 + 1 + 50));
}

#[tokio::test]
async fn the_http_endpoint_has_the_same_places() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &ONE).await;
    let raw = Raw::to(&server).await;
    let post = async |reader| {
        let Credentials::Authorization(token) = Credentials::token_of(reader) else { panic!() };
        let form = format!("last_read_event_id={MESSAGE}&recipient_id={RECIPIENT}");
        let request = format!(
            "POST /1.1/direct_messages/mark_read.json HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             authorization: {token}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{form}",
            form.len()
        );
        http1(&server.address, &request).await.expect("an answer")
    };
    let _held = begin(&raw, "MarkRead", READER).await;
    let ((head, body), ()) = tokio::join!(post(READER), async {
        assert!(post(READER + 1).await.0.starts_with("HTTP/1.1 204"));
    });
    assert!(head.starts_with("HTTP/1.1 429"), "{head}");
    assert!(head.contains("retry-after: 1"), "{head}");
    assert_eq!(raw::error_codes(&body), [88]);
    drop(raw);
    let (head, _) = post(READER).await;
    assert!(head.starts_with("HTTP/1.1 204"), "{head}");
}
