//! The settings of each command, validated.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{RateLimit, UserId};
use crate::edge::EdgeConfig;
use crate::identity::jwt::{ExpectedClaims, Secret};
use crate::net::listener::Limits;
use crate::net::tls::Tls;
use crate::store::redis::{RedisConfig, RedisStore};
use crate::telemetry::{LogFormat, TracesConfig};

mod admin;
mod client;
mod identity;
mod redis;
mod relay;
mod traces;
mod validate;
mod webhook;

pub use self::relay::RelaySettings;
pub use self::webhook::WebhookRun;

/// Settings of `markread serve`.
#[derive(Debug)]
pub struct ServeConfig {
    /// Address of gRPC and of plain HTTP.
    pub listen: SocketAddr,
    /// TLS on that address.
    pub tls: Option<Arc<Tls>>,
    /// Address of `/metrics`, `/livez` and `/readyz`.
    pub ops_listen: SocketAddr,
    /// The store.
    pub backend: Backend,
    /// Settings of the edge.
    pub edge: EdgeConfig,
    /// Bounds of connections.
    pub limits: Limits,
    /// Memory that the process may use, in bytes; `None`: what its cgroups allow.
    pub memory_limit: Option<u64>,
    /// How long calls are still accepted after SIGTERM.
    pub drain_delay: Duration,
    /// How long calls in flight may finish after that.
    pub drain: Duration,
    /// Threads that serve calls; `None`: as many as its CPU quota allows.
    pub worker_threads: Option<usize>,
    /// Format of log lines; `None`: text on a terminal, otherwise JSON.
    pub log_format: Option<LogFormat>,
    /// The collector of spans; `None` if calls are not traced. An error is a variable that cannot be
    /// used: clusters set them for all their services, so it is logged and calls are not traced.
    pub traces: Result<Option<TracesConfig>, String>,
}

/// A store, with its settings.
#[derive(Debug)]
pub enum Backend {
    /// In Redis.
    Redis(Box<RedisConfig>),
    /// In this process: `--dev`.
    Memory {
        /// The quota of each reader.
        rate_limit: RateLimit,
        /// The read quota of each reader.
        read_rate_limit: RateLimit,
        /// Number of events that are kept; 0 keeps all.
        stream_max_entries: usize,
        /// Size of the payloads that are kept, in bytes; `None` keeps any.
        stream_max_bytes: Option<usize>,
    },
}

impl Backend {
    /// Returns how many connections to Redis so many worker threads need.
    pub(in crate::cli) fn redis_connections(&self, worker_threads: usize) -> usize {
        match self {
            Self::Redis(config) => RedisStore::connections(worker_threads, config.ack),
            Self::Memory { .. } => 0,
        }
    }
}

/// Settings of `markread token`.
#[derive(Debug)]
pub struct TokenConfig {
    /// The user in the token.
    pub user: UserId,
    /// The secret that signs it.
    pub secret: Secret,
    /// How long it is valid.
    pub ttl: Duration,
    /// File to write it to; `None` is standard output.
    pub output: Option<PathBuf>,
    /// Its issuer and audience.
    pub expected: ExpectedClaims,
}
