//! `--stream-max-bytes`: the stream is trimmed to the measured size of its entries.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use markread_harness::{MESSAGE, READER, Redis, Server, eventually};

/// Longer than some probes take.
const NOTICED: Duration = Duration::from_secs(15);

const BOUND: u64 = 1024 * 1024;
const FLAG: [&str; 2] = ["--stream-max-bytes", "1MiB"];
const STREAM: &str = "direct_message_mark_read_events";

/// The measured size of the stream, and its length.
async fn size(redis: &Redis) -> (u64, u64) {
    let bytes = redis.run(&format!("MEMORY USAGE {STREAM} SAMPLES 0")).await;
    (bytes, redis.run(&format!("XLEN {STREAM}")).await)
}

/// Marks this many messages, in events of 12 KB.
async fn mark(server: &Server, recipients: std::ops::Range<u64>) {
    let caller = server.caller(READER);
    for recipient in recipients {
        caller.mark(recipient, MESSAGE).await.unwrap();
    }
}

async fn with_large_events(flags: &[&str]) -> (Redis, Server) {
    let redis = Redis::start().await;
    let object = format!("{{\"a\":\"{}\"}}", "x".repeat(12_000));
    redis.put_user(READER, object.as_bytes()).await;
    let server = Server::on_with(&redis, flags).await;
    mark(&server, 1..301).await;
    (redis, server)
}

#[tokio::test]
async fn the_stream_is_trimmed_to_its_size_in_bytes() {
    let (redis, server) = with_large_events(&FLAG).await;
    let next = AtomicU64::new(301);
    eventually("the stream is within its bound", NOTICED, async || {
        let recipient = next.fetch_add(1, Ordering::Relaxed);
        mark(&server, recipient..recipient + 1).await;
        (size(&redis).await.0 < BOUND * 5 / 4).then_some(())
    })
    .await;
    let (bytes, length) = size(&redis).await;
    // Not more than it has to: at least half of the bound is kept.
    assert!(bytes > BOUND / 2, "{length} entries of {bytes} bytes");
    eventually("the metric tells", NOTICED, async || {
        let measured = server.metric("markread_stream_bytes").await?;
        (measured > 500_000.0 && measured < 2_000_000.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_the_flag_only_the_number_of_entries_bounds_the_stream() {
    let (redis, server) = with_large_events(&[]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    mark(&server, 301..302).await;
    let (bytes, length) = size(&redis).await;
    assert!(length == 301 && bytes > 3 * BOUND, "{length} entries of {bytes} bytes");
    assert_eq!(server.metric("markread_stream_bytes").await, Some(0.0));
}

#[tokio::test]
async fn a_bound_that_cannot_hold_is_a_warning() {
    let redis = Redis::start().await;
    redis.run::<()>("CONFIG SET maxmemory 3mb").await;
    redis.run::<()>("ACL SETUSER marker on >secret ~* &* +@all -memory").await;
    let url = redis.url().replace("redis://", "redis://marker:secret@");
    let server = Server::at(&url, &FLAG, &[]).await;
    server.wait_until_ready().await;
    let warned = async |text: &str| {
        eventually(text, NOTICED, async || {
            let (status, page) = server.get("/readyz").await;
            (status == 200 && page.contains(text)).then_some(())
        })
        .await;
    };
    warned("--stream-max-bytes has no effect").await;
    redis.run::<()>("ACL SETUSER marker +memory").await;
    redis.run::<()>("CONFIG SET maxmemory 2000000").await;
    warned("--stream-max-bytes is over half of Redis's maxmemory").await;
    redis.run::<()>("CONFIG SET maxmemory 3mb").await;
    eventually("no warning is left", NOTICED, async || {
        let (_, page) = server.get("/readyz").await;
        (!page.contains("--stream-max-bytes")).then_some(())
    })
    .await;
}
