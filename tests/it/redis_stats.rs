//! Metrics of Redis and of the stream's consumer groups.

use std::ops::RangeInclusive;
use std::time::Duration;

use markread_harness::{READER, RECIPIENT, Redis, Server, eventually};

/// Longer than the time between two probes.
const NOTICED: Duration = Duration::from_secs(10);

const STREAM: &str = "direct_message_mark_read_events";

async fn becomes(server: &Server, series: &str, right: RangeInclusive<f64>) {
    eventually(&format!("{series} is right"), NOTICED, async || {
        server.metric(series).await.filter(|value| right.contains(value))
    })
    .await;
}

fn of_group(metric: &str, group: &str) -> String {
    format!("markread_stream_group_{metric}{{group=\"{group}\"}}")
}

#[tokio::test]
async fn consumer_groups_behind_the_trim_are_reported() {
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "100000", "--stream-maxlen", "5000"];
    let server = Server::on_with(&redis, &flags).await;
    becomes(&server, "markread_stream_maxlen", 5000.0..=5000.0).await;
    for group in ["webhooks", "push"] {
        redis.run::<()>(&format!("XGROUP CREATE {STREAM} {group} 0 MKSTREAM")).await;
    }
    let caller = server.caller(READER);
    for message in 1..=3 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    for group in ["webhooks", "push"] {
        becomes(&server, &of_group("unread_entries", group), 3.0..=3.0).await;
        becomes(&server, &of_group("trimmed_unread", group), 0.0..=0.0).await;
    }
    becomes(&server, "markread_stream_oldest_entry_age_seconds", f64::MIN_POSITIVE..=f64::MAX)
        .await;

    // One group reads everything, then entries are trimmed that the other has not read.
    redis.run::<redis::Value>(&format!("XREADGROUP GROUP push c STREAMS {STREAM} >")).await;
    redis.run::<u64>(&format!("XTRIM {STREAM} MAXLEN 1")).await;
    becomes(&server, &of_group("trimmed_unread", "webhooks"), 1.0..=1.0).await;
    becomes(&server, &of_group("unread_entries", "push"), 0.0..=0.0).await;
    becomes(&server, &of_group("trimmed_unread", "push"), 0.0..=0.0).await;

    // A deleted group disappears, and the other one stays.
    redis.run::<u64>(&format!("XGROUP DESTROY {STREAM} webhooks")).await;
    for metric in ["trimmed_unread", "unread_entries"] {
        eventually("the group's series are gone", NOTICED, async || {
            server.metric(&of_group(metric, "webhooks")).await.is_none().then_some(())
        })
        .await;
        assert_eq!(server.metric(&of_group(metric, "push")).await, Some(0.0));
    }
}

#[tokio::test]
async fn at_most_32_groups_are_reported_whoever_was_there_before() {
    const SERIES: &str = "markread_stream_group_unread_entries{";
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for round in ["a", "b", "c"] {
        for group in 0..40 {
            let create = format!("XGROUP CREATE {STREAM} {round}{group} 0 MKSTREAM");
            redis.run::<()>(&create).await;
        }
        let (first, last) = (format!("{SERIES}group=\"{round}"), Duration::from_millis(1_500));
        eventually("32 of this round are reported", NOTICED, async || {
            let (_, page) = server.get("/metrics").await;
            let series =
                |prefix: &str| page.lines().filter(|line| line.starts_with(prefix)).count();
            assert!(series(SERIES) <= 32, "{}", series(SERIES));
            (series(&first) == 32 && series(SERIES) == 32).then_some(())
        })
        .await;
        for group in 0..40 {
            redis.run::<u64>(&format!("XGROUP DESTROY {STREAM} {round}{group}")).await;
        }
        tokio::time::sleep(last).await;
    }
    // A name that is not text, and a very long one.
    let mut create = redis::cmd("XGROUP");
    create.arg("CREATE").arg(STREAM).arg(b"caf\xe9\"\n").arg("0");
    create.query_async::<()>(&mut redis.connection().await).await.unwrap();
    redis.run::<()>(&format!("XGROUP CREATE {STREAM} {} 0", "x".repeat(5_000))).await;
    becomes(&server, &of_group("unread_entries", "caf\\\\xe9\\\\\\\"\\\\n"), 0.0..=0.0).await;
    becomes(&server, &of_group("unread_entries", &"x".repeat(256)), 0.0..=0.0).await;
}

#[tokio::test]
async fn memory_evictions_and_reachability_are_reported() {
    let mut redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let server = Server::on(&redis).await;
    becomes(&server, "markread_store_up", 1.0..=1.0).await;
    becomes(&server, "markread_redis_memory_used_bytes", 100_000.0..=f64::MAX).await;
    becomes(&server, "markread_redis_memory_max_bytes", 0.0..=0.0).await;
    becomes(&server, "markread_redis_evicted_keys_total", 0.0..=0.0).await;
    for key in 0..200 {
        redis.run::<()>(&format!("SETRANGE filler:{key} 100000 x")).await;
    }
    redis.run::<()>("CONFIG SET maxmemory 8mb").await;
    becomes(&server, "markread_redis_memory_max_bytes", 8_388_608.0..=8_388_608.0).await;
    becomes(&server, "markread_redis_evicted_keys_total", f64::MIN_POSITIVE..=f64::MAX).await;
    redis.kill().await;
    becomes(&server, "markread_store_up", 0.0..=0.0).await;
}

#[tokio::test]
async fn evictions_and_a_full_redis_are_reported_across_a_restart() {
    let mut redis = Redis::with(&["--maxmemory-policy", "volatile-lru"]).await;
    let server = Server::on(&redis).await;
    let evict = async |redis: &Redis| {
        redis.run::<()>("CONFIG SET maxmemory 0").await;
        for key in 0..200 {
            redis.run::<()>(&format!("SETEX filler:{key} 1000 x")).await;
            redis.run::<u64>(&format!("SETRANGE filler:{key} 100000 x")).await;
        }
        redis.run::<()>("CONFIG SET maxmemory 10mb").await;
    };
    evict(&redis).await;
    becomes(&server, "markread_redis_evicted_keys_total", 1.0..=f64::MAX).await;
    let before = server.metric("markread_redis_evicted_keys_total").await.unwrap();
    redis.kill().await;
    redis.restart().await;
    server.wait_until_ready().await;
    evict(&redis).await;
    becomes(&server, "markread_redis_evicted_keys_total", before + 1.0..=f64::MAX).await;

    redis.run::<()>("CONFIG SET maxmemory 1mb").await;
    redis.run::<()>("CONFIG SET maxmemory-policy noeviction").await;
    becomes(&server, "markread_store_up", 0.0..=0.0).await;
    redis.run::<()>("CONFIG SET maxmemory 900kb").await;
    becomes(&server, "markread_redis_memory_max_bytes", 921_600.0..=921_600.0).await;
}

#[tokio::test]
async fn the_embedded_store_is_reported_as_up() {
    let server = Server::dev(&["--stream-maxlen", "7"]).await;
    becomes(&server, "markread_store_up", 1.0..=1.0).await;
    becomes(&server, "markread_stream_maxlen", 7.0..=7.0).await;
}

/// The most memory that a server had, in KiB.
fn peak_memory_kib(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test]
async fn a_huge_entry_of_another_program_does_not_reach_a_server_that_nobody_watches() {
    const ENTRY_BYTES: u32 = 20 << 20;
    let redis = Redis::start().await;
    // The greatest size is measured too, with the flag.
    let server = Server::on_with(&redis, &["--stream-max-bytes", "1GiB"]).await;
    let quiet = Server::on(&redis).await;
    for server in [&server, &quiet] {
        becomes(server, "markread_stream_length", 0.0..=0.0).await;
    }
    let before = [&server, &quiet].map(peak_memory_kib);
    let mut add = redis::cmd("XADD");
    add.arg(STREAM).arg("*").arg("x").arg(vec![b'x'; ENTRY_BYTES.try_into().unwrap()]);
    add.query_async::<()>(&mut redis.connection().await).await.unwrap();
    for server in [&server, &quiet] {
        becomes(server, "markread_stream_length", 1.0..=1.0).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for (server, before) in [&server, &quiet].into_iter().zip(before) {
        let grown = peak_memory_kib(server) - before;
        assert!(grown < 15 << 10, "{grown} KiB");
    }
    becomes(&server, "markread_stream_bytes", f64::from(ENTRY_BYTES)..=f64::MAX).await;
}
