//! Redis's instructions for a mark, counted by valgrind's callgrind.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use markread::store::redis::RedisStore;
use markread_harness::cluster::SLOTS;
use markread_harness::{eventually, free_port};
use nix::sys::signal::Signal;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::counted::Counted;
use crate::{MASTERS, PARTITIONS, START_LIMIT, advance, connect, mark};

/// Marks that share calls.
const SHARED: [u64; 2] = [16, 64];
/// Marks that are sent alone, before others have to share calls.
const ALONE: u64 = 3;
/// About how many marks are counted, so that the probes of the time are a small part.
const COUNTED: u64 = 2_000;
/// The partitions of one of the masters.
const NODE_PARTITIONS: u16 = PARTITIONS / MASTERS as u16;

const IDLE: Duration = Duration::from_secs(4);

/// For how long users are surely cached: marks that wait for them would not be sent with the others.
const CACHED: Duration = Duration::from_secs(3);

/// A Redis whose instructions are counted.
struct Node {
    redis: Counted,
    url: String,
    connection: MultiplexedConnection,
    probes: f64,
    /// What Redis does for the probe of one stream, and meanwhile.
    of_probe: f64,
}

/// Counts for one Redis, and for a node of the cluster in both ways, and prints the figures.
pub(crate) async fn count() {
    println!("\ninstructions of Redis a mark, {NODE_PARTITIONS} partitions on the node");
    let mut of_one = Vec::new();
    for (name, partitions, is_within) in [
        ("one Redis", None, false),
        ("cluster, within slots", Some(NODE_PARTITIONS), true),
        ("cluster, across slots", Some(NODE_PARTITIONS), false),
    ] {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let mut node = start(&dir, partitions.is_some()).await;
        let store = connect(&[node.url.clone()], partitions).await;
        if is_within {
            store.use_declared_keys_only();
        }
        mark_together(&store, &node.redis, ALONE + SHARED[1]).await;
        node.learn_of_probes().await;
        let alone = count_marks(&store, &mut node, ALONE).await;
        let mut figures = vec![("alone".to_owned(), alone / ALONE as f64)];
        for shared in SHARED {
            let all = count_marks(&store, &mut node, ALONE + shared).await;
            figures.push((format!("{shared} together"), (all - alone) / shared as f64));
        }
        let mut line = format!("{name:22}");
        for (at, (what, figure)) in figures.iter().enumerate() {
            if partitions.is_none() {
                of_one.push(*figure);
            }
            line += &format!("  {what}: {figure:6.0} ({:4.2})", figure / of_one[at]);
        }
        println!("{line}");
    }
}

/// Starts a Redis that persists nothing, alone or as a cluster's only node.
async fn start(dir: &Path, is_cluster: bool) -> Node {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(dir);
    if is_cluster {
        command.args(["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()]);
    }
    let process = Counted::start("redis", dir, &command);
    let url = format!("redis://127.0.0.1:{port}");
    let client = redis::Client::open(&*url).unwrap();
    let mut connection = eventually("Redis listens", START_LIMIT, async || {
        client.get_multiplexed_async_connection().await.ok()
    })
    .await;
    if is_cluster {
        let mut add = redis::cmd("CLUSTER");
        add.arg("ADDSLOTSRANGE").arg(0).arg(SLOTS - 1);
        add.query_async::<()>(&mut connection).await.unwrap();
    }
    Node { redis: process, url, connection, probes: 0.0, of_probe: 0.0 }
}

/// Counts the instructions of so many marks that come while Redis stands still.
async fn count_marks(store: &Arc<RedisStore>, node: &mut Node, marks: u64) -> f64 {
    let times = COUNTED / marks;
    let (mut counted, mut left) = (0.0, times);
    while left > 0 {
        // Their users are cached from here on.
        mark_together(store, &node.redis, marks).await;
        node.instructions("uncounted").await;
        let began = Instant::now();
        while left > 0 && began.elapsed() < CACHED {
            mark_together(store, &node.redis, marks).await;
            left -= 1;
        }
        let (all, probes) = node.instructions(&format!("{marks}-marks")).await;
        counted += all - node.of_probe * probes;
    }
    counted / times as f64
}

impl Node {
    /// Counts what Redis does without marks.
    async fn learn_of_probes(&mut self) {
        sleep(IDLE).await;
        self.instructions("uncounted").await;
        sleep(IDLE).await;
        let (all, probes) = self.instructions("idle").await;
        self.of_probe = all / probes;
    }

    /// Returns the instructions since the last call, and the probes of streams.
    async fn instructions(&mut self, of: &str) -> (f64, f64) {
        let mut info = redis::cmd("INFO");
        info.arg("commandstats");
        let stats: String = info.query_async(&mut self.connection).await.unwrap();
        let line = stats.lines().find(|line| line.starts_with("cmdstat_xinfo|stream:"));
        let all: f64 = line.unwrap().split(['=', ',']).nth(1).unwrap().parse().unwrap();
        let probes = all - std::mem::replace(&mut self.probes, all);
        (self.redis.instructions(of), probes)
    }
}

async fn mark_together(store: &Arc<RedisStore>, redis: &Counted, marks: u64) {
    redis.signal(Signal::SIGSTOP);
    let mut tasks = JoinSet::new();
    for reader in 0..marks {
        let store = Arc::clone(store);
        tasks.spawn(async move { mark(&store, advance(reader, 0)).await });
    }
    // All are sent or wait to be.
    sleep(Duration::from_millis(5)).await;
    redis.signal(Signal::SIGCONT);
    tasks.join_all().await;
}
