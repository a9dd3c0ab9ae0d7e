//! A process of the relay: announces itself, and delivers the feeds that are assigned to it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::doorbell::Doorbell;
use super::ownership::Ownership;
use super::report::Reports;
use super::webhook::Webhooks;
use super::{Context, RelayConfig};
use crate::chance::random;
use crate::store::relay::{RelayProcess, RelayStore};
use crate::store::{EventLog, StoreError, now_ms};
use crate::telemetry::LogThrottle;
use crate::telemetry::metrics::relay::begin_relay;

/// Time between two announcements, and how long one counts.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(1);
const ANNOUNCE_TTL: Duration = Duration::from_secs(5);

/// Longest time of one announcement.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(4);

/// How much longer than the drain the last operations may take.
const DRAIN_GRACE: Duration = Duration::from_secs(3);

/// The relay in this process.
pub struct Relay {
    context: Arc<Context>,
    webhooks: watch::Receiver<Webhooks>,
    doorbells: Vec<Arc<Doorbell>>,
    warnings: watch::Sender<Vec<String>>,
}

type Announced = Result<Vec<RelayProcess>, StoreError>;

impl Relay {
    /// Creates it. `logs` are those of the store's partitions, in their order.
    pub fn new(
        store: Arc<dyn RelayStore>,
        logs: Vec<Arc<dyn EventLog>>,
        webhooks: watch::Receiver<Webhooks>,
        config: RelayConfig,
    ) -> Self {
        Self::with_clock(store, logs, webhooks, config, Arc::new(now_ms))
    }

    /// Creates it with another clock, in milliseconds since 1970.
    pub(super) fn with_clock(
        store: Arc<dyn RelayStore>,
        logs: Vec<Arc<dyn EventLog>>,
        webhooks: watch::Receiver<Webhooks>,
        config: RelayConfig,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Self {
        let process = format!("{:032x}", random::<u128>());
        let context = Arc::new(Context::new(store, config, process, clock));
        let doorbells = logs.into_iter().enumerate();
        let doorbells = doorbells.map(|(index, log)| Arc::new(Doorbell::new(index, log))).collect();
        Self { context, webhooks, doorbells, warnings: watch::Sender::new(Vec::new()) }
    }

    /// Returns the warnings as they change: a sentence for each paused webhook, failing check, and webhook
    /// without progress.
    pub fn warnings(&self) -> watch::Receiver<Vec<String>> {
        self.warnings.subscribe()
    }

    /// Delivers until `shutdown`, and then what is under way, for `drain` at most. It returns when all
    /// feeds were given back.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>, drain: Duration) {
        begin_relay(self.doorbells.len());
        let mut doorbells = JoinSet::new();
        for doorbell in self.doorbells.clone() {
            doorbells.spawn(async move { doorbell.run().await });
        }
        let mut ownership = Ownership::new(Arc::clone(&self.context), self.doorbells.clone());
        ownership.set_webhooks(&self.webhooks.borrow_and_update().clone());
        self.deliver(&mut ownership, shutdown).await;
        let deadline = Instant::now() + drain;
        let withdrawal = self.context.store.withdraw(&self.context.process);
        let stop = ownership.stop(deadline, DRAIN_GRACE);
        // Without the withdrawal the others wait until the announcement is over.
        let (_, ()) = tokio::join!(timeout(ANNOUNCE_TIMEOUT, withdrawal), stop);
    }

    async fn deliver(&mut self, ownership: &mut Ownership, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let mut tick = interval(ANNOUNCE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut announcement: Option<BoxFuture<'static, Announced>> = None;
        let mut reports = Reports::new(Arc::clone(&self.context));
        let (failures, mut are_webhooks_followed) = (LogThrottle::default(), true);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => return,
                _ = tick.tick() => {
                    announcement.get_or_insert_with(|| self.announce(ownership));
                    self.set_warnings(ownership.warnings());
                    reports.begin(ownership);
                }
                announced = wait_for(&mut announcement) => {
                    announcement = None;
                    match announced {
                        Ok(processes) => ownership.assign(&processes),
                        Err(error) => log_failure(&failures, &error),
                    }
                }
                changed = self.webhooks.changed(), if are_webhooks_followed => {
                    // Nobody rereads the file any more.
                    are_webhooks_followed = changed.is_ok();
                    ownership.set_webhooks(&self.webhooks.borrow_and_update().clone());
                    announcement = Some(self.announce(ownership));
                }
                () = ownership.advance() => {}
                () = reports.advance() => {}
            }
        }
    }

    fn announce(&self, ownership: &Ownership) -> BoxFuture<'static, Announced> {
        let (context, webhooks) = (Arc::clone(&self.context), ownership.webhooks());
        let announce = async move {
            let process = RelayProcess { id: context.process.clone(), webhooks };
            let call = context.store.announce(&process, ANNOUNCE_TTL);
            let late = |_| Err(StoreError::unavailable("no answer to an announcement"));
            timeout(ANNOUNCE_TIMEOUT, call).await.unwrap_or_else(late)
        };
        announce.boxed()
    }

    fn set_warnings(&self, warnings: Vec<String>) {
        self.warnings.send_if_modified(|known| {
            let is_other = *known != warnings;
            *known = warnings;
            is_other
        });
    }
}

async fn wait_for<T>(operation: &mut Option<BoxFuture<'static, T>>) -> T {
    match operation {
        Some(operation) => operation.await,
        None => std::future::pending().await,
    }
}

fn log_failure(failures: &LogThrottle, error: &StoreError) {
    if let Some(suppressed) = failures.permit() {
        let cause = error.to_string();
        tracing::warn!(?cause, suppressed, "cannot announce this process to the others");
    }
}
