//! A user who lacks a right never leaves half a mark, half a split or half a move, however often a call is
//! tried, also before a probe notices.

use markread_harness::binary::command;
use markread_harness::caller::Caller;

use super::*;

const TRIES: usize = 70;

/// A server that is ready, and whose user has exactly the rights of the rule.
async fn permitted(redis: &Redis) -> Server {
    let url = permit_as(redis, "markread", rule()).await;
    let quotas = ["--rate-limit", "1000000", "--read-rate-limit", "1000000"];
    let server = Server::at(&url, &quotas, &[]).await;
    server.wait_until_ready().await;
    server
}

async fn mark_all(caller: &Caller, recipients: std::ops::RangeInclusive<u64>) {
    let marks: Vec<_> = recipients.map(|to| (to, MESSAGE)).collect();
    caller.mark_batch(&marks).await.unwrap();
}

/// Tries a call many times without a right, which is then given back.
async fn try_without(redis: &Redis, right: &str, call: impl AsyncFn() -> String) {
    let events = redis.events().await;
    redis.run::<()>(&format!("ACL SETUSER markread -{right}")).await;
    for _ in 0..TRIES {
        assert_eq!(call().await, "STORE_UNAVAILABLE", "without {right}");
    }
    redis.run::<()>(&format!("ACL SETUSER markread +{right}")).await;
    assert_eq!(redis.events().await, events, "without {right}");
    assert_whole(redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_whole_or_not_at_all() {
    let redis = Redis::start().await;
    let server = permitted(&redis).await;
    let (full, new) = (server.caller(READER), server.caller(READER + 1));
    mark_all(&full, 1..=64).await;
    let reason = async |caller: &Caller, to, message| {
        caller.mark(to, message).await.map_or_else(|refusal| refusal.reason, |_| "OK".to_owned())
    };
    for right in ["hset", "xadd", "time", "incrby"] {
        try_without(&redis, right, async || reason(&full, 1, MESSAGE + 1).await).await;
    }
    for right in ["hset", "hdel", "exists", "hgetall", "hlen"] {
        try_without(&redis, right, async || reason(&full, 65, MESSAGE).await).await;
        assert_eq!(redis.buckets(READER).await, 0);
    }
    for right in ["hset", "pexpireat", "pexpiretime", "time"] {
        try_without(&redis, right, async || reason(&new, 1, MESSAGE).await).await;
        assert_eq!(redis.used(READER + 1).await, None, "the quota was given back");
    }
    // A right that only a refused mark needs: the quota is given back without it too.
    redis.run::<()>("ACL SETUSER markread -hset -del").await;
    assert_eq!(reason(&new, 1, MESSAGE).await, "STORE_UNAVAILABLE");
    redis.run::<()>("ACL SETUSER markread +hset +del").await;
    assert_eq!(redis.used(READER + 1).await, Some(0));
    assert!(redis.run::<i64>(&format!("PTTL markread:quota:{}", READER + 1)).await > 0);

    full.mark(1, MESSAGE + 1).await.unwrap();
    full.mark(65, MESSAGE).await.unwrap();
    new.mark(1, MESSAGE).await.unwrap();
    assert_eq!((redis.buckets(READER).await, redis.events().await.len()), (2, 67));
    assert_whole(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_whole_or_not_at_all() {
    let redis = Redis::start().await;
    let server = permitted(&redis).await;
    let caller = server.caller(READER);
    mark_all(&caller, 1..=60).await;
    for right in ["hset", "hdel", "hgetall", "exists", "xadd"] {
        let events = redis.events().await.len();
        redis.run::<()>(&format!("ACL SETUSER markread -{right}")).await;
        for _ in 0..TRIES {
            let marks: Vec<_> = (1..=70).map(|to| (to, MESSAGE + 1)).collect();
            let _ = caller.mark_batch(&marks).await;
        }
        redis.run::<()>(&format!("ACL SETUSER markread +{right}")).await;
        assert_whole(&redis).await;
        let left = redis.events().await.len() - events;
        assert!(left <= 64, "each of those that need no split at most once: {left}");
    }
    mark_all(&caller, 1..=70).await;
    assert_eq!(redis.cursors(READER).await.len(), 70);
    assert_whole(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_leaves_each_cursor_in_one_hash() {
    let redis = Redis::start().await;
    redis.run::<()>("HSET markread:layout version 1 partitions 1").await;
    let server = permitted(&redis).await;
    let caller = server.caller(READER);
    mark_all(&caller, 1..=500).await;
    mark_all(&caller, 501..=900).await;
    let upgrade = ["admin", "upgrade-layout", "--redis-url", &redis.url()];
    assert!(command(&upgrade).status().await.unwrap().success());

    let mut to = 0;
    for right in ["hset", "hdel", "hgetall", "hlen", "hmget", "exists", "hget"] {
        redis.run::<()>(&format!("ACL SETUSER markread -{right}")).await;
        for _ in 0..TRIES {
            to = to % 900 + 1;
            let _ = caller.mark(to, MESSAGE + 1).await;
            let _ = caller.page(100, "").await;
        }
        redis.run::<()>(&format!("ACL SETUSER markread +{right}")).await;
        assert_eq!(redis.cursors(READER).await.len(), 900, "without {right}");
        assert_whole(&redis).await;
        // One step of the move, with all rights.
        server.wait_until_ready().await;
        caller.mark(to, MESSAGE + 2).await.unwrap();
    }
    while !caller.page(900, "").await.unwrap().into_inner().next_page_token.is_empty() {}
    assert_eq!(redis.cursors(READER).await.len(), 900);
    assert_whole(&redis).await;
}
