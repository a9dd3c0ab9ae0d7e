//! `markread relay`: delivers events to webhooks until it is told to leave.

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::config::RelaySettings;
use super::serve::{ServeError, failed};
use super::signals::{Signals, reread_at_hangup};
use crate::identity::jwks::KeysState;
use crate::net::cpus::WorkerCount;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::workers::Workers;
use crate::ops::health::{Sources, with_warnings};
use crate::ops::pages;
use crate::ops::port::OpsPort;
use crate::relay::Relay;
use crate::store::EventLogs;
use crate::store::redis::RedisStore;
use crate::telemetry::metrics;

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

    let store_health = store.health();
    let logs = Arc::clone(&store).logs();
    let relay = Relay::new(store, logs, webhooks.watch(), config);
    let (health, combine) = with_warnings(store_health, relay.warnings());
    tokio::spawn(combine);
    // There are no callers, and so no keys.
    let (_keys, keys) = watch::channel(KeysState::Available);
    ops.serve(
        pages::router(page.clone(), Sources { phase: lifecycle.watch(), store: health, keys }),
        page,
    );
    let shutdown = CancellationToken::new();
    let mut running = tokio::spawn(relay.run(shutdown.clone().cancelled_owned(), drain));

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

fn log_start(ops: &OpsPort, WorkerCount { threads, source }: WorkerCount, webhooks: usize) {
    let ops = ops.address.to_string();
    tracing::info!(ops, webhooks, "listening");
    tracing::info!(threads, source, "worker threads");
}
