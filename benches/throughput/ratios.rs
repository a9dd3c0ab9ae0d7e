//! The ratios between figures of one run, with their targets.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;

use crate::bound::Bound::{self, AtLeast, AtMost};
use crate::connections::IdleConnections;
use crate::figures::{Measured, Throughput};
use crate::latency::{BELIEVED, Pace};
use crate::workloads::{self, ADVANCING, BATCH_MARKS, NOOP};

/// Counted by `cargo bench --bench instructions`.
const INSTRUCTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions/limits.toml");

/// A figure of the report's table.
pub(crate) struct Ratio {
    /// Its name in `target/throughput.json`.
    pub(crate) name: &'static str,
    text: &'static str,
    pub(crate) value: f64,
    /// The bound to reach, and the one to aim at.
    targets: [Option<Bound>; 2],
    /// Whether the generator was too late for it to be believed.
    is_late: bool,
}

impl Ratio {
    fn new(name: &'static str, text: &'static str, value: f64) -> Self {
        Self { name, text, value, targets: [None, None], is_late: false }
    }

    fn reach(self, reach: Bound) -> Self {
        Self { targets: [Some(reach), None], ..self }
    }

    fn reach_and_aim(self, reach: Bound, aim: Bound) -> Self {
        Self { targets: [Some(reach), Some(aim)], ..self }
    }

    fn row(&self) -> String {
        let Self { name, text, value, targets, is_late } = self;
        let [reach, aim] =
            targets.map(|bound| bound.map_or(String::new(), |bound| bound.to_string()));
        let verdict = match targets {
            _ if *is_late => "not to be believed: the generator was late",
            [_, Some(aim)] if aim.is_met_by(*value) => "aim reached",
            [Some(reach), _] => reach.verdict(*value),
            [None, _] => "",
        };
        format!("| {text} (`{name}`) | {value:.2} | {reach} | {aim} | {verdict} |\n")
    }
}

/// The table of all.
pub(crate) fn table(ratios: &[Ratio]) -> String {
    let head =
        "| figure | measured | reach | aim | verdict |\n| --- | ---: | ---: | ---: | --- |\n";
    head.to_owned() + &ratios.iter().map(Ratio::row).collect::<String>()
}

/// Collects them; without `idle`, what is about connections is left out.
pub(crate) fn collect(throughput: &Throughput, idle: Option<&IdleConnections>) -> Vec<Ratio> {
    let mut ratios = costs(throughput);
    ratios.extend(speeds(throughput));
    if let Some(idle) = idle {
        let text = "memory of an idle connection: markread / hyper alone";
        let ratio = Ratio::new("idle_connection_over_bare", text, idle.over_bare());
        ratios.push(ratio.reach_and_aim(AtMost(1.15), AtMost(1.0)));
    }
    ratios.extend(earlier(throughput));
    if let Some(other) = throughput.find(workloads::OTHER) {
        ratios.extend(against(throughput, other));
    }
    ratios
}

fn find<'a>(throughput: &'a Throughput, name: &str) -> &'a Measured {
    throughput.find(name).expect("it is always measured")
}

/// The costs of a mark, beside those of its parts alone.
fn costs(throughput: &Throughput) -> Vec<Ratio> {
    let [noop, single, batch, objects] =
        [NOOP, ADVANCING, workloads::BATCH, workloads::OBJECTS].map(|name| find(throughput, name));
    let mut ratios = vec![
        Ratio::new(
            "redis_us_over_naive",
            "CPU of Redis: a mark under load / the naive script at pipeline 16",
            single.redis_us() / throughput.scripts[0].redis_us(),
        )
        .reach_and_aim(AtMost(0.75), AtMost(0.68)),
        Ratio::new(
            "server_us_over_noop",
            "CPU of the server: a mark / `noop`",
            single.server_us() / noop.server_us(),
        )
        .reach_and_aim(AtMost(1.45), AtMost(1.3)),
        Ratio::new(
            "user_objects_over_bare",
            "CPU of Redis: a mark with two user objects of 3 KB / without",
            objects.redis_us() / single.redis_us(),
        )
        .reach_and_aim(AtMost(2.4), AtMost(2.0)),
        Ratio::new(
            "batch_mark_us_over_single",
            "CPU of server and Redis: a mark in batches of 100 / a single mark",
            batch.both_us() / BATCH_MARKS as f64 / single.both_us(),
        )
        .reach(AtMost(0.25)),
    ];
    if let Some(value) = lone_instructions_over_naive() {
        let ratio = Ratio::new(
            "redis_lone_instructions_over_naive",
            "instructions of Redis: a lone mark / the naive script, as counted by \
             `cargo bench --bench instructions`",
            value,
        );
        ratios.insert(1, ratio.reach_and_aim(AtMost(1.15), AtMost(1.08)));
    }
    ratios
}

/// Marks a second, and the time of one.
fn speeds(throughput: &Throughput) -> [Ratio; 5] {
    let [noop, single, two_threads] =
        [NOOP, ADVANCING, workloads::TWO_THREADS].map(|name| find(throughput, name).per_second());
    [
        Ratio::new("mark_read_over_noop", "calls/s: advancing `mark_read` / `noop`", single / noop)
            .reach_and_aim(AtLeast(0.52), AtLeast(0.58)),
        Ratio::new(
            "mark_read_over_script_p16",
            "calls/s: advancing `mark_read` / the naive script at pipeline 16",
            single / throughput.scripts[0].per_second(),
        )
        .reach_and_aim(AtLeast(0.72), AtLeast(0.85)),
        Ratio::new(
            "threads_2_over_1",
            "calls/s: 2 worker threads / the worker threads of the other rows",
            two_threads / single,
        )
        .reach_and_aim(AtLeast(0.95), AtLeast(1.0)),
        Ratio::new(
            "lone_call_over_parts",
            "p50 of a lone call / sum of a lone `noop` and a lone script",
            throughput.lone_us / throughput.lone_parts_us,
        )
        .reach_and_aim(AtMost(1.0), AtMost(0.9)),
        p99_at_quarter_over_noop(throughput),
    ]
}

fn p99_at_quarter_over_noop(throughput: &Throughput) -> Ratio {
    let find = |name: &str, pace| {
        let mut rows = throughput.latencies.iter();
        rows.find(|row| row.name == name && row.pace == pace).expect("it is always measured")
    };
    let rows = [find(ADVANCING, Pace::Quarter), find(NOOP, Pace::QuarterOfMarks)];
    let [mark_us, noop_us] = rows.map(|row| row.percentiles_us()[1]);
    let ratio = Ratio::new(
        "p99_at_quarter_over_noop",
        "p99 at 25 % of `mark_read`'s peak: `mark_read` / `noop` at as many calls/s",
        mark_us / noop_us,
    );
    let is_late = rows.iter().any(|row| row.late() > BELIEVED[0]);
    Ratio { is_late, ..ratio.reach_and_aim(AtMost(3.0), AtMost(2.0)) }
}

/// The ratios of earlier reports.
fn earlier(throughput: &Throughput) -> [Ratio; 4] {
    let [whole, single, batch] =
        [workloads::WHOLE_NOOP, ADVANCING, workloads::BATCH].map(|name| find(throughput, name));
    let per_second = single.per_second();
    [
        Ratio::new(
            "mark_read_over_noop_of_the_whole",
            "calls/s: advancing `mark_read` / `noop` of the whole server",
            per_second / whole.per_second(),
        ),
        Ratio::new("redis_us_per_call", "CPU of Redis, µs a call", single.redis_us()),
        Ratio::new(
            "auth_share",
            "CPU to check a token seen before / CPU of the server",
            throughput.authentication_us / single.server_us(),
        )
        .reach(AtMost(0.05)),
        Ratio::new(
            "batch_100_over_single",
            "marks a second in batches of 100 / in single calls",
            batch.per_second() * BATCH_MARKS as f64 / per_second,
        ),
    ]
}

/// This binary beside another.
fn against(throughput: &Throughput, other: &Measured) -> [Ratio; 3] {
    let single = find(throughput, ADVANCING);
    [
        Ratio::new(
            "calls_over_other",
            "calls/s: `mark_read` of this binary / of the other",
            single.per_second() / other.per_second(),
        ),
        Ratio::new(
            "server_us_over_other",
            "CPU of the server: a mark of this binary / of the other",
            single.server_us() / other.server_us(),
        ),
        Ratio::new(
            "redis_us_over_other",
            "CPU of Redis: a mark of this binary / of the other",
            single.redis_us() / other.redis_us(),
        ),
    ]
}

/// By the figures that are kept, if the naive script's is among them.
fn lone_instructions_over_naive() -> Option<f64> {
    #[derive(Deserialize)]
    struct Kept {
        instructions: BTreeMap<String, BTreeMap<String, u64>>,
    }
    let kept: Kept =
        toml::from_str(&fs::read_to_string(INSTRUCTIONS).unwrap()).expect(INSTRUCTIONS);
    let of = |kind| kept.instructions["redis"].get(kind).map(|&count| count as f64);
    Some(of("lone_advance")? / of("naive_lone")?)
}
