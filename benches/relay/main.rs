//! Deliveries a second of `markread relay`, its CPU time for each beside bare POSTs of hyper-util, its
//! memory, and the time from a mark to its receipt.
//!
//! `cargo bench --bench relay` starts its own Redis, relay, server and a receiver in a process of its own, on
//! one machine that all of them share. `-- --events N` makes a round longer, `-- --rounds N` makes more of
//! them, `-- --only throughput` or `-- --only lag` measures a part.

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

mod bare;
mod lag;
mod process;
mod receiver;

use std::time::Duration;

use markread_harness::events::{payload, publish};
use markread_harness::{Redis, Relay, WebhookFile};
use mimalloc::MiMalloc;

use self::receiver::{Process, Stats};

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Conversations of the events.
const CONVERSATIONS: u64 = 5_000;

/// Requests in flight, of the relay (its default) and of bare POSTs.
pub(crate) const CONCURRENCY: usize = 64;

const LIMIT: Duration = Duration::from_secs(300);

/// Figures of one round.
struct Round {
    /// Deliveries a second, from the first to the last.
    per_second: f64,
    /// CPU time of a delivery, in µs.
    cpu_us: f64,
    /// That of Redis.
    redis_us: f64,
    /// The most resident memory, in bytes.
    memory: u64,
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(receiver::NAME) => return receiver::serve(),
        Some(bare::NAME) => return bare::post(&words[1..]),
        _ => {}
    }
    let option = |name: &str| words.iter().skip_while(|word| *word != name).nth(1);
    let number = |name: &str, default: u64| {
        option(name).map_or(default, |value| value.parse().expect("a number"))
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let only = option("--only").map(String::as_str);
        if only.is_none_or(|only| only == "throughput") {
            throughput(number("--events", 100_000), number("--rounds", 3)).await;
        }
        if only.is_none_or(|only| only == "lag") {
            lag::measure(number("--seconds", 10)).await;
        }
    });
}

/// Rounds of the relay and of bare POSTs, by turns.
async fn throughput(events: u64, rounds: u64) {
    let redis = Redis::start().await;
    let payloads: Vec<_> = (0..events)
        .map(|event| payload(1_000_000 + event % CONVERSATIONS, 3_805_104_374, event + 1))
        .collect();
    publish(&redis, &payloads).await;
    let (mut relay, mut bare) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        relay.push(relay_round(&redis, &format!("round{round}"), events).await);
        bare.push(bare_round(&payloads[0], events).await);
    }
    println!(
        "\n| {events} deliveries, medians of {rounds} rounds | a second | CPU µs each | Redis µs each | memory, MB |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (name, rounds) in [("markread relay", &relay), ("bare POSTs of hyper-util", &bare)] {
        let of = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
        println!(
            "| {name} | {:.0} | {:.1} | {:.1} | {:.1} |",
            of(|round| round.per_second),
            of(|round| round.cpu_us),
            of(|round| round.redis_us),
            of(|round| round.memory as f64 / 1e6),
        );
    }
    let cpu = |rounds: &[Round]| median(rounds.iter().map(|round| round.cpu_us).collect());
    println!("\nThe relay's CPU time over that of bare POSTs: {:.2}", cpu(&relay) / cpu(&bare));
}

/// A new webhook gets everything that is in the stream.
async fn relay_round(redis: &Redis, webhook: &str, events: u64) -> Round {
    let receiver = Process::start().await;
    let file = WebhookFile::new("");
    file.write(&file.entry(webhook, &receiver.url(), "users = \"all\""));
    let redis_before = process::cpu_seconds(redis.id());
    let mut relay = Relay::on(redis, &file).await;
    let stats = receiver.wait_for(events, LIMIT).await;
    let (cpu, memory) = (process::cpu_seconds(relay.id()), process::peak_bytes(relay.id()));
    let redis_cpu = process::cpu_seconds(redis.id()) - redis_before;
    relay.stop(Duration::from_secs(30)).await;
    round(&stats, cpu, redis_cpu, memory)
}

async fn bare_round(payload: &str, events: u64) -> Round {
    let receiver = Process::start().await;
    let (cpu, memory) = bare::run(&receiver.url(), payload, events).await;
    round(&receiver.wait_for(events, LIMIT).await, cpu, 0.0, memory)
}

fn round(stats: &Stats, cpu: f64, redis_cpu: f64, memory: u64) -> Round {
    let count = stats.count as f64;
    let round = Round {
        per_second: count / (stats.last_us - stats.first_us) as f64 * 1e6,
        cpu_us: cpu * 1e6 / count,
        redis_us: redis_cpu * 1e6 / count,
        memory,
    };
    println!("{:.0} a second, {:.1} µs each", round.per_second, round.cpu_us);
    round
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
