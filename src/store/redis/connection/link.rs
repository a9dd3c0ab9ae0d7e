//! The connection to Redis: made, probed each second, replaced when it is lost.
//!
//! The redis crate's own connection manager reconnects too, but does not say when; and what is
//! remembered of a Redis has to be forgotten, and its layout looked at, each time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisError, RedisResult, pipe};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::domain::RateLimit;
use crate::store::redis::Scripts;
use crate::store::redis::connection::address::RedisAddress;
use crate::store::redis::errors::{classify, server_text};
use crate::store::redis::keys;
use crate::store::redis::marks::denials::Denials;
use crate::store::redis::probe::durability::Warnings;
use crate::store::redis::probe::stats::Survey;
use crate::store::{StoreError, StoreHealth};
use crate::telemetry::metrics;

/// How often Redis is asked whether it is there. Off after two failures, on after one success.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// From the first failure to the one that turns health off: as long as two probes are apart, less
/// what the first may have taken longer than the second.
const OFF_AFTER: Duration = Duration::from_millis(900);

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long it may take to connect, the scripts' loading and the first probe included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Probes that fail in a row before another connection is tried. The one that is there stays in
/// use until the other is.
const PROBES_BEFORE_RECONNECT: u32 = 3;

/// How long what was sent may stay unacknowledged by the machine at the other end.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(5);

/// Between two attempts to connect, in milliseconds; at random, so that replicas of the service
/// keep apart.
const RECONNECT_MS: std::ops::RangeInclusive<u64> = 100..=400;

/// What this server expects to find in, and writes to, the layout key.
const LAYOUT_VERSION: &str = "1";
const PARTITIONS: &str = "1";

/// What calls need of the connection.
#[derive(Debug)]
pub(crate) struct Link {
    connection: ArcSwapOption<MultiplexedConnection>,
    tail: ArcSwapOption<MultiplexedConnection>,
    health: watch::Sender<StoreHealth>,
}

impl Link {
    pub(crate) fn new() -> Self {
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        let (connection, tail) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        Self { connection, tail, health }
    }

    /// The connection, where there is one: a call does not wait for it to come back.
    pub(crate) fn connection(&self) -> Result<MultiplexedConnection, StoreError> {
        there(&self.connection)
    }

    /// The connection that waits for the stream's entries, and so is of no other use.
    pub(crate) fn tail(&self) -> Result<MultiplexedConnection, StoreError> {
        there(&self.tail)
    }

    pub(crate) fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.subscribe()
    }
}

fn there(
    connection: &ArcSwapOption<MultiplexedConnection>,
) -> Result<MultiplexedConnection, StoreError> {
    match &*connection.load() {
        Some(connection) => Ok(MultiplexedConnection::clone(connection)),
        None => Err(StoreError::unavailable("not connected")),
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
    /// Redis answers, and would refuse a call: it is full, for example.
    Refused(String),
}

impl From<RedisError> for Problem {
    fn from(error: RedisError) -> Self {
        let said = server_text(&error);
        // A replica that was the master until now stays open and refuses: look for the master.
        let demoted = said.as_ref().is_some_and(|text| text.starts_with("READONLY"));
        let lost = error.is_unrecoverable_error() || demoted;
        let text = classify(error).to_string();
        match (lost, said) {
            (true, _) => Self::Lost(text),
            (false, Some(_)) => Self::Refused(text),
            (false, None) => Self::Failed(text),
        }
    }
}

/// Small commands go out at once, and a machine that is gone is noticed.
pub(crate) fn tcp_settings() -> TcpSettings {
    let settings = TcpSettings::default().set_nodelay(true);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(TCP_USER_TIMEOUT);
    settings
}

struct Connections {
    calls: MultiplexedConnection,
    probes: MultiplexedConnection,
    tail: MultiplexedConnection,
}

/// Keeps the link's connection.
pub(crate) struct Keeper {
    address: RedisAddress,
    scripts: Arc<Scripts>,
    stream: String,
    rate_limit: RateLimit,
    link: Arc<Link>,
    denials: Arc<Denials>,
    failing_since: Option<Instant>,
    met: bool,
    warnings: Warnings,
    survey: Survey,
}

impl Keeper {
    pub(crate) fn new(
        address: RedisAddress,
        scripts: Arc<Scripts>,
        stream: String,
        rate_limit: RateLimit,
        link: Arc<Link>,
        denials: Arc<Denials>,
    ) -> Self {
        Self {
            address,
            scripts,
            stream,
            rate_limit,
            link,
            denials,
            failing_since: None,
            met: false,
            warnings: Vec::new(),
            survey: Survey::default(),
        }
    }

    /// Keeps on for ever, unless the first Redis met has another layout.
    pub(crate) async fn run(mut self) -> LayoutMismatch {
        loop {
            let lost = Arc::new(Notify::new());
            let problem = match timeout(CONNECT_TIMEOUT, self.connect(Arc::clone(&lost))).await {
                Ok(Ok(connections)) => self.tend(connections, &lost).await,
                Ok(Err(problem)) => problem,
                Err(_) => Problem::Failed("no answer to a connection".to_owned()),
            };
            match problem {
                Problem::Layout(mismatch) if !self.met => return mismatch,
                Problem::Layout(mismatch) => {
                    self.link.connection.store(None);
                    self.note_failure(mismatch.to_string());
                }
                Problem::Lost(cause) => {
                    self.link.connection.store(None);
                    self.note_failure(cause);
                }
                Problem::Failed(cause) | Problem::Refused(cause) => self.note_failure(cause),
            }
            sleep(Duration::from_millis(rand::random_range(RECONNECT_MS))).await;
        }
    }

    /// Three connections: one for calls, one for probes, which must not wait behind a call that waits
    /// for replicas, and one that waits for the stream. The layout is looked at before any is used.
    async fn connect(&mut self, lost: Arc<Notify>) -> Result<Connections, Problem> {
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
        let client = self.address.client().map_err(Problem::Failed)?;
        let connect = || client.get_multiplexed_async_connection_with_config(&config);
        let (calls, probes, tail) = (connect().await?, connect().await?, connect().await?);
        let mut connections = Connections { calls, probes, tail };
        let prepared = self.prepare(&mut connections.calls).await;
        if let Err(Problem::Refused(_)) = &prepared {
            self.look_around(&mut connections.calls).await;
        }
        prepared.map(|()| connections)
    }

    async fn prepare(&self, connection: &mut MultiplexedConnection) -> Result<(), Problem> {
        self.scripts.load().query_async::<()>(connection).await?;
        self.check_layout(connection).await
    }

    /// Puts the connections to use, and probes until they are of no more.
    async fn tend(&mut self, mut connections: Connections, lost: &Notify) -> Problem {
        self.denials.forget();
        self.link.connection.store(Some(Arc::new(connections.calls)));
        self.link.tail.store(Some(Arc::new(connections.tail)));
        let mut failures = 0;
        loop {
            let next = Instant::now() + PROBE_INTERVAL;
            let probed = timeout(PROBE_TIMEOUT, self.check_layout(&mut connections.probes)).await;
            match probed.unwrap_or_else(|_| Err(Problem::Failed("no answer to a probe".to_owned())))
            {
                Ok(()) => {
                    failures = 0;
                    self.check_denials(&mut connections.probes).await;
                    let warnings = self.look_around(&mut connections.probes).await;
                    self.note_success(warnings);
                }
                Err(problem) => {
                    failures += 1;
                    if let Problem::Refused(_) = problem {
                        self.look_around(&mut connections.probes).await;
                    }
                    match problem {
                        Problem::Failed(cause) | Problem::Refused(cause)
                            if failures < PROBES_BEFORE_RECONNECT =>
                        {
                            self.note_failure(cause);
                        }
                        problem => return problem,
                    }
                }
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = lost.notified() => {
                    return Problem::Lost("the connection was closed".to_owned());
                }
            }
        }
    }

    /// Looks at the layout, and writes it where it is absent. Since it would write, it fails where
    /// a call would: on a replica, out of memory, with too few replicas.
    async fn check_layout(&self, connection: &mut MultiplexedConnection) -> Result<(), Problem> {
        let mut layout = pipe();
        layout.cmd("HSETNX").arg(keys::LAYOUT).arg("version").arg(LAYOUT_VERSION);
        layout.cmd("HSETNX").arg(keys::LAYOUT).arg("partitions").arg(PARTITIONS);
        layout.cmd("HMGET").arg(keys::LAYOUT).arg("version").arg("partitions");
        let (first, second, (version, partitions)): (bool, bool, (String, String)) =
            layout.query_async(connection).await?;
        if first || second {
            // It was flushed, or it is new.
            self.denials.forget();
        }
        if version == LAYOUT_VERSION && partitions == PARTITIONS {
            Ok(())
        } else {
            Err(Problem::Layout(LayoutMismatch { version, partitions }))
        }
    }

    /// Forgets all denials where Redis would not deny again. Of the servers that a flush leaves with
    /// denials, only the first finds the layout missing; the others find this.
    async fn check_denials(&self, connection: &mut MultiplexedConnection) {
        let readers = self.denials.some_readers();
        if readers.is_empty() {
            return;
        }
        let mut quotas = pipe();
        for reader in readers {
            quotas.cmd("GET").arg(keys::quota(reader));
        }
        let check = quotas.ignore_errors().query_async(connection);
        let used: Vec<RedisResult<Option<u64>>> = match timeout(PROBE_TIMEOUT, check).await {
            Ok(Ok(used)) => used,
            // What could not be looked at now is with the next probe.
            _ => return,
        };
        if used.iter().flatten().any(|used| used.is_none_or(|used| used < self.rate_limit.calls)) {
            self.denials.forget();
        }
    }

    /// Learns what operators are told, whether or not Redis takes calls: one that is full answers.
    async fn look_around(&mut self, connection: &mut MultiplexedConnection) -> Option<Warnings> {
        let survey = self.survey.take(connection, &self.stream);
        timeout(PROBE_TIMEOUT, survey).await.ok().flatten()
    }

    /// Redis answered, with these warnings where it told.
    fn note_success(&mut self, warnings: Option<Warnings>) {
        if self.failing_since.take().is_some() || !self.met {
            tracing::info!("Redis answers");
        }
        self.met = true;
        let seen = warnings.unwrap_or_else(|| self.warnings.clone());
        metrics::set_store_warnings(seen.len());
        for warning in seen.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = seen;
        let health = StoreHealth::Ready { warnings: self.warnings.clone() };
        self.link.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }

    fn note_failure(&mut self, cause: String) {
        let since = *self.failing_since.get_or_insert_with(|| {
            tracing::warn!(?cause, "Redis does not answer");
            Instant::now()
        });
        if since.elapsed() >= OFF_AFTER {
            self.link.health.send_replace(StoreHealth::Away(cause));
        }
    }
}
