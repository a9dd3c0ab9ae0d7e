//! Reads of a reader over quota are denied from memory.

use std::time::Duration;

use markread_harness::caller::{Caller, Credentials, Refusal};
use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};
use tonic::Code;

use crate::answers::assert_denied;
use crate::read_side::watch::watcher::Watcher;

const LIMIT: Duration = Duration::from_secs(20);

async fn denied(server: &Server, caller: &Caller) -> [Refusal; 4] {
    let many: Vec<u64> = (1..=500).collect();
    let watch = Watcher::try_open(server, Credentials::token_of(READER), "").await;
    [
        caller.state(RECIPIENT).await.unwrap_err(),
        caller.states(&many).await.unwrap_err(),
        caller.page(1000, "").await.unwrap_err(),
        watch.err().expect("the watch is denied"),
    ]
}

#[tokio::test]
async fn a_denied_read_costs_redis_nothing_and_is_denied_without_it() {
    let mut redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--read-rate-limit", "2"]).await;
    let caller = server.caller(READER);
    for _ in 0..2 {
        caller.state(RECIPIENT).await.unwrap();
    }
    let first = caller.state(RECIPIENT).await.unwrap_err();
    assert_denied(&first, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    let calls = redis.calls("evalsha").await;
    for denied in denied(&server, &caller).await {
        assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
        let reset = |denied: &Refusal| denied.metadata.get("x-rate-limit-reset").cloned().unwrap();
        assert_eq!(reset(&denied), reset(&first));
    }
    assert_eq!(redis.calls("evalsha").await, calls);
    // Marks and other readers are served.
    caller.mark(RECIPIENT, 1).await.unwrap();
    server.caller(READER + 1).state(RECIPIENT).await.unwrap();

    redis.kill().await;
    for denied in denied(&server, &caller).await {
        assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    }
    // The Redis that comes back has lost the quota.
    redis.restart().await;
    eventually("the reader is served", LIMIT, async || caller.state(RECIPIENT).await.ok()).await;
}

#[tokio::test]
async fn every_server_forgets_denied_reads_when_redis_is_flushed() {
    let redis = Redis::start().await;
    let flags = ["--read-rate-limit", "1"];
    let servers = [Server::on_with(&redis, &flags).await, Server::on_with(&redis, &flags).await];
    servers[0].caller(READER).state(RECIPIENT).await.unwrap();
    for server in &servers {
        let denied = server.caller(READER).state(RECIPIENT).await.unwrap_err();
        assert_denied(&denied, Code::ResourceExhausted, "RATE_LIMIT_EXCEEDED");
    }
    redis.run::<()>("FLUSHALL").await;
    for server in &servers {
        let caller = server.caller(READER);
        redis.run::<()>(&format!("DEL markread:read_quota:{READER}")).await;
        eventually("it is served", LIMIT, async || caller.state(RECIPIENT).await.ok()).await;
    }
}
