//! Marks a second, and their CPU time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use markread::store::Marks;
use markread::store::redis::RedisStore;
use markread_harness::{Redis, RedisCluster};
use tokio::task::JoinSet;

use crate::{MASTERS, PARTITIONS, advance, connect, cpu_us, mark, median};

const CALLERS: [u64; 3] = [16, 64, 256];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(1);

const READERS: u64 = 1_000;
const CONVERSATIONS: u64 = 10;

/// A way to mark.
struct Way<'a> {
    name: &'static str,
    store: Arc<RedisStore>,
    redis: Vec<&'a Redis>,
    /// Times the callers of one Redis.
    callers: u64,
}

/// The figures of one way in one round.
struct Round {
    rate: f64,
    redis_us: f64,
    store_us: f64,
    /// Marks of one script call.
    sharing: f64,
}

/// Marks with all ways in turns, and prints what that took.
pub(crate) async fn measure() {
    let redis = Redis::start().await;
    let cluster = RedisCluster::start(MASTERS, 0).await;
    let nodes: Vec<_> = cluster.nodes().iter().collect();
    let within = connect(&cluster.urls(), Some(PARTITIONS)).await;
    within.use_declared_keys_only();
    let across = connect(&cluster.urls(), Some(PARTITIONS)).await;
    let one = connect(&[redis.url()], None).await;
    let way = |name, store: &Arc<RedisStore>, callers| Way {
        name,
        store: Arc::clone(store),
        redis: nodes.clone(),
        callers,
    };
    let ways = [
        Way { redis: vec![&redis], ..way("one Redis", &one, 1) },
        way("cluster, within slots", &within, 1),
        way("cluster, across slots", &across, 1),
        way("the same for each node", &across, MASTERS as u64),
    ];
    for way in &ways {
        for reader in 0..READERS {
            let marks: Vec<_> =
                (0..CONVERSATIONS).map(|recipient| advance(reader, recipient)).collect();
            way.store.mark_read_all(&marks, None).await.unwrap();
        }
    }

    println!(
        "\nmedians of {ROUNDS} rounds; µs are CPU time a mark; in parentheses: parts of one Redis's"
    );
    println!(
        "callers  way                    marks/s         marks a call  Redis, µs      store and callers, µs"
    );
    for callers in CALLERS {
        let mut rounds = ways.each_ref().map(|_| Vec::new());
        for _ in 0..ROUNDS {
            for (way, rounds) in ways.iter().zip(&mut rounds) {
                rounds.push(round(way, way.callers * callers).await);
            }
        }
        let [one, ..] = rounds.each_ref().map(|rounds| Round::medians(rounds));
        for (way, rounds) in ways.iter().zip(&rounds) {
            let Round { rate, redis_us, store_us, sharing } = Round::medians(rounds);
            println!(
                "{:7}  {:22} {rate:7.0} ({:4.2})  {sharing:12.1}  {redis_us:6.2} ({:4.2})  \
                 {store_us:6.2} ({:4.2})",
                way.callers * callers,
                way.name,
                rate / one.rate,
                redis_us / one.redis_us,
                store_us / one.store_us,
            );
        }
    }
}

impl Round {
    fn medians(rounds: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(figure));
        Self {
            rate: of(|round| round.rate),
            redis_us: of(|round| round.redis_us),
            store_us: of(|round| round.store_us),
            sharing: of(|round| round.sharing),
        }
    }
}

/// Marks with so many callers, each with one mark in flight, of readers in turn.
async fn round(way: &Way<'_>, callers: u64) -> Round {
    let redis: Vec<_> = way.redis.iter().map(|redis| redis.id()).collect();
    let own = [std::process::id()];
    let (redis_before, own_before) = (cpu_us(&redis), cpu_us(&own));
    let calls_before = calls(way).await;
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    let numbers = Arc::new(AtomicU64::new(0));
    for _ in 0..callers {
        let (store, numbers) = (Arc::clone(&way.store), Arc::clone(&numbers));
        tasks.spawn(async move {
            let mut marks = 0_u64;
            while began.elapsed() < ROUND {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                marks += 1;
                mark(&store, advance(number % READERS, number / READERS % CONVERSATIONS)).await;
            }
            marks
        });
    }
    let marks = tasks.join_all().await.into_iter().sum::<u64>() as f64;
    Round {
        rate: marks / began.elapsed().as_secs_f64(),
        redis_us: (cpu_us(&redis) - redis_before) / marks,
        store_us: (cpu_us(&own) - own_before) / marks,
        sharing: marks / (calls(way).await - calls_before) as f64,
    }
}

/// Calls of scripts so far.
async fn calls(way: &Way<'_>) -> u64 {
    let mut calls = 0;
    for redis in &way.redis {
        calls += redis.calls("evalsha").await;
    }
    calls
}
