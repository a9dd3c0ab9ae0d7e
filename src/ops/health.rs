//! `grpc.health.v1.Health`: SERVING while Redis answers and the server is not on its way out.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::{HealthReporter, HealthService};

use crate::edge::grpc::MESSAGE_MAX_BYTES;
use crate::identity::jwks::KeysState;
use crate::net::lifecycle::Phase;
use crate::proto::mark_read_service_server::SERVICE_NAME;
use crate::store::StoreHealth;
use crate::telemetry::metrics;

/// tonic's health server.
pub type HealthServer = health_server::HealthServer<HealthService>;

/// Whether calls are to be sent here, with the cause where they are not: what Health and `/readyz`
/// both tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes; the warnings are for people.
    Ready {
        /// One sentence each.
        warnings: Vec<&'static str>,
    },
    /// No, for this reason.
    NotReady(String),
}

/// What readiness is made of.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Where the server stands.
    pub phase: watch::Receiver<Phase>,
    /// Whether the store can be asked.
    pub store: watch::Receiver<StoreHealth>,
    /// Whether tokens can be verified.
    pub keys: watch::Receiver<KeysState>,
}

impl Sources {
    /// What they come to now.
    pub fn readiness(&self) -> Readiness {
        match (&*self.phase.borrow(), &*self.store.borrow(), &*self.keys.borrow()) {
            (Phase::Leaving | Phase::Draining, ..) => Readiness::NotReady("draining".to_owned()),
            (Phase::Serving, StoreHealth::Away(cause), _) => Readiness::NotReady(cause.clone()),
            (Phase::Serving, _, KeysState::NeverFetched(cause)) => {
                Readiness::NotReady(format!("no keys from --jwt-jwks-url: {cause}"))
            }
            (Phase::Serving, StoreHealth::Ready { warnings }, KeysState::There) => {
                Readiness::Ready { warnings: warnings.clone() }
            }
        }
    }

    /// Waits for a change of any. False when none can change any more.
    async fn changed(&mut self) -> bool {
        tokio::select! {
            Ok(()) = self.phase.changed() => true,
            Ok(()) = self.store.changed() => true,
            Ok(()) = self.keys.changed() => true,
            else => false,
        }
    }
}

/// The health server, and what keeps it up to date for as long as the process runs.
pub async fn server(sources: Sources) -> (HealthServer, impl Future<Output = ()> + use<>) {
    let reporter = HealthReporter::new();
    report(&reporter, ServingStatus::NotServing).await;
    let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    (server, keep_reporting(reporter, sources))
}

async fn keep_reporting(reporter: HealthReporter, mut sources: Sources) {
    let mut told = ServingStatus::NotServing;
    loop {
        let up = matches!(&*sources.store.borrow(), StoreHealth::Ready { .. });
        metrics::set_store_up(up);
        let status = match sources.readiness() {
            Readiness::Ready { .. } => ServingStatus::Serving,
            Readiness::NotReady(_) => ServingStatus::NotServing,
        };
        // Watchers are told of every report: a cause that changes is none.
        if status != told {
            report(&reporter, status).await;
            told = status;
        }
        if !sources.changed().await {
            return;
        }
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}
