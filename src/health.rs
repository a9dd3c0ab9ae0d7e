//! `grpc.health.v1.Health`: SERVING while Redis answers and the server is not on its way out.

use tokio::sync::watch;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::{HealthReporter, HealthService};

use crate::grpc::MESSAGE_MAX_BYTES;
use crate::lifecycle::{Lifecycle, Phase};
use crate::proto::mark_read_service_server::SERVICE_NAME;
use crate::store::StoreHealth;

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

impl Readiness {
    /// What the phase and the store's health come to.
    pub fn of(phase: Phase, store: &StoreHealth) -> Self {
        match (phase, store) {
            (Phase::Serving, StoreHealth::Ready { warnings }) => {
                Self::Ready { warnings: warnings.clone() }
            }
            (Phase::Serving, StoreHealth::Away(cause)) => Self::NotReady(cause.clone()),
            (Phase::Leaving | Phase::Draining, _) => Self::NotReady("draining".to_owned()),
        }
    }
}

/// The health server, and what keeps it up to date for as long as the process runs.
pub async fn server(
    lifecycle: &Lifecycle,
    store: watch::Receiver<StoreHealth>,
) -> (HealthServer, impl Future<Output = ()> + use<>) {
    let reporter = HealthReporter::new();
    report(&reporter, ServingStatus::NotServing).await;
    let server = HealthServer::new(HealthService::from_health_reporter(reporter.clone()))
        .max_decoding_message_size(MESSAGE_MAX_BYTES);
    (server, keep_reporting(reporter, lifecycle.watch(), store))
}

async fn keep_reporting(
    reporter: HealthReporter,
    mut phase: watch::Receiver<Phase>,
    mut store: watch::Receiver<StoreHealth>,
) {
    let mut told = ServingStatus::NotServing;
    loop {
        let readiness = Readiness::of(*phase.borrow_and_update(), &store.borrow_and_update());
        let status = match readiness {
            Readiness::Ready { .. } => ServingStatus::Serving,
            Readiness::NotReady(_) => ServingStatus::NotServing,
        };
        // Watchers are told of every report: a cause that changes is none.
        if status != told {
            report(&reporter, status).await;
            told = status;
        }
        tokio::select! {
            Ok(()) = phase.changed() => {}
            Ok(()) = store.changed() => {}
            else => return,
        }
    }
}

async fn report(reporter: &HealthReporter, status: ServingStatus) {
    reporter.set_service_status("", status).await;
    reporter.set_service_status(SERVICE_NAME, status).await;
}
