//! What the rounds came to.

use crate::load::Round;
use crate::redis_load::Repetition;

/// One workload.
pub(crate) struct Measured {
    pub(crate) name: &'static str,
    pub(crate) calls_per_second: Vec<f64>,
    /// CPU time of the server, of Redis, and of the generator, in µs a call.
    cpu_us: [Vec<f64>; 3],
    /// At half of peak load: the latencies, in µs, of 50, 99 and 99.9 %.
    pub(crate) at_half_us: [f64; 3],
}

impl Measured {
    pub(crate) fn of(name: &'static str) -> Self {
        let (calls_per_second, cpu_us, at_half_us) = Default::default();
        Self { name, calls_per_second, cpu_us, at_half_us }
    }

    /// Adds a round, and the CPU seconds that server, Redis and generator spent on it.
    pub(crate) fn add(&mut self, round: &Round, cpu_seconds: [f64; 3]) {
        self.calls_per_second.push(round.per_second());
        for (all, seconds) in self.cpu_us.iter_mut().zip(cpu_seconds) {
            all.push(seconds * 1e6 / round.calls as f64);
        }
    }

    pub(crate) fn at_half(&mut self, round: &Round) {
        self.at_half_us = [500, 990, 999].map(|permille| round.permille_us(permille));
    }

    pub(crate) fn per_second(&self) -> f64 {
        median(&self.calls_per_second)
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

/// A script through `redis-benchmark`.
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

/// The figures that are held against each other, all of one run.
#[derive(serde::Serialize)]
pub(crate) struct Ratios {
    pub(crate) mark_read_over_noop: f64,
    pub(crate) mark_read_over_noop_of_the_whole: f64,
    pub(crate) mark_read_over_script_p16: f64,
    pub(crate) redis_us_per_call: f64,
    pub(crate) lone_call_over_parts: f64,
    pub(crate) auth_share: f64,
    pub(crate) batch_100_over_single: f64,
}

pub(crate) struct Throughput {
    pub(crate) measured: Vec<Measured>,
    pub(crate) scripts: Vec<Script>,
    /// The part of the script's own runs that advanced a cursor.
    pub(crate) advanced: f64,
    pub(crate) ratios: Ratios,
    /// Of the server and of Redis, at the end.
    pub(crate) rss_bytes: [u64; 2],
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

/// From the least to the most, as a part of the median.
pub(crate) fn spread(values: &[f64]) -> f64 {
    let (least, most) = extremes(values);
    (most - least) / median(values)
}
