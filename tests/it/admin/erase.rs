//! `erase`: whatever Redis holds of one user, and nothing of another.

use super::*;

/// A user, and a twin who has the same and stays.
const USER: u64 = 1_000;
const TWIN: u64 = 1_001;

/// A Redis in which both users have cursors, quotas and subscriptions, and are in the conversations of
/// others; with events of all of them, and one entry of another program.
async fn with_both(version: u8) -> (Arc<Redis>, Subject) {
    let (redis, subject) = filled(version).await;
    // Each has as many cursors as the other, one of them with itself, and none towards the other.
    mark_all(&subject, TWIN, (1..=999).chain([TWIN])).await;
    for reader in [5, 64, 65, READER] {
        for user in [USER, TWIN] {
            subject.mark_one(mark(reader, user, MESSAGE)).await;
        }
    }
    for user in [USER, TWIN] {
        redis.run::<()>(&format!("SET markread:read_quota:{user} 1 PX 900000")).await;
        for webhook in ["one", "two"] {
            redis.run::<()>(&format!("SADD markread:subscriptions:{webhook} {user}")).await;
        }
    }
    redis.run::<()>("XADD direct_message_mark_read_events * other 1000").await;
    (redis, subject)
}

/// The number of cursors of a user, of quotas, of subscriptions, of other readers' cursors, of events.
async fn of(redis: &Redis, user: u64) -> [usize; 5] {
    let quotas: usize =
        redis.run(&format!("EXISTS markread:quota:{user} markread:read_quota:{user}")).await;
    let mut subscriptions = 0;
    for webhook in ["one", "two"] {
        let key = format!("markread:subscriptions:{webhook}");
        subscriptions += redis.run::<usize>(&format!("SISMEMBER {key} {user}")).await;
    }
    let mut towards = 0;
    for reader in [5, 64, 65, READER] {
        towards += usize::from(redis.cursors(reader).await.contains_key(&user));
    }
    let entries = redis.entries().await.into_iter().flatten();
    let name = |field: &str| format!("\"{field}\":\"{user}\"");
    let is_named = |payload: &str| {
        payload.contains(&name("sender_id")) || payload.contains(&name("recipient_id"))
    };
    let events = entries.filter(|(field, text)| field == "payload" && is_named(text)).count();
    [redis.cursors(user).await.len(), quotas, subscriptions, towards, events]
}

async fn erase(redis: &Redis, more: &[&str]) -> Ended {
    admin(redis, &[&["erase", "--user", &USER.to_string()], more].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_holds_of_a_user_is_erased_and_the_twin_stays() {
    for version in [1, 2] {
        let (redis, subject) = with_both(version).await;
        let there = [1_000, 2, 2, 4, 1_004];
        assert_eq!((of(&redis, USER).await, of(&redis, TWIN).await), (there, there));
        let entries: usize = redis.run("XLEN direct_message_mark_read_events").await;

        let line = erase(&redis, &[]).await.done();
        assert_eq!(line, "user 1000: 1000 cursors, 2 quotas, 2 subscriptions erased\n");
        assert_eq!(of(&redis, USER).await, [0, 0, 0, 4, 1_004]);
        let line = erase(&redis, &[]).await.done();
        assert!(line.starts_with("user 1000 is not there: nothing was erased (without "), "{line}");
        assert!(line.contains("--events") && line.contains("--as-recipient"), "{line}");

        let line = erase(&redis, &["--as-recipient"]).await.done();
        assert!(line.ends_with("0 subscriptions, 4 cursors of other readers erased\n"), "{line}");
        assert_eq!(of(&redis, USER).await, [0, 0, 0, 0, 1_004]);

        let line = erase(&redis, &["--events"]).await.done();
        assert!(line.ends_with("0 subscriptions, 1004 events erased\n"), "{line}");
        assert_eq!(of(&redis, USER).await, [0; 5]);
        let left: usize = redis.run("XLEN direct_message_mark_read_events").await;
        assert_eq!(left, entries - 1_004, "entries of others stay");
        assert_eq!(of(&redis, TWIN).await, there);
        let keys: Vec<String> = redis.run("KEYS markread:*1000*").await;
        assert_eq!(keys, [""; 0]);

        // The user may begin again.
        for to in 1..=200 {
            subject.mark_one(mark(USER, to, MESSAGE)).await;
        }
        assert_eq!(redis.cursors(USER).await.len(), 200);
        let all = erase(&redis, &["--events", "--as-recipient"]).await.done();
        assert!(
            all.starts_with("user 1000: 200 cursors, 1 quota, 0 subscriptions, 0 cursors of "),
            "{all}"
        );
        assert!(all.ends_with("200 events erased\n"), "{all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_that_are_for_a_user_or_name_the_user_are_erased_with_the_events() {
    let (redis, subject) = filled(2).await;
    for (reader, recipient) in [(USER, TWIN), (TWIN, USER), (TWIN, 5)] {
        subject.mark_one(mark(reader, recipient, MESSAGE + 1)).await;
    }
    let payloads = redis.payloads().await;
    let [read, received, of_others] = &payloads[payloads.len() - 3..] else { panic!("no events") };
    let add = async |webhook: &str, for_user: u64, payload: Option<&str>| {
        let mut add = redis::cmd("XADD");
        add.arg(format!("markread:dead_letters:{webhook}")).arg("*");
        add.arg("webhook_id").arg(format!("0-1-0-{for_user}")).arg("for_user_id").arg(for_user);
        add.arg("reason").arg("max_age").arg("attempts").arg(3);
        if let Some(payload) = payload {
            add.arg("payload").arg(payload);
        }
        add.query_async::<String>(&mut redis.connection().await).await.unwrap()
    };
    for webhook in ["one", "two"] {
        for _ in 0..150 {
            add(webhook, TWIN, Some(read)).await;
            add(webhook, TWIN, Some(received)).await;
            add(webhook, USER, None).await;
        }
        let kept = add(webhook, TWIN, Some(of_others)).await;
        let key = format!("markread:dead_letters:{webhook}");
        redis
            .run::<()>(&format!("XADD {key} * partition 0 entry_id 1-1 reason x attempts 0"))
            .await;
        redis.run::<()>(&format!("XADD {key} * other {USER}")).await;
        let first: Vec<(String, Vec<String>)> = redis.run(&format!("XRANGE {key} {kept} +")).await;
        assert_eq!(first.len(), 3);
    }
    let line = erase(&redis, &[]).await.done();
    assert!(!line.contains("dead"), "{line}");
    let line = erase(&redis, &["--events"]).await.done();
    assert!(line.ends_with(" events, 900 dead letters erased\n"), "{line}");
    for webhook in ["one", "two"] {
        let left: u64 = redis.run(&format!("XLEN markread:dead_letters:{webhook}")).await;
        assert_eq!(left, 3, "those of nobody, and of others");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_is_being_moved_is_erased_in_both_placements() {
    let (redis, subject) = with_both(1).await;
    admin(&redis, &["upgrade-layout"]).await.done();
    for user in [USER, TWIN] {
        subject.mark_one(mark(user, 1, 1)).await;
        let left: u64 = redis.run(&format!("HGET markread:cursors:{user} buckets_left")).await;
        assert!(left > 0, "half moved");
    }
    subject.mark_one(mark(READER, 1, 1)).await;
    let line = erase(&redis, &["--as-recipient"]).await.done();
    assert!(line.starts_with("user 1000: 1000 cursors, "), "{line}");
    assert!(line.ends_with(" 4 cursors of other readers erased\n"), "{line}");
    assert_eq!(redis.run::<Vec<String>>("KEYS markread:cursors:1000*").await, [""; 0]);
    assert_eq!(redis.cursors(TWIN).await.len(), 1_000);
}

/// More buckets than one script call erases.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_very_many_cursors_is_erased_in_steps_beside_marks() {
    let (redis, _subject) = with_many(2).await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let marks = async {
        let caller = server.caller(USER);
        for n in 0..40 {
            let batch: Vec<_> = (0..50).map(|m| (100_000 + 50 * n + m, MESSAGE)).collect();
            caller.mark_batch(&batch).await.unwrap();
        }
    };
    let (erased, ()) = tokio::join!(erase(&redis, &[]), marks);
    assert!(erased.done().starts_with("user 1000: 2"), "20,000 cursors and some of the marks'");
    // What was marked since is whole.
    let caller = server.caller(USER);
    let batch: Vec<_> = (1..=500).map(|to| (to, MESSAGE)).collect();
    caller.mark_batch(&batch).await.unwrap();
    let left = redis.cursors(USER).await;
    assert!((500..=2_500).contains(&left.len()), "{} cursors", left.len());
    let printed = lines(&admin(&redis, &["cursors", "--user", "1000"]).await.done()).len();
    assert_eq!(printed, left.len());
    let buckets: BTreeSet<String> = redis.bucket_keys(USER).await.into_iter().collect();
    let keys: Vec<String> = redis.run("KEYS markread:cursors:1000:*").await;
    assert!(keys.iter().all(|key| buckets.contains(key)), "no bucket outlives the count");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_and_the_rest_erased() {
    let (redis, _subject) = with_both(2).await;
    redis.run::<()>("HSET markread:cursors:7 keyed_buckets x").await;
    let line = erase(&redis, &["--as-recipient", "--events"]).await.failed();
    assert!(line.contains("the cursors of 1 other reader cannot be read: "), "{line}");
    assert!(line.contains("4 cursors of other readers, 1004 events erased"), "{line}");
    assert_eq!(of(&redis, USER).await, [0; 5]);
}

/// Without a valid number of buckets, or a hash, it is not known which buckets there are.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_whose_own_key_is_damaged_is_erased_whole() {
    for version in [1, 2] {
        let field = if version == 1 { "buckets" } else { "keyed_buckets" };
        for damage in [
            "SET markread:cursors:1000 x".to_owned(),
            format!("HSET markread:cursors:1000 {field} x"),
            format!("HSET markread:cursors:1000 {field} 1"),
        ] {
            let (redis, subject) = with_both(version).await;
            let buckets = redis.bucket_keys(USER).await.len();
            assert!(buckets > 10, "{buckets} buckets");
            redis.run::<()>(&damage).await;
            let line = erase(&redis, &["--as-recipient", "--events"]).await.done();
            let keys = format!(
                "user 1000: 0 cursors, {} damaged keys, 2 quotas, 2 subscriptions, 4 cursors of",
                buckets + 1
            );
            assert!(line.starts_with(&keys), "{damage}: {line}");
            assert_eq!(of(&redis, USER).await, [0; 5]);
            assert_eq!(redis.run::<Vec<String>>("KEYS markread:*1000*").await, [""; 0]);
            assert_eq!(of(&redis, TWIN).await, [1_000, 2, 2, 4, 1_004]);
            subject.mark_one(mark(USER, 1, MESSAGE)).await;
            assert_eq!(redis.cursors(USER).await.len(), 1, "the user may begin again");
        }
    }
}

/// A Redis with a user of 20,000 cursors, in far more buckets than one script call erases.
async fn with_many(version: u8) -> (Arc<Redis>, Subject) {
    let redis = redis_of(version).await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    let text: String = (1..=20_000).map(|to| line(USER, to, MESSAGE, 1)).collect();
    import(&redis, &text).await.done();
    assert!(redis.buckets(USER).await > 3 * 256);
    (redis, subject)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_step_of_an_erase_is_larger_than_the_others() {
    let (redis, _subject) = with_many(2).await;
    let buckets = redis.buckets(USER).await;
    let calls = async || {
        (redis.calls("unlink").await + redis.calls("hlen").await, redis.calls("evalsha").await)
    };
    let before = calls().await;
    erase(&redis, &[]).await.done();
    let after = calls().await;
    let (commands, steps) = (after.0 - before.0, after.1 - before.1);
    assert!(steps >= buckets / 256, "{steps} steps");
    assert!(commands < 2 * buckets + 20, "{commands} commands for {buckets} buckets: each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_very_many_cursors_who_is_being_moved_is_erased() {
    let (redis, subject) = with_many(1).await;
    admin(&redis, &["upgrade-layout"]).await.done();
    for to in 1..=50 {
        subject.mark_one(mark(USER, 20_000 + to, MESSAGE)).await;
    }
    let left: u64 = redis.run("HGET markread:cursors:1000 buckets_left").await;
    assert!(left > 256, "half moved");
    let (done, ()) = tokio::join!(erase(&redis, &[]), async {
        for to in 1..=50 {
            subject.mark_one(mark(USER, 30_000 + to, MESSAGE)).await;
        }
    });
    assert!(done.done().starts_with("user 1000: 20"));
    erase(&redis, &[]).await.done();
    assert_eq!(redis.run::<Vec<String>>("KEYS markread:*1000*").await, [""; 0]);
    // A move that has only begun, of any size.
    for (count, old_count) in [(2, 256), (2, 255), (256, 1), (128, 129), (300, 300)] {
        let fields = format!("keyed_buckets {count} buckets {old_count}");
        redis.run::<()>(&format!("HSET markread:cursors:1000 {fields}")).await;
        redis.run::<()>("HSET markread:cursors:1000:0 5 6 -5 7").await;
        let line = erase(&redis, &[]).await.done();
        assert!(line.starts_with("user 1000: 1 cursor, "), "{fields}: {line}");
        assert_eq!(redis.run::<Vec<String>>("KEYS markread:*1000*").await, [""; 0]);
    }
}

/// Wherever an erase stops, what is left is as if the rest had never been there.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_erase_leaves_is_whole() {
    for version in [1, 2] {
        let (redis, subject) = with_many(version).await;
        let mut command = admin_command(&redis.url(), &["erase", "--user", "1000"]);
        let mut child = command.spawn().unwrap();
        eventually("some are erased", ENDS, async || {
            (redis.buckets(USER).await < 1_000).then_some(())
        })
        .await;
        child.kill().await.unwrap();
        let left = redis.cursors(USER).await;
        let printed = lines(&admin(&redis, &["cursors", "--user", "1000"]).await.done()).len();
        assert_eq!(printed, left.len());
        for to in 1..=300 {
            subject.mark_one(mark(USER, to, MESSAGE)).await;
        }
        let keys: BTreeSet<String> =
            redis.run::<Vec<String>>("KEYS markread:cursors:1000:*").await.into_iter().collect();
        let buckets: BTreeSet<String> = redis.bucket_keys(USER).await.into_iter().collect();
        assert!(keys.is_subset(&buckets), "no bucket outlives the count");
        let line = erase(&redis, &[]).await.done();
        assert!(line.starts_with("user 1000: "), "{line}");
        assert_eq!(redis.run::<Vec<String>>("KEYS markread:cursors:1000*").await, [""; 0]);
    }
}

/// The stream has another name.
#[tokio::test(flavor = "multi_thread")]
async fn events_are_erased_in_the_stream_of_the_flag() {
    let redis = redis_of(2).await;
    let server = Server::on_with(&redis, &["--stream", "other"]).await;
    server.caller(USER).mark(RECIPIENT, MESSAGE).await.unwrap();
    server.caller(TWIN).mark(RECIPIENT, MESSAGE).await.unwrap();
    let line = erase(&redis, &["--events"]).await.done();
    assert!(line.ends_with(" 0 events erased\n"), "{line}");
    let line = erase(&redis, &["--events", "--stream", "other"]).await.done();
    assert!(line.ends_with(" 1 event erased\n"), "{line}");
    assert_eq!(redis.run::<u64>("XLEN other").await, 1);
}

/// A shell in which variables of other commands are set.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_erased_or_set_back_is_named_by_flags_alone() {
    let (redis, _subject) = with_both(2).await;
    let variables = [
        ("MARKREAD_USER", "1000"),
        ("MARKREAD_RECIPIENT", "5"),
        ("MARKREAD_LAST_READ_EVENT_ID", "1"),
        ("MARKREAD_FORCE", "true"),
        ("MARKREAD_EVENTS", "true"),
        ("MARKREAD_AS_RECIPIENT", "true"),
    ];
    let run = async |words: &[&str]| {
        let mut command = admin_command(&redis.url(), words);
        command.envs(variables);
        ended(command).await
    };
    for words in [&["erase"][..], &["set", "--force"]] {
        let ended = run(words).await;
        assert_eq!(ended.status, Some(2), "{ended:?}");
        assert!(ended.stderr.contains("--user"), "{ended:?}");
    }
    let words = ["set", "--user", "1000", "--recipient", "5", "--last-read-event-id", "1"];
    assert!(run(&words).await.failed().contains("--force"));
    assert_eq!(of(&redis, USER).await, [1_000, 2, 2, 4, 1_004]);
    let line = run(&["erase", "--user", "1000"]).await.done();
    assert_eq!(line, "user 1000: 1000 cursors, 2 quotas, 2 subscriptions erased\n");
    assert_eq!(of(&redis, USER).await, [0, 0, 0, 4, 1_004]);
}
