//! OK, `INVALID_ARGUMENT`, `MESSAGE_TOO_LARGE`, UNIMPLEMENTED; and the order of checks.

use markread_harness::caller::{Credentials, number};
use markread_harness::raw::{self, MARK_READ, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tonic::Code;

use super::{assert_denied, assert_untouched, bad_fields};

const MAX_ID: u64 = (1 << 63) - 1;
const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// A valid message of any length, padded with an unknown field.
fn message_of(length: usize) -> Vec<u8> {
    let mut message = raw::request(RECIPIENT, MESSAGE);
    // Field 15, length-delimited, its length in three bytes.
    let padding = length - message.len() - 4;
    let [low, middle, high] = [padding & 0x7f, padding >> 7 & 0x7f, padding >> 14]
        .map(|seven_bits| u8::try_from(seven_bits).unwrap());
    message.extend([15 << 3 | 2, low | 0x80, middle | 0x80, high]);
    message.resize(length, b'x');
    message
}

#[tokio::test]
async fn a_mark_is_ok_whether_it_advances_or_not() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    for (message, advanced, remaining) in
        [(MESSAGE, true, 999), (MESSAGE, false, 998), (1, false, 997), (MAX_ID, true, 996)]
    {
        let answer = caller.mark(RECIPIENT, message).await.unwrap();
        assert_eq!(answer.advanced, advanced);
        assert_eq!(number(&answer.metadata, "x-rate-limit-limit"), 1000);
        assert_eq!(number(&answer.metadata, "x-rate-limit-remaining"), remaining);
        assert!(number(&answer.metadata, "x-rate-limit-reset") > 0);
    }
    for recipient in [1, MAX_ID, READER] {
        let answer = caller.mark(recipient, 1).await.unwrap();
        assert!(answer.advanced);
        assert_eq!(answer.cursor.recipient_id, recipient);
    }
}

#[tokio::test]
async fn invalid_ids_are_listed_with_one_violation_per_field() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let table: [(u64, u64, &[&str]); 8] = [
        (0, 0, &["last_read_event_id", "recipient_id"]),
        (0, MESSAGE, &["recipient_id"]),
        (RECIPIENT, 0, &["last_read_event_id"]),
        (MAX_ID + 1, MESSAGE, &["recipient_id"]),
        (RECIPIENT, MAX_ID + 1, &["last_read_event_id"]),
        (u64::MAX, MESSAGE, &["recipient_id"]),
        (RECIPIENT, u64::MAX, &["last_read_event_id"]),
        (u64::MAX, 0, &["last_read_event_id", "recipient_id"]),
    ];
    for (recipient, message, fields) in table {
        let denied = caller.mark(recipient, message).await.unwrap_err();
        assert_denied(&denied, Code::InvalidArgument, "INVALID_PARAMETER");
        assert_eq!(bad_fields(&denied), fields, "{recipient} {message}");
        assert!(fields.iter().all(|field| denied.message.contains(field)), "{denied:?}");
        assert!(denied.metadata.get("x-rate-limit-limit").is_none(), "the quota was not checked");
    }
    assert_untouched(&redis, READER).await;
}

#[tokio::test]
async fn a_message_over_64_kib_is_too_large_and_one_of_64_kib_is_not() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    for over in [1, 1024, 1024 * 1024] {
        let message = message_of(MESSAGE_MAX_BYTES + over);
        let denied = raw.mark_read(READER, raw::frame(&message)).await.refusal();
        assert_denied(&denied, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
        assert!(denied.details.retry_info().is_none(), "a retry does not help");
    }
    assert_untouched(&redis, READER).await;

    let answer = raw.mark_read(READER, raw::frame(&message_of(MESSAGE_MAX_BYTES))).await;
    assert_eq!(answer.grpc_status().code(), Code::Ok);
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented_for_every_caller() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let raw = Raw::to(&server).await;
    for path in [
        "/markread.v1.MarkReadService/MarkUnread",
        "/markread.v1.MarkReadService/markread",
        "/markread.v1.MarkReadService/",
        "/markread.v2.MarkReadService/MarkRead",
        "/MarkRead",
        "/",
    ] {
        for credentials in [Credentials::Nothing, Credentials::token_of(READER)] {
            let body = raw::frame(&raw::request(RECIPIENT, MESSAGE));
            let answer = raw.send(raw.grpc(path, &credentials), body).await.unwrap();
            let status = answer.grpc_status();
            assert_eq!((answer.status.as_u16(), status.code()), (200, Code::Unimplemented));
            assert!(!status.message().is_empty());
        }
    }
    assert_untouched(&redis, READER).await;
}

#[tokio::test]
async fn checks_are_made_in_the_documented_order() {
    let mut redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1"]).await;
    let raw = Raw::to(&server).await;
    let mine = Credentials::token_of(READER);
    let too_large = raw::frame(&message_of(MESSAGE_MAX_BYTES + 1));
    server.caller(READER).mark(RECIPIENT, 1).await.unwrap();
    server.caller(READER).mark(RECIPIENT, 2).await.unwrap_err();

    // Routing, identity, size, parameters, quota, store: each case corrects one fault more.
    let ask = async |path, credentials, body: &[u8]| {
        let answer = raw.send(raw.grpc(path, credentials), body.to_vec()).await.unwrap();
        answer.refusal()
    };
    let unknown = ask("/markread.v1.MarkReadService/No", &Credentials::Nothing, &too_large).await;
    assert_eq!(unknown.code, Code::Unimplemented);
    let stranger = ask(MARK_READ, &Credentials::Nothing, &too_large).await;
    assert_denied(&stranger, Code::Unauthenticated, "CREDENTIALS_MISSING");
    let large = ask(MARK_READ, &mine, &too_large).await;
    assert_denied(&large, Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    let invalid = ask(MARK_READ, &mine, &raw::frame(&[])).await;
    assert_denied(&invalid, Code::InvalidArgument, "INVALID_PARAMETER");
    redis.kill().await;
    let invalid = ask(MARK_READ, &mine, &raw::frame(&[])).await;
    assert_denied(&invalid, Code::InvalidArgument, "INVALID_PARAMETER");
    let valid = raw::frame(&raw::request(RECIPIENT, 3));
    let limited = ask(MARK_READ, &mine, &valid).await;
    assert_denied(&limited, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    let other = ask(MARK_READ, &Credentials::token_of(READER + 1), &valid).await;
    assert_denied(&other, Code::Unavailable, "STORE_UNAVAILABLE");
}
