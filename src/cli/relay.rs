//! `markread relay`: delivers events to webhooks until it is told to leave.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::config::RelaySettings;
use super::serve::{ServeError, failed};
use super::signals::{Signals, reread_at_hangup};
use crate::identity::jwks::KeysState;
use crate::net::cpus::WorkerCount;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::memory::{self, MemoryLimit};
use crate::net::pressure::MemoryPressure;
use crate::net::workers::Workers;
use crate::ops::health::{Sources, with_warnings};
use crate::ops::pages;
use crate::ops::port::OpsPort;
use crate::relay::Relay;
use crate::store::redis::RedisStore;
use crate::store::{EventLogs, StoreHealth};
use crate::telemetry::metrics;

/// Time for the first connections to Redis. After it deliveries begin in any case, and say why they cannot.
const CONNECT_TIME: Duration = Duration::from_secs(1);

/// Delivers until SIGTERM or SIGINT, then drains. A second signal ends the drain at once.
///
/// # Errors
///
/// [`ServeError`], before anything was delivered, or if the first Redis it meets has another layout.
pub(super) async fn relay(settings: RelaySettings, count: WorkerCount) -> Result<(), ServeError> {
    let RelaySettings { redis, webhooks, relay: config, ops_listen, drain, .. } = settings;
    let mut signals = Signals::new().map_err(|error| failed("signals", error))?;
    let reread = reread_at_hangup().map_err(|error| failed("signals", error))?;
    let ops = OpsPort::bind(ops_listen)
        .map_err(|error| failed(&format!("--ops-listen {ops_listen}"), error))?;
    let page = metrics::install().map_err(|error| failed("metrics", error))?;
    let lifecycle = Lifecycle::default();
    let (store, mut supervisor) = RedisStore::start(redis, Workers::here());
    log_start(&ops, count, webhooks.watch().borrow().len());

    let (store_health, mut first_health) = (store.health(), store.health());
    let logs = Arc::clone(&store).logs();
    let relay = Relay::new(store, logs, webhooks.watch(), config);
    let (health, combine) = with_warnings(store_health, [relay.warnings(), webhooks.warnings()]);
    tokio::spawn(combine);
    // There are no callers, and so no keys.
    let (_keys, keys) = watch::channel(KeysState::Available);
    ops.serve(
        pages::router(page.clone(), Sources { phase: lifecycle.watch(), store: health, keys }),
        page,
    );
    if let Err(error) = memory::start(MemoryLimit::find(None), MemoryPressure::default()) {
        tracing::warn!(%error, "memory cannot be measured");
    }
    let shutdown = CancellationToken::new();
    let shutting_down = shutdown.clone().cancelled_owned();
    let mut running = tokio::spawn(async move {
        // Redis usually answers at once, and there is nothing to log.
        let _ = timeout(CONNECT_TIME, first_health.wait_for(is_ready)).await;
        relay.run(shutting_down, drain).await;
    });

    tokio::select! {
        () = signals.next() => {}
        ended = &mut supervisor => return Err(match ended {
            Ok(mismatch) => ServeError::Layout(mismatch),
            Err(error) => failed("Redis", error),
        }),
        () = webhooks.run(&reread) => {}
        // It ends only while draining.
        _ = &mut running => return Err(failed("relay", "events are no longer delivered")),
    }
    tracing::info!("leaving");
    lifecycle.advance(Phase::Draining);
    shutdown.cancel();
    tokio::select! {
        _ = running => tracing::info!("drained"),
        () = signals.next() => tracing::info!("drain ended by a second signal"),
    }
    Ok(())
}

fn is_ready(health: &StoreHealth) -> bool {
    matches!(health, StoreHealth::Ready { .. })
}

fn log_start(ops: &OpsPort, WorkerCount { threads, source }: WorkerCount, webhooks: usize) {
    let ops = ops.address.to_string();
    tracing::info!(ops, webhooks, "listening");
    tracing::info!(threads, source, "worker threads");
}
