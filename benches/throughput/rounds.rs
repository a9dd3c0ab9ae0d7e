//! Rounds that take turns: calls of the service, calls that are answered at once, scripts in Redis.

use std::sync::Arc;
use std::time::Duration;

use markread_harness::{Redis, Server};

use crate::figures::{Measured, Script, Throughput, median};
use crate::load::{Calls, Concurrency, Round, Until, run};
use crate::noop::{Noop, Role};
use crate::peer::Peer;
use crate::process::{cpu_seconds, rss_bytes};
use crate::redis_load::{OwnScript, Repetition, naive};
use crate::workloads::{self, Group};
use crate::{Options, latency, tokens};

pub(crate) const CONNECTIONS: usize = 8;
/// A batch is as much work for Redis as a hundred marks: more would wait for each other too long.
const BATCHES: Concurrency = Concurrency { connections: CONNECTIONS, at_once: 2 };
const LONE: Concurrency = Concurrency { connections: 1, at_once: 1 };

/// Flags for an edge guard that all calls of one address pass. With a shorter burst than a moment's calls
/// it would refuse some that two threads check at the same time.
const EDGE_RATE: [&str; 4] = ["--edge-rate", "10000000", "--edge-burst", "10000000"];

/// Flags for a quota that no reader uses up.
pub(crate) const UNLIMITED: [&str; 4] =
    ["--rate-limit", "999999999999", "--read-rate-limit", "999999999999"];

/// Events of 7 KB would fill the memory.
const SHORT_STREAM: [&str; 4] = ["--stream", "short", "--stream-maxlen", "10000"];

const WARM_UP: Duration = Duration::from_secs(1);

/// Calls and their server.
pub(crate) struct Workload {
    pub(crate) calls: Arc<Calls>,
    pub(crate) address: String,
    server: u32,
    saturate: Concurrency,
}

impl Workload {
    fn new(address: &str, server: u32, calls: Arc<Calls>, saturate: Concurrency) -> Self {
        Self { calls, address: address.to_owned(), server, saturate }
    }

    async fn run(&self, concurrency: Concurrency, lasts: Duration) -> Round {
        run(&self.address, &self.calls, concurrency, Until::Elapsed(lasts)).await
    }

    /// Runs until each of this many conversations or readers had its turn.
    async fn seed(&self, turns: u64) {
        run(&self.address, &self.calls, self.saturate, Until::Number(turns)).await;
    }
}

/// The servers, all on one Redis.
struct Servers {
    own: Server,
    /// Refuses nearly every mark.
    stingy: Server,
    two_threads: Server,
    with_objects: Server,
    /// Another binary, such as one of an earlier commit.
    other: Option<Server>,
    bare: Noop,
    whole: Noop,
    peer: Option<Peer>,
}

impl Servers {
    async fn start(options: &Options, redis: &Redis) -> Self {
        let threads = [&["--worker-threads", &options.worker_threads], &EDGE_RATE[..]].concat();
        let unlimited = [&threads[..], &UNLIMITED].concat();
        let other = match &options.against {
            None => None,
            Some(path) => {
                let server = Server::of_binary(path, &redis.url(), &unlimited, &[]).await;
                server.wait_until_ready().await;
                Some(server)
            }
        };
        let two_threads = [&["--worker-threads", "2"][..], &EDGE_RATE, &UNLIMITED].concat();
        Self {
            own: Server::on_with(redis, &unlimited).await,
            stingy: Server::on_with(redis, &[&threads[..], &["--rate-limit", "1"]].concat()).await,
            two_threads: Server::on_with(redis, &two_threads).await,
            with_objects: Server::on_with(redis, &[&unlimited[..], &SHORT_STREAM].concat()).await,
            other,
            bare: Noop::start(Role::Bare, &threads).await,
            whole: Noop::start(Role::Whole, &threads).await,
            peer: match &options.peer {
                Some(path) => Some(Peer::start(path, redis).await),
                None => None,
            },
        }
    }

    fn workloads(&self, saturate: Concurrency) -> Vec<Workload> {
        let on = |server: &Server, calls, concurrency| {
            Workload::new(&server.address, server.id(), calls, concurrency)
        };
        let at_once = |server: &Noop, name| {
            Workload::new(&server.address, server.id(), workloads::marks(name), saturate)
        };
        let of_group =
            |server, name, group| on(server, workloads::marks_of_group(name, group), saturate);
        let Self { own, two_threads, with_objects, .. } = self;
        let mut all = vec![
            at_once(&self.bare, workloads::NOOP),
            at_once(&self.whole, workloads::WHOLE_NOOP),
            on(own, workloads::marks(workloads::ADVANCING), saturate),
            on(own, workloads::unchanged(), saturate),
            on(&self.stingy, workloads::limited(), saturate),
            on(own, workloads::batch(), BATCHES),
            on(own, workloads::state(), saturate),
            on(own, workloads::http(), saturate),
            of_group(with_objects, workloads::OBJECTS, Group::Objects),
            of_group(two_threads, workloads::TWO_THREADS, Group::TwoThreads),
        ];
        if let Some(other) = &self.other {
            all.push(of_group(other, workloads::OTHER, Group::Other));
        }
        if let Some(peer) = &self.peer {
            all.push(Workload::new(&peer.address, peer.id(), Peer::calls(), saturate));
        }
        all
    }

    /// Asserts that every mark of the advancing workloads advanced.
    async fn expect_advances(&self, workloads: &[Workload]) {
        let answered = |name: &str| {
            let workload = workloads.iter().find(|workload| workload.calls.name == name);
            workload.map_or(0, |workload| workload.calls.answered())
        };
        let batches = answered(workloads::BATCH) * workloads::BATCH_MARKS;
        // One mark was made to learn what is sent to Redis.
        let own = 1 + answered(workloads::ADVANCING) + answered(workloads::HTTP) + batches;
        for (server, outcome, expected) in [
            (&self.own, "advanced", own),
            (&self.own, "noop", answered(workloads::UNCHANGED)),
            (&self.with_objects, "advanced", answered(workloads::OBJECTS)),
            (&self.two_threads, "advanced", answered(workloads::TWO_THREADS)),
        ] {
            let name = format!("markread_mark_read_total{{outcome=\"{outcome}\"}}");
            assert_eq!(server.metric(&name).await, Some(expected as f64), "{name}");
        }
    }
}

/// Creates what the workloads need, and warms up, so that advancing marks do not begin conversations, and
/// no-ops are no-ops.
async fn prepare(redis: &Redis, workloads: &[Workload]) {
    for user in Group::Objects.readers().chain(Group::Objects.recipients()) {
        redis.put_user(user, workloads::user_object(user).as_bytes()).await;
    }
    for workload in workloads {
        match workload.calls.name {
            workloads::BATCH => workload.seed(workloads::READERS).await,
            workloads::ADVANCING
            | workloads::HTTP
            | workloads::OBJECTS
            | workloads::TWO_THREADS
            | workloads::OTHER => workload.seed(workloads::CURSORS).await,
            _ => {}
        }
    }
    for workload in workloads {
        workload.run(workload.saturate, WARM_UP).await;
    }
}

pub(crate) async fn measure(options: &Options) -> Throughput {
    let Options { lasts, rounds, .. } = options;
    let mut redis = Redis::start().await;
    let servers = Servers::start(options, &redis).await;
    let workloads = servers.workloads(options.saturate());
    prepare(&redis, &workloads).await;
    let naive_script = naive(&redis).await;
    let own_script = OwnScript::new(&redis, &servers.own).await;

    let mut measured: Vec<_> =
        workloads.iter().map(|workload| Measured::of(workload.calls.name)).collect();
    let mut scripts =
        ["naive script, pipeline 16", "script, pipeline 16", "script, pipeline 1"].map(Script::of);
    let find = |name: &str| workloads.iter().find(|workload| workload.calls.name == name).unwrap();
    let [noop, advancing] = [workloads::NOOP, workloads::ADVANCING].map(find);
    let (mut lone_us, mut lone_parts_us) = (Vec::new(), Vec::new());
    for round in 1..=*rounds {
        println!("throughput: round {round} of {rounds}");
        for (workload, measured) in workloads.iter().zip(&mut measured) {
            let processes = [workload.server, redis.id(), std::process::id()];
            let before = processes.map(cpu_seconds);
            let came_to = workload.run(workload.saturate, *lasts).await;
            let after = processes.map(cpu_seconds);
            measured.add(&came_to, [0, 1, 2].map(|of| after[of] - before[of]));
        }
        scripts[0].add(&naive_script.run(50, 16, 200_000).await);
        scripts[1].add(&own_script.run(50, 16).await);
        scripts[2].add(&own_script.run(50, 1).await);
        let lone_noop_us = noop.run(LONE, *lasts / 3).await.median_us();
        let Repetition { median_us: lone_script_us, .. } = own_script.run(1, 1).await;
        lone_parts_us.push(lone_noop_us + lone_script_us);
        lone_us.push(advancing.run(LONE, *lasts / 3).await.median_us());
    }
    let latencies = latency::measure(*rounds, *lasts, &workloads, &measured).await;
    servers.expect_advances(&workloads).await;
    let rss_bytes = [servers.own.id(), redis.id()].map(rss_bytes);
    redis.kill().await;
    Throughput {
        measured,
        scripts: scripts.into(),
        advanced: own_script.advanced(),
        lone_us: median(&lone_us),
        lone_parts_us: median(&lone_parts_us),
        authentication_us: tokens::authentication_us().await,
        latencies,
        rss_bytes,
    }
}
