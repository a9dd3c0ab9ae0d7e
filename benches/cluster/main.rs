//! What the cluster mode costs, on three masters and 64 partitions against one Redis: CPU time of Redis and of
//! the store for a mark, with marks of several partitions in one call and without; Redis's instructions for the
//! same; and the time from a mark to its watcher, with what reading its event costs.
//!
//! `cargo bench --bench cluster` starts all it needs, and takes three and a half minutes. `-- marks`,
//! `-- instructions` (which needs valgrind) and `-- events` run one part.

#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::format_push_string,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

#[allow(dead_code, reason = "probes are counted otherwise here")]
#[path = "../instructions/counted.rs"]
mod counted;
mod events;
mod instructions;
mod marks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use markread::domain::{Mark, Outcome, RateLimit, USER_OBJECT_MAX_BYTES};
use markread::net::workers::Workers;
use markread::store::redis::{
    Access, ClusterSeeds, RedisAddress, RedisConfig, RedisFiles, RedisMode, RedisStore,
};
use markread::store::{Marks, StoreHealth};
use markread_harness::eventually;

const MASTERS: usize = 3;
const PARTITIONS: u16 = 64;
const MANY: RateLimit = RateLimit { calls: 1_000_000_000, window_ms: 3_600_000 };
const START_LIMIT: Duration = Duration::from_secs(120);

/// The first of consecutive IDs.
const FIRST_READER: u64 = 2_000_000_000_000_000_000;
const FIRST_RECIPIENT: u64 = 1_234_567_890_123_456_789;
const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let parts: Vec<_> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let is_wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    if is_wanted("marks") {
        println!("load of the machine: {}", load());
        marks::measure().await;
    }
    if is_wanted("instructions") {
        instructions::count().await;
    }
    if is_wanted("events") {
        println!("\nload of the machine: {}", load());
        events::measure().await;
    }
}

/// The load averages of the machine, over 1, 5 and 15 minutes.
fn load() -> String {
    let averages = std::fs::read_to_string("/proc/loadavg").unwrap();
    averages.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

/// CPU time that processes have used, in µs.
fn cpu_us(processes: &[u32]) -> f64 {
    let of_process = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let (_, after_name) = stat.rsplit_once(") ").unwrap();
        let times = after_name.split(' ').skip(11).take(2);
        // In ticks of 10 ms.
        times.map(|ticks| ticks.parse::<f64>().unwrap() * 10_000.0).sum::<f64>()
    };
    processes.iter().map(of_process).sum()
}

/// A mark that advances its cursor: each message is later than the one before.
fn advance(reader: u64, recipient: u64) -> Mark {
    static MESSAGES: AtomicU64 = AtomicU64::new(FIRST_MESSAGE);
    Mark {
        reader: (FIRST_READER + reader).try_into().unwrap(),
        recipient: (FIRST_RECIPIENT + recipient).try_into().unwrap(),
        last_read_event_id: MESSAGES.fetch_add(1, Ordering::Relaxed).try_into().unwrap(),
    }
}

async fn mark(store: &RedisStore, mark: Mark) {
    let outcome = store.mark_read(mark, None).await.unwrap();
    assert!(matches!(outcome, Outcome::Advanced { .. }), "{outcome:?}");
}

/// A store on one Redis, or on a cluster of so many partitions.
async fn connect(urls: &[String], partitions: Option<u16>) -> Arc<RedisStore> {
    let address = |url: &String| RedisAddress::new(url, None, RedisFiles::default()).unwrap();
    let mut seeds: Vec<_> = urls.iter().map(address).collect();
    let mode = match partitions {
        Some(partitions) => RedisMode::Cluster(ClusterSeeds { seeds, partitions }),
        None => RedisMode::Standalone(seeds.remove(0)),
    };
    let config = RedisConfig {
        mode,
        stream: "direct_message_mark_read_events".to_owned(),
        stream_maxlen: 100_000,
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
    eventually("the store connects", START_LIMIT, async || {
        matches!(*health.borrow(), StoreHealth::Ready { .. }).then_some(())
    })
    .await;
    store
}

/// The middle of some figures.
fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<_> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
