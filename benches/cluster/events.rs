//! The time from a mark to its watcher, and what the reading of events costs.

use std::time::{Duration, Instant};

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::{Redis, RedisCluster, Server};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use crate::{FIRST_MESSAGE, FIRST_READER, FIRST_RECIPIENT, MASTERS, cpu_us};

/// Partitions, and marks a second on all of them.
const LOADS: [(u16, u64); 2] = [(64, 1_000), (8, 4_000)];
const ROUND: Duration = Duration::from_secs(8);
const READERS: u64 = 500;

/// A cluster, a server on it, and those who mark.
struct Bench {
    cluster: RedisCluster,
    server: Server,
    readers: Vec<Caller>,
    message: u64,
}

/// The time and the CPU that a load took.
struct Load {
    sent_at: Vec<Instant>,
    redis_us: f64,
    server_us: f64,
    reads: u64,
}

/// Marks without a watcher and with one whom all events concern, and prints the difference.
pub(crate) async fn measure() {
    for (partitions, rate) in LOADS {
        let mut bench = Bench::new(partitions).await;
        bench.load(rate).await;
        let first = bench.message;
        let alone = bench.load(rate).await;
        let (sender, mut events) = mpsc::unbounded_channel();
        let watching = tokio::spawn(watch(bench.server.channel(), sender));
        // It reads from here on.
        sleep(Duration::from_secs(1)).await;
        let watched_from = bench.message;
        let watched = bench.load(rate).await;
        sleep(Duration::from_secs(1)).await;
        assert!(!watching.is_finished());
        watching.abort();
        let mut delays = Vec::new();
        while let Some((message, at)) = events.recv().await {
            let number = usize::try_from(message - watched_from).unwrap();
            delays.push(at.duration_since(watched.sent_at[number]));
        }
        assert_eq!(delays.len(), watched.sent_at.len(), "each event is heard once");
        delays.sort_unstable();
        let count = delays.len() as f64;
        let of = |percent: usize| 1e3 * delays[(delays.len() - 1) * percent / 100].as_secs_f64();
        println!(
            "{partitions} partitions, {:.0} marks/s: a mark's event is heard after {:.2} ms (p50), {:.2} ms \
             (p99), {:.2} ms (most)",
            count / ROUND.as_secs_f64(),
            of(50),
            of(99),
            of(100),
        );
        let marks = (watched_from - first) as f64;
        println!(
            "  without a watcher, µs of CPU a mark: Redis {:.1}, server {:.1}",
            alone.redis_us / marks,
            alone.server_us / marks,
        );
        println!(
            "  one watcher, for each event: {:.2} reads, Redis {:.1} µs, server {:.1} µs",
            (watched.reads - alone.reads) as f64 / count,
            watched.redis_us / count - alone.redis_us / marks,
            watched.server_us / count - alone.server_us / marks,
        );
    }
}

async fn watch(channel: tonic::transport::Channel, heard: mpsc::UnboundedSender<(u64, Instant)>) {
    let watcher = Caller::new(channel.clone(), Credentials::token_of(FIRST_RECIPIENT));
    let request = watcher.authenticated(WatchMarkReadEventsRequest { after: String::new() });
    let mut client = MarkReadServiceClient::new(channel);
    let mut updates = client.watch_mark_read_events(request).await.unwrap().into_inner();
    while let Some(update) = updates.message().await.unwrap() {
        if let Some(Update::Event(event)) = update.update {
            heard.send((event.last_read_event_id, Instant::now())).unwrap();
        }
    }
}

impl Bench {
    async fn new(partitions: u16) -> Self {
        let cluster = RedisCluster::start(MASTERS, 0).await;
        let many = ["--rate-limit", "1000000000", "--read-rate-limit", "1000000000"];
        let partitions = partitions.to_string();
        let flags = [&["--partitions", &partitions], &many[..]].concat();
        let server = Server::on_cluster(&cluster, &flags).await;
        let channel = server.channel();
        let reader =
            |number| Caller::new(channel.clone(), Credentials::token_of(FIRST_READER + number));
        let readers = (0..READERS).map(reader).collect();
        Self { cluster, server, readers, message: FIRST_MESSAGE }
    }

    /// Makes so many marks a second, of readers in turn.
    async fn load(&mut self, rate: u64) -> Load {
        let nodes: Vec<_> = self.cluster.nodes().iter().map(Redis::id).collect();
        let server = [self.server.id()];
        let (redis_before, server_before) = (cpu_us(&nodes), cpu_us(&server));
        let reads_before = self.reads().await;
        let mut sent_at = Vec::new();
        let mut marks = JoinSet::new();
        let mut tick = interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for _ in 0..ROUND.as_millis() {
            tick.tick().await;
            for _ in 0..rate / 1_000 {
                let reader = self.readers[(self.message % READERS) as usize].clone();
                let message = self.message;
                self.message += 1;
                sent_at.push(Instant::now());
                marks.spawn(async move { reader.mark(FIRST_RECIPIENT, message).await.unwrap() });
            }
            while marks.try_join_next().is_some() {}
        }
        marks.join_all().await;
        Load {
            sent_at,
            redis_us: cpu_us(&nodes) - redis_before,
            server_us: cpu_us(&server) - server_before,
            reads: self.reads().await - reads_before,
        }
    }

    /// Number of reads of streams.
    async fn reads(&self) -> u64 {
        let mut reads = 0;
        for node in self.cluster.nodes() {
            reads += node.calls("xread").await;
        }
        reads
    }
}
