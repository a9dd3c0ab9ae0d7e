//! The connection to Redis: made, probed each second, replaced when it is lost.
//!
//! The redis crate's own connection manager reconnects too, but does not say when; and what is
//! remembered of a Redis has to be forgotten, and its layout looked at, each time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult, Value, pipe,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::denials::Denials;
use super::durability;
use super::errors::classify;
use super::keys;
use super::script::MarkReadScript;
use crate::metrics::Metrics;
use crate::store::{StoreError, StoreHealth};

/// How often Redis is asked whether it is there. Off after two failures, on after one success.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long a connection, or a probe, may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Probes that fail in a row before a connection that seems open is taken for dead.
const PROBES_BEFORE_RECONNECT: u32 = 3;

/// Between two attempts to connect, in milliseconds; at random, so that replicas of the service
/// keep apart.
const RECONNECT_MS: std::ops::RangeInclusive<u64> = 100..=400;

/// What this server expects to find in, and writes to, the layout key.
const LAYOUT_VERSION: &str = "1";
const PARTITIONS: &str = "1";

/// What calls need of the connection.
#[derive(Debug)]
pub(super) struct Link {
    connection: ArcSwapOption<MultiplexedConnection>,
    health: watch::Sender<StoreHealth>,
}

impl Link {
    pub(super) fn new() -> Self {
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        Self { connection: ArcSwapOption::empty(), health }
    }

    /// The connection, where there is one: a call does not wait for it to come back.
    pub(super) fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        match &*self.connection.load() {
            Some(connection) => Ok(MultiplexedConnection::clone(connection)),
            None => Err(StoreError::unavailable("not connected")),
        }
    }

    pub(super) fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.subscribe()
    }
}

/// Redis holds cursors of another layout, which this server would not find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutMismatch {
    version: String,
    partitions: String,
}

impl fmt::Display for LayoutMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, partitions } = self;
        write!(
            f,
            "Redis holds layout version {version:?} in {partitions:?} partitions, this server \
             works on version {LAYOUT_VERSION:?} in {PARTITIONS:?}"
        )
    }
}

/// Why a probe failed.
enum Problem {
    Layout(LayoutMismatch),
    Lost(String),
    Failed(String),
}

impl From<RedisError> for Problem {
    fn from(error: RedisError) -> Self {
        // A replica that was the master until now stays open and refuses: look for the master.
        let lost = error.is_unrecoverable_error() || error.code() == Some("READONLY");
        let text = classify(error).to_string();
        if lost { Self::Lost(text) } else { Self::Failed(text) }
    }
}

/// Keeps the link's connection.
pub(super) struct Keeper {
    client: Client,
    stream: String,
    link: Arc<Link>,
    denials: Arc<Denials>,
    failing_since: Option<Instant>,
    met: bool,
}

impl Keeper {
    pub(super) fn new(
        client: Client,
        stream: String,
        link: Arc<Link>,
        denials: Arc<Denials>,
    ) -> Self {
        Self { client, stream, link, denials, failing_since: None, met: false }
    }

    /// Keeps on for ever, unless the first Redis met has another layout.
    pub(super) async fn run(mut self) -> LayoutMismatch {
        loop {
            let lost = Arc::new(Notify::new());
            match self.connect(Arc::clone(&lost)).await {
                Ok(connection) => {
                    if let Some(mismatch) = self.tend(connection, &lost).await {
                        return mismatch;
                    }
                }
                Err(problem) => self.note_failure(problem),
            }
            sleep(Duration::from_millis(rand::random_range(RECONNECT_MS))).await;
        }
    }

    async fn connect(&self, lost: Arc<Notify>) -> Result<MultiplexedConnection, String> {
        let config = AsyncConnectionConfig::new()
            // Calls and probes have deadlines of their own.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    lost.notify_one();
                }
                Ok(())
            });
        let connect = async {
            let mut connection =
                self.client.get_multiplexed_async_connection_with_config(&config).await?;
            MarkReadScript::load().query_async::<()>(&mut connection).await?;
            Ok(connection)
        };
        match timeout(PROBE_TIMEOUT, connect).await {
            Ok(connected) => connected.map_err(|error: RedisError| classify(error).to_string()),
            Err(_) => Err("no answer to a connection".to_owned()),
        }
    }

    /// Probes a connection until it is lost.
    async fn tend(
        &mut self,
        connection: MultiplexedConnection,
        lost: &Notify,
    ) -> Option<LayoutMismatch> {
        self.denials.forget();
        let mut failures = 0;
        let mut in_use = false;
        loop {
            match self.probe(connection.clone()).await {
                Ok(warnings) => {
                    failures = 0;
                    if !in_use {
                        in_use = true;
                        self.link.connection.store(Some(Arc::new(connection.clone())));
                    }
                    self.note_success(warnings);
                }
                Err(Problem::Layout(mismatch)) if !self.met => return Some(mismatch),
                Err(Problem::Layout(mismatch)) => {
                    in_use = false;
                    self.link.connection.store(None);
                    self.note_failure(mismatch.to_string());
                }
                Err(Problem::Lost(cause)) => return self.let_go(cause),
                Err(Problem::Failed(cause)) => {
                    failures += 1;
                    if failures == PROBES_BEFORE_RECONNECT {
                        return self.let_go(cause);
                    }
                    self.note_failure(cause);
                }
            }
            tokio::select! {
                () = sleep(PROBE_INTERVAL) => {}
                () = lost.notified() => return self.let_go("the connection was closed".to_owned()),
            }
        }
    }

    fn let_go(&mut self, cause: String) -> Option<LayoutMismatch> {
        self.link.connection.store(None);
        self.note_failure(cause);
        None
    }

    /// Looks at the layout, writes it where it is absent, and learns the stream's length. Since it
    /// would write, it fails where a call would: on a replica, out of memory, too few replicas.
    async fn probe(
        &self,
        mut connection: MultiplexedConnection,
    ) -> Result<Vec<&'static str>, Problem> {
        let probe = async {
            let mut layout = pipe();
            layout.cmd("HSETNX").arg(keys::LAYOUT).arg("version").arg(LAYOUT_VERSION);
            layout.cmd("HSETNX").arg(keys::LAYOUT).arg("partitions").arg(PARTITIONS);
            layout.cmd("HMGET").arg(keys::LAYOUT).arg("version").arg("partitions");
            let (first, second, (version, partitions)): (bool, bool, (String, String)) =
                layout.query_async(&mut connection).await?;
            if first || second {
                // It was flushed, or it is new.
                self.denials.forget();
            }
            if version != LAYOUT_VERSION || partitions != PARTITIONS {
                return Err(Problem::Layout(LayoutMismatch { version, partitions }));
            }
            // A stream of a wrong type fails the calls that publish, not the probe.
            let length: RedisResult<Value> =
                redis::cmd("XLEN").arg(&self.stream).query_async(&mut connection).await;
            if let Ok(Value::Int(length)) = length {
                Metrics::set_stream_length(u32::try_from(length).unwrap_or(u32::MAX));
            }
            Ok(durability::warnings(&mut connection).await)
        };
        match timeout(PROBE_TIMEOUT, probe).await {
            Ok(result) => result,
            Err(_) => Err(Problem::Failed("no answer to a probe".to_owned())),
        }
    }

    fn note_success(&mut self, warnings: Vec<&'static str>) {
        if self.failing_since.take().is_some() || !self.met {
            tracing::info!("Redis answers");
        }
        self.met = true;
        let health = StoreHealth::Ready { warnings };
        self.link.health.send_if_modified(|known| {
            if *known == health {
                return false;
            }
            if let StoreHealth::Ready { warnings } = &health {
                Metrics::set_store_warnings(warnings.len());
                for warning in warnings {
                    tracing::warn!("{warning}");
                }
            }
            *known = health;
            true
        });
    }

    fn note_failure(&mut self, cause: String) {
        let since = *self.failing_since.get_or_insert_with(|| {
            tracing::warn!(?cause, "Redis does not answer");
            Instant::now()
        });
        if since.elapsed() >= PROBE_INTERVAL {
            self.link.health.send_replace(StoreHealth::Away(cause));
        }
    }
}
