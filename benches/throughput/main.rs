//! How fast the service is beside what it cannot do without: one exchange of gRPC, and one script in
//! Redis. All in one run, in rounds that take turns, on one machine that everything shares.
//!
//! `cargo bench --bench throughput` starts its own Redis and servers, prints a table and ratios, and
//! writes them to `docs/performance.md` and `target/throughput.json`. `-- --seconds N` makes a round
//! longer, `-- --rounds N` makes more of them, `-- --worker-threads N` gives the servers more threads.

#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

mod load;
mod redis_load;
mod report;
mod workloads;

#[allow(dead_code, unused_imports, reason = "the tests need more of it")]
#[path = "../../tests/it/harness/mod.rs"]
mod harness;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::server::SECRET;
use harness::{Redis, Server};
use load::{Calls, Pace, run};
use markread::deadline::Deadline;
use markread::identity::jwt::{Expected, Secret, Verifier};
use markread::identity::keys::Keys;
use markread::identity::{Bearer, Identity, Presented};
use markread::peer::Security;
use markread::routing::Wire;
use report::{Measured, Ratios, Report, median};

const SATURATE: Pace = Pace::Saturate { connections: 8, at_once: 16 };
const LONE: Pace = Pace::Saturate { connections: 1, at_once: 1 };

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let option = |name: &str, default: u64| {
        let mut words = std::env::args().skip_while(|word| word != name);
        words.nth(1).map_or(default, |value| value.parse().expect("a number"))
    };
    let lasts = Duration::from_secs(option("--seconds", 3));
    let rounds = option("--rounds", 5);
    let threads = option("--worker-threads", 1).to_string();
    let redis = Redis::start().await;
    let many = ["--read-rate-limit", "999999999999", "--worker-threads", &threads];
    let server =
        Server::on_with(&redis, &[&many[..], &["--rate-limit", "999999999999"]].concat()).await;
    let stingy = Server::on_with(&redis, &[&many[..], &["--rate-limit", "1"]].concat()).await;

    let (noop, advancing) = (workloads::noop(), workloads::advancing());
    let workloads: Vec<(Arc<Calls>, &Server)> = vec![
        (Arc::clone(&noop), &server),
        (Arc::clone(&advancing), &server),
        (workloads::unchanged(), &server),
        (workloads::limited(), &stingy),
        (workloads::batch(), &server),
        (workloads::state(), &server),
        (workloads::http(), &server),
    ];
    let mut measured: Vec<Measured> =
        workloads.iter().map(|(calls, _)| Measured::of(calls.name)).collect();
    for (calls, server) in &workloads {
        run(&server.address, calls, SATURATE, Duration::from_secs(1)).await;
    }
    let (naive, step) = (redis_load::naive(&redis).await, redis_load::step(&redis).await);
    let mut scripts =
        [("naive script, -P 16", vec![]), ("script, -P 16", vec![]), ("script, -P 1", vec![])];
    let (mut lone_us, mut parts_us) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        println!("round {round} of {rounds}");
        for ((calls, server), measured) in workloads.iter().zip(&mut measured) {
            let before = [cpu_seconds(server.id()), cpu_seconds(redis.id())];
            let came_to = run(&server.address, calls, SATURATE, lasts).await;
            let after = [cpu_seconds(server.id()), cpu_seconds(redis.id())];
            let spent = [after[0] - before[0], after[1] - before[1]];
            measured.add(&came_to, spent);
        }
        scripts[0].1.push(naive.run(50, 16, 200_000).await.per_second);
        scripts[1].1.push(step.run(50, 16, 100_000).await.per_second);
        scripts[2].1.push(step.run(50, 1, 50_000).await.per_second);
        let noop_us = run(&server.address, &noop, LONE, lasts / 3).await.permille_us(500);
        let script_us = step.run(1, 1, 5000).await.median_us;
        parts_us.push(noop_us + script_us);
        lone_us.push(run(&server.address, &advancing, LONE, lasts / 3).await.permille_us(500));
    }
    for ((calls, server), measured) in workloads.iter().zip(&mut measured) {
        let per_second = measured.per_second() / 2.0;
        let pace = Pace::Even { connections: 8, per_second };
        measured.at_half(&run(&server.address, calls, pace, lasts).await);
    }
    let of = |name: &str| measured.iter().find(|measured| measured.name == name).unwrap();
    let single = of("mark_read, advancing");
    let ratios = Ratios {
        mark_read_over_noop: single.per_second() / of("noop").per_second(),
        mark_read_over_script_p16: single.per_second() / median(&scripts[0].1),
        redis_us_per_call: single.redis_us(),
        lone_call_over_parts: median(&lone_us) / median(&parts_us),
        auth_share: authentication_us().await / single.server_us(),
        batch_100_over_single: of("batch of 100").per_second() * workloads::BATCH_MARKS as f64
            / single.per_second(),
    };
    let rss_kib = rss_kib(server.id());
    let report =
        Report { rounds, lasts, threads, measured, scripts: scripts.into(), ratios, rss_kib };
    report.write();
}

/// What it costs to authenticate a token that was seen before, in µs.
async fn authentication_us() -> f64 {
    const TIMES: u32 = 200_000;
    let secret = Secret::from_file_contents(SECRET.into()).unwrap();
    let keys = Keys::only(Verifier::with_secret(&secret, &Expected::default()));
    let identity = Identity::Proven { bearer: Some(Bearer::Configured(keys)), oauth1: None };
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, workloads::token());
    let deadline =
        Deadline::of_call(Instant::now().into(), Wire::Grpc, &headers, Duration::from_secs(600));
    let presented =
        Presented { headers: &headers, security: Security::Plain, signed: None, deadline };
    let began = Instant::now();
    for _ in 0..TIMES {
        identity.authenticate(&presented).await.unwrap();
    }
    began.elapsed().as_secs_f64() * 1e6 / f64::from(TIMES)
}

/// CPU time that a process has used.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // USER_HZ, which is 100 wherever Linux runs.
    ticks as f64 / 100.0
}

fn rss_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
