//! The relay on a simulated store, simulated receivers and a paused clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::fake_receiver::{FakeReceiver, failed, failed_after};
use self::fake_store::{FakeStore, Mode, START_MS};
use super::receiver::{Attempt, Check};
use super::webhook::{Audience, Webhook, Webhooks};
use super::{Relay, RelayConfig};
use crate::domain::WebhookName;
use crate::store::relay::{EntryContent, FeedId, LetterId};

mod checks;
mod deliveries;
mod failures;
pub(super) mod fake_receiver;
mod fake_store;
mod far_store;
mod leases;
mod simulation;
mod store_errors;

const CONFIG: RelayConfig = RelayConfig {
    check_grace: Duration::from_secs(4 * 3600),
    max_attempts: 20,
    max_age: Duration::from_secs(120 * 3600),
    dead_letters_maxlen: 100,
    concurrency: 64,
};

/// A process of the relay.
struct Process {
    webhooks: watch::Sender<Webhooks>,
    warnings: watch::Receiver<Vec<String>>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Process {
    fn start(store: &Arc<FakeStore>, webhooks: &[Arc<Webhook>]) -> Self {
        Self::start_with(store, webhooks, CONFIG)
    }

    fn start_with(store: &Arc<FakeStore>, webhooks: &[Arc<Webhook>], config: RelayConfig) -> Self {
        let (webhooks, known) = watch::channel(Webhooks::from(webhooks));
        let clock = Arc::clone(store);
        let clock = Arc::new(move || clock.now_ms());
        let relay = Relay::with_clock(store.clone(), store.logs(), known, config, clock);
        let warnings = relay.warnings();
        let (shutdown, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(relay.run(stopped, seconds(20)));
        Self { webhooks, warnings, shutdown: Some(shutdown), task }
    }

    fn set_webhooks(&self, webhooks: &[Arc<Webhook>]) {
        self.webhooks.send_replace(webhooks.into());
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.borrow().clone()
    }

    fn drain(&mut self) {
        self.shutdown.take().unwrap().send(()).unwrap();
    }

    /// Ends it as kill -9 does.
    fn kill(self) {
        self.task.abort();
    }
}

/// A store, a receiver and one process that delivers all events.
struct Setup {
    store: Arc<FakeStore>,
    receiver: FakeReceiver,
    process: Process,
}

impl Setup {
    fn new() -> Self {
        Self::with(CONFIG)
    }

    fn with(config: RelayConfig) -> Self {
        let (store, receiver) = (FakeStore::new(1), FakeReceiver::default());
        let process = Process::start_with(&store, &[receiver.webhook("w", "s")], config);
        Self { store, receiver, process }
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn feed(webhook: &str, partition: usize) -> FeedId {
    let webhook: WebhookName = webhook.parse().unwrap();
    FeedId { webhook, partition }
}

/// Waits until something is so, for at most so long.
async fn within(time: Duration, what: &str, is_so: impl Fn() -> bool) {
    let (until, step) = (Instant::now() + time, ms(1).max(time / 10_000));
    while !is_so() {
        assert!(Instant::now() < until, "not within {time:?}: {what}");
        sleep(step).await;
    }
}
