//! `docs/performance.md` and `target/throughput.json`.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use serde_json::{Map, Value, json};

use crate::connections::IdleConnections;
use crate::figures::{Throughput, spread};
use crate::latency::{BELIEVED, Latency, Pace};
use crate::paced::LATE_US;
use crate::ratios::{self, Ratio};
use crate::{Options, chart, workloads};

/// Writes the report, its chart and the JSON, and returns the text of the first.
pub(crate) fn write(
    options: &Options,
    throughput: &Throughput,
    idle: &IdleConnections,
    parts: &[String],
) -> String {
    let ratios = ratios::collect(throughput, Some(idle));
    let text = format!(
        "# Performance\n\nMeasured by `cargo bench --bench throughput` on one machine that the load \
         generator, the server and Redis share:\n{}.\n\n{}\n{}",
        machine(),
        rounds(options, throughput, &ratios),
        parts.join("\n"),
    );
    fs::write("docs/performance.md", &text).unwrap();
    fs::write("docs/performance.svg", chart::of(throughput)).unwrap();
    fs::write("target/throughput.json", json(throughput, idle, &ratios).to_string()).unwrap();
    text
}

fn json(throughput: &Throughput, idle: &IdleConnections, ratios: &[Ratio]) -> Value {
    let ratios = ratios.iter().map(|ratio| (ratio.name.to_owned(), ratio.value.into()));
    let calls = throughput.measured.iter().map(|of| {
        let figures = json!({
            "calls_per_second": of.per_second(),
            "server_us": of.server_us(),
            "redis_us": of.redis_us(),
            "generator_us": of.generator_us(),
        });
        (of.name.to_owned(), figures)
    });
    let latencies = throughput.latencies.iter().map(|of| {
        let [median, p99, p999] = of.percentiles_us();
        json!({
            "of": of.name,
            "pace": of.pace.name(),
            "calls_per_second": of.per_second,
            "p50_us": median,
            "p99_us": p99,
            "p999_us": p999,
            "late": of.late(),
            "lateness_p99_us": of.lateness_us(),
        })
    });
    json!({
        "ratios": ratios.collect::<Map<_, _>>(),
        "calls": calls.collect::<Map<_, _>>(),
        "latencies": latencies.collect::<Vec<_>>(),
        "idle_connections": idle,
    })
}

/// The rounds as text.
pub(crate) fn rounds(options: &Options, throughput: &Throughput, ratios: &[Ratio]) -> String {
    let Options { lasts, rounds, worker_threads, at_once, .. } = options;
    let readers = workloads::READERS;
    let conversations = workloads::CONVERSATIONS;
    let peer = if throughput.find(workloads::PEER).is_some() { PEER } else { "" };
    let mut text = format!(
        "## Ratios\n\n\
         What a part costs is held against the limit of that part, in the same run.\n\n{}\n\
         ## Calls\n\n\
         Medians of {rounds} rounds of {} s each, taken in turn; the spread is from the lowest to \
         the highest round.\n\n\
         | condition | value |\n| --- | --- |\n\
         | calls at once | {} (batches: 16), on {} connections |\n\
         | readers | {readers} in turn, with {conversations} conversations each (batches: 100) |\n\
         | marks | all advance, unless the row says otherwise |\n\
         | server | bearer tokens, an edge guard that all pass, worker threads: {worker_threads} |\n\
         | Redis | without persistence |\n\n\
         - `noop`: the calls of `mark_read, advancing`, sent to a server that answers at once. It \
         is the generated service on\n  the same listener, runtime and allocator, without edge \
         guard, identity and store.\n\
         - `noop of the whole server`: the same calls to the service itself, with edge guard and \
         tokens, on a store that\n  does nothing.\n\
         - two user objects: readers and recipients have one of {} bytes each. The server keeps them \
         for 4 s; the stream has\n  10,000 entries at most.\n\
         {peer}\
         - naive script: INCR, PEXPIRE (on the first call), TIME, HGET, HSET and XADD, for the \
         same number of readers and\n  conversations.\n\
         - script: the service's own, as the server sends it for a single mark; {:.0} % of its \
         runs here advanced a cursor.\n\n\
         ![Calls a second, and latencies](performance.svg)\n\n",
        ratios::table(ratios),
        lasts.as_secs(),
        at_once * crate::rounds::CONNECTIONS,
        crate::rounds::CONNECTIONS,
        workloads::USER_OBJECT_BYTES,
        100.0 * throughput.advanced,
    );
    text += &calls(throughput);
    text += &latencies(throughput, lasts.as_secs());
    text
}

/// The description of the peer in the report.
const PEER: &str = "- [envoyproxy/ratelimit](https://github.com/envoyproxy/ratelimit): a gRPC rate limiter on \
     Redis, in Go, on as many CPUs\n  as it likes, with a quota for each reader and writes grouped for 150 µs. A \
     call is INCRBY and EXPIRE: no token, no\n  cursor, no event. [development.md](development.md#benchmarks) \
     has the commands to build and measure it.\n";

fn calls(throughput: &Throughput) -> String {
    let mut text = "| | calls/s | spread | server | Redis | generator |\n\
         | --- | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for measured in &throughput.measured {
        let _ = writeln!(
            text,
            "| {} | {:.0} | {:.0} % | {:.1} | {:.1} | {:.1} |",
            measured.name,
            measured.per_second(),
            100.0 * spread(&measured.calls_per_second),
            measured.server_us(),
            measured.redis_us(),
            measured.generator_us(),
        );
    }
    for script in &throughput.scripts {
        let _ = writeln!(
            text,
            "| `redis-benchmark`, {} | {:.0} | {:.0} % | | {:.1} | |",
            script.name,
            script.per_second(),
            100.0 * spread(&script.calls_per_second),
            script.redis_us(),
        );
    }
    let [server, redis] = throughput.rss_bytes.map(|bytes| bytes / 1024 / 1024);
    let _ = write!(
        text,
        "\n- *server*, *Redis*, *generator*: µs of CPU a call.\n\
         - Resident memory at the end: the server {server} MiB, Redis {redis} MiB.\n\n",
    );
    text
}

/// The latencies as text.
fn latencies(throughput: &Throughput, seconds: u64) -> String {
    let mut text = format!(
        "## Latency\n\n\
         Calls at even intervals, {seconds} s a round, whether or not earlier ones have been answered; \
         medians of the rounds. A latency\ncounts from when the call was due, so a generator that is \
         late adds to it: *late* is the share of calls that were sent\nmore than {:.1} ms after they \
         were due, and *lateness* is the p99 of that delay. With more than {} % late, p99 is marked \n\
         with * and not to be believed, with more than {} % p99.9. An event counts from when its mark was \
         due until a watcher\non another connection has it; {} users watch, and each mark concerns one. \
         Fixed\npaces above half of a peak are left out. All is in ms.\n\n\
         | | pace | calls/s | p50 | p99 | p99.9 | late | lateness |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        f64::from(LATE_US) / 1000.0,
        100.0 * BELIEVED[0],
        100.0 * BELIEVED[1],
        workloads::CONVERSATIONS,
    )
    .replace(" \n", "\n");
    for row in &throughput.latencies {
        text += &latency(row);
    }
    text
}

fn latency(row: &Latency) -> String {
    let [p50, p99, p999] = row.percentiles_us().map(|us| us / 1000.0);
    let [mark, most_mark] = BELIEVED.map(|share| if row.late() > share { "*" } else { "" });
    let pace = match row.pace {
        Pace::Fixed(_) => "",
        pace => pace.name(),
    };
    format!(
        "| {} | {pace} | {:.0} | {p50:.2} | {p99:.2}{mark} | {p999:.2}{most_mark} | {:.2} % | {:.2} |\n",
        row.name,
        row.per_second,
        100.0 * row.late(),
        row.lateness_us() / 1000.0,
    )
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
