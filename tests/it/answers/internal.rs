//! INTERNAL: Redis holds something that the service did not write. The mark changes nothing.

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use tonic::Code;

use super::assert_denied;

async fn assert_internal(redis: &Redis, server: &Server, reader: u64, what: &str) {
    let before = redis.contents().await;
    let denied = server.caller(reader).mark(RECIPIENT, MESSAGE).await.expect_err(what);
    assert_denied(&denied, Code::Internal, "INTERNAL");
    assert!(denied.details.retry_info().is_none(), "a retry does not help");
    assert_eq!(redis.contents().await, before, "{what}: nothing was changed");
}

/// Sets a string that may contain spaces.
async fn set(redis: &Redis, key: &str, value: &str) {
    let mut connection = redis.connection().await;
    redis::cmd("SET").arg(key).arg(value).query_async::<()>(&mut connection).await.unwrap();
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_internal_and_changes_nothing() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (reader, key) in [
        (1, "SET markread:cursors:1 text"),
        (2, "RPUSH markread:cursors:2 a"),
        (3, "RPUSH markread:quota:3 1"),
        (4, "HSET markread:quota:4 a 1"),
        (5, "XADD markread:quota:5 * a 1"),
    ] {
        redis.run::<()>(key).await;
        assert_internal(&redis, &server, reader, key).await;
    }
    redis.run::<()>("SET direct_message_mark_read_events text").await;
    assert_internal(&redis, &server, READER, "the stream").await;

    redis.run::<()>("DEL direct_message_mark_read_events").await;
    assert!(server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap().advanced);
    assert_eq!(redis.used(READER).await, Some(1));
    assert_eq!(redis.payloads().await.len(), 1);
}

#[tokio::test]
async fn a_quota_that_is_not_a_number_is_internal() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let key = format!("markread:quota:{READER}");
    for value in ["text", "", " ", "1 ", "-1", "+1", "1.5", "1e2", "0x1", "007", "00", "nan"] {
        set(&redis, &key, value).await;
        assert_internal(&redis, &server, READER, &format!("{value:?}")).await;
    }
    for value in ["0", "1"] {
        set(&redis, &key, value).await;
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    }
}

#[tokio::test]
async fn a_cursor_that_is_not_an_id_is_internal() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for cursor in ["text", "0", "-1", "007", "1.5", "9223372036854775808", "1e3"] {
        let key = format!("markread:cursors:{READER}");
        redis.run::<()>(&format!("HSET {key} {RECIPIENT} {cursor} -{RECIPIENT} 1")).await;
        assert_internal(&redis, &server, READER, cursor).await;
    }
    // Another conversation of the same reader is served.
    assert!(server.caller(READER).mark(RECIPIENT + 1, MESSAGE).await.unwrap().advanced);
}
