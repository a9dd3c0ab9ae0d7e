//! 5,000 watchers on one server at 1,000 marks a second: the memory of a watcher, the delay until
//! it hears of a mark, and the reads in Redis when all come back together.
//!
//! `cargo bench --bench watchers` starts its own Redis and server, and loads both, from this
//! process, for about a minute.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use markread::proto::WatchMarkReadEventsRequest;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::{Redis, Server};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::Channel;

const WATCHERS: usize = 5000;
/// Fewer than the streams that a connection may have.
const WATCHERS_PER_CONNECTION: usize = 200;
const MARKS_PER_MS: usize = 1;
const LOAD: Duration = Duration::from_secs(20);
const AWAY: Duration = Duration::from_secs(10);
/// The first of consecutive user IDs.
const FIRST_USER: u64 = 1000;

/// An event that a watcher received, by its message.
struct Received {
    message: usize,
    at: Instant,
}

#[tokio::main]
async fn main() {
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "1000000000", "--read-rate-limit", "1000000000"];
    let server = Server::on_with(&redis, &flags).await;
    let bench = Arc::new(Bench::new(&server).await);
    println!("watchers: {WATCHERS}, on {} connections", bench.channels.len());

    let alone_kib = bench.rss_kib();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let began = Instant::now();
    let watching = Arc::clone(&bench).watch_all("", &sender).await;
    println!("opened together: all in {:.0} ms", ms(began.elapsed()));
    let each_kib = (bench.rss_kib() - alone_kib) as f64 / WATCHERS as f64;
    println!("memory of an idle watcher, connection apart: {each_kib:.1} KiB");
    println!("connections that wait in Redis: {}", blocked(&redis).await);

    let sent = Arc::clone(&bench).load(LOAD).await;
    let mut delays = Vec::new();
    while delays.len() < 2 * sent {
        let event = receiver.recv().await.unwrap();
        delays.push(event.at.duration_since(bench.sent_at(event.message).await));
    }
    delays.sort_unstable();
    let of = |percent: usize| ms(delays[(delays.len() - 1) * percent / 100]);
    println!(
        "from a mark's sending to its watchers, {:.0} marks/s: median {:.2} ms, p99 {:.2} ms, most {:.2} ms",
        sent as f64 / LOAD.as_secs_f64(),
        of(50),
        of(99),
        of(100),
    );

    // All watchers leave, and come back ten seconds later, while the marks go on.
    let place = newest(&redis).await;
    drop(watching);
    let load = tokio::spawn(Arc::clone(&bench).load(AWAY + AWAY / 2));
    tokio::time::sleep(AWAY).await;
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let before = redis.calls("xrange").await;
    let began = Instant::now();
    let watching = Arc::clone(&bench).watch_all(&place, &sender).await;
    println!("came back together: all in {:.0} ms", ms(began.elapsed()));
    let missed = load.await.unwrap();
    for _ in 0..2 * missed {
        receiver.recv().await.unwrap();
    }
    let read = redis.calls("xrange").await - before;
    println!("received all {missed} missed marks; reads of the backlog in Redis: {read}");
    drop(watching);
}

struct Bench {
    channels: Vec<Channel>,
    callers: Vec<Caller>,
    server: u32,
    sent: AtomicUsize,
    sent_at: Mutex<Vec<Instant>>,
}

impl Bench {
    async fn new(server: &Server) -> Self {
        let connections = WATCHERS.div_ceil(WATCHERS_PER_CONNECTION);
        let channels: Vec<_> = (0..connections).map(|_| server.channel()).collect();
        let caller = |at: usize| {
            let user = FIRST_USER + at as u64;
            let channel = channels[at / WATCHERS_PER_CONNECTION].clone();
            Caller::new(channel, Credentials::token_of(user))
        };
        let callers: Vec<_> = (0..WATCHERS).map(caller).collect();
        // Opens all connections.
        for caller in callers.iter().step_by(WATCHERS_PER_CONNECTION) {
            caller.state(1).await.unwrap();
        }
        Self {
            channels,
            callers,
            server: server.id(),
            sent: AtomicUsize::new(0),
            sent_at: Mutex::default(),
        }
    }

    /// Watches as every user from after this place, until the returned value is dropped.
    async fn watch_all(
        self: Arc<Self>,
        after: &str,
        sender: &mpsc::UnboundedSender<Received>,
    ) -> JoinSet<()> {
        let (opened, mut openings) = mpsc::unbounded_channel();
        let mut watching = JoinSet::new();
        for at in 0..WATCHERS {
            let (bench, sender, opened) = (Arc::clone(&self), sender.clone(), opened.clone());
            let after = after.to_owned();
            watching.spawn(async move {
                let request = bench.callers[at].authenticated(WatchMarkReadEventsRequest { after });
                let channel = bench.channels[at / WATCHERS_PER_CONNECTION].clone();
                let mut client = MarkReadServiceClient::new(channel);
                let mut updates =
                    client.watch_mark_read_events(request).await.unwrap().into_inner();
                opened.send(()).unwrap();
                while let Some(update) = updates.message().await.unwrap() {
                    if let Some(Update::Event(event)) = update.update {
                        let message = event.last_read_event_id.try_into().unwrap();
                        let _ = sender.send(Received { message, at: Instant::now() });
                    }
                }
            });
        }
        for _ in 0..WATCHERS {
            openings.recv().await.unwrap();
        }
        watching
    }

    /// Makes marks, each user in turn as the reader and the next as the recipient, and returns how
    /// many.
    async fn load(self: Arc<Self>, lasts: Duration) -> usize {
        let began = Instant::now();
        let first = self.sent.load(Ordering::Relaxed);
        let mut tick = interval(Duration::from_millis(1));
        tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut marks = JoinSet::new();
        while began.elapsed() < lasts {
            tick.tick().await;
            for _ in 0..MARKS_PER_MS {
                let mut sent_at = self.sent_at.lock().await;
                sent_at.push(Instant::now());
                let message = sent_at.len();
                drop(sent_at);
                self.sent.store(message, Ordering::Relaxed);
                let bench = Arc::clone(&self);
                marks.spawn(async move {
                    let reader = message % WATCHERS;
                    let recipient = FIRST_USER + ((message + 1) % WATCHERS) as u64;
                    bench.callers[reader].mark(recipient, message as u64).await.unwrap();
                });
            }
        }
        marks.join_all().await;
        self.sent.load(Ordering::Relaxed) - first
    }

    async fn sent_at(&self, message: usize) -> Instant {
        self.sent_at.lock().await[message - 1]
    }

    fn rss_kib(&self) -> i64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.server)).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

async fn blocked(redis: &Redis) -> String {
    let clients: String = redis.run("INFO clients").await;
    let line = clients.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    line.unwrap().to_owned()
}

/// The ID of the newest entry.
async fn newest(redis: &Redis) -> String {
    let newest = "XREVRANGE direct_message_mark_read_events + - COUNT 1";
    let entries: Vec<(String, Vec<String>)> = redis.run(newest).await;
    entries[0].0.clone()
}
