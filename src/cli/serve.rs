//! `markread serve`: puts everything together, says where it listens, serves, drains.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use hyper_util::service::TowerToHyperService;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::cli::config::{Backend, ServeConfig};
use crate::edge::Edge;
use crate::identity::Identity;
use crate::net::lifecycle::{Lifecycle, Phase};
use crate::net::listener::{Limits, Listener};
use crate::ops::health::{self, Sources};
use crate::ops::pages;
use crate::service::Service;
use crate::service::watch::Hub;
use crate::store::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::{LayoutMismatch, RedisStore};
use crate::telemetry::metrics::{self, Metrics};

/// Why a server did not serve.
#[derive(Debug)]
pub enum ServeError {
    /// Redis was set up for a server with other settings: exit status 2.
    Layout(LayoutMismatch),
    /// Anything else: exit status 1.
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

fn failed(what: &str, error: impl fmt::Display) -> ServeError {
    ServeError::Failed(format!("{what}: {error}"))
}

/// Serves until SIGTERM or SIGINT, then drains. A second signal ends the drain at once.
///
/// # Errors
///
/// [`ServeError`], before anything was served, or when the first Redis met has another layout.
pub async fn serve(config: ServeConfig) -> Result<(), ServeError> {
    let ServeConfig { listen, ops_listen, tls, backend, edge, limits, drain_delay, drain, .. } =
        config;
    let mut signals = Signals::new().map_err(|error| failed("signals", error))?;
    let listener = bind("--listen", listen, limits)?.behind(tls.clone());
    let ops_listener = bind("--ops-listen", ops_listen, limits)?;
    let page = metrics::install().map_err(|error| failed("metrics", error))?;
    let metrics = Arc::new(Metrics::default());
    let lifecycle = Lifecycle::default();
    let (store, mut keeper) = open_store(backend);

    tell_listening(&listener, &ops_listener);
    warn_of(&edge.identity, tls.is_some());
    if let Some(tls) = tls {
        tokio::spawn(tls.keep());
    }
    let keys = edge.identity.start();
    let sources = Sources { phase: lifecycle.watch(), store: store.health(), keys };
    let (health, reporting) = health::server(sources.clone()).await;
    tokio::spawn(reporting);
    tokio::spawn(metrics::upkeep(page.clone()));
    tokio::spawn(serve_ops(ops_listener, pages::router(page, sources)));
    let hub = Arc::new(Hub::new(Arc::clone(&store)));
    tokio::spawn(Arc::clone(&hub).keep());
    let service = Arc::new(Service::new(store, hub, Arc::clone(&metrics)));
    let edge = Edge::new(edge, service, health, lifecycle.clone(), metrics)
        .map_err(|error| failed("reflection", error))?;
    let mut served =
        tokio::spawn(listener.serve(move |peer| edge.of_peer(peer), lifecycle.clone()));

    tokio::select! {
        () = signals.next() => {}
        ended = &mut keeper => return Err(match ended {
            Ok(mismatch) => ServeError::Layout(mismatch),
            Err(error) => failed("Redis", error),
        }),
        // It ends in the drain only.
        _ = &mut served => return Err(failed("--listen", "no connection is accepted any more")),
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

/// The store, and a task that ends only when Redis turns out to have another layout.
fn open_store(backend: Backend) -> (Arc<dyn Store>, JoinHandle<LayoutMismatch>) {
    match backend {
        Backend::Redis(config) => {
            let (store, keeper) = RedisStore::start(*config);
            (store, keeper)
        }
        Backend::Memory { rate_limit, read_rate_limit, stream_max_entries } => {
            let store = Arc::new(MemoryStore::new(rate_limit, read_rate_limit, stream_max_entries));
            (store, tokio::spawn(std::future::pending()))
        }
    }
}

fn tell_listening(listener: &Listener, ops_listener: &Listener) {
    if let (Ok(grpc), Ok(ops)) = (listener.local_addr(), ops_listener.local_addr()) {
        let (grpc, ops) = (grpc.to_string(), ops.to_string());
        tracing::info!(grpc, ops, "listening");
    }
}

/// What an operator should know of who is let in.
fn warn_of(identity: &Identity, tls: bool) {
    match identity {
        Identity::Dev => {
            tracing::warn!("--dev: callers are whom they say, and everything is gone at the exit");
        }
        Identity::Proven { oauth1: Some(oauth1), .. } if !tls && !oauth1.knows_public_urls() => {
            tracing::warn!(
                "OAuth 1.0a without --tls-cert and --public-url: only clients that sign http:// \
                 are let in; name what they sign with --public-url where a proxy ends TLS"
            );
        }
        Identity::Proven { .. } => {}
    }
}

/// The operators' port is there until the process is not, so it knows no drain.
async fn serve_ops(listener: Listener, pages: axum::Router) {
    listener.serve(move |_| TowerToHyperService::new(pages.clone()), Lifecycle::default()).await;
}

/// SIGTERM and SIGINT, which mean the same.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
