//! The figures of the rounds.

use crate::latency::Latency;
use crate::load::Round;
use crate::redis_load::Repetition;

/// The figures of a workload.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) calls_per_second: Vec<f64>,
    /// CPU time of server, Redis and generator, in µs a call.
    cpu_us: [Vec<f64>; 3],
}

impl Measured {
    pub(crate) fn of(name: &'static str) -> Self {
        let (calls_per_second, cpu_us) = Default::default();
        Self { name, calls_per_second, cpu_us }
    }

    /// Adds a round with the CPU seconds of server, Redis and generator.
    pub(crate) fn add(&mut self, round: &Round, cpu_seconds: [f64; 3]) {
        self.calls_per_second.push(round.per_second());
        for (all, seconds) in self.cpu_us.iter_mut().zip(cpu_seconds) {
            all.push(seconds * 1e6 / round.calls as f64);
        }
    }

    pub(crate) fn per_second(&self) -> f64 {
        median(&self.calls_per_second)
    }

    /// CPU time of server and Redis together.
    pub(crate) fn both_us(&self) -> f64 {
        self.server_us() + self.redis_us()
    }

    pub(crate) fn server_us(&self) -> f64 {
        median(&self.cpu_us[0])
    }

    pub(crate) fn redis_us(&self) -> f64 {
        median(&self.cpu_us[1])
    }

    pub(crate) fn generator_us(&self) -> f64 {
        median(&self.cpu_us[2])
    }
}

/// The figures of a script run by `redis-benchmark`.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) calls_per_second: Vec<f64>,
    redis_us: Vec<f64>,
}

impl Script {
    pub(crate) fn of(name: &'static str) -> Self {
        Self { name, calls_per_second: Vec::new(), redis_us: Vec::new() }
    }

    pub(crate) fn add(&mut self, repetition: &Repetition) {
        self.calls_per_second.push(repetition.per_second);
        self.redis_us.push(repetition.redis_us);
    }

    pub(crate) fn per_second(&self) -> f64 {
        median(&self.calls_per_second)
    }

    pub(crate) fn redis_us(&self) -> f64 {
        median(&self.redis_us)
    }
}

/// The figures of calls.
pub(crate) struct Throughput {
    pub(crate) measured: Vec<Measured>,
    pub(crate) scripts: Vec<Script>,
    /// The share of the own script's runs that advanced a cursor.
    pub(crate) advanced: f64,
    /// p50 of a lone mark in µs, and the sum of those of a lone `noop` and a lone script.
    pub(crate) lone_us: f64,
    pub(crate) lone_parts_us: f64,
    /// CPU time to check a token that was seen before, in µs.
    pub(crate) authentication_us: f64,
    pub(crate) latencies: Vec<Latency>,
    /// Resident memory of server and Redis at the end.
    pub(crate) rss_bytes: [u64; 2],
}

impl Throughput {
    /// The figures of the workload with this name, if it was measured.
    pub(crate) fn find(&self, name: &str) -> Option<&Measured> {
        self.measured.iter().find(|measured| measured.name == name)
    }
}

pub(crate) fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The least and the most.
pub(crate) fn extremes(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    (least, most)
}

/// The range from the least to the most, relative to the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let (least, most) = extremes(values);
    (most - least) / median(values)
}
