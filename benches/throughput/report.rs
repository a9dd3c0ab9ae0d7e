//! What was measured, as a table for people and as JSON.

use std::fmt::Write;
use std::fs;
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::load::Round;

/// One workload.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    per_second: Vec<f64>,
    server_us: Vec<f64>,
    redis_us: Vec<f64>,
    /// At half of peak load: the latencies, in µs, of 50, 99 and 99.9 %.
    at_half_us: [f64; 3],
}

impl Measured {
    pub(crate) fn of(name: &'static str) -> Self {
        let (per_second, server_us, redis_us, at_half_us) = Default::default();
        Self { name, per_second, server_us, redis_us, at_half_us }
    }

    /// Adds a round, and the CPU seconds that server and Redis spent on it.
    pub(crate) fn add(&mut self, round: &Round, [server, redis]: [f64; 2]) {
        self.per_second.push(round.per_second());
        self.server_us.push(server * 1e6 / round.calls as f64);
        self.redis_us.push(redis * 1e6 / round.calls as f64);
    }

    pub(crate) fn at_half(&mut self, round: &Round) {
        self.at_half_us = [500, 990, 999].map(|permille| round.permille_us(permille));
    }

    pub(crate) fn per_second(&self) -> f64 {
        median(&self.per_second)
    }

    pub(crate) fn server_us(&self) -> f64 {
        median(&self.server_us)
    }

    pub(crate) fn redis_us(&self) -> f64 {
        median(&self.redis_us)
    }
}

/// The figures that are held against each other, all of one run.
pub(crate) struct Ratios {
    pub(crate) mark_read_over_noop: f64,
    pub(crate) mark_read_over_script_p16: f64,
    pub(crate) redis_us_per_call: f64,
    pub(crate) lone_call_over_parts: f64,
    pub(crate) auth_share: f64,
    pub(crate) batch_100_over_single: f64,
}

pub(crate) struct Report {
    pub(crate) rounds: u64,
    pub(crate) lasts: Duration,
    pub(crate) threads: String,
    pub(crate) measured: Vec<Measured>,
    pub(crate) scripts: Vec<(&'static str, Vec<f64>)>,
    pub(crate) ratios: Ratios,
    pub(crate) rss_kib: u64,
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// From the least to the most, as a part of the median.
fn spread(values: &[f64]) -> f64 {
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    (most - least) / median(values)
}

impl Report {
    pub(crate) fn write(&self) {
        let text = self.markdown();
        println!("{text}");
        fs::write("docs/performance.md", text).unwrap();
        let Ratios {
            mark_read_over_noop,
            mark_read_over_script_p16,
            redis_us_per_call,
            lone_call_over_parts,
            auth_share,
            batch_100_over_single,
        } = self.ratios;
        let ratios = json!({
            "mark_read_over_noop": mark_read_over_noop,
            "mark_read_over_script_p16": mark_read_over_script_p16,
            "redis_us_per_call": redis_us_per_call,
            "lone_call_over_parts": lone_call_over_parts,
            "auth_share": auth_share,
            "batch_100_over_single": batch_100_over_single,
        });
        let json = json!({ "ratios": ratios }).to_string();
        fs::write("target/throughput.json", json).unwrap();
    }

    fn markdown(&self) -> String {
        let mut text = String::from("# Performance\n\n");
        let seconds = self.lasts.as_secs();
        let _ = write!(
            text,
            "Measured by `cargo bench --bench throughput`, {} rounds of {seconds} s in turn, on one \
             machine that the generator,\nthe server ({} worker thread) and Redis share: {}.\n\
             128 calls at once on 8 connections, bearer tokens, the edge guard at its default. `noop` \
             is Health's `Check` of the\nsame server, which passes neither guard nor identity. Medians; \
             spread is from the least to the most round.\n\n",
            self.rounds,
            self.threads,
            machine(),
        );
        text.push_str(
            "| workload | calls/s | spread | server CPU a call | Redis CPU a call | p50, p99, p99.9 at \
             half the load |\n| --- | --- | --- | --- | --- | --- |\n",
        );
        for measured in &self.measured {
            let [p50, p99, p999] = measured.at_half_us.map(|us| us / 1000.0);
            let _ = writeln!(
                text,
                "| {} | {:.0} | {:.0} % | {:.1} µs | {:.1} µs | {p50:.2}, {p99:.2}, {p999:.2} ms |",
                measured.name,
                measured.per_second(),
                100.0 * spread(&measured.per_second),
                measured.server_us(),
                measured.redis_us(),
            );
        }
        for (name, per_second) in &self.scripts {
            let _ = writeln!(
                text,
                "| `redis-benchmark`, {name} | {:.0} | {:.0} % | | | |",
                median(per_second),
                100.0 * spread(per_second),
            );
        }
        let ratios = &self.ratios;
        let _ = write!(
            text,
            "\nThe server's memory after all this: {} MiB.\n\n\
             | ratio | |\n| --- | --- |\n\
             | advancing `mark_read` to `noop` | {:.2} |\n\
             | advancing `mark_read` to the naive script at pipeline 16 | {:.2} |\n\
             | Redis CPU a call | {:.1} µs |\n\
             | a lone call to a lone `noop` and a lone script | {:.2} |\n\
             | authentication of a token seen before, of the server's CPU | {:.1} % |\n\
             | marks in batches of 100 to single ones | {:.1} |\n",
            self.rss_kib / 1024,
            ratios.mark_read_over_noop,
            ratios.mark_read_over_script_p16,
            ratios.redis_us_per_call,
            ratios.lone_call_over_parts,
            100.0 * ratios.auth_share,
            ratios.batch_100_over_single,
        );
        text
    }
}

/// Which machine this is, with what, and when.
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
    let date = first("date", &["--utc", "+%F"]);
    format!("{cpus} CPUs ({model}), Redis {redis}, {}, {date}", first("rustc", &["--version"]))
}
