//! Metrics, by their Prometheus names (`docs/contract.md`, "Metrics"). No other file names one.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Counter, Histogram, counter, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tonic::Code;

use crate::proto::Rpc;
use crate::proto::codes::{CODE_NAMES, code_index, code_name};

mod groups;
pub mod relay;

pub use self::groups::{GroupGauges, set_groups};

const MARK_READ_TOTAL: &str = "markread_mark_read_total";
const RPC_DURATION: &str = "rpc_server_call_duration_seconds";
const STORE_DURATION: &str = "markread_store_duration_seconds";
const EVENTS_PUBLISHED: &str = "markread_events_published_total";
const STREAM_LENGTH: &str = "markread_stream_length";
const WATCHERS: &str = "markread_watchers";
const REFUSED: &str = "markread_refused_total";
const EDGE_LIMITED: &str = "markread_edge_limited_total";
const WATCH_GAPS: &str = "markread_watch_gaps_total";
const WATCH_TAIL_LAG: &str = "markread_watch_tail_lag_seconds";
const FOREIGN_ENTRIES: &str = "markread_stream_foreign_entries_total";
const STORE_UP: &str = "markread_store_up";
const STORE_WARNINGS: &str = "markread_store_warnings";
const PARTITIONS_UNSERVED: &str = "markread_partitions_unserved";
const REDIS_MEMORY_USED: &str = "markread_redis_memory_used_bytes";
const REDIS_MEMORY_MAX: &str = "markread_redis_memory_max_bytes";
const REDIS_EVICTED_KEYS: &str = "markread_redis_evicted_keys_total";
const STREAM_BYTES: &str = "markread_stream_bytes";
const USER_OBJECTS_OVERSIZED: &str = "markread_user_objects_oversized_total";
const STREAM_MAXLEN: &str = "markread_stream_maxlen";
const STREAM_OLDEST_AGE: &str = "markread_stream_oldest_entry_age_seconds";
const GROUP_UNREAD: &str = "markread_stream_group_unread_entries";
const GROUP_TRIMMED: &str = "markread_stream_group_trimmed_unread";
const MEMORY_USED: &str = "markread_memory_used_bytes";
const MEMORY_LIMIT: &str = "markread_memory_limit_bytes";
const BUILD_INFO: &str = "markread_build_info";

/// Buckets of durations, in seconds: OpenTelemetry's for RPCs (semantic conventions 1.44), and finer
/// ones below, since most calls take less than the first of those.
const DURATION_BUCKETS: [f64; 18] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 10.0,
];

/// Interval at which the exporter sorts recorded durations into buckets.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The `outcome` label of `markread_mark_read_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the labels explain themselves, and `docs/contract.md` lists them")]
pub enum MarkOutcome {
    Advanced,
    Noop,
    Limited,
    EdgeLimited,
    Busy,
    Overloaded,
    Invalid,
    Unauthenticated,
    Forbidden,
    Unavailable,
    Deadline,
    Internal,
}

impl MarkOutcome {
    /// All outcomes with their labels, in the order of the enum.
    pub const ALL: [(Self, &str); 12] = [
        (Self::Advanced, "advanced"),
        (Self::Noop, "noop"),
        (Self::Limited, "limited"),
        (Self::EdgeLimited, "edge_limited"),
        (Self::Busy, "busy"),
        (Self::Overloaded, "overloaded"),
        (Self::Invalid, "invalid"),
        (Self::Unauthenticated, "unauthenticated"),
        (Self::Forbidden, "forbidden"),
        (Self::Unavailable, "unavailable"),
        (Self::Deadline, "deadline"),
        (Self::Internal, "internal"),
    ];
}

/// The `bound` label of `markread_refused_total`: the bound that refused or ended something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the labels explain themselves, and `docs/contract.md` lists them")]
pub enum Bound {
    Connections,
    ConnectionsPerPeer,
    ConnectionAge,
    IdleTimeout,
    SendTimeout,
    ControlFrames,
    Memory,
    Overload,
    RequestBytes,
    EdgeRate,
    HealthRate,
    UnidentifiedStreams,
    ReaderConcurrency,
    ReaderWatches,
    WatchQueue,
}

impl Bound {
    /// All bounds with their labels, in the order of the enum.
    pub const ALL: [(Self, &str); 15] = [
        (Self::Connections, "connections"),
        (Self::ConnectionsPerPeer, "connections_per_peer"),
        (Self::ConnectionAge, "connection_age"),
        (Self::IdleTimeout, "idle_timeout"),
        (Self::SendTimeout, "send_timeout"),
        (Self::ControlFrames, "control_frames"),
        (Self::Memory, "memory"),
        (Self::Overload, "overload"),
        (Self::RequestBytes, "request_bytes"),
        (Self::EdgeRate, "edge_rate"),
        (Self::HealthRate, "health_rate"),
        (Self::UnidentifiedStreams, "unidentified_streams"),
        (Self::ReaderConcurrency, "reader_concurrency"),
        (Self::ReaderWatches, "reader_watches"),
        (Self::WatchQueue, "watch_queue"),
    ];
}

/// Handles of `markread_refused_total`, so that a flood of refusals does not look up names.
static REFUSED_COUNTERS: OnceLock<[Counter; Bound::ALL.len()]> = OnceLock::new();

/// Counts what a bound refused or ended: a call, a stream or a connection.
pub fn count_refused(bound: Bound) {
    let index = Bound::ALL.iter().position(|(known, _)| *known == bound);
    // Without a recorder there are no handles yet.
    let counter = REFUSED_COUNTERS.get().zip(index).and_then(|(all, index)| all.get(index));
    if let Some(counter) = counter {
        counter.increment(1);
    }
}

/// Sets how much anonymous memory the process uses.
pub fn set_memory_used(bytes: u64) {
    gauge!(MEMORY_USED).set(to_gauge(bytes));
}

/// Sets how much memory the process may use; 0 means no limit.
pub fn set_memory_limit(bytes: u64) {
    gauge!(MEMORY_LIMIT).set(to_gauge(bytes));
}

/// Installs the recorder that `/metrics` renders.
///
/// # Errors
///
/// If a recorder is installed already.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_duration_seconds".to_owned()), &DURATION_BUCKETS)?
        .set_buckets_for_metric(Matcher::Full(relay::DELAY_NAME.to_owned()), &relay::DELAY_BUCKETS)?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder)
        .map_err(|_| BuildError::FailedToCreateHTTPListener("a recorder is installed".into()))?;
    describe();
    set_partitions_unserved(0);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "revision" => env!("MARKREAD_REVISION"))
        .set(1);
    Ok(handle)
}

/// Returns the page of all metrics.
pub fn render(handle: &PrometheusHandle) -> String {
    let mut page = handle.render();
    groups::render(&mut page);
    page
}

/// Sorts recorded durations into buckets, for ever.
pub async fn run_upkeep(handle: PrometheusHandle) {
    let mut interval = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        interval.tick().await;
        handle.run_upkeep();
    }
}

/// Handles of the metrics of calls, created once, so that a call does not look up names.
#[derive(Debug)]
pub struct Metrics {
    marks: [Counter; MarkOutcome::ALL.len()],
    events_published: Counter,
    edge_limited: Counter,
    durations: [[OnceLock<Histogram>; CODE_NAMES.len()]; Rpc::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        add_watchers(0);
        count_watch_gaps(0);
        count_foreign_entries(0);
        set_watch_tail_lag(Duration::ZERO);
        counter!(USER_OBJECTS_OVERSIZED).increment(0);
        REFUSED_COUNTERS.get_or_init(|| {
            Bound::ALL.map(|(_, label)| {
                let counter = counter!(REFUSED, "bound" => label);
                counter.increment(0);
                counter
            })
        });
        Self {
            marks: MarkOutcome::ALL.map(|(_, label)| {
                let counter = counter!(MARK_READ_TOTAL, "outcome" => label);
                counter.increment(0);
                counter
            }),
            events_published: counter!(EVENTS_PUBLISHED),
            edge_limited: counter!(EDGE_LIMITED),
            durations: Default::default(),
        }
    }
}

impl Metrics {
    /// Counts a mark that was answered.
    pub fn count_mark(&self, outcome: MarkOutcome) {
        let index = MarkOutcome::ALL.iter().position(|(known, _)| *known == outcome);
        if let Some(counter) = index.and_then(|index| self.marks.get(index)) {
            counter.increment(1);
        }
        if outcome == MarkOutcome::Advanced {
            self.events_published.increment(1);
        }
    }

    /// Counts a call, to any method, that the edge guard stopped.
    pub fn count_edge_limited(&self) {
        self.edge_limited.increment(1);
        count_refused(Bound::EdgeRate);
    }

    /// Records a call's duration until its status was known. Without an RPC the method is `_OTHER`.
    pub fn record_call(&self, rpc: Option<Rpc>, code: Code, duration: Duration) {
        let (index, code) = (code_index(code), code_name(code));
        let method = rpc.map_or("_OTHER", Rpc::full_name);
        let make =
            || histogram!(RPC_DURATION, "rpc_method" => method, "rpc_response_status_code" => code);
        let handle = rpc
            .and_then(|rpc| Rpc::ALL.iter().position(|known| *known == rpc))
            .and_then(|method| self.durations.get(method)?.get(index));
        match handle {
            Some(handle) => handle.get_or_init(make).record(duration),
            None => make().record(duration),
        }
    }
}

/// Sets the stream's length in entries, and the age of its oldest entry.
pub fn set_stream(length: u64, oldest_age: Duration) {
    gauge!(STREAM_LENGTH).set(to_gauge(length));
    gauge!(STREAM_OLDEST_AGE).set(oldest_age.as_secs_f64());
}

/// Sets the number of entries that the stream is trimmed to.
pub fn set_stream_maxlen(entries: u64) {
    gauge!(STREAM_MAXLEN).set(to_gauge(entries));
}

/// Sets the stream's measured size; 0 if it is not measured.
pub fn set_stream_bytes(bytes: u64) {
    gauge!(STREAM_BYTES).set(to_gauge(bytes));
}

/// Counts a user object that was read and is larger than events show.
pub fn count_oversized_user_object() {
    counter!(USER_OBJECTS_OVERSIZED).increment(1);
}

/// Sets how much memory Redis uses, and its limit; 0 means no limit.
pub fn set_redis_memory(used_bytes: u64, max_bytes: u64) {
    gauge!(REDIS_MEMORY_USED).set(to_gauge(used_bytes));
    gauge!(REDIS_MEMORY_MAX).set(to_gauge(max_bytes));
}

/// Counts keys that Redis evicted.
pub fn count_redis_evicted_keys(keys: u64) {
    counter!(REDIS_EVICTED_KEYS).increment(keys);
}

/// Sets the number of partitions that are not served.
pub fn set_partitions_unserved(partitions: usize) {
    gauge!(PARTITIONS_UNSERVED).set(u32::try_from(partitions).unwrap_or(u32::MAX));
}

/// Sets whether the store answers.
pub fn set_store_up(up: bool) {
    gauge!(STORE_UP).set(u32::from(up));
}

/// Counts gaps sent to watchers.
pub fn count_watch_gaps(watchers: usize) {
    counter!(WATCH_GAPS).increment(u64::try_from(watchers).unwrap_or(u64::MAX));
}

/// Counts entries of the stream that are no events of this service.
pub fn count_foreign_entries(entries: usize) {
    counter!(FOREIGN_ENTRIES).increment(u64::try_from(entries).unwrap_or(u64::MAX));
}

/// Sets for how long the reading for watchers has stood still while there were entries to read.
pub fn set_watch_tail_lag(lag: Duration) {
    gauge!(WATCH_TAIL_LAG).set(lag.as_secs_f64());
}

/// Converts a count to a gauge value. Digits beyond 2^53 do not matter.
#[allow(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "Prometheus knows floats only"
)]
fn to_gauge(count: u64) -> f64 {
    count as f64
}

/// Adds watchers, or removes them if the change is negative.
pub fn add_watchers(change: i32) {
    gauge!(WATCHERS).increment(change);
}

/// Sets the number of warnings on `/readyz`.
pub fn set_store_warnings(warnings: usize) {
    gauge!(STORE_WARNINGS).set(u32::try_from(warnings).unwrap_or(u32::MAX));
}

/// Measures the duration of a store operation.
#[derive(Debug)]
pub struct StoreTimer(Histogram);

impl StoreTimer {
    /// Creates a timer for the operation with this name.
    pub fn new(operation: &'static str) -> Self {
        Self(histogram!(STORE_DURATION, "operation" => operation))
    }

    /// Measures from now until the returned guard is dropped.
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
    describe_counter!(MARK_READ_TOTAL, "Marks by outcome; each item of a batch counts");
    describe_histogram!(
        RPC_DURATION,
        Unit::Seconds,
        "Duration of calls, by method and gRPC status code"
    );
    describe_histogram!(
        STORE_DURATION,
        Unit::Seconds,
        "Duration of store operations, including the round trip"
    );
    describe_counter!(EVENTS_PUBLISHED, "Mark-read events whose marks this process answered");
    describe_gauge!(STREAM_LENGTH, "Entries in the stream of mark-read events, as last probed");
    describe_gauge!(WATCHERS, "Calls that watch mark-read events");
    describe_counter!(REFUSED, "Calls, streams and connections that a bound refused or ended");
    describe_counter!(EDGE_LIMITED, "Calls that the edge guard stopped");
    describe_counter!(WATCH_GAPS, "Gaps sent to watchers: events that they may have lost");
    describe_gauge!(
        WATCH_TAIL_LAG,
        Unit::Seconds,
        "How long the reading for watchers has stood still while there were entries to read"
    );
    describe_counter!(
        FOREIGN_ENTRIES,
        "Entries of the stream that are no mark-read events, and were skipped for watchers"
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
        "Keys that Redis evicted, including those before this process started"
    );
    describe_gauge!(
        STREAM_MAXLEN,
        "Entries that the stream is trimmed to, 0 without (--stream-maxlen)"
    );
    describe_gauge!(
        STREAM_BYTES,
        Unit::Bytes,
        "Measured size of the stream, 0 without --stream-max-bytes"
    );
    describe_counter!(
        USER_OBJECTS_OVERSIZED,
        "User objects read that are larger than events show (--user-object-max-bytes)"
    );
    describe_gauge!(
        STREAM_OLDEST_AGE,
        Unit::Seconds,
        "Age of the stream's oldest entry: how far back a consumer can resume"
    );
    describe_gauge!(MEMORY_USED, Unit::Bytes, "Anonymous memory that this process uses");
    describe_gauge!(
        MEMORY_LIMIT,
        Unit::Bytes,
        "Memory that this process may use, 0 without a limit (--memory-limit, cgroups)"
    );
    describe_gauge!(PARTITIONS_UNSERVED, "Partitions that are not served (/readyz names them)");
    describe_gauge!(STORE_WARNINGS, "Redis settings that may lose data (/readyz names them)");
    describe_gauge!(BUILD_INFO, "1, labelled with the running version");
}
