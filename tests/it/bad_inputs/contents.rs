//! Values in Redis that the service did not write.

use std::time::Duration;

use markread::proto::GetReadStateRequest;
use markread_harness::caller::Credentials;
use markread_harness::raw::{self, Raw};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use prost::Message;

use super::files::ended;
use super::{Section, code, grpc};
use crate::command_line::Files;

const LIMIT: Duration = Duration::from_secs(30);

/// Commands that spoil a key of the reader 2, the method that meets it, and the user who calls.
const SPOILT: [(&str, &str, u64); 20] = [
    ("SET markread:quota:2 text", "MarkRead", 2),
    ("SET markread:quota:2 -1", "MarkRead", 2),
    ("SET markread:quota:2 007", "MarkRead", 2),
    ("SET markread:quota:2 1.5", "MarkRead", 2),
    ("SET markread:quota:2 9223372036854775807", "MarkRead", 2),
    ("RPUSH markread:quota:2 1", "MarkRead", 2),
    ("HSET markread:quota:2 a 1", "MarkRead", 2),
    ("SET markread:cursors:2 text", "MarkRead", 2),
    ("RPUSH markread:cursors:2 a", "MarkRead", 2),
    ("HSET markread:cursors:2 3805104374 text -3805104374 1", "MarkRead", 2),
    ("HSET markread:cursors:2 3805104374 0 -3805104374 1", "MarkRead", 2),
    ("HSET markread:cursors:2 3805104374 007 -3805104374 1", "MarkRead", 2),
    ("HSET markread:cursors:2 3805104374 9223372036854775808 -3805104374 1", "MarkRead", 2),
    ("HSET markread:cursors:2 keyed_buckets text", "MarkRead", 2),
    ("SET direct_message_mark_read_events text", "MarkRead", 2),
    ("SET markread:read_quota:2 text", "GetReadState", 2),
    ("RPUSH markread:read_quota:2 1", "GetReadState", 2),
    ("SET markread:cursors:2 text", "GetReadState", 2),
    ("HSET markread:cursors:2 3805104374 text -3805104374 1", "GetReadState", 2),
    ("SET markread:cursors:3805104374 text", "GetReadState", 2),
];

async fn call(server: &Server, method: &str, user: u64) -> String {
    let raw = Raw::to(server).await;
    let message = match method {
        "MarkRead" => raw::request(RECIPIENT, MESSAGE),
        _ => GetReadStateRequest { recipient_id: RECIPIENT }.encode_to_vec(),
    };
    let path = format!("/markread.v1.MarkReadService/{method}");
    grpc(&raw.send(raw.grpc(&path, &Credentials::token_of(user)), raw::frame(&message)).await)
}

/// What a call may not change. The layout gets a note that Redis was flushed, and a read is counted before
/// its cursors are looked at.
async fn written(redis: &Redis, spoil: &str) -> Vec<(String, Vec<u8>)> {
    let mut contents = redis.contents().await;
    let is_spoilt = |key: &str| spoil.contains(key);
    contents.retain(|(key, _)| key != "markread:layout");
    contents.retain(|(key, _)| is_spoilt(key) || key != "markread:read_quota:2");
    contents
}

/// Values that change what one call gets; nothing of a call that is refused is written.
async fn spoilt_keys(section: &mut Section, redis: &Redis, server: &Server) {
    for (spoil, method, user) in SPOILT {
        redis.run::<redis::Value>("FLUSHALL").await;
        eventually("the layout is written again", LIMIT, async || {
            (redis.run::<u64>("EXISTS markread:layout").await == 1).then_some(())
        })
        .await;
        redis.run::<redis::Value>(spoil).await;
        let before = written(redis, spoil).await;
        let answer = call(server, method, user).await;
        assert_eq!(written(redis, spoil).await, before, "{spoil}: nothing was written");
        section.row(&[&code(spoil), &format!("`{method}`"), &answer]);
        if !spoil.contains("direct_message") {
            let other = server.caller(READER).mark(RECIPIENT + 1, MESSAGE).await;
            assert!(other.is_ok(), "{spoil}: other readers are served: {other:?}");
        }
    }
}

/// User objects that do not go into an event: there the user has an ID alone.
async fn user_objects(section: &mut Section, redis: &Redis, server: &Server) {
    redis.run::<redis::Value>("FLUSHALL").await;
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let large = format!("{{\"id\":\"2\",\"x\":\"{}\"}}", "x".repeat(17 * 1024));
    for (user, (what, value)) in (100..).zip([
        ("text", b"text".to_vec()),
        ("a list", b"[]".to_vec()),
        ("`null`", b"null".to_vec()),
        ("an object that is cut off", b"{\"id\":".to_vec()),
        ("an object that is not UTF-8", b"{\"id\":\"\xff\"}".to_vec()),
        ("half of a surrogate pair", br#"{"name":"\ud800"}"#.to_vec()),
        ("a number past a double's range", b"{\"n\":1e999}".to_vec()),
        ("objects nested 200 deep", deep.into_bytes()),
        ("an object of 17 KiB", large.into_bytes()),
    ]) {
        redis.put_user(user, &value).await;
        let answer = call(server, "MarkRead", user).await;
        let payload = redis.payloads().await.pop().unwrap();
        assert!(
            payload.contains(&format!("\"{user}\":{{\"id\":\"{user}\"}}")),
            "{what}: {payload}"
        );
        section.row(&[
            &format!("`user:<id>`: {what}"),
            "`MarkRead`",
            &format!("{answer}; the event has the ID alone"),
        ]);
    }
}

#[tokio::test]
async fn values_in_redis() {
    let mut section = Section::new(
        "Values in Redis",
        "What another program wrote under the names of the service, with user 2 as the caller. A call that is refused \
         writes nothing, and other readers are served.",
        &["in Redis", "call", "answer"],
    );
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    spoilt_keys(&mut section, &redis, &server).await;
    user_objects(&mut section, &redis, &server).await;
    layouts(&mut section).await;
    section.check();
}

/// Layouts that a server does not start with, and one that it waits for to become right.
async fn layouts(section: &mut Section) {
    let redis = Redis::start().await;
    let (url, files) = (redis.url(), Files::new());
    files.secret();
    let port = ["--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"];
    let words = ["serve", "--jwt-secret-file", "secret", "--redis-url", &url];
    for spoil in [
        "HSET markread:layout version 9 partitions 1",
        "HSET markread:layout version 2 partitions 1",
        "HSET markread:layout version 2 partitions 1 key x",
        "HSET markread:layout version 1 partitions 64",
    ] {
        redis.run::<redis::Value>("FLUSHALL").await;
        redis.run::<redis::Value>(spoil).await;
        let (status, line) = ended(&files.path(""), &[&words[..], &port].concat()).await;
        let answer = format!("exit status {status}: {}", code(&line));
        section.row(&[&code(spoil), "the start of `serve`", &answer]);
    }
    let spoil = "SET markread:layout text";
    redis.run::<redis::Value>("FLUSHALL").await;
    redis.run::<redis::Value>(spoil).await;
    let server = Server::on_unready(&redis, &[]).await;
    let page = eventually("it says why", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503 && page.contains("WRONGTYPE")).then_some(page)
    })
    .await;
    section.row(&[&code(spoil), "`/readyz`", &format!("503: {}", code(page.trim()))]);
}
