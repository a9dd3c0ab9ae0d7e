//! The service's throughput, beside that of its two indispensable parts: a gRPC exchange, and a
//! script in Redis. Everything is measured in one run, in rounds that take turns, on one shared
//! machine.
//!
//! `cargo bench --bench throughput` starts its own Redis and servers, and writes tables, a chart
//! and ratios to `docs/performance.md`, `docs/performance.svg` and `target/throughput.json`.
//! `-- --seconds N` makes a round longer, `-- --rounds N` makes more of them,
//! `-- --worker-threads N` gives the servers more threads, `-- --at-once N` makes N calls at once
//! on each of eight connections. `-- --against PATH` and `-- --peer PATH` measure another binary of
//! markread, and envoyproxy/ratelimit, beside it. `-- --only PART` measures the part
//! `throughput`, `growth`, `memory` or of that `connections`, prints it, and writes nothing.

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

mod bare_hyper;
mod bound;
mod chart;
mod connections;
mod figures;
mod growth;
mod latency;
mod load;
mod memory;
mod noop;
mod paced;
mod peer;
mod process;
mod ratios;
mod redis_load;
mod report;
mod rounds;
mod tokens;
mod workloads;

use std::path::PathBuf;
use std::time::Duration;

use markread_harness::Redis;
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The options of the command line.
pub(crate) struct Options {
    pub(crate) lasts: Duration,
    pub(crate) rounds: u64,
    pub(crate) worker_threads: String,
    /// Calls at once on each connection.
    pub(crate) at_once: usize,
    /// Another binary of markread.
    pub(crate) against: Option<PathBuf>,
    /// The binary of envoyproxy/ratelimit.
    pub(crate) peer: Option<PathBuf>,
}

impl Options {
    /// Enough calls to keep a server busy.
    pub(crate) fn saturate(&self) -> load::Concurrency {
        load::Concurrency { connections: rounds::CONNECTIONS, at_once: self.at_once }
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    if std::env::args().nth(1).as_deref() == Some(bare_hyper::NAME) {
        return bare_hyper::serve();
    }
    if let Some(role) = arguments.next().as_deref().and_then(noop::Role::parse) {
        noop::serve(role, arguments);
        return;
    }
    let option = |name: &str| std::env::args().skip_while(|word| word != name).nth(1);
    let number = |name: &str, default: u64| {
        option(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let options = Options {
        lasts: Duration::from_secs(number("--seconds", 3)),
        rounds: number("--rounds", 5),
        worker_threads: number("--worker-threads", 1).to_string(),
        at_once: number("--at-once", 64) as usize,
        against: option("--against").map(PathBuf::from),
        peer: option("--peer").map(PathBuf::from),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&options, option("--only").as_deref()));
}

async fn measure(options: &Options, only: Option<&str>) {
    match only {
        Some("throughput") => {
            let throughput = rounds::measure(options).await;
            let ratios = ratios::collect(&throughput, None);
            println!("{}", report::rounds(options, &throughput, &ratios));
        }
        Some("memory") => println!("{}", memory::measure().await.0),
        Some("connections") => {
            let redis = Redis::start().await;
            println!("{}", connections::IdleConnections::measure(&redis).await.text());
        }
        Some("growth") => println!("{}", growth::measure(options).await),
        Some(other) => {
            panic!("--only must be throughput, growth, memory or connections, got {other}")
        }
        None => {
            let (memory, idle) = memory::measure().await;
            let throughput = rounds::measure(options).await;
            // If a later part fails, this one is not lost.
            let ratios = ratios::collect(&throughput, None);
            println!("{}", report::rounds(options, &throughput, &ratios));
            let growth = growth::measure(options).await;
            println!("{}", report::write(options, &throughput, &idle, &[growth, memory]));
        }
    }
}
