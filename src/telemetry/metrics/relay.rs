//! Metrics of the relay, each with the label `webhook`.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Unit, counter, gauge, histogram};
use metrics::{describe_counter, describe_gauge, describe_histogram};

use super::to_gauge;

const ATTEMPTS: &str = "markread_relay_attempts_total";
const ATTEMPT_DURATION: &str = "markread_relay_attempt_duration_seconds";
const OUTCOMES: &str = "markread_relay_outcomes_total";
const DELAY: &str = "markread_relay_delay_seconds";
const IN_FLIGHT: &str = "markread_relay_in_flight";
const DEAD_LETTERS: &str = "markread_relay_dead_letters";
const DEAD_LETTERS_TOTAL: &str = "markread_relay_dead_letters_total";
const MISSED: &str = "markread_relay_missed_entries_total";
const LAG_ENTRIES: &str = "markread_relay_lag_entries";
const LAG_SECONDS: &str = "markread_relay_lag_seconds";
const PAUSED: &str = "markread_relay_paused";
const CHECKS: &str = "markread_relay_checks_total";
const VERIFIED: &str = "markread_relay_verified_timestamp_seconds";
const LEASES: &str = "markread_relay_leases";
const PARTITIONS: &str = "markread_relay_partitions";
const CIRCUIT_OPEN: &str = "markread_relay_circuit_open";

/// Buckets of the time from an event to its delivery, in seconds.
pub(super) const DELAY_BUCKETS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0,
    86400.0,
];

/// The name whose buckets are [`DELAY_BUCKETS`].
pub(super) const DELAY_NAME: &str = DELAY;

/// The `outcome` label of `markread_relay_attempts_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the labels explain themselves, and `docs/contract.md` lists them")]
pub enum AttemptOutcome {
    Delivered,
    Gone,
    Status,
    Throttled,
    Timeout,
    Connection,
    Address,
    Tls,
    Response,
}

impl AttemptOutcome {
    /// All outcomes with their labels, in the order of the enum.
    pub const ALL: [(Self, &str); 9] = [
        (Self::Delivered, "delivered"),
        (Self::Gone, "gone"),
        (Self::Status, "status"),
        (Self::Throttled, "throttled"),
        (Self::Timeout, "timeout"),
        (Self::Connection, "connection"),
        (Self::Address, "address"),
        (Self::Tls, "tls"),
        (Self::Response, "response"),
    ];

    /// Returns the label.
    pub fn label(self) -> &'static str {
        Self::ALL.iter().find(|(known, _)| *known == self).map_or("", |(_, label)| label)
    }
}

/// The `outcome` label of `markread_relay_checks_total`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the labels explain themselves, and `docs/contract.md` lists them")]
pub enum CheckOutcome {
    Passed,
    Refused,
    Failed,
}

/// Handles of the metrics of a webhook, so that a delivery does not look up names.
#[derive(Debug)]
pub struct WebhookMetrics {
    webhook: String,
    attempts: [Counter; AttemptOutcome::ALL.len()],
    duration: Histogram,
    delay: Histogram,
    in_flight: Gauge,
    delivered: Counter,
    dead_lettered: Counter,
    not_subscribed: Counter,
    missed: Counter,
    checks: [Counter; 3],
    leases: Gauge,
}

impl WebhookMetrics {
    /// Creates those of a webhook, all of them zero. `reasons` are those of dead letters.
    pub fn new(webhook: &str, reasons: impl IntoIterator<Item = &'static str>) -> Self {
        let of = |name: &'static str, outcome: &'static str| {
            let counter = counter!(name, "webhook" => webhook.to_owned(), "outcome" => outcome);
            counter.increment(0);
            counter
        };
        let missed = counter!(MISSED, "webhook" => webhook.to_owned());
        missed.increment(0);
        let metrics = Self {
            webhook: webhook.to_owned(),
            attempts: AttemptOutcome::ALL.map(|(_, label)| of(ATTEMPTS, label)),
            duration: histogram!(ATTEMPT_DURATION, "webhook" => webhook.to_owned()),
            delay: histogram!(DELAY, "webhook" => webhook.to_owned()),
            in_flight: gauge!(IN_FLIGHT, "webhook" => webhook.to_owned()),
            delivered: of(OUTCOMES, "delivered"),
            dead_lettered: of(OUTCOMES, "dead_lettered"),
            not_subscribed: of(OUTCOMES, "not_subscribed"),
            missed,
            checks: ["passed", "refused", "failed"].map(|label| of(CHECKS, label)),
            leases: gauge!(LEASES, "webhook" => webhook.to_owned()),
        };
        for reason in reasons {
            metrics.dead_letters_of(reason).increment(0);
        }
        metrics.in_flight.increment(0);
        metrics.leases.increment(0);
        metrics.set_paused(false);
        metrics.set_circuit_open(false);
        metrics.set_lag(0, Duration::ZERO);
        metrics
    }

    /// Counts a beginning attempt until the returned guard is dropped.
    pub fn start_attempt(&self) -> impl Drop + Send + 'static {
        self.in_flight.increment(1);
        InFlight(self.in_flight.clone())
    }

    /// Counts an attempt that ended.
    pub fn count_attempt(&self, outcome: AttemptOutcome, duration: Duration) {
        let index = AttemptOutcome::ALL.iter().position(|(known, _)| *known == outcome);
        if let Some(counter) = index.and_then(|index| self.attempts.get(index)) {
            counter.increment(1);
        }
        self.duration.record(duration);
    }

    /// Counts a delivery that arrived, so long after its event.
    pub fn count_delivered(&self, delay: Duration) {
        self.delivered.increment(1);
        self.delay.record(delay);
    }

    /// Counts a dead letter that was written.
    pub fn count_dead_letter(&self, reason: &'static str) {
        self.dead_lettered.increment(1);
        self.dead_letters_of(reason).increment(1);
    }

    fn dead_letters_of(&self, reason: &'static str) -> Counter {
        counter!(DEAD_LETTERS_TOTAL, "webhook" => self.webhook.clone(), "reason" => reason)
    }

    /// Counts an event of which nobody is subscribed.
    pub fn count_not_subscribed(&self) {
        self.not_subscribed.increment(1);
    }

    /// Counts entries that were trimmed before they were delivered.
    pub fn count_missed(&self, entries: u64) {
        self.missed.increment(entries);
    }

    /// Counts a check.
    pub fn count_check(&self, outcome: CheckOutcome) {
        let index = match outcome {
            CheckOutcome::Passed => 0,
            CheckOutcome::Refused => 1,
            CheckOutcome::Failed => 2,
        };
        if let Some(counter) = self.checks.get(index) {
            counter.increment(1);
        }
    }

    /// Adds feeds that this process delivers, or removes them if the change is negative.
    pub fn add_leases(&self, change: i32) {
        self.leases.increment(change);
    }

    /// Sets how far the feeds of this process are behind.
    pub fn set_lag(&self, entries: u64, age: Duration) {
        gauge!(LAG_ENTRIES, "webhook" => self.webhook.clone()).set(to_gauge(entries));
        gauge!(LAG_SECONDS, "webhook" => self.webhook.clone()).set(age.as_secs_f64());
    }

    /// Sets how many dead letters there are.
    pub fn set_dead_letters(&self, letters: u64) {
        gauge!(DEAD_LETTERS, "webhook" => self.webhook.clone()).set(to_gauge(letters));
    }

    /// Sets whether the webhook is paused.
    pub fn set_paused(&self, is_paused: bool) {
        gauge!(PAUSED, "webhook" => self.webhook.clone()).set(u32::from(is_paused));
    }

    /// Sets when a check passed last, in milliseconds since 1970.
    pub fn set_verified(&self, at_ms: u64) {
        gauge!(VERIFIED, "webhook" => self.webhook.clone()).set(to_gauge(at_ms / 1000));
    }

    /// Sets whether the circuit is open.
    pub fn set_circuit_open(&self, is_open: bool) {
        gauge!(CIRCUIT_OPEN, "webhook" => self.webhook.clone()).set(u32::from(is_open));
    }

    /// Sets the gauges of a webhook that was removed to zero: the exporter cannot remove them. Whether it is
    /// paused is not a number then, so that alerts do not expect leases of it.
    pub fn reset(&self) {
        self.set_lag(0, Duration::ZERO);
        gauge!(PAUSED, "webhook" => self.webhook.clone()).set(f64::NAN);
        self.set_circuit_open(false);
        self.set_dead_letters(0);
    }
}

struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Describes the metrics of the relay, and sets how many partitions there are.
pub fn begin_relay(partitions: usize) {
    describe_counter!(ATTEMPTS, "Attempts to deliver, by outcome");
    describe_histogram!(ATTEMPT_DURATION, Unit::Seconds, "Duration of attempts to deliver");
    describe_counter!(
        OUTCOMES,
        "Deliveries that ended, by outcome; not_subscribed are events for nobody"
    );
    describe_histogram!(DELAY, Unit::Seconds, "Time from an event to its delivery");
    describe_gauge!(IN_FLIGHT, "Attempts to deliver that are under way");
    describe_gauge!(DEAD_LETTERS, "Dead letters in Redis");
    describe_counter!(DEAD_LETTERS_TOTAL, "Dead letters written, by reason");
    describe_counter!(MISSED, "Entries that were trimmed before they were delivered");
    describe_gauge!(LAG_ENTRIES, "Entries not delivered, of the feeds of this process");
    describe_gauge!(
        LAG_SECONDS,
        Unit::Seconds,
        "Age of the oldest entry that is not delivered, of the feeds of this process"
    );
    describe_gauge!(PAUSED, "1 while nothing is delivered to the webhook, else 0");
    describe_counter!(CHECKS, "Checks (CRC) by outcome");
    describe_gauge!(VERIFIED, Unit::Seconds, "When a check passed last, since 1970");
    describe_gauge!(LEASES, "Feeds that this process delivers");
    describe_gauge!(PARTITIONS, "Partitions of the stream");
    describe_gauge!(CIRCUIT_OPEN, "1 while the receiver is only probed, else 0");
    gauge!(PARTITIONS).set(u32::try_from(partitions).unwrap_or(u32::MAX));
}
