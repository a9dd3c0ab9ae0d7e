//! The metrics of CONTRACT section 10. Every name stands here, and nowhere else.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use crate::domain::Outcome;
use crate::edge::answer::Refusal;
use crate::proto::Rpc;
use crate::proto::codes::{CODE_NAMES, code_index, code_name};
use crate::store::StreamSpan;

const MARK_READ_TOTAL: &str = "markread_mark_read_total";
const RPC_DURATION: &str = "rpc_server_call_duration_seconds";
const STORE_DURATION: &str = "markread_store_duration_seconds";
const EVENTS_PUBLISHED: &str = "markread_events_published_total";
const STREAM_LENGTH: &str = "markread_stream_length";
const WATCHERS: &str = "markread_watchers";
const EDGE_LIMITED: &str = "markread_edge_limited_total";
const WATCH_GAPS: &str = "markread_watch_gaps_total";
const STORE_UP: &str = "markread_store_up";
const STORE_WARNINGS: &str = "markread_store_warnings";
const REDIS_MEMORY_USED: &str = "markread_redis_memory_used_bytes";
const REDIS_MEMORY_MAX: &str = "markread_redis_memory_max_bytes";
const REDIS_EVICTED_KEYS: &str = "markread_redis_evicted_keys_total";
const STREAM_MAXLEN: &str = "markread_stream_maxlen";
const STREAM_OLDEST_AGE: &str = "markread_stream_oldest_entry_age_seconds";
const GROUP_UNREAD: &str = "markread_stream_group_unread_entries";
const GROUP_TRIMMED: &str = "markread_stream_group_trimmed_unread";
const BUILD_INFO: &str = "markread_build_info";

/// OpenTelemetry's buckets for RPC durations in seconds, with finer ones below, since most calls
/// take less than its first.
const DURATION_BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0,
];

/// How often the exporter folds recorded durations into its buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

const OUTCOMES: [&str; 10] = [
    "advanced",
    "noop",
    "limited",
    "edge_limited",
    "invalid",
    "unauthenticated",
    "forbidden",
    "unavailable",
    "deadline",
    "internal",
];

/// Makes this process's metrics go to Prometheus.
///
/// # Errors
///
/// Where a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| BuildError::FailedToCreateHTTPListener("a recorder is installed".into()))?;
    Ok(handle)
}

/// Folds what was recorded, for ever.
pub async fn upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

/// Handles of what is counted on a call's way, made once: a mark looks no name up.
#[derive(Debug)]
pub struct Metrics {
    mark_read: [(&'static str, Counter); OUTCOMES.len()],
    events_published: Counter,
    edge_limited: Counter,
    durations: [[OnceLock<Histogram>; CODE_NAMES.len()]; Rpc::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        describe();
        count_watchers(0);
        count_watch_gaps(0);
        gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "revision" => env!("MARKREAD_REVISION"))
            .set(1);
        Self {
            mark_read: OUTCOMES.map(|outcome| {
                let counter = counter!(MARK_READ_TOTAL, "outcome" => outcome);
                counter.increment(0);
                (outcome, counter)
            }),
            events_published: counter!(EVENTS_PUBLISHED),
            edge_limited: counter!(EDGE_LIMITED),
            durations: Default::default(),
        }
    }
}

impl Metrics {
    /// Counts one mark that was answered.
    pub fn count_mark_read(&self, outcome: &Result<Outcome, Refusal>) {
        let label = match outcome {
            Ok(Outcome::Advanced { .. }) => {
                self.events_published.increment(1);
                "advanced"
            }
            Ok(Outcome::Unchanged { .. }) => "noop",
            Ok(Outcome::OverQuota { .. }) => "limited",
            Err(refusal) => refusal.outcome(),
        };
        if let Some((_, counter)) = self.mark_read.iter().find(|(name, _)| *name == label) {
            counter.increment(1);
        }
    }

    /// Counts one call, to whatever method, that the edge guard stopped.
    pub fn count_edge_limited(&self) {
        self.edge_limited.increment(1);
    }

    /// Records how long a call took until its status was known. `_OTHER` stands for any method
    /// that is not ours.
    pub fn record_call(&self, method: RecordedMethod, code: Code, took: Duration) {
        let (index, code) = (code_index(code), code_name(code));
        let (handle, method) = match method {
            RecordedMethod::Ours(rpc) => {
                let place = Rpc::ALL.iter().position(|known| *known == rpc);
                let durations = place.and_then(|place| self.durations.get(place));
                (durations.and_then(|by_code| by_code.get(index)), rpc.full_name())
            }
            RecordedMethod::Other => (None, "_OTHER"),
        };
        let make =
            || histogram!(RPC_DURATION, "rpc_method" => method, "rpc_response_status_code" => code);
        match handle {
            Some(handle) => handle.get_or_init(make).record(took),
            None => make().record(took),
        }
    }
}

/// States what the stream of events spans.
pub fn set_stream(span: &StreamSpan) {
    gauge!(STREAM_LENGTH).set(count(span.length));
    let oldest_ms = span.first.map_or(span.now_ms, |first| first.ms);
    let age = Duration::from_millis(span.now_ms.saturating_sub(oldest_ms));
    gauge!(STREAM_OLDEST_AGE).set(age.as_secs_f64());
}

/// States how many events the stream is trimmed to.
pub fn set_stream_maxlen(entries: u64) {
    gauge!(STREAM_MAXLEN).set(count(entries));
}

/// States how many entries a consumer group was not given yet, where that is known, and whether some
/// of them are gone.
pub fn set_group(name: &str, unread: Option<u32>, trimmed: bool) {
    let name = name.to_owned();
    gauge!(GROUP_UNREAD, "group" => name.clone()).set(unread.map_or(f64::NAN, f64::from));
    gauge!(GROUP_TRIMMED, "group" => name).set(u32::from(trimmed));
}

/// States how much memory Redis uses, and may use; 0 is no limit.
pub fn set_redis_memory(used_bytes: u64, max_bytes: u64) {
    gauge!(REDIS_MEMORY_USED).set(count(used_bytes));
    gauge!(REDIS_MEMORY_MAX).set(count(max_bytes));
}

/// Counts keys that Redis has evicted.
pub fn count_redis_evicted_keys(keys: u64) {
    counter!(REDIS_EVICTED_KEYS).increment(keys);
}

/// States whether the store answers.
pub fn set_store_up(up: bool) {
    gauge!(STORE_UP).set(u32::from(up));
}

/// Counts watchers that were told that events may be lost.
pub fn count_watch_gaps(watchers: usize) {
    counter!(WATCH_GAPS).increment(u64::try_from(watchers).unwrap_or(u64::MAX));
}

/// A count as a gauge has it. Its digits beyond 2^53 do not matter.
#[allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "Prometheus knows floats only"
)]
fn count(count: u64) -> f64 {
    count as f64
}

/// Counts watchers that come, or below zero that go.
pub fn count_watchers(change: i32) {
    gauge!(WATCHERS).increment(change);
}

/// States how many warnings `/readyz` tells.
pub fn set_store_warnings(warnings: usize) {
    gauge!(STORE_WARNINGS).set(u32::try_from(warnings).unwrap_or(u32::MAX));
}

/// The unary methods whose duration is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedMethod {
    /// One of ours.
    Ours(Rpc),
    /// A method that is not there.
    Other,
}

/// Times an operation of a store.
#[derive(Debug)]
pub struct StoreTimer(Histogram);

impl StoreTimer {
    /// A timer of the operation with this name.
    pub fn new(operation: &'static str) -> Self {
        Self(histogram!(STORE_DURATION, "operation" => operation))
    }

    /// Times from now until what it gives is dropped.
    pub fn start(&self) -> impl Drop + '_ {
        Timing { histogram: &self.0, began: Instant::now() }
    }
}

struct Timing<'a> {
    histogram: &'a Histogram,
    began: Instant,
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.histogram.record(self.began.elapsed());
    }
}

fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};
    describe_counter!(
        MARK_READ_TOTAL,
        "MarkRead calls by what became of them; a batch counts each item"
    );
    describe_histogram!(
        RPC_DURATION,
        Unit::Seconds,
        "Duration of calls, by method and gRPC status code"
    );
    describe_histogram!(
        STORE_DURATION,
        Unit::Seconds,
        "Duration of the store's operations, round trip included"
    );
    describe_counter!(
        EVENTS_PUBLISHED,
        "Mark-read events whose marks were answered by this process"
    );
    describe_gauge!(STREAM_LENGTH, "Entries in the stream of mark-read events, as last probed");
    describe_gauge!(WATCHERS, "Calls that watch mark-read events");
    describe_counter!(EDGE_LIMITED, "Calls that the edge guard stopped");
    describe_counter!(
        WATCH_GAPS,
        "Gaps that watchers were told of: events that may be lost to them"
    );
    describe_gauge!(STORE_UP, "1 while the store answers, else 0");
    describe_gauge!(
        REDIS_MEMORY_USED,
        Unit::Bytes,
        "Memory that Redis uses, as last probed (used_memory of INFO)"
    );
    describe_gauge!(
        REDIS_MEMORY_MAX,
        Unit::Bytes,
        "Memory that Redis may use, 0 without a limit (maxmemory)"
    );
    describe_counter!(
        REDIS_EVICTED_KEYS,
        "Keys that Redis has evicted, what it counted before this process came included"
    );
    describe_gauge!(
        STREAM_MAXLEN,
        "Entries that the stream is trimmed to, 0 without (--stream-maxlen)"
    );
    describe_gauge!(
        STREAM_OLDEST_AGE,
        Unit::Seconds,
        "Age of the stream's oldest entry: how far back a consumer can resume"
    );
    describe_gauge!(
        GROUP_UNREAD,
        "Entries that a consumer group was not given yet, NaN where Redis does not know (lag)"
    );
    describe_gauge!(
        GROUP_TRIMMED,
        "1 while entries were removed that a consumer group was never given, else 0"
    );
    describe_gauge!(STORE_WARNINGS, "Settings of Redis that may lose data (/readyz names them)");
    describe_gauge!(BUILD_INFO, "1, labelled with what is running");
}
