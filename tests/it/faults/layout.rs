//! What a server requires of the Redis that it finds, and what it warns of.

use std::time::Duration;

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};

use super::load::RECOVERY;
use crate::answers::assert_store_unavailable;

const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test]
async fn another_layout_at_first_contact_ends_the_server() {
    let redis = Redis::start().await;
    redis.run::<()>("HSET markread:layout version 1 partitions 64").await;
    let mut server = Server::on_unready(&redis, &[]).await;
    assert_eq!(server.exit(LIMIT).await.code(), Some(2));
    let line = eventually("the server says why", LIMIT, async || {
        server.log().into_iter().find(|line| line.starts_with("markread: "))
    })
    .await;
    let numbers: Vec<u32> =
        line.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    assert!(numbers.contains(&64) && numbers.contains(&1), "{line}");
    let layout: Vec<String> = redis.run("HMGET markread:layout version partitions").await;
    assert_eq!(layout, ["1", "64"], "the layout is unchanged");
}

#[tokio::test]
async fn another_layout_met_later_is_waited_out() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();
    redis.run::<()>("HSET markread:layout partitions 64").await;
    let page = eventually("the layout is noticed", LIMIT, async || {
        let (status, page) = server.get("/readyz").await;
        (status == 503).then_some(page)
    })
    .await;
    assert!(page.contains("64"), "{page}");
    assert!(!server.is_serving().await);
    assert_store_unavailable(&caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap_err());
    assert_eq!(redis.cursors(READER).await[&RECIPIENT], MESSAGE);

    redis.run::<()>("HSET markread:layout partitions 1").await;
    eventually("calls are served", RECOVERY, async || {
        caller.mark(RECIPIENT, MESSAGE + 1).await.ok()
    })
    .await;
    server.wait_until_ready().await;
}

#[tokio::test]
async fn a_missing_layout_is_written_again() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let before: Vec<Option<String>> =
        redis.run("HMGET markread:layout version partitions key").await;
    redis.run::<()>("FLUSHALL").await;
    eventually("the layout is back", LIMIT, async || {
        let layout: Vec<Option<String>> =
            redis.run("HMGET markread:layout version partitions key").await;
        (layout == before).then_some(())
    })
    .await;
    assert_eq!(server.get("/readyz").await.0, 200);
}

#[tokio::test]
async fn settings_that_may_lose_cursors_cause_one_warning() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let server = Server::on(&redis).await;
    // Long enough for a few probes.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let warned = |of: &str| {
        let lines = server.log();
        lines.iter().filter(|line| line.contains("WARN") && line.contains(of)).count()
    };
    let (status, page) = server.get("/readyz").await;
    assert_eq!(status, 200);
    for of in ["maxmemory-policy", "persists nothing"] {
        assert_eq!(warned(of), 1, "{of}: {:?}", server.log());
        assert!(page.contains(of), "{page}");
    }
    assert_eq!(server.metric("markread_store_warnings").await, Some(2.0));
}

#[tokio::test]
async fn settings_that_keep_cursors_cause_no_warning() {
    let redis = Redis::with(&["--maxmemory-policy", "noeviction", "--appendonly", "yes"]).await;
    let server = Server::on(&redis).await;
    let warnings = eventually("the settings are checked", LIMIT, async || {
        server.metric("markread_store_warnings").await.map(|count| count.to_string())
    })
    .await;
    assert_eq!(warnings, "0");
    assert_eq!(server.get("/readyz").await, (200, "ok\n".to_owned()));
    assert!(!server.log().iter().any(|line| line.contains("WARN")), "{:?}", server.log());
}
