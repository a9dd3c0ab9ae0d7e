//! State that the feeds of a webhook share in this process.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::circuit::{Change, Circuit, Permission, Ticket};
use super::dead_letters::Reason;
use super::receiver::{Failure, FailureKind};
use super::webhook::Webhook;
use crate::chance::watch;
use crate::domain::WebhookName;
use crate::store::StoreError;
use crate::telemetry::LogThrottle;
use crate::telemetry::metrics::relay::WebhookMetrics;

/// A webhook in this process.
pub(super) struct Endpoint {
    pub(super) name: WebhookName,
    pub(super) metrics: WebhookMetrics,
    pub(super) lines: Lines,
    /// Places for attempts of all feeds.
    pub(super) places: Arc<Semaphore>,
    webhook: ArcSwap<Webhook>,
    state: Mutex<State>,
    /// Wakes the feeds after each change of what lets them begin attempts.
    changes: watch::Sender<u64>,
    /// Wakes the checks.
    pub(super) check_now: Notify,
}

/// Throttles of the log lines about a webhook's deliveries.
#[derive(Debug, Default)]
pub(super) struct Lines {
    store: LogThrottle,
    pub(super) attempts: LogThrottle,
    pub(super) checks: LogThrottle,
    pub(super) letters: LogThrottle,
    pub(super) missed: LogThrottle,
    circuit_opened: LogThrottle,
    circuit_closed: LogThrottle,
}

struct State {
    circuit: Circuit,
    /// How often the circuit was closed: waiting lanes become due then.
    closings: u64,
    /// Whether the webhook is verified, and not paused.
    is_open: bool,
    /// A 410 that the checks have not written down yet.
    is_gone: bool,
    /// Places that exist: fewer than `max_places` after the receiver asked to be sent less.
    allowed: usize,
    max_places: usize,
    /// Deliveries since the last place came back.
    credit: usize,
    /// When the last check passed, in milliseconds since 1970.
    verified_ms: Option<u64>,
    /// Text for `/readyz`.
    warning: Option<String>,
}

impl Endpoint {
    pub(super) fn new(webhook: Arc<Webhook>, concurrency: usize) -> Self {
        let max_places = concurrency.max(1);
        let state = State {
            circuit: Circuit::default(),
            closings: 0,
            is_open: false,
            is_gone: false,
            allowed: max_places,
            max_places,
            credit: 0,
            verified_ms: None,
            warning: None,
        };
        Self {
            name: webhook.name.clone(),
            metrics: WebhookMetrics::new(webhook.name.as_str(), Reason::words()),
            lines: Lines::default(),
            places: Arc::new(Semaphore::new(max_places)),
            webhook: ArcSwap::new(webhook),
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            check_now: Notify::new(),
        }
    }

    /// Returns the webhook as the file has it now.
    pub(super) fn webhook(&self) -> Arc<Webhook> {
        self.webhook.load_full()
    }

    /// Replaces the webhook if the file has another one.
    pub(super) fn set_webhook(&self, webhook: &Arc<Webhook>) {
        let mut state = self.state();
        let old = self.webhook.swap(Arc::clone(webhook));
        if old.settings == webhook.settings {
            return;
        }
        // It has to be checked before anything is sent to it, and nothing is known of it.
        (state.is_open, state.is_gone) = (false, false);
        state.circuit.reset();
        let places = state.max_places - state.allowed;
        (state.allowed, state.credit) = (state.max_places, 0);
        // What waited for the old receiver is due soon.
        state.closings += 1;
        drop(state);
        self.metrics.set_circuit_open(false);
        self.places.add_permits(places);
        self.wake_feeds();
        self.check_now.notify_one();
    }

    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn is_open(&self) -> bool {
        let state = self.state();
        state.is_open && !state.is_gone
    }

    /// Lets feeds deliver, or stops them.
    pub(super) fn set_open(&self, is_open: bool) {
        let mut state = self.state();
        if state.is_open != is_open {
            state.is_open = is_open;
            drop(state);
            self.wake_feeds();
        }
    }

    /// Notes when the last check passed, of whichever process. A new one ends a pause that the receiver asked
    /// for.
    pub(super) fn set_verified(&self, at_ms: u64) {
        self.metrics.set_verified(at_ms);
        let mut state = self.state();
        let is_new = state.verified_ms.replace(at_ms).is_some_and(|known| known < at_ms);
        let has_ended = is_new && state.circuit.end_throttle();
        drop(state);
        if has_ended {
            self.wake_feeds();
        }
    }

    /// Returns how often the circuit was closed.
    pub(super) fn closings(&self) -> u64 {
        self.state().closings
    }

    pub(super) fn is_circuit_open(&self) -> bool {
        self.state().circuit.is_open()
    }

    pub(super) fn is_flaky(&self, own_failures: u32) -> bool {
        self.state().circuit.is_flaky(own_failures)
    }

    pub(super) fn warning(&self) -> Option<String> {
        self.state().warning.clone()
    }

    pub(super) fn set_warning(&self, warning: Option<String>) {
        self.state().warning = warning;
    }

    /// Begins an attempt, if the circuit permits one: of a delivery that was never attempted, or of another.
    pub(super) fn begin(
        self: &Arc<Self>,
        now: Instant,
        place: OwnedSemaphorePermit,
        is_first: bool,
    ) -> Result<AttemptPermit, RetryAt> {
        match self.state().circuit.permit(now, is_first) {
            Permission::Go(ticket) => {
                let (endpoint, webhook) = (Arc::clone(self), self.webhook());
                Ok(AttemptPermit {
                    endpoint,
                    webhook,
                    ticket,
                    place: Some(place),
                    is_decided: false,
                })
            }
            Permission::Wait(until) => Err(RetryAt(Some(until))),
            Permission::WaitForProbe => Err(RetryAt(None)),
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.state().is_gone
    }

    /// Notes that all processes know of the 410.
    pub(super) fn forget_gone(&self) {
        self.state().is_gone = false;
    }

    /// Logs that the store failed, for one of the webhook's feeds or checks.
    pub(super) fn log_store_failure(&self, what: &'static str, error: &StoreError) {
        if let Some(suppressed) = self.lines.store.permit() {
            let (webhook, cause) = (self.name.as_str(), error.to_string());
            tracing::warn!(webhook, cause, suppressed, "{what}");
        }
    }

    fn note(&self, change: Change, failure: Option<&Failure>) {
        if change == Change::Nothing {
            return;
        }
        if change != Change::Delayed {
            self.metrics.set_circuit_open(change == Change::Opened);
            self.log_circuit(change, failure);
        }
        self.wake_feeds();
    }

    fn log_circuit(&self, change: Change, failure: Option<&Failure>) {
        let webhook = self.name.as_str();
        if change == Change::Opened {
            if let Some(suppressed) = self.lines.circuit_opened.permit() {
                let cause = failure.map_or("", |failure| failure.detail.as_str());
                let what = "circuit opened: the receiver is probed";
                tracing::warn!(webhook, ?cause, suppressed, "{what}");
            }
        } else if let Some(suppressed) = self.lines.circuit_closed.permit() {
            tracing::info!(webhook, suppressed, "circuit closed: the receiver is back");
        }
    }

    pub(super) fn wake_feeds(&self) {
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// No attempt may begin before this time, or before a change.
pub(super) struct RetryAt(pub(super) Option<Instant>);

/// An attempt that the endpoint knows of. Dropped without an outcome, it is as if it never was.
pub(super) struct AttemptPermit {
    endpoint: Arc<Endpoint>,
    /// The webhook as it was when the attempt began. If its settings have changed since, the outcome says
    /// nothing about the receiver that it has now.
    pub(super) webhook: Arc<Webhook>,
    ticket: Ticket,
    place: Option<OwnedSemaphorePermit>,
    is_decided: bool,
}

impl AttemptPermit {
    /// Notes a delivery. Places that the receiver did not want come back, one after so many deliveries as
    /// there are places: so its answers to too many are few.
    pub(super) fn succeed(mut self, now: Instant) {
        self.is_decided = true;
        let mut state = self.endpoint.state();
        if !self.is_current() {
            return;
        }
        let change = state.circuit.succeed(self.ticket, now);
        if change == Change::Closed {
            state.closings += 1;
        }
        let mut is_place_back = false;
        if state.allowed < state.max_places {
            state.credit += 1;
            if state.credit >= state.allowed {
                (state.credit, is_place_back) = (0, true);
                state.allowed += 1;
            }
        }
        drop(state);
        if is_place_back {
            self.endpoint.places.add_permits(1);
        }
        self.endpoint.note(change, None);
    }

    /// Notes a failure. A receiver that asks to be sent less loses the place.
    pub(super) fn fail(mut self, now: Instant, failure: &Failure) {
        self.is_decided = true;
        let mut state = self.endpoint.state();
        if !self.is_current() {
            return;
        }
        let change = state.circuit.fail(self.ticket, now, failure);
        if failure.kind == FailureKind::Throttled && state.allowed > 1 {
            (state.allowed, state.credit) = (state.allowed - 1, 0);
            if let Some(place) = self.place.take() {
                place.forget();
            }
        }
        drop(state);
        self.endpoint.note(change, Some(failure));
    }

    /// Notes a 410: nothing begins until the checks have written it down.
    pub(super) fn stop(self) {
        let mut state = self.endpoint.state();
        if self.is_current() {
            state.is_gone = true;
            drop(state);
            self.endpoint.wake_feeds();
            self.endpoint.check_now.notify_one();
        }
    }

    /// Returns whether the webhook's settings are those of the attempt. They change under the state's lock.
    fn is_current(&self) -> bool {
        self.endpoint.webhook().settings == self.webhook.settings
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let now = Instant::now();
        if !self.is_decided && self.endpoint.state().circuit.abandon(self.ticket, now) {
            self.endpoint.wake_feeds();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::relay::tests::fake_receiver::FakeReceiver;

    fn begin(endpoint: &Arc<Endpoint>) -> AttemptPermit {
        let place = Arc::clone(&endpoint.places).try_acquire_owned().unwrap();
        endpoint.begin(Instant::now(), place, true).ok().expect("the circuit permits it")
    }

    #[tokio::test(start_paused = true)]
    async fn a_receiver_that_asks_for_less_gets_less_and_slowly_more() {
        let endpoint = Arc::new(Endpoint::new(FakeReceiver::default().webhook("w", "s1"), 8));
        let throttled = Failure {
            kind: FailureKind::Throttled,
            status: Some(429),
            detail: String::new(),
            retry_after: None,
        };
        let attempts: Vec<_> = (0..8).map(|_| begin(&endpoint)).collect();
        for attempt in attempts {
            attempt.fail(Instant::now(), &throttled);
        }
        // One place always stays.
        assert_eq!(endpoint.places.available_permits(), 1);
        tokio::time::advance(Duration::from_secs(1)).await;
        for (deliveries, places) in [(1, 2), (2, 3), (3, 4), (30, 8), (100, 8)] {
            for _ in 0..deliveries {
                begin(&endpoint).succeed(Instant::now());
            }
            assert_eq!(endpoint.places.available_permits(), places, "{deliveries}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_settings_begin_anew_and_old_attempts_say_nothing_about_them() {
        let receiver = FakeReceiver::default();
        let endpoint = Arc::new(Endpoint::new(receiver.webhook("w", "old"), 32));
        let failure = |kind| Failure {
            kind,
            status: None,
            detail: String::new(),
            retry_after: Some(Duration::from_secs(300)),
        };
        let attempts: Vec<_> = (0..32).map(|_| begin(&endpoint)).collect();
        let mut attempts = attempts.into_iter();
        for attempt in attempts.by_ref().take(20) {
            attempt.fail(Instant::now(), &failure(FailureKind::Throttled));
        }
        attempts.next().unwrap().stop();
        assert!(endpoint.is_gone() && endpoint.is_circuit_open());
        let place = Arc::clone(&endpoint.places).try_acquire_owned().unwrap();
        assert!(endpoint.begin(Instant::now(), place, true).is_err());
        endpoint.set_webhook(&receiver.webhook("w", "new"));
        assert!(!endpoint.is_gone() && !endpoint.is_circuit_open());
        attempts.next().unwrap().stop();
        attempts.next().unwrap().fail(Instant::now(), &failure(FailureKind::Throttled));
        assert!(!endpoint.is_gone());
        drop(attempts);
        assert_eq!(endpoint.places.available_permits(), 32);
        begin(&endpoint).succeed(Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_passes_ends_the_pause_that_the_receiver_asked_for() {
        let endpoint = Arc::new(Endpoint::new(FakeReceiver::default().webhook("w", "s1"), 8));
        endpoint.set_verified(5);
        let throttled = Failure {
            kind: FailureKind::Throttled,
            status: Some(429),
            detail: String::new(),
            retry_after: Some(Duration::from_secs(300)),
        };
        begin(&endpoint).fail(Instant::now(), &throttled);
        for (verified_ms, may_begin) in [(5, false), (6, true)] {
            endpoint.set_verified(verified_ms);
            let place = Arc::clone(&endpoint.places).try_acquire_owned().unwrap();
            assert_eq!(endpoint.begin(Instant::now(), place, true).is_ok(), may_begin);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_probe_lets_another_one_begin() {
        let endpoint = Arc::new(Endpoint::new(FakeReceiver::default().webhook("w", "s1"), 8));
        let failure = Failure {
            kind: FailureKind::Timeout,
            status: None,
            detail: String::new(),
            retry_after: None,
        };
        for _ in 0..20 {
            begin(&endpoint).fail(Instant::now(), &failure);
        }
        assert!(endpoint.is_circuit_open());
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut probes: Vec<_> = (0..8).map(|_| begin(&endpoint)).collect();
        drop(probes.pop());
        probes.push(begin(&endpoint));
        drop(probes);
        begin(&endpoint).succeed(Instant::now());
        assert!(!endpoint.is_circuit_open());
        assert_eq!(endpoint.closings(), 1);
    }
}
