//! User objects in events, on a real Redis: "The event" in `docs/contract.md`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread::domain::RateLimit;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use serde_json::{Value, json};
use tonic::Code;

use crate::answers::assert_store_unavailable;
use crate::stores::{Subject, mark};

/// A user object of Twitter's v1.1 API: 40 members, an emoji, nested entities.
const USER_OBJECT: &str = include_str!("user_object.json");

async fn last_payload(redis: &Redis) -> String {
    redis.payloads().await.pop().expect("an event")
}

#[tokio::test]
async fn a_full_user_object_is_in_the_event_byte_for_byte() {
    let redis = Redis::start().await;
    redis.put_user(READER, USER_OBJECT.as_bytes()).await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();

    let payload = last_payload(&redis).await;
    let users = format!(
        r#""users":{{"{READER}":{},"{RECIPIENT}":{{"id":"{RECIPIENT}"}}}}}}"#,
        USER_OBJECT.trim()
    );
    assert!(payload.ends_with(&users), "{payload}");
    let payload: Value = serde_json::from_str(&payload).unwrap();
    let stored: Value = serde_json::from_str(USER_OBJECT).unwrap();
    assert_eq!(stored.as_object().unwrap().len(), 40);
    assert_eq!(payload["users"][READER.to_string()], stored);
}

#[tokio::test]
async fn whatever_is_stored_the_mark_is_ok_and_its_event_valid() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let large = format!("{{\"a\":\"{}\"}}", "x".repeat(1024 * 1024));
    let values = ["[]", "{", "", "null", "{}]", "\"", &large];
    for (user, value) in (1..).zip(values) {
        redis.put_user(user, value.as_bytes()).await;
    }
    let count = u64::try_from(values.len()).unwrap();
    let kinds = ["RPUSH", "SADD", "PFADD"];
    for (user, command) in (count + 1..).zip(kinds) {
        redis.run::<()>(&format!("{command} user:{user} 1")).await;
    }
    redis.run::<()>(&format!("HSET user:{} a 1", count + 4)).await;
    for user in 1..=count + 4 {
        server.caller(user).mark(RECIPIENT, MESSAGE).await.unwrap();
        let payload: Value = serde_json::from_str(&last_payload(&redis).await).unwrap();
        let (user, recipient) = (user.to_string(), RECIPIENT.to_string());
        let users = json!({ &user: { "id": user }, &recipient: { "id": recipient } });
        assert_eq!(payload["users"], users);
    }
    let read = bytes(&redis, "total_net_output_bytes").await;
    assert!(read < 1024 * 1024, "the large one was not read whole: {read} bytes");
}

/// A JSON object of this many bytes.
fn object(bytes: usize) -> String {
    format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8))
}

#[tokio::test]
async fn an_object_over_the_bound_appears_as_the_id_and_is_counted() {
    for (flags, max_bytes) in [(&[][..], 16 * 1024), (&["--user-object-max-bytes", "100"], 100)] {
        let redis = Redis::start().await;
        redis.put_user(READER, object(max_bytes).as_bytes()).await;
        redis.put_user(RECIPIENT, object(max_bytes + 1).as_bytes()).await;
        let server = Server::on_with(&redis, flags).await;
        server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
        let users = format!(
            r#""users":{{"{READER}":{},"{RECIPIENT}":{{"id":"{RECIPIENT}"}}}}}}"#,
            object(max_bytes)
        );
        assert!(last_payload(&redis).await.ends_with(&users));
        let counted = server.metric("markread_user_objects_oversized_total").await;
        assert_eq!(counted, Some(1.0));

        // Another one is counted, but the log has one line a minute.
        redis.put_user(1, object(max_bytes + 1).as_bytes()).await;
        server.caller(READER).mark(1, MESSAGE).await.unwrap();
        let counted = server.metric("markread_user_objects_oversized_total").await;
        assert_eq!(counted, Some(2.0));
        let lines = server.log();
        let told = lines.iter().filter(|line| line.contains("--user-object-max-bytes"));
        assert_eq!(told.count(), 1, "{lines:?}");
    }
}

#[tokio::test]
async fn a_call_carries_at_most_1_mib_of_objects() {
    const MARKS: u64 = 100;
    let redis = Arc::new(Redis::start().await);
    for user in 1..=MARKS {
        redis.put_user(user, object(16 * 1024).as_bytes()).await;
    }
    let limit = RateLimit { calls: 1000, window_ms: 60_000 };
    let subject = Subject::on(Arc::clone(&redis), limit).await;
    let marks: Vec<_> = (1..=MARKS).map(|to| mark(READER, to, MESSAGE)).collect();
    subject.store().mark_read_all(&marks, None).await.unwrap();
    let payloads = redis.payloads().await;
    let with_object = |payload: &&String| payload.len() > 16 * 1024;
    assert_eq!(payloads.iter().filter(with_object).count(), 64);
    assert_eq!(payloads.len(), 100);
}

/// A counter of bytes in Redis's statistics.
async fn bytes(redis: &Redis, name: &str) -> u64 {
    let stats: String = redis.run("INFO stats").await;
    let line = stats.lines().find_map(|line| line.strip_prefix(name)).expect("a line");
    line.trim_start_matches(':').parse().unwrap()
}

#[tokio::test]
async fn known_users_cost_no_round_trip_and_absence_is_known_too() {
    let redis = Redis::start().await;
    redis.put_user(READER, b"{\"name\":\"before\"}").await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let began = Instant::now();
    for message in 1..=20 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    if began.elapsed() < Duration::from_secs(3) {
        assert_eq!(redis.calls("getrange").await, 2, "each user is read once");
    }
    assert_eq!(redis.calls("evalsha").await, 20);

    redis.put_user(READER, b"{\"name\":\"after\"}").await;
    redis.put_user(RECIPIENT, b"{\"name\":\"new\"}").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let users =
        format!(r#""users":{{"{READER}":{{"name":"after"}},"{RECIPIENT}":{{"name":"new"}}}}}}"#);
    // As they were read, and then as they are known.
    for message in [21, 22] {
        caller.mark(RECIPIENT, message).await.unwrap();
        assert!(last_payload(&redis).await.ends_with(&users), "an object older than 5 s is shown");
    }
}

#[tokio::test]
async fn a_reader_who_is_denied_costs_no_read() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1"]).await;
    let caller = server.caller(READER);
    caller.mark(1, MESSAGE).await.unwrap();
    caller.mark(2, MESSAGE).await.unwrap_err();
    let read = redis.calls("getrange").await;
    for recipient in 3..10 {
        let denied = caller.mark(recipient, MESSAGE).await.unwrap_err();
        assert_eq!(denied.code, Code::ResourceExhausted);
    }
    assert_eq!(redis.calls("getrange").await, read);
}

#[tokio::test]
async fn unreadable_users_make_the_mark_unavailable() {
    let redis = Redis::start().await;
    redis.run::<()>("ACL SETUSER marker on >secret ~* &* +@all").await;
    let url = redis.url().replace("redis://", "redis://marker:secret@");
    let server = Server::at(&url, &[], &[]).await;
    server.wait_until_ready().await;
    redis.run::<()>("ACL SETUSER marker -getrange").await;
    let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_store_unavailable(&denied);
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);

    redis.run::<()>("ACL SETUSER marker +getrange").await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
}

#[tokio::test]
async fn user_objects_are_where_the_prefix_says() {
    let redis = Redis::start().await;
    redis.put_user(READER, b"{\"not\":\"here\"}").await;
    redis.run::<()>(&format!("SET profiles:v2:{READER} {{\"here\":1}}")).await;
    let server = Server::on_with(&redis, &["--user-key-prefix", "profiles:v2:"]).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let payload = last_payload(&redis).await;
    assert!(payload.contains(&format!("\"{READER}\":{{\"here\":1}}")), "{payload}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_carries_each_users_text_to_redis_once() {
    const MARKS: u64 = 100;
    let redis = Arc::new(Redis::start().await);
    let object = format!("{{\"a\":\"{}\"}}", "x".repeat(16_000));
    redis.put_user(READER, object.as_bytes()).await;
    let limit = RateLimit { calls: 1000, window_ms: 60_000 };
    let subject = Subject::on(Arc::clone(&redis), limit).await;
    let before = bytes(&redis, "total_net_input_bytes").await;
    let marks: Vec<_> = (1..=MARKS).map(|to| mark(READER, to, MESSAGE)).collect();
    subject.store().mark_read_all(&marks, None).await.unwrap();
    let sent = bytes(&redis, "total_net_input_bytes").await - before;
    let once = u64::try_from(object.len()).unwrap();
    assert!((once..2 * once).contains(&sent), "{sent} bytes for {once}");
    assert_eq!(redis.calls("evalsha").await, 1);
    let payloads = redis.payloads().await;
    assert!(payloads.iter().all(|payload| payload.contains(&object)), "every event shows the user");
}
