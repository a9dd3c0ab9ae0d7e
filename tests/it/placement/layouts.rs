//! `markread admin upgrade-layout` and `downgrade-layout`, on a frozen store of version 1.

use markread_harness::{RECIPIENT, Server, eventually};
use std::time::Duration;

use super::*;

const LIMIT: Duration = Duration::from_secs(10);

/// Asserts that a server serves these cursors: each on one page, and none behind.
async fn assert_serves(subject: &Subject, readers: &HashMap<u64, HashMap<u64, u64>>) {
    for (reader, cursors) in readers {
        let (listed, _) = list(subject, *reader, None, 1_000).await;
        assert_eq!(listed.into_iter().collect::<HashMap<_, _>>(), *cursors, "of {reader}");
        for (recipient, message) in cursors.iter().take(20) {
            let outcome = subject.mark_one(mark(*reader, *recipient, *message)).await;
            assert!(matches!(outcome, Outcome::Unchanged { .. }), "{outcome:?}");
        }
    }
}

async fn assert_holds(redis: &Redis, readers: &HashMap<u64, HashMap<u64, u64>>) {
    for (reader, cursors) in readers {
        assert_eq!(redis.cursors(*reader).await, *cursors, "of {reader}");
    }
}

/// All keys but those of quotas, with their values.
async fn contents(redis: &Redis) -> BTreeMap<String, BTreeMap<String, String>> {
    let keys: Vec<String> = redis.run("KEYS markread:[cl]*").await;
    let mut contents = BTreeMap::new();
    for key in keys {
        let fields = redis.run(&format!("HGETALL {key}")).await;
        contents.insert(key, fields);
    }
    contents
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_store_is_served_unchanged_upgraded_and_downgraded() {
    let (redis, readers) = frozen().await;
    let before = contents(&redis).await;
    assert!(readers.len() > 20 && readers.values().any(|cursors| cursors.len() > 2_000));
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    assert_serves(&subject, &readers).await;
    assert_eq!(contents(&redis).await, before, "nothing is changed before the upgrade");

    let line = administer(&redis, "upgrade-layout").await;
    assert!(line.starts_with("layout version 2: "), "{line}");
    assert_serves(&subject, &readers).await;
    assert_holds(&redis, &readers).await;
    let keyed: Vec<String> = redis.run("KEYS markread:cursors:*:k*").await;
    assert!(keyed.len() > 100, "{} keyed buckets", keyed.len());
    let plain: Vec<String> = redis.run("KEYS markread:cursors:*:[0-9]*").await;
    assert_eq!(plain, [""; 0]);
    drop(subject);

    let line = administer(&redis, "downgrade-layout").await;
    let moved: usize = readers.values().map(HashMap::len).filter(|cursors| *cursors > 64).sum();
    let last = line.lines().last().unwrap();
    assert!(
        last.starts_with(&format!("layout version 1: {moved} cursors of 5 readers moved, ")),
        "{line}"
    );
    assert_holds(&redis, &readers).await;
    let layout: BTreeMap<String, String> = redis.run("HGETALL markread:layout").await;
    let first = [("partitions", "1"), ("version", "1")];
    assert!(layout.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(first), "{layout:?}");
    let keyed: Vec<String> = redis.run("KEYS markread:cursors:*:k*").await;
    assert_eq!(keyed, [""; 0]);
    for (key, fields) in contents(&redis).await {
        let is_bucketed = fields.contains_key("buckets");
        assert!(!is_bucketed || fields.len() == 1, "{key} has {fields:?}");
    }
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    assert_serves(&subject, &readers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_resumed_where_it_was_interrupted() {
    let (redis, readers) = frozen().await;
    administer(&redis, "upgrade-layout").await;
    let key: String = redis.run("HGET markread:layout key").await;
    let subject = Subject::on(Arc::clone(&redis), MANY).await;
    // One reader is moved, one is half moved, the others are not.
    list(&subject, 2_003, None, 1_000).await;
    let of_largest = i64::MAX.cast_unsigned();
    subject.mark_one(mark(of_largest, 5, 5)).await;
    drop(subject);
    let expected = {
        let mut readers = readers.clone();
        readers.get_mut(&of_largest).unwrap().insert(5, 5);
        readers
    };
    assert_holds(&redis, &expected).await;

    // The layout says that it was begun, and no server starts then.
    redis.run::<()>("HSET markread:layout version 2-to-1").await;
    let mut server = Server::on_unready(&redis, &[]).await;
    assert_eq!(server.exit(LIMIT).await.code(), Some(2));
    assert!(
        server.log().iter().any(|line| line.contains("downgrade-layout")),
        "{:?}",
        server.log()
    );
    assert_eq!(redis.run::<String>("HGET markread:layout key").await, key);

    administer(&redis, "downgrade-layout").await;
    assert_holds(&redis, &expected).await;
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_have_nothing_to_do_say_so() {
    let redis = redis_of(1).await;
    let line = administer(&redis, "downgrade-layout").await;
    assert_eq!(line, "layout version 1 already: nothing was changed\n");
    administer(&redis, "upgrade-layout").await;
    let before = contents(&redis).await;
    let line = administer(&redis, "upgrade-layout").await;
    assert_eq!(line, "layout version 2 already: nothing was changed\n");
    assert_eq!(contents(&redis).await, before, "the key is the same");
    let key = &before["markread:layout"]["key"];
    assert_eq!(key.len(), 56);
    assert!(!line.contains(key));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_layout_or_no_redis_is_refused() {
    let redis = redis_of(2).await;
    for layout in
        ["version 3 partitions 1", "version 1 partitions 64", "version 2 partitions 1 key x"]
    {
        redis.run::<()>("DEL markread:layout").await;
        redis.run::<()>(&format!("HSET markread:layout {layout}")).await;
        for name in ["upgrade-layout", "downgrade-layout"] {
            let (status, text) = admin(&redis, name).await;
            assert_eq!((status, text.lines().count()), (Some(2), 1), "{layout}: {text}");
            assert!(text.starts_with("markread: Redis has layout version"), "{text}");
            assert!(!text.contains("this server"), "{text}");
        }
        let fields: u64 = redis.run("HLEN markread:layout").await;
        assert_eq!(fields, u64::try_from(layout.split(' ').count()).unwrap() / 2);
    }
    redis.run::<()>("DEL markread:layout").await;
    for name in ["upgrade-layout", "downgrade-layout"] {
        let (status, text) = admin(&redis, name).await;
        let line = "markread: this Redis has no layout of markread: start serve once, or correct \
                    --redis-url\n";
        assert_eq!((status, text.as_str()), (Some(2), line));
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
    let nowhere = Redis::down(&[]);
    assert_eq!(admin(&nowhere, "upgrade-layout").await.0, Some(1));
}

/// Servers follow the upgrade while they run, and no call fails.
#[tokio::test(flavor = "multi_thread")]
async fn servers_follow_the_upgrade_while_they_run() {
    let redis = redis_of(1).await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let caller = server.caller(READER);
    let marks = |first: u64| (first..first + 400).map(|to| (to, MESSAGE)).collect::<Vec<_>>();
    caller.mark_batch(&marks(1)).await.unwrap();
    let line = administer(&redis, "upgrade-layout").await;
    assert!(line.starts_with("layout version 2"), "{line}");
    // The next calls come before the server's next probe.
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    caller.mark_batch(&marks(1_001)).await.unwrap();
    let state = caller.state(7).await.unwrap().into_inner();
    assert_eq!(state.state.unwrap().mine.unwrap().last_read_event_id, MESSAGE);
    let listed = caller.page(1_000, "").await.unwrap().into_inner();
    assert_eq!((listed.cursors.len(), listed.next_page_token.as_str()), (801, ""));
    assert_eq!(redis.cursors(READER).await.len(), 801);
    let fields: Vec<String> = redis.run(&format!("HKEYS markread:cursors:{READER}")).await;
    assert_eq!(fields, ["keyed_buckets"], "moved before the server's next probe");
    let key: String = redis.run("HGET markread:layout key").await;
    let log = server.log().join("\n");
    let (_, ready) = server.get("/readyz").await;
    assert!(!log.contains(&key) && !ready.contains(&key));
    eventually("the server says that it follows", LIMIT, async || {
        server.log().iter().any(|line| line.contains("\"version\":\"2\"")).then_some(())
    })
    .await;

    // A key that is lost or altered takes the store away, and is not shown.
    redis.run::<()>("HSET markread:layout key 0123456789abcdef").await;
    let page = eventually("the key is noticed", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503).then_some(page)
    })
    .await;
    assert!(page.contains("placement key") && !page.contains("0123456789abcdef"), "{page}");
    redis.run::<()>(&format!("HSET markread:layout key {key}")).await;
    server.wait_until_ready().await;
    assert_eq!(caller.page(1_000, "").await.unwrap().into_inner().cursors.len(), 801);
}
