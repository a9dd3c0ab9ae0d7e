//! What is seen of a world from outside while a fault is injected.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use markread_faults::world::{Store, World};
use markread_harness::caller::{Caller, Credentials};
use markread_harness::server::http1;
use markread_harness::{RECIPIENT, Redis};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// The pause between two probes of a kind.
const PAUSE: Duration = Duration::from_millis(20);

/// The longest time of a call.
const CALL_LIMIT: Duration = Duration::from_secs(3);

/// After how long a process that does not answer is taken for dead.
const PING_LIMIT: Duration = Duration::from_millis(400);

/// How far apart clocks may be.
const CLOCK_LIMIT_S: u64 = 60;

/// When a fault that lasts for a second or more is going on for certain, after its begin.
const WITHIN: Range<Duration> = Duration::from_millis(200)..Duration::from_millis(800);

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// Marks on connections that are kept.
    pub(crate) marks: u32,
    pub(crate) failed: u32,
    pub(crate) slowest: Duration,
    /// The fastest mark of each server that began well within the fault. A server may have none.
    pub(crate) fastest: HashMap<String, Duration>,
    /// Marks, each on a new connection.
    pub(crate) failed_fresh: u32,
    pub(crate) slowest_fresh: Duration,
    /// Redis and Sentinels.
    pub(crate) dead_redis: u32,
    pub(crate) dead_relays: u32,
    pub(crate) dead_receivers: u32,
    /// Clocks of servers and Redis that are far from the system's.
    pub(crate) wrong_clocks: u32,
}

/// What the probes share.
#[derive(Default)]
struct State {
    seen: Mutex<Seen>,
    /// When the fault began.
    began: OnceLock<Instant>,
    is_over: AtomicBool,
}

impl State {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// Whether a fault that lasts for a second or more is going on for certain.
    fn is_within_fault(&self) -> bool {
        self.began.get().is_some_and(|began| WITHIN.contains(&began.elapsed()))
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap()
    }
}

type Shared = Arc<State>;

/// Probes everything, until it is asked what it has seen.
pub(crate) struct Probe {
    state: Shared,
    tasks: JoinSet<()>,
}

impl Probe {
    pub(crate) fn start(world: &World) -> Self {
        let state = Shared::default();
        let mut tasks = JoinSet::new();
        let mut message = 1 + u64::try_from(world.now().as_micros()).unwrap();
        for (server, address) in world.client_addresses.iter().enumerate() {
            for reader in [1, 2] {
                let reader = 10 * u64::try_from(server).unwrap() + reader;
                let is_fresh = reader % 10 == 2;
                tasks.spawn(marks(address.clone(), reader, message, is_fresh, state.clone()));
                message += 1;
            }
        }
        for address in &world.server_addresses {
            tasks.spawn(clock(address.clone(), state.clone()));
        }
        let mut redis = world.nodes().into_iter().map(|node| node.port).collect::<Vec<_>>();
        if let Store::Sentinel(group) = &world.store {
            redis.extend((0..3).map(|sentinel| group.sentinel(sentinel).port));
        }
        for port in redis {
            tasks.spawn(pings(port, state.clone()));
        }
        for relay in world.relays.iter().flatten() {
            tasks.spawn(lives(relay.ops.clone(), state.clone()));
        }
        for receiver in &world.receivers {
            tasks.spawn(accepts(receiver.port, state.clone()));
        }
        Self { state, tasks }
    }

    /// Notes that the fault begins.
    pub(crate) fn begin_fault(&self) {
        self.state.began.set(Instant::now()).unwrap();
    }

    /// What was seen, once the calls that are going on have ended.
    pub(crate) async fn end(self) -> Seen {
        self.state.is_over.store(true, Ordering::Relaxed);
        self.tasks.join_all().await;
        self.state.seen().clone()
    }
}

pub(crate) fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
}

/// Calls in a loop, and records how each call went.
async fn marks(address: String, reader: u64, mut message: u64, is_fresh: bool, state: Shared) {
    let mut channel = channel(&address);
    while !state.is_over() {
        if is_fresh {
            channel = self::channel(&address);
        }
        let caller = Caller::new(channel.clone(), Credentials::token_of(reader));
        message += 100;
        let (began, is_within) = (Instant::now(), state.is_within_fault());
        let answer = timeout(CALL_LIMIT, caller.mark(RECIPIENT, message)).await;
        let is_served = answer.is_ok_and(|answer| answer.is_ok());
        {
            let mut seen = state.seen();
            if is_fresh {
                seen.failed_fresh += u32::from(!is_served);
                seen.slowest_fresh = seen.slowest_fresh.max(began.elapsed());
            } else {
                if is_within {
                    let fastest = seen.fastest.entry(address.clone()).or_insert(CALL_LIMIT);
                    *fastest = began.elapsed().min(*fastest);
                }
                seen.marks += 1;
                seen.failed += u32::from(!is_served);
                seen.slowest = seen.slowest.max(began.elapsed());
            }
        }
        sleep(PAUSE).await;
    }
}

async fn pings(port: u16, state: Shared) {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    while !state.is_over() {
        let time = async {
            let mut connection = client.get_multiplexed_async_connection().await.ok()?;
            // A Sentinel does not know TIME.
            let time = redis::cmd("TIME").query_async::<(u64, u64)>(&mut connection).await;
            redis::cmd("PING").query_async::<()>(&mut connection).await.ok()?;
            Some(time.ok().map(|(seconds, _)| seconds))
        };
        let time = timeout(PING_LIMIT, time).await.ok().flatten();
        let is_wrong = time.flatten().is_some_and(|time| time.abs_diff(now_s()) > CLOCK_LIMIT_S);
        {
            let mut seen = state.seen();
            seen.dead_redis += u32::from(time.is_none());
            seen.wrong_clocks += u32::from(is_wrong);
        }
        sleep(PAUSE).await;
    }
}

fn now_s() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs()
}

/// Reads a server's clock, by the header `date`.
async fn clock(address: String, state: Shared) {
    let request = "GET / HTTP/1.1\r\nhost: any\r\nconnection: close\r\n\r\n";
    while !state.is_over() {
        let answer = timeout(CALL_LIMIT, http1(&address, request)).await.ok().flatten();
        let time = answer.and_then(|(head, _)| {
            let date = head.lines().find(|line| line.to_lowercase().starts_with("date: "))?;
            // `date: Tue, 15 Nov 1994 08:12:31 GMT`
            let mut parts = date.split(' ').nth(5)?.split(':').map(str::parse::<u64>);
            let mut next = || parts.next()?.ok();
            Some(3600 * next()? + 60 * next()? + next()?)
        });
        let now = now_s() % 86_400;
        let is_wrong = time.is_some_and(|time| time.abs_diff(now) > CLOCK_LIMIT_S);
        state.seen().wrong_clocks += u32::from(is_wrong);
        sleep(5 * PAUSE).await;
    }
}

/// Asks a relay whether it lives.
async fn lives(ops: String, state: Shared) {
    while !state.is_over() {
        let page = timeout(PING_LIMIT, markread_harness::server::get(&ops, "/livez")).await;
        let is_dead = page.ok().flatten().is_none();
        state.seen().dead_relays += u32::from(is_dead);
        sleep(PAUSE).await;
    }
}

/// Opens connections to a receiver.
async fn accepts(port: u16, state: Shared) {
    while !state.is_over() {
        let is_dead = TcpStream::connect(("127.0.0.1", port)).await.is_err();
        state.seen().dead_receivers += u32::from(is_dead);
        sleep(5 * PAUSE).await;
    }
}

/// How often a Redis has refused a script that it did not know.
pub(crate) async fn unknown_scripts(redis: &Redis) -> u64 {
    let errors = redis.info("INFO errorstats").await;
    let count = errors.get("errorstat_NOSCRIPT").and_then(|count| count.strip_prefix("count="));
    count.map_or(0, |count| count.parse().unwrap())
}
