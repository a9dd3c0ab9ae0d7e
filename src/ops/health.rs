//! Readiness, and `grpc.health.v1.Health`: SERVING while Redis answers and the server is not leaving.

use std::borrow::Cow;

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use crate::identity::jwks::KeysState;
use crate::net::lifecycle::Phase;
use crate::proto::mark_read_service_server::SERVICE_NAME;
use crate::store::{HealthReceiver, StoreHealth};
use crate::telemetry::metrics;

/// Readiness of this server for calls, as Health and `/readyz` report it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Calls may be sent to it. The warnings are for people.
    Ready {
        /// One sentence each.
        warnings: Vec<Cow<'static, str>>,
    },
    /// No calls should be sent to it, for this reason.
    NotReady(String),
}

/// The states that readiness depends on.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The server's phase.
    pub phase: watch::Receiver<Phase>,
    /// Health of the store.
    pub store: HealthReceiver,
    /// State of the keys that verify tokens.
    pub keys: watch::Receiver<KeysState>,
}

impl Sources {
    /// Returns the current readiness.
    pub fn readiness(&self) -> Readiness {
        match (&*self.phase.borrow(), &*self.store.borrow(), &*self.keys.borrow()) {
            (Phase::Leaving | Phase::Draining, ..) => Readiness::NotReady("draining".to_owned()),
            (Phase::Serving, StoreHealth::Away(cause), _) => Readiness::NotReady(cause.clone()),
            (Phase::Serving, _, KeysState::NeverFetched(cause)) => {
                Readiness::NotReady(format!("no keys from --jwt-jwks-url: {cause}"))
            }
            (Phase::Serving, StoreHealth::Ready { warnings }, KeysState::Available) => {
                Readiness::Ready { warnings: warnings.clone() }
            }
        }
    }

    /// Waits for a change. Returns false once nothing can change any more.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            Ok(()) = self.phase.changed() => true,
            Ok(()) = self.store.changed() => true,
            Ok(()) = self.keys.changed() => true,
            else => false,
        }
    }
}

/// Creates the health service, and the future that keeps it up to date.
pub async fn service(sources: Sources) -> (HealthService, impl Future<Output = ()> + use<>) {
    let reporter = HealthReporter::new();
    report(&reporter, ServingStatus::NotServing).await;
    let service = HealthService::from_health_reporter(reporter.clone());
    (service, run(reporter, sources))
}

async fn run(reporter: HealthReporter, mut sources: Sources) {
    let mut last = ServingStatus::NotServing;
    loop {
        let up = matches!(&*sources.store.borrow(), StoreHealth::Ready { .. });
        metrics::set_store_up(up);
        let status = match sources.readiness() {
            Readiness::Ready { .. } => ServingStatus::Serving,
            Readiness::NotReady(_) => ServingStatus::NotServing,
        };
        // Each report goes to every Health/Watch; a changed cause is not a changed status.
        if status != last {
            report(&reporter, status).await;
            last = status;
        }
        if !sources.changed().await {
            return;
        }
    }
}

/// Returns the health of a store with warnings of its user, and the future that keeps it up to date.
pub fn with_warnings(
    mut store: HealthReceiver,
    [mut some, mut others]: [watch::Receiver<Vec<String>>; 2],
) -> (HealthReceiver, impl Future<Output = ()> + use<>) {
    let combined = |store: &HealthReceiver, warnings: [&watch::Receiver<Vec<String>>; 2]| {
        let mut health = store.borrow().clone();
        if let StoreHealth::Ready { warnings: all } = &mut health {
            for warnings in warnings {
                all.extend(warnings.borrow().iter().cloned().map(Cow::Owned));
            }
        }
        health
    };
    let (sender, receiver) = watch::channel(combined(&store, [&some, &others]));
    let run = async move {
        loop {
            metrics::set_store_up(matches!(&*store.borrow(), StoreHealth::Ready { .. }));
            sender.send_replace(combined(&store, [&some, &others]));
            tokio::select! {
                Ok(()) = store.changed() => {}
                Ok(()) = some.changed() => {}
                Ok(()) = others.changed() => {}
                else => return,
            }
        }
    };
    (receiver, run)
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}
