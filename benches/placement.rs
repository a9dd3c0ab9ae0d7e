//! What a page and a mark of a reader with 100,000 conversations cost Redis, in both versions of the
//! layout, with arbitrary recipients and with picked ones that share a bucket of version 1.
//!
//! `cargo bench --bench placement` starts its own Redis, and prints its CPU time a call.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::format_push_string,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

use std::sync::Arc;
use std::time::Duration;

use markread::domain::{
    ListPosition, Mark, Outcome, RateLimit, ReadOutcome, USER_OBJECT_MAX_BYTES,
};
use markread::net::workers::Workers;
use markread::store::redis::{
    Access, RedisAddress, RedisConfig, RedisFiles, RedisMode, RedisStore,
};
use markread::store::{Cursors, Marks, StoreHealth};
use markread_harness::{Redis, eventually};

const CONVERSATIONS: u64 = 100_000;
const MANY: RateLimit = RateLimit { calls: 1_000_000_000, window_ms: 3_600_000 };
const CALLS: u64 = 300;

#[tokio::main]
async fn main() {
    println!("µs of Redis a call, {CONVERSATIONS} conversations of one reader");
    for version in [1, 2] {
        for (name, recipient) in [
            ("arbitrary", (|n| 1_247_310_121_283_321_862 + n * 40_503_000_001) as fn(u64) -> u64),
            ("picked", |n| 1 + n * 2_147_483_647),
        ] {
            let redis = Redis::start().await;
            if version == 1 {
                redis.run::<()>("HSET markread:layout version 1 partitions 1").await;
            }
            let store = connect(&redis).await;
            let marks: Vec<_> = (0..CONVERSATIONS).map(|n| mark(recipient(n), 5)).collect();
            for marks in marks.chunks(500) {
                store.mark_read_all(marks, None).await.unwrap();
            }
            let mut line = format!("layout version {version}, {name:9}");
            for limit in [1, 100, 1_000] {
                let before = spent(&redis).await;
                let mut after = None;
                for _ in 0..CALLS {
                    after = page(&store, after, limit).await;
                }
                line +=
                    &format!("  page of {limit}: {:.0}", (spent(&redis).await - before) / 300.0);
            }
            for (what, first, message) in [("new", CONVERSATIONS, 5), ("known", 0, 6)] {
                let before = spent(&redis).await;
                for n in first..first + CALLS {
                    let outcome = store.mark_read(mark(recipient(n), message), None).await.unwrap();
                    assert!(matches!(outcome, Outcome::Advanced { .. }));
                }
                line += &format!("  {what} mark: {:.0}", (spent(&redis).await - before) / 300.0);
            }
            println!("{line}");
        }
    }
}

fn mark(recipient: u64, message: u64) -> Mark {
    Mark {
        reader: 7.try_into().unwrap(),
        recipient: recipient.try_into().unwrap(),
        last_read_event_id: message.try_into().unwrap(),
    }
}

async fn page(
    store: &RedisStore,
    after: Option<ListPosition>,
    limit: usize,
) -> Option<ListPosition> {
    let outcome = store.list_cursors(7.try_into().unwrap(), after, limit).await.unwrap();
    let ReadOutcome::Served { read, .. } = outcome else { panic!("over quota") };
    read.next
}

/// CPU time of Redis's main thread, in µs.
async fn spent(redis: &Redis) -> f64 {
    let stats: String = redis.run("INFO cpu").await;
    let lines = stats.lines().filter(|line| line.contains("_main_thread:"));
    lines.map(|line| 1e6 * line.split_once(':').unwrap().1.parse::<f64>().unwrap()).sum()
}

async fn connect(redis: &Redis) -> Arc<RedisStore> {
    let address = RedisAddress::new(&redis.url(), None, RedisFiles::default()).unwrap();
    let config = RedisConfig {
        mode: RedisMode::Standalone(address),
        stream: "direct_message_mark_read_events".to_owned(),
        stream_maxlen: 1_000,
        stream_max_bytes: None,
        user_key_prefix: "user:".to_owned(),
        user_object_max_bytes: USER_OBJECT_MAX_BYTES,
        rate_limit: MANY,
        read_rate_limit: MANY,
        ack: None,
        access: Access::Serve,
    };
    let (store, _) = RedisStore::start(config, Workers::here());
    let health = store.health();
    eventually("the store connects", Duration::from_secs(10), async || {
        matches!(*health.borrow(), StoreHealth::Ready { .. }).then_some(())
    })
    .await;
    store
}
