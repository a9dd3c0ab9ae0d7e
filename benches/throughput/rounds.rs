//! Rounds that take turns: calls of the service, calls that are answered at once, scripts in Redis.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use markread::identity::jwt::ExpectedClaims;
use markread::identity::key_file::{KeyFile, KeyKind};
use markread::identity::{Bearer, Credentials, Identity};
use markread::net::peer::ClientAuth;
use markread_harness::server::SECRET;
use markread_harness::{Redis, Server};

use crate::Options;
use crate::figures::{Measured, Ratios, Script, Throughput, median};
use crate::load::{Calls, Pace, Round, Until, run};
use crate::noop::{Noop, Role};
use crate::process::{cpu_seconds, rss_bytes};
use crate::redis_load::{OwnScript, Repetition, naive};
use crate::workloads;

pub(crate) const CONNECTIONS: usize = 8;
/// A batch is as much work for Redis as a hundred marks: more would wait for each other too long.
const BATCHES: Pace = Pace::Saturate { connections: CONNECTIONS, at_once: 2 };
const LONE: Pace = Pace::Saturate { connections: 1, at_once: 1 };

/// Flags for a quota that no reader uses up.
pub(crate) const UNLIMITED: [&str; 4] =
    ["--rate-limit", "999999999999", "--read-rate-limit", "999999999999"];

const WARM_UP: Duration = Duration::from_secs(1);

/// Calls and their server.
struct Workload {
    calls: Arc<Calls>,
    address: String,
    server: u32,
    saturate: Pace,
}

impl Workload {
    fn new(address: &str, server: u32, calls: Arc<Calls>, saturate: Pace) -> Self {
        Self { calls, address: address.to_owned(), server, saturate }
    }

    async fn run(&self, pace: Pace, lasts: Duration) -> Round {
        run(&self.address, &self.calls, pace, Until::Elapsed(lasts)).await
    }

    /// Runs until each of this many conversations or readers had its turn.
    async fn seed(&self, turns: u64) {
        run(&self.address, &self.calls, self.saturate, Until::Number(turns)).await;
    }
}

pub(crate) async fn measure(options: &Options) -> Throughput {
    let Options { lasts, rounds, worker_threads, .. } = options;
    let saturate = options.saturate();
    let mut redis = Redis::start().await;
    let threads = ["--worker-threads", worker_threads];
    let server = Server::on_with(&redis, &[&threads[..], &UNLIMITED].concat()).await;
    let stingy = Server::on_with(&redis, &[&threads[..], &["--rate-limit", "1"]].concat()).await;
    let bare = Noop::start(Role::Bare, worker_threads).await;
    let whole = Noop::start(Role::Whole, worker_threads).await;

    let batch = Workload::new(&server.address, server.id(), workloads::batch(), BATCHES);
    let workloads = [
        Workload::new(&bare.address, bare.id(), workloads::noop(), saturate),
        Workload::new(&whole.address, whole.id(), workloads::noop_of_the_whole(), saturate),
        Workload::new(&server.address, server.id(), workloads::advancing(), saturate),
        Workload::new(&server.address, server.id(), workloads::unchanged(), saturate),
        Workload::new(&stingy.address, stingy.id(), workloads::limited(), saturate),
        batch,
        Workload::new(&server.address, server.id(), workloads::state(), saturate),
        Workload::new(&server.address, server.id(), workloads::http(), saturate),
    ];
    let [noop, _, advancing, _, _, batch, _, http] = &workloads;
    // So that advancing marks do not begin conversations, and no-ops are no-ops.
    for (workload, turns) in
        [(advancing, workloads::CURSORS), (batch, workloads::READERS), (http, workloads::CURSORS)]
    {
        workload.seed(turns).await;
    }
    for workload in &workloads {
        workload.run(workload.saturate, WARM_UP).await;
    }
    let naive_script = naive(&redis).await;
    let own_script = OwnScript::new(&redis, &server).await;

    let mut measured: Vec<_> =
        workloads.iter().map(|workload| Measured::of(workload.calls.name)).collect();
    let mut scripts =
        ["naive script, pipeline 16", "script, pipeline 16", "script, pipeline 1"].map(Script::of);
    let (mut lone_us, mut parts_us) = (Vec::new(), Vec::new());
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
        let lone_noop_us = noop.run(LONE, *lasts / 3).await.permille_us(500);
        let Repetition { median_us: lone_script_us, .. } = own_script.run(1, 1).await;
        parts_us.push(lone_noop_us + lone_script_us);
        lone_us.push(advancing.run(LONE, *lasts / 3).await.permille_us(500));
    }
    for (workload, measured) in workloads.iter().zip(&mut measured) {
        let per_second = measured.per_second() / 2.0;
        let pace = Pace::Even { connections: CONNECTIONS, per_second };
        measured.at_half(&workload.run(pace, *lasts).await);
    }
    expect_advances(&server, &workloads).await;

    let of = |name: &str| measured.iter().find(|measured| measured.name == name).unwrap();
    let single = of("mark_read, advancing");
    let ratios = Ratios {
        mark_read_over_noop: single.per_second() / of("noop").per_second(),
        mark_read_over_noop_of_the_whole: single.per_second()
            / of("noop of the whole server").per_second(),
        mark_read_over_script_p16: single.per_second() / scripts[0].per_second(),
        redis_us_per_call: single.redis_us(),
        lone_call_over_parts: median(&lone_us) / median(&parts_us),
        auth_share: authentication_us().await / single.server_us(),
        batch_100_over_single: of("batch of 100").per_second() * workloads::BATCH_MARKS as f64
            / single.per_second(),
    };
    let rss_bytes = [server.id(), redis.id()].map(rss_bytes);
    redis.kill().await;
    Throughput {
        measured,
        scripts: scripts.into(),
        advanced: own_script.advanced(),
        ratios,
        rss_bytes,
    }
}

/// Asserts that every mark of the advancing workloads advanced.
async fn expect_advances(server: &Server, workloads: &[Workload]) {
    let answered = |name: &str| {
        let workload = workloads.iter().find(|workload| workload.calls.name == name).unwrap();
        workload.calls.answered.load(Ordering::Relaxed)
    };
    let batches = answered("batch of 100") * workloads::BATCH_MARKS;
    let advancing = answered("mark_read, advancing") + answered("HTTP edge, advancing") + batches;
    for (outcome, expected) in [
        // One mark was made to learn what is sent to Redis.
        ("advanced", advancing + 1),
        ("noop", answered("mark_read, no-op")),
    ] {
        let name = format!("markread_mark_read_total{{outcome=\"{outcome}\"}}");
        assert_eq!(server.metric(&name).await, Some(expected as f64), "{name}");
    }
}

/// The time to authenticate a token that was seen before, in µs.
async fn authentication_us() -> f64 {
    const TIMES: usize = 200_000;
    let file = Path::new("secret");
    let key =
        KeyFile::new(file, SECRET.into(), KeyKind::Secret, ExpectedClaims::default()).unwrap();
    let bearer = Some(Bearer::Configured(Arc::new(key)));
    let identity = Identity::Required { bearer, oauth1: None };
    let callers: Vec<http::HeaderMap> = workloads::tokens()
        .map(|token| [(http::header::AUTHORIZATION, token)].into_iter().collect())
        .collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    let authenticate = async |headers| {
        let client_auth = ClientAuth::Plaintext;
        let credentials = Credentials { headers, client_auth, signed: None, deadline };
        identity.authenticate(&credentials).await.unwrap();
    };
    for headers in &callers {
        authenticate(headers).await;
    }
    let began = Instant::now();
    for headers in callers.iter().cycle().take(TIMES) {
        authenticate(headers).await;
    }
    began.elapsed().as_secs_f64() * 1e6 / TIMES as f64
}
