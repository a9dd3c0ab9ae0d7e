//! `docs/performance.md` and `target/throughput.json`.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use serde_json::json;

use crate::Options;
use crate::figures::{Throughput, spread};
use crate::{chart, workloads};

/// Writes both files, and returns the text of the first.
pub(crate) fn write(options: &Options, throughput: &Throughput, parts: &[String]) -> String {
    let text = format!(
        "# Performance\n\nMeasured by `cargo bench --bench throughput` on one machine that the load \
         generator, the server and Redis share:\n{}.\n\n{}\n{}",
        machine(),
        rounds(options, throughput),
        parts.join("\n"),
    );
    fs::write("docs/performance.md", &text).unwrap();
    fs::write("docs/performance.svg", chart::of(throughput)).unwrap();
    let json = json!({ "ratios": throughput.ratios });
    fs::write("target/throughput.json", json.to_string()).unwrap();
    text
}

/// The rounds as text.
pub(crate) fn rounds(options: &Options, throughput: &Throughput) -> String {
    let Options { lasts, rounds, worker_threads, at_once } = options;
    let readers = workloads::READERS;
    let conversations = workloads::CONVERSATIONS;
    let mut text = format!(
        "## Calls\n\n\
         Medians of {rounds} rounds of {} s each, taken in turn; the spread is from the lowest to \
         the highest round.\n\n\
         | condition | value |\n| --- | --- |\n\
         | calls at once | {} (batches: 16), on 8 connections |\n\
         | readers | {readers} in turn, with {conversations} conversations each (batches: 100) |\n\
         | marks | all advance, unless the row says otherwise |\n\
         | server | bearer tokens, edge guard at its default, {worker_threads} worker thread |\n\
         | Redis | without persistence |\n\n\
         - `noop`: the calls of `mark_read, advancing`, sent to a server that answers at once. It \
         is the generated service on\n  the same listener, runtime and allocator, without edge \
         guard, identity and store.\n\
         - `noop of the whole server`: the same calls to the service itself, with edge guard and \
         tokens, on a store that\n  does nothing.\n\
         - naive script: INCR, PEXPIRE (on the first call), TIME, HGET, HSET and XADD, for the \
         same number of readers and\n  conversations.\n\
         - script: the service's own, as the server sends it for a single mark; {:.0} % of its \
         runs here advanced a cursor.\n\n\
         ![Calls a second](performance.svg)\n\n\
         | | calls/s | spread | server | Redis | generator | p50 | p99 | p99.9 |\n\
         | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        lasts.as_secs(),
        at_once * crate::rounds::CONNECTIONS,
        100.0 * throughput.advanced,
    );
    for measured in &throughput.measured {
        let [p50, p99, p999] = measured.at_half_us.map(|us| us / 1000.0);
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} % | {:.2} | {:.2} | {:.2} | {p50:.2} | {p99:.2} | {p999:.2} |",
            measured.name,
            measured.per_second(),
            100.0 * spread(&measured.calls_per_second),
            measured.server_us() / 10.0,
            measured.redis_us() / 10.0,
            measured.generator_us() / 10.0,
        );
    }
    for script in &throughput.scripts {
        let _ = writeln!(
            text,
            "| `redis-benchmark`, {} | {:.0} | {:.0} % | | {:.2} | | | | |",
            script.name,
            script.per_second(),
            100.0 * spread(&script.calls_per_second),
            script.redis_us() / 10.0,
        );
    }
    let [server, redis] = throughput.rss_bytes.map(|bytes| bytes / 1024 / 1024);
    let _ = write!(
        text,
        "\n- *server*, *Redis*, *generator*: CPU seconds for 100,000 calls.\n\
         - *p50*, *p99*, *p99.9*: ms, with calls at even intervals at half the rate.\n\
         - Resident memory at the end: the server {server} MiB, Redis {redis} MiB.\n\n{}",
        ratios(throughput),
    );
    text
}

fn ratios(throughput: &Throughput) -> String {
    let ratios = &throughput.ratios;
    let mut text = "| figure | measured | target | |\n| --- | ---: | ---: | --- |\n".to_owned();
    for (name, value, bound) in [
        ("advancing `mark_read` / `noop`", ratios.mark_read_over_noop, AtLeast(0.75)),
        (
            "advancing `mark_read` / `noop` of the whole server",
            ratios.mark_read_over_noop_of_the_whole,
            AtLeast(0.75),
        ),
        (
            "advancing `mark_read` / the naive script at pipeline 16",
            ratios.mark_read_over_script_p16,
            AtLeast(0.9),
        ),
        ("CPU of Redis, µs a call", ratios.redis_us_per_call, AtMost(4.0)),
        (
            "p50 of a lone call / sum of a lone `noop` and a lone script",
            ratios.lone_call_over_parts,
            AtMost(1.5),
        ),
        ("CPU to check a token seen before / CPU of the server", ratios.auth_share, AtMost(0.05)),
        (
            "marks a second in batches of 100 / in single calls",
            ratios.batch_100_over_single,
            AtLeast(4.0),
        ),
    ] {
        let _ = writeln!(text, "| {name} | {value:.2} | {bound} | {} |", bound.verdict(value));
    }
    text
}

/// The goal of a figure.
#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

use Bound::{AtLeast, AtMost};

impl Bound {
    pub(crate) fn verdict(self, value: f64) -> &'static str {
        let reached = match self {
            AtLeast(bound) => value >= bound,
            AtMost(bound) => value <= bound,
        };
        if reached { "reached" } else { "**missed**" }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtLeast(bound) => write!(f, "≥ {bound}"),
            AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

/// The machine, its software and the date.
fn machine() -> String {
    let first = |program: &str, words: &[&str]| {
        let output = Command::new(program).args(words).output().expect("it is installed");
        String::from_utf8(output.stdout).unwrap().lines().next().unwrap_or_default().to_owned()
    };
    let cpus = std::thread::available_parallelism().unwrap();
    let info = fs::read_to_string("/proc/cpuinfo").unwrap();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    let redis = first("redis-server", &["--version"]);
    let redis = redis.split(' ').find_map(|word| word.strip_prefix("v=")).unwrap_or_default();
    let kernel = first("uname", &["-sr"]);
    let (rustc, date) = (first("rustc", &["--version"]), first("date", &["--utc", "+%F"]));
    let version = env!("CARGO_PKG_VERSION");
    format!("{cpus} CPUs ({model}), {kernel}, Redis {redis}, {rustc}, markread\n{version}, {date}")
}

/// A number with separators: 1,000,000.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
