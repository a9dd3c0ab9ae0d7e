//! A simulated receiver.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::domain::DeliveryId;
use crate::relay::receiver::{Attempt, Check, Delivery, Failure, FailureKind, Receiver};
use crate::relay::webhook::{Audience, Webhook};

type Answer = Box<dyn Fn(&Sent) -> Attempt + Send + Sync>;

/// A receiver of which a test decides what it answers. It notes what arrives.
#[derive(Clone, Default)]
pub(in crate::relay) struct FakeReceiver(Arc<State>);

#[derive(Default)]
struct State {
    answer: Mutex<Option<Answer>>,
    checks: Mutex<VecDeque<Check>>,
    checked: AtomicUsize,
    check_delay: Mutex<Duration>,
    attempts: Mutex<Vec<Sent>>,
    delay: Mutex<Duration>,
    held: watch::Sender<bool>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

/// An attempt that arrived.
#[derive(Clone, Debug)]
pub(in crate::relay) struct Sent {
    pub(in crate::relay) id: DeliveryId,
    pub(in crate::relay) body: String,
    pub(in crate::relay) at: Instant,
    pub(in crate::relay) is_delivered: bool,
    /// How often this delivery had arrived before.
    pub(in crate::relay) earlier: usize,
}

impl FakeReceiver {
    /// Returns a webhook that delivers to it, to everyone.
    pub(in crate::relay) fn webhook(&self, name: &str, settings: &str) -> Arc<Webhook> {
        self.webhook_for(name, settings, Audience::All, false)
    }

    pub(in crate::relay) fn webhook_for(
        &self,
        name: &str,
        settings: &str,
        audience: Audience,
        echo: bool,
    ) -> Arc<Webhook> {
        Arc::new(Webhook {
            name: name.parse().unwrap(),
            audience,
            echo,
            settings: settings.to_owned(),
            receiver: Arc::new(self.clone()),
        })
    }

    /// Decides the answers from now on.
    pub(super) fn answer(&self, answer: impl Fn(&Sent) -> Attempt + Send + Sync + 'static) {
        *self.0.answer.lock().unwrap() = Some(Box::new(answer));
    }

    /// Answers 204 from now on.
    pub(super) fn accept(&self) {
        *self.0.answer.lock().unwrap() = None;
    }

    /// Sets results of the next checks. Those after them pass.
    pub(super) fn check_results(&self, results: impl IntoIterator<Item = Check>) {
        *self.0.checks.lock().unwrap() = results.into_iter().collect();
    }

    pub(super) fn delay_checks(&self, delay: Duration) {
        *self.0.check_delay.lock().unwrap() = delay;
    }

    pub(super) fn checks(&self) -> usize {
        self.0.checked.load(Ordering::Relaxed)
    }

    pub(super) fn set_delay(&self, delay: Duration) {
        *self.0.delay.lock().unwrap() = delay;
    }

    /// Holds answers back, or lets them go.
    pub(super) fn hold(&self, is_held: bool) {
        self.0.held.send_replace(is_held);
    }

    pub(super) fn attempts(&self) -> Vec<Sent> {
        self.0.attempts.lock().unwrap().clone()
    }

    /// Returns the entries of the deliveries that arrived, in order.
    pub(super) fn delivered(&self) -> Vec<u64> {
        let attempts = self.attempts();
        attempts.iter().filter(|sent| sent.is_delivered).map(|sent| sent.id.entry.ms).collect()
    }

    pub(super) fn most_in_flight(&self) -> usize {
        self.0.most_in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.0.in_flight.load(Ordering::Relaxed)
    }
}

struct InFlight<'a>(&'a AtomicUsize);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Receiver for FakeReceiver {
    async fn deliver(&self, delivery: &Delivery) -> Attempt {
        let state = &self.0;
        let in_flight = state.in_flight.fetch_add(1, Ordering::Relaxed) + 1;
        state.most_in_flight.fetch_max(in_flight, Ordering::Relaxed);
        let _in_flight = InFlight(&state.in_flight);
        let (index, mut sent) = {
            let mut attempts = state.attempts.lock().unwrap();
            let sent = Sent {
                id: delivery.id,
                body: String::from_utf8(delivery.body.to_vec()).unwrap(),
                at: Instant::now(),
                is_delivered: false,
                earlier: attempts.iter().filter(|sent| sent.id == delivery.id).count(),
            };
            attempts.push(sent.clone());
            (attempts.len() - 1, sent)
        };
        let delay = *state.delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        state.held.subscribe().wait_for(|is_held| !is_held).await.unwrap();
        let attempt = match &*state.answer.lock().unwrap() {
            Some(answer) => answer(&sent),
            None => Attempt::Delivered(204),
        };
        sent.is_delivered = matches!(attempt, Attempt::Delivered(_));
        state.attempts.lock().unwrap()[index] = sent;
        attempt
    }

    async fn check(&self) -> Check {
        self.0.checked.fetch_add(1, Ordering::Relaxed);
        let delay = *self.0.check_delay.lock().unwrap();
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.0.checks.lock().unwrap().pop_front().unwrap_or(Check::Passed)
    }
}

/// Returns a failure with a status.
pub(super) fn failed(status: u16) -> Attempt {
    failed_after(status, None)
}

pub(super) fn failed_after(status: u16, retry_after: Option<Duration>) -> Attempt {
    let kind = match status {
        429 | 502 | 504 => FailureKind::Throttled,
        _ => FailureKind::Status,
    };
    let detail = format!("status {status}");
    Attempt::Failed(Failure { kind, status: Some(status), detail, retry_after })
}
