//! `set` and `cursors`: one reader, beside a server that goes on.

use super::*;

async fn set(redis: &Redis, user: u64, to: u64, message: u64, more: &[&str]) -> Ended {
    let (user, to, message) = (user.to_string(), to.to_string(), message.to_string());
    let words = ["set", "--user", &user, "--recipient", &to, "--last-read-event-id", &message];
    admin(redis, &[&words, more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_set_forward_and_back_while_a_server_runs() {
    for version in [1, 2] {
        let redis = redis_of(version).await;
        let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
        // One reader with one hash, one with buckets.
        for (reader, conversations) in [(READER, 1), (7, 300)] {
            let caller = server.caller(reader);
            let marks: Vec<_> = (0..conversations).map(|n| (RECIPIENT + n, MESSAGE)).collect();
            caller.mark_batch(&marks).await.unwrap();
            let state = async || {
                let state = caller.state(RECIPIENT).await.unwrap().into_inner().state.unwrap();
                state.mine.unwrap().last_read_event_id
            };
            let events = redis.events().await.len();
            let used = redis.used(reader).await;
            let line = set(&redis, reader, RECIPIENT, MESSAGE - 1, &[]).await.failed();
            assert!(line.contains(&MESSAGE.to_string()) && line.contains("--force"), "{line}");
            assert_eq!(state().await, MESSAGE);
            let line = set(&redis, reader, RECIPIENT, MESSAGE, &[]).await.done();
            assert!(line.ends_with("already: nothing was changed\n"), "{line}");

            let line = set(&redis, reader, RECIPIENT, 1_000, &["--force"]).await.done();
            assert!(line.ends_with(&format!("is set to 1000; it was {MESSAGE}\n")), "{line}");
            assert_eq!(state().await, 1_000, "the server sees it at once");
            assert_eq!(redis.events().await.len(), events, "without an event");
            let line = set(&redis, reader, RECIPIENT, 2_000, &[]).await.done();
            assert!(line.ends_with("is set to 2000; it was 1000\n"), "{line}");
            assert_eq!(redis.used(reader).await, used, "without quota");

            assert!(!caller.mark(RECIPIENT, 1_999).await.unwrap().advanced);
            assert!(caller.mark(RECIPIENT, 2_001).await.unwrap().advanced);
            assert_eq!(redis.events().await.len(), events + 1);
            let line = set(&redis, reader, 5, 6, &["--force"]).await.done();
            assert!(line.ends_with("is set to 6; there was none before\n"), "{line}");
            let all = redis.cursors(reader).await;
            assert_eq!(all.len(), usize::try_from(conversations).unwrap() + 1);
            let others = all.iter().filter(|(_, message)| **message == MESSAGE).count();
            assert_eq!(others, usize::try_from(conversations).unwrap() - 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_readers_cursors_are_printed_wherever_they_are() {
    for version in [1, 2] {
        let (redis, _subject) = filled(version).await;
        let all = exported(&redis).await;
        for reader in [1, 2, 64, 65, 1_000, READER] {
            let printed = admin(&redis, &["cursors", "--user", &reader.to_string()]).await;
            assert_eq!(printed.stderr, "");
            let printed = lines(&printed.done());
            assert_eq!(printed.len(), redis.cursors(reader).await.len());
            let start = format!("{{\"reader_id\":\"{reader}\",");
            let of_reader = all.iter().filter(|line| line.starts_with(&start)).cloned();
            assert_eq!(printed, of_reader.collect());
        }
        let unknown = admin(&redis, &["cursors", "--user", "3"]).await;
        assert_eq!(unknown.stderr, "user 3 has no cursors\n");
        assert_eq!(unknown.done(), "");
    }
}

/// What is there may be no text at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_not_an_id_is_replaced_by_force() {
    let redis = redis_of(2).await;
    Subject::on(Arc::clone(&redis), MANY).await.mark_one(mark(READER, 1, 1)).await;
    let key = format!("markread:cursors:{READER}");
    let mut connection = redis.connection().await;
    for value in [&b"x"[..], b"\xff\xfe", b"", b"03", b"99999999999999999999"] {
        let mut damage = redis::cmd("HSET");
        damage.arg(&key).arg(RECIPIENT).arg(value);
        damage.query_async::<()>(&mut connection).await.unwrap();
        set(&redis, READER, RECIPIENT, 5, &[]).await.failed();
        let line = set(&redis, READER, RECIPIENT, 5, &["--force"]).await.done();
        assert!(line.ends_with("is set to 5; there was none before\n"), "{value:?}: {line}");
        let line = set(&redis, READER, RECIPIENT, 6, &["--force"]).await.done();
        assert!(line.ends_with("is set to 6; it was 5\n"), "{line}");
    }
}
