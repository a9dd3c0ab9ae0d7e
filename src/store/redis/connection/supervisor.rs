//! Keeps the connections to one Redis.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Pipeline, PushInfo, PushKind, RedisResult, pipe};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::failure::Failure;
use super::layout::{self, Layout, LayoutMismatch};
use crate::store::StoreHealth;
use crate::store::redis::parts::StoreParts;
use crate::store::redis::probe::Warnings;
use crate::store::redis::probe::stats::RedisStats;
use crate::telemetry::metrics;

/// Time between probes. Health is off after two failures, and on after one success.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Time from the first failure to the one that turns health off: a probe interval, less what the first
/// probe may have taken longer than the second.
const OFF_AFTER: Duration = Duration::from_millis(900);

/// Longest time of a probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time to connect, load the scripts and check the layout.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Failed probes in a row before new connections are tried. Until then the old ones stay in use.
const PROBES_BEFORE_RECONNECT: u32 = 3;

/// Time between two attempts to connect, in milliseconds: random, so that replicas of the service do
/// not reconnect together.
const RECONNECT_MS: std::ops::RangeInclusive<u64> = 100..=400;

/// Opens connections to one Redis.
pub(crate) trait Connect: Send + Sync + 'static {
    /// The settings and their files, as they were read for one attempt.
    type Client: Send + Sync;

    /// Reads settings and files.
    fn client(&self) -> Result<Self::Client, String>;

    /// Opens a connection.
    fn connect(
        client: &Self::Client,
        config: &AsyncConnectionConfig,
    ) -> impl Future<Output = RedisResult<MultiplexedConnection>> + Send;
}

/// Keeps the connections to one Redis.
pub(crate) struct Supervisor<C> {
    connect: C,
    parts: StoreParts,
    /// Loads the scripts.
    load: Pipeline,
    failing_since: Option<Instant>,
    /// True once this Redis has answered.
    has_answered: bool,
    warnings: Warnings,
    stats: RedisStats,
}

/// Three connections: one for calls; one for probes, which must not queue after a call that waits for
/// replicas; and one that blocks until the stream has entries.
struct ConnectionSet {
    calls: MultiplexedConnection,
    probes: MultiplexedConnection,
    tail: MultiplexedConnection,
}

impl<C: Connect> Supervisor<C> {
    pub(crate) fn new(connect: C, parts: StoreParts, load: Pipeline) -> Self {
        let (failing_since, has_answered) = (None, false);
        let (warnings, stats) = (Vec::new(), RedisStats::default());
        Self { connect, parts, load, failing_since, has_answered, warnings, stats }
    }

    /// Runs until the first Redis it meets has another layout.
    pub(crate) async fn run(mut self) -> LayoutMismatch {
        loop {
            let lost = Arc::new(Notify::new());
            let failure = match timeout(CONNECT_TIMEOUT, self.open(Arc::clone(&lost))).await {
                Ok(Ok(opened)) => self.supervise(opened, &lost).await,
                Ok(Err(failure)) => failure,
                Err(_) => Failure::NoAnswer("connecting timed out".to_owned()),
            };
            match failure {
                Failure::Layout(mismatch) if !self.has_answered => return mismatch,
                Failure::Layout(mismatch) => {
                    self.parts.connections.calls.store(None);
                    self.note_failure(mismatch.to_string());
                }
                Failure::Lost(cause) => {
                    self.parts.connections.calls.store(None);
                    self.note_failure(cause);
                }
                Failure::NoAnswer(cause) | Failure::Refused(cause) => self.note_failure(cause),
            }
            sleep(Duration::from_millis(rand::random_range(RECONNECT_MS))).await;
        }
    }

    /// Opens connections, loads the scripts and checks the layout before any is used.
    async fn open(&mut self, lost: Arc<Notify>) -> Result<ConnectionSet, Failure> {
        let config = AsyncConnectionConfig::new()
            // Calls and probes have their own timeouts.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                if push.kind == PushKind::Disconnection {
                    lost.notify_one();
                }
                Ok(())
            });
        let client = self.connect.client().map_err(Failure::NoAnswer)?;
        let calls = C::connect(&client, &config).await?;
        let probes = C::connect(&client, &config).await?;
        let tail = C::connect(&client, &config).await?;
        let mut opened = ConnectionSet { calls, probes, tail };
        let prepared = self.prepare(&mut opened.calls).await;
        if let Err(Failure::Refused(_)) = &prepared {
            self.collect_stats(&mut opened.calls).await;
        }
        prepared.map(|()| opened)
    }

    async fn prepare(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        self.load.query_async::<()>(connection).await?;
        self.check_layout(connection).await
    }

    /// Puts the connections to use, and probes Redis until they have to be replaced.
    async fn supervise(&mut self, mut opened: ConnectionSet, lost: &Notify) -> Failure {
        self.parts.clear_denials();
        self.parts.connections.calls.store(Some(Arc::new(opened.calls)));
        self.parts.connections.tail.store(Some(Arc::new(opened.tail)));
        let mut failures = 0;
        loop {
            let next = Instant::now() + PROBE_INTERVAL;
            match self.probe(&mut opened.probes).await {
                Ok(()) => {
                    failures = 0;
                    self.check_denials(&mut opened.probes).await;
                    let warnings = self.collect_stats(&mut opened.probes).await;
                    self.note_success(warnings);
                }
                Err(failure) => {
                    failures += 1;
                    if let Failure::Refused(_) = failure {
                        self.collect_stats(&mut opened.probes).await;
                    }
                    match failure {
                        Failure::NoAnswer(cause) | Failure::Refused(cause)
                            if failures < PROBES_BEFORE_RECONNECT =>
                        {
                            self.note_failure(cause);
                        }
                        failure => return failure,
                    }
                }
            }
            tokio::select! {
                () = sleep_until(next) => {}
                () = lost.notified() => {
                    return Failure::Lost("the connection was closed".to_owned());
                }
            }
        }
    }

    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let probed = timeout(PROBE_TIMEOUT, self.check_layout(connection)).await;
        probed.unwrap_or_else(|_| Err(Failure::NoAnswer("a probe timed out".to_owned())))
    }

    async fn check_layout(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        let known = self.parts.layout.known();
        let Layout { was_absent, placement } =
            layout::check(connection, &self.parts.keys, known.as_deref()).await?;
        if was_absent {
            self.parts.clear_denials();
        }
        self.parts.layout.set(placement.map_err(Failure::Layout)?);
        Ok(())
    }

    /// Clears the denials if Redis would not deny again. After a flush only the first server finds the
    /// layout absent; the others notice it here.
    async fn check_denials(&self, connection: &mut MultiplexedConnection) {
        let StoreParts { keys, denials, rate_limit, read_denials, read_rate_limit, .. } =
            &self.parts;
        let marks = denials.sample().into_iter().map(|of| (keys.quota(of), rate_limit.calls));
        let reads = read_denials.sample();
        let reads = reads.into_iter().map(|of| (keys.read_quota(of), read_rate_limit.calls));
        let (denied, limits): (Vec<_>, Vec<_>) = marks.chain(reads).unzip();
        if denied.is_empty() {
            return;
        }
        let mut quotas = pipe();
        for key in denied {
            quotas.cmd("GET").arg(key);
        }
        let check = quotas.ignore_errors().query_async(connection);
        let used: Vec<RedisResult<Option<u64>>> = match timeout(PROBE_TIMEOUT, check).await {
            Ok(Ok(used)) => used,
            // The next probe checks them again.
            _ => return,
        };
        // One that cannot be read is compared at the next probe.
        let has_calls_left = |(used, limit): (&RedisResult<Option<u64>>, u64)| {
            used.as_ref().is_ok_and(|used| used.is_none_or(|used| used < limit))
        };
        if used.iter().zip(limits).any(has_calls_left) {
            self.parts.clear_denials();
        }
    }

    /// Collects statistics for operators, even if Redis refuses calls: a full one still answers this.
    async fn collect_stats(&mut self, connection: &mut MultiplexedConnection) -> Option<Warnings> {
        let StoreParts { keys, stream_limit, .. } = &self.parts;
        let collect = self.stats.collect(connection, keys.stream(), stream_limit);
        timeout(PROBE_TIMEOUT, collect).await.ok().flatten()
    }

    /// Notes that Redis answered, with its warnings if it reveals them.
    fn note_success(&mut self, warnings: Option<Warnings>) {
        if self.failing_since.take().is_some() || !self.has_answered {
            tracing::info!("Redis answers");
        }
        self.has_answered = true;
        let current = warnings.unwrap_or_else(|| self.warnings.clone());
        metrics::set_store_warnings(current.len());
        for warning in current.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = current;
        let health = StoreHealth::Ready { warnings: self.warnings.clone() };
        self.parts.connections.health.send_if_modified(|known| {
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
            self.parts.connections.health.send_replace(StoreHealth::Away(cause));
        }
    }
}

#[cfg(test)]
mod tests;
