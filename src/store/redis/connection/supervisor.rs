//! Keeps the connections to one Redis.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::Pipeline;
use redis::aio::MultiplexedConnection;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::denial_check;
use super::failure::Failure;
use super::keep_alive::KeepAlive;
use super::layout::LayoutMismatch;
use super::link::{Connect, Link, Role, runtime_of};
use super::partition_check::{self, Pace};
use super::replacements::Replacements;
use crate::chance::random_range;
use crate::net::workers::Workers;
use crate::store::StoreHealth;
use crate::store::redis::parts::NodeParts;
use crate::store::redis::probe::Warnings;
use crate::store::redis::probe::permissions::MissingLog;
use crate::store::redis::probe::stats::{RedisStats, Streams};
use crate::telemetry::{LogThrottle, metrics};

/// Time between probes. Health is off after two failures, and on after one success.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Time from the first failure to the one that turns health off: a probe interval, less what the first
/// probe may have taken longer than the second.
const OFF_AFTER: Duration = Duration::from_millis(900);

/// Longest time of a probe.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest time to connect, load the scripts and check the layout.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Time in which a new connection is opened before the next probe, after a probe without an answer.
const REPLACEMENT_GRACE: Duration = Duration::from_millis(100);

/// Failed probes in a row before new connections are tried. Until then the old ones stay in use.
const PROBES_BEFORE_RECONNECT: u32 = 3;

/// Time between two attempts to connect, in milliseconds: random, so that replicas of the service do
/// not reconnect together.
pub(super) const RECONNECT_MS: std::ops::RangeInclusive<u64> = 100..=400;

/// Why all connections are left after a new one was opened.
const ANOTHER_REDIS: &str = "another Redis answers new connections";

fn all_lost() -> Failure {
    Failure::Lost("the connections were closed".to_owned())
}

pub(super) fn connecting_timed_out() -> Failure {
    Failure::NoAnswer("connecting timed out".to_owned())
}

/// Keeps the connections to one Redis.
pub(crate) struct Supervisor<C> {
    connect: Arc<C>,
    workers: Workers,
    parts: NodeParts,
    /// Loads the scripts.
    load: Pipeline,
    failing_since: Option<Instant>,
    /// The cause that was logged last, and other causes in the same outage.
    logged_cause: String,
    causes_log: LogThrottle,
    /// True once this Redis has answered.
    has_answered: bool,
    warnings: Warnings,
    stats: RedisStats,
    missing: tokio::sync::Mutex<MissingLog>,
}

/// The connections of one Redis, before they are put to use.
struct ConnectionSet {
    run_id: Option<String>,
    links: Vec<(Role, Link)>,
}

impl<C: Connect> Supervisor<C> {
    pub(crate) fn new(connect: C, parts: NodeParts, load: Pipeline, workers: Workers) -> Self {
        let (failing_since, logged_cause, causes_log) = Default::default();
        let (warnings, stats) = Default::default();
        let missing = MissingLog::new(Some(&*parts.name).filter(|name| !name.is_empty()));
        Self {
            connect: Arc::new(connect),
            workers,
            parts,
            load,
            failing_since,
            logged_cause,
            causes_log,
            has_answered: false,
            warnings,
            stats,
            missing: tokio::sync::Mutex::new(missing),
        }
    }

    /// Runs until the first Redis it meets has another layout.
    pub(crate) async fn run(mut self) -> LayoutMismatch {
        let connect = Arc::clone(&self.connect);
        loop {
            let failure = match timeout(CONNECT_TIMEOUT, self.open()).await {
                Ok(Ok(opened)) => tokio::select! {
                    biased;
                    cause = connect.moved() => Failure::Moved(cause),
                    failure = self.supervise(opened) => failure,
                },
                Ok(Err(failure)) => failure,
                Err(_) => connecting_timed_out(),
            };
            match failure {
                Failure::Layout(mismatch)
                    if !self.parts.shared.has_served.load(Ordering::Relaxed) =>
                {
                    return mismatch;
                }
                Failure::Layout(mismatch) => self.leave_all(mismatch.to_string()),
                Failure::Moved(cause) | Failure::Lost(cause) => self.leave_all(cause),
                Failure::NoAnswer(cause) => self.note_failure(cause),
                Failure::Refused(cause) => self.note_refusal(cause),
            }
            sleep(Duration::from_millis(random_range(RECONNECT_MS))).await;
        }
    }

    fn leave_all(&mut self, cause: String) {
        self.parts.shared.note_node_change();
        self.parts.connections.leave_all(&cause);
        self.note_failure(cause);
    }

    /// Opens connections, loads the scripts and checks the layout before any is used.
    async fn open(&mut self) -> Result<ConnectionSet, Failure> {
        let links = self.open_all().await?;
        let first = links.iter().find(|(role, _)| *role == Role::Calls(0));
        let Some((_, first)) = first else { return Err(all_lost()) };
        if links.iter().any(|(_, link)| link.run_id() != first.run_id()) {
            return Err(Failure::Moved(ANOTHER_REDIS.to_owned()));
        }
        let prepared = self.prepare(&mut first.connection()).await;
        if let Err(Failure::Refused(_)) = &prepared {
            self.collect_stats(&mut first.connection(), self.unread_streams()).await;
        }
        let run_id = first.run_id().map(str::to_owned);
        prepared.map(|()| ConnectionSet { run_id, links })
    }

    /// Opens all connections at once: each takes several round trips, and Redis may be far away.
    async fn open_all(&self) -> Result<Vec<(Role, Link)>, Failure> {
        let connections = &self.parts.connections;
        let client = Arc::new(self.connect.client().map_err(Failure::NoAnswer)?);
        // What is under way ends when it is dropped.
        let mut opening = JoinSet::new();
        for role in connections.roles() {
            let (client, losses) = (Arc::clone(&client), Arc::clone(&connections.losses));
            let tracked = self.parts.tracked_by(role);
            let open = async move { (role, Link::open::<C>(&client, &losses, tracked).await) };
            opening.spawn_on(open, &runtime_of(role, &self.workers));
        }
        let mut links = Vec::with_capacity(opening.len());
        while let Some(opened) = opening.join_next().await {
            let (role, link) = opened.map_err(|ended| Failure::NoAnswer(ended.to_string()))?;
            links.push((role, link?));
        }
        Ok(links)
    }

    async fn prepare(&self, connection: &mut MultiplexedConnection) -> Result<(), Failure> {
        self.check_permissions(connection).await?;
        self.load.query_async::<()>(connection).await?;
        partition_check::run(&self.parts, connection, Pace::AtOnce).await?;
        Ok(())
    }

    /// Puts the connections to use, probes Redis, and replaces what is lost, until all have to be left.
    async fn supervise(&mut self, opened: ConnectionSet) -> Failure {
        let ConnectionSet { run_id, links } = opened;
        let connections = Arc::clone(&self.parts.connections);
        self.parts.shared.clear_denials();
        for (role, link) in links {
            connections.put_to_use(role, link);
        }
        self.parts.notify_tails();
        let (connect, losses) = (Arc::clone(&self.connect), Arc::clone(&connections.losses));
        let mut replacements =
            Replacements::new(connect, self.workers.clone(), losses, self.parts.clone());
        let mut keep_alive = KeepAlive::new(&connections, self.parts.shared.ack);
        let mut failures = 0;
        loop {
            let mut next = Instant::now() + PROBE_INTERVAL;
            keep_alive.ask(&connections);
            match self.probe_living().await {
                Ok((mut probed, streams)) => {
                    failures = 0;
                    keep_alive.note_probe(&connections);
                    denial_check::run(&self.parts, &mut probed).await;
                    let warnings = self.collect_stats(&mut probed, streams).await;
                    self.note_success(warnings);
                }
                Err(failure) => {
                    failures += 1;
                    match failure {
                        Failure::NoAnswer(cause) if failures < PROBES_BEFORE_RECONNECT => {
                            // Perhaps only this connection hangs.
                            if run_id.is_some() {
                                replacements.start(Role::Probes);
                                next = next.max(Instant::now() + REPLACEMENT_GRACE);
                            }
                            self.note_failure(cause);
                        }
                        Failure::Refused(cause) if failures < PROBES_BEFORE_RECONNECT => {
                            self.note_refusal(cause);
                        }
                        failure => return failure,
                    }
                }
            }
            let replaced = self.replace_lost(&mut replacements, run_id.as_deref(), next).await;
            if let Err(failure) = replaced {
                return failure;
            }
        }
    }

    /// Probes over the connection for probes, or one for calls while it is lost. Returns the one that
    /// answered, and the streams.
    async fn probe_living(&mut self) -> Result<(MultiplexedConnection, Streams), Failure> {
        let connections = Arc::clone(&self.parts.connections);
        for role in [Role::Probes].into_iter().chain(connections.calls_roles()) {
            let Some(mut connection) = connections.living(role) else { continue };
            match self.probe(&mut connection).await {
                Ok(streams) => return Ok((connection, streams)),
                Err(Failure::Lost(_)) => connections.note_loss(role),
                Err(failure) => {
                    if let Failure::Refused(_) = failure {
                        self.collect_stats(&mut connection, self.unread_streams()).await;
                    }
                    return Err(failure);
                }
            }
        }
        Err(all_lost())
    }

    /// Replaces each connection that is lost, until the next probe. A new one is put to use if it reaches
    /// the Redis with this run ID, as the others do: after a failover it may be another.
    async fn replace_lost(
        &mut self,
        replacements: &mut Replacements<C>,
        run_id: Option<&str>,
        until: Instant,
    ) -> Result<(), Failure> {
        let connections = Arc::clone(&self.parts.connections);
        loop {
            let lost: Vec<_> =
                connections.roles().filter(|&role| connections.is_lost(role)).collect();
            if connections.roles().all(|role| role == Role::Tail || lost.contains(&role)) {
                return Err(all_lost());
            }
            if !lost.is_empty() && run_id.is_none() {
                // Nobody knows whether a new one would reach the same Redis.
                return Err(Failure::Lost("a connection was closed".to_owned()));
            }
            for role in lost {
                replacements.start(role);
            }
            tokio::select! {
                biased;
                (role, opened) = replacements.next() => {
                    match self.put_to_use(role, opened, run_id).await {
                        Ok(()) => replacements.note_success(role),
                        Err(Failure::Layout(mismatch)) => return Err(Failure::Layout(mismatch)),
                        Err(Failure::Moved(cause)) => return Err(Failure::Moved(cause)),
                        Err(
                            Failure::Lost(cause)
                            | Failure::NoAnswer(cause)
                            | Failure::Refused(cause),
                        ) => replacements.note_failure(role, &cause),
                    }
                }
                () = connections.losses.notified() => {}
                () = self.parts.partitions_came.notified() => return Ok(()),
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    /// Puts a connection to use in place of one.
    async fn put_to_use(
        &self,
        role: Role,
        opened: Result<Link, Failure>,
        run_id: Option<&str>,
    ) -> Result<(), Failure> {
        let link = opened?;
        if run_id.is_none() || link.run_id() != run_id {
            return Err(Failure::Moved(ANOTHER_REDIS.to_owned()));
        }
        if role.serves_calls() {
            let prepared = timeout(CONNECT_TIMEOUT, self.prepare(&mut link.connection())).await;
            prepared.unwrap_or_else(|_| Err(connecting_timed_out()))?;
            self.parts.shared.clear_denials();
        }
        self.parts.connections.put_to_use(role, link);
        self.parts.notify_tails();
        Ok(())
    }

    async fn probe(&self, connection: &mut MultiplexedConnection) -> Result<Streams, Failure> {
        let probed = timeout(PROBE_TIMEOUT, self.check(connection)).await;
        probed.unwrap_or_else(|_| Err(Failure::NoAnswer("a probe timed out".to_owned())))
    }

    async fn check(&self, connection: &mut MultiplexedConnection) -> Result<Streams, Failure> {
        self.check_permissions(connection).await?;
        self.parts.learn_whether_slots_are_shared(connection).await;
        partition_check::run(&self.parts, connection, Pace::Paced).await
    }

    async fn check_permissions(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Failure> {
        let NodeParts { shared, served, .. } = &self.parts;
        let any = served.load().first().cloned();
        let keys = any.as_ref().map(|partition| &partition.keys);
        // Checks do not overlap.
        let mut log = self.missing.lock().await;
        shared.permissions.check(connection, keys, &mut log).await
    }

    /// The node's streams, none of which was read.
    fn unread_streams(&self) -> Streams {
        self.parts.served.load().iter().map(|partition| (Arc::clone(partition), None)).collect()
    }

    /// Collects statistics for operators, even if Redis refuses calls: a full one still answers this.
    async fn collect_stats(
        &mut self,
        connection: &mut MultiplexedConnection,
        streams: Streams,
    ) -> Option<Warnings> {
        let collect = self.stats.collect(connection, &self.parts, streams);
        timeout(PROBE_TIMEOUT, collect).await.ok().flatten()
    }

    /// Notes that Redis answered, with its warnings if it reveals them.
    fn note_success(&mut self, warnings: Option<Warnings>) {
        if self.failing_since.take().is_some() || !self.has_answered {
            tracing::info!(redis = self.name(), "Redis answers");
        }
        self.has_answered = true;
        let current = warnings.unwrap_or_else(|| self.warnings.clone());
        if self.parts.shared.changes.is_none() {
            metrics::set_store_warnings(current.len());
        }
        for warning in current.iter().filter(|warning| !self.warnings.contains(warning)) {
            tracing::warn!("{warning}");
        }
        self.warnings = current;
        let warnings = self.warnings.iter().map(|warning| Cow::Borrowed(*warning)).collect();
        self.set_health(StoreHealth::Ready { warnings });
    }

    fn set_health(&self, health: StoreHealth) {
        let has_changed = self.parts.connections.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
        if has_changed {
            self.parts.shared.note_health_change();
        }
    }

    /// Returns the node's name in log lines; `None` if there is only one.
    fn name(&self) -> Option<&str> {
        Some(&*self.parts.name).filter(|name| !name.is_empty())
    }

    /// Notes that Redis does not answer.
    fn note_failure(&mut self, cause: String) {
        if self.is_to_be_logged(&cause) {
            tracing::warn!(redis = self.name(), ?cause, "Redis does not answer");
        }
        self.note_unready(cause);
    }

    /// Notes that Redis answers, and would refuse calls.
    fn note_refusal(&mut self, cause: String) {
        if self.is_to_be_logged(&cause) {
            tracing::warn!(redis = self.name(), ?cause, "Redis refuses calls");
        }
        self.note_unready(cause);
    }

    /// Returns whether a cause is the first one, or is new and none was logged for a minute.
    fn is_to_be_logged(&mut self, cause: &str) -> bool {
        let is_new = self.logged_cause != cause;
        let is_logged =
            self.failing_since.is_none() || is_new && self.causes_log.permit().is_some();
        if is_logged {
            cause.clone_into(&mut self.logged_cause);
        }
        is_logged
    }

    fn note_unready(&mut self, cause: String) {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= OFF_AFTER {
            self.set_health(StoreHealth::Away(cause));
        }
    }
}

#[cfg(test)]
mod tests;
