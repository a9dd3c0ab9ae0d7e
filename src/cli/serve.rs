//! `markread serve`: builds everything, logs its addresses, serves, drains.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::config::{Backend, ServeConfig};
use super::signals::{Signals, reread_at_hangup};
use super::start;
use crate::edge::Edge;
use crate::identity::Identity;
use crate::net::cpus::WorkerCount;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::listener::{Limits, Listener};
use crate::net::memory::{self, MemoryLimit};
use crate::net::pressure::{MemoryPressure, Pressure};
use crate::net::workers::Workers;
use crate::ops::health::{self, Sources};
use crate::ops::pages;
use crate::ops::port::OpsPort;
use crate::service::Service;
use crate::service::watch::Hub;
use crate::store::memory::MemoryStore;
use crate::store::redis::{LayoutMismatch, RedisStore};
use crate::store::{HealthReceiver, Store};
use crate::telemetry::metrics::{self, Metrics};

/// Pause between two times that slow watchers are ended.
const SLOW_WATCHERS_PAUSE: Duration = Duration::from_secs(1);

/// Why a server could not serve, or a relay not deliver.
#[derive(Debug)]
pub enum ServeError {
    /// Redis has another layout: exit status 2.
    Layout(LayoutMismatch),
    /// Any other error: exit status 1.
    Failed(String),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(mismatch) => mismatch.fmt(f),
            Self::Failed(problem) => f.write_str(problem),
        }
    }
}

pub(super) fn failed(what: &str, error: impl fmt::Display) -> ServeError {
    ServeError::Failed(format!("{what}: {error}"))
}

/// Serves on these workers until SIGTERM or SIGINT, then drains. A second signal ends the drain at once.
///
/// # Errors
///
/// [`ServeError`], before anything was served, or if the first Redis it meets has another layout.
pub async fn serve(
    config: ServeConfig,
    count: WorkerCount,
    workers: Workers,
) -> Result<(), ServeError> {
    let ServeConfig { listen, ops_listen, tls, backend, edge, drain_delay, drain, .. } = config;
    let redis_connections = backend.redis_connections(count.threads);
    let connections =
        start::fit_descriptors(config.limits.connections, count.threads, redis_connections);
    let limits = Limits { connections, ..config.limits };
    let memory_limit = MemoryLimit::find(config.memory_limit);
    let pressure = MemoryPressure::default();
    let mut signals = Signals::new().map_err(|error| failed("signals", error))?;
    let reread = reread_at_hangup().map_err(|error| failed("signals", error))?;
    let listener = bind("--listen", listen, limits)?;
    let listener = listener.with_tls(tls.clone()).with_pressure(pressure.clone());
    let listener = listener.with_workers(workers.clone());
    let ops = OpsPort::bind(ops_listen)
        .map_err(|error| failed(&format!("--ops-listen {ops_listen}"), error))?;
    let page = metrics::install().map_err(|error| failed("metrics", error))?;
    let metrics = Arc::new(Metrics::default());
    let lifecycle = Lifecycle::default();
    let OpenStore { store, health: store_health, mut supervisor } = open_store(backend, workers);

    log_addresses(&listener, &ops);
    log_threads(count, redis_connections);
    warn_about(&edge.identity, tls.is_some());
    start::warn_about_memory(config.memory_limit, memory_limit);
    start::warn_about_connection_memory(limits.connections, memory_limit);
    if let Some(tls) = tls {
        tokio::spawn(tls.run(reread.clone()));
    }
    let keys = edge.identity.start(&reread);
    let sources = Sources { phase: lifecycle.watch(), store: store_health, keys };
    let (health, reporting) = health::service(sources.clone()).await;
    tokio::spawn(reporting);
    ops.serve(pages::router(page.clone(), sources), page);
    if let Err(error) = memory::start(memory_limit, pressure.clone()) {
        tracing::warn!(%error, "memory cannot be measured: it is not bounded");
    }
    let hub = Arc::new(Hub::new(&store));
    tokio::spawn(Arc::clone(&hub).run());
    tokio::spawn(end_slow_watchers(Arc::clone(&hub), pressure.clone()));
    let service = Arc::new(Service::new(store, hub));
    let edge = Edge::new(edge, service, health, lifecycle.clone(), metrics)
        .map_err(|error| failed("reflection", error))?
        .with_memory(pressure, memory_limit.map(|limit| limit.bytes));
    let edge = Arc::new(edge);
    let mut served =
        tokio::spawn(listener.serve(move |peer| edge.for_peer(peer), lifecycle.clone()));

    tokio::select! {
        () = signals.next() => {}
        ended = &mut supervisor => return Err(match ended {
            Ok(mismatch) => ServeError::Layout(mismatch),
            Err(error) => failed("Redis", error),
        }),
        // It ends only while draining.
        _ = &mut served => return Err(failed("--listen", "connections are no longer accepted")),
    }
    tracing::info!("leaving");
    lifecycle.advance(Phase::Leaving);
    let leave = async {
        sleep(drain_delay).await;
        lifecycle.advance(Phase::Draining);
        timeout(drain, served).await
    };
    tokio::select! {
        left = leave => {
            let open = if left.is_ok() { "none" } else { "some" };
            tracing::info!(open, "drained");
        }
        () = signals.next() => tracing::info!("drain ended by a second signal"),
    }
    Ok(())
}

fn bind(flag: &str, address: SocketAddr, limits: Limits) -> Result<Listener, ServeError> {
    Listener::bind(address, limits).map_err(|error| failed(&format!("{flag} {address}"), error))
}

/// A store in use.
struct OpenStore {
    store: Arc<dyn Store>,
    health: HealthReceiver,
    /// Ends only if Redis has another layout.
    supervisor: JoinHandle<LayoutMismatch>,
}

fn open_store(backend: Backend, workers: Workers) -> OpenStore {
    match backend {
        Backend::Redis(config) => {
            let (store, supervisor) = RedisStore::start(*config, workers);
            let health = store.health();
            OpenStore { store, health, supervisor }
        }
        Backend::Memory { rate_limit, read_rate_limit, stream_max_entries, stream_max_bytes } => {
            let store = MemoryStore::new(rate_limit, read_rate_limit, stream_max_entries);
            let store = Arc::new(store.with_stream_max_bytes(stream_max_bytes));
            let health = store.health();
            OpenStore { store, health, supervisor: tokio::spawn(std::future::pending()) }
        }
    }
}

fn log_addresses(listener: &Listener, ops: &OpsPort) {
    if let Ok(grpc) = listener.local_addr() {
        let (grpc, ops) = (grpc.to_string(), ops.address.to_string());
        tracing::info!(grpc, ops, "listening");
    }
}

fn log_threads(WorkerCount { threads, source }: WorkerCount, redis_connections: usize) {
    tracing::info!(threads, source, redis_connections, "worker threads");
}

/// Ends the watchers with the longest queues while memory is nearly used up.
async fn end_slow_watchers(hub: Arc<Hub>, pressure: MemoryPressure) {
    let mut watch = pressure.watch();
    // The sender lives in `pressure`: the wait cannot fail.
    while watch.wait_for(|pressure| *pressure == Pressure::Critical).await.is_ok() {
        hub.end_slow_watchers();
        sleep(SLOW_WATCHERS_PAUSE).await;
    }
}

/// Warns about settings of identity.
fn warn_about(identity: &Identity, tls: bool) {
    match identity {
        Identity::Dev => {
            tracing::warn!(
                "--dev: callers are not authenticated, and everything is lost at the exit"
            );
        }
        Identity::Required { oauth1: Some(oauth1), .. } if !tls && !oauth1.has_public_urls() => {
            tracing::warn!(
                "OAuth 1.0a without --tls-cert and --public-url: only clients that sign http:// are \
                 accepted; if a proxy terminates TLS, set --public-url to what clients sign"
            );
        }
        Identity::Required { .. } => {}
    }
}
