//! Connections to one Redis: made, probed each second, each replaced when it is lost.
//!
//! The redis crate's own connection manager reconnects too, but does not report when. Here each new
//! connection has its layout checked, and what was cached about the previous Redis is dropped.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use self::ack_links::{AckLinks, FreeLink};
use self::failure::without_class;
pub(crate) use self::link::roles;
use self::link::{Link, Role, ack_connections};
use crate::net::workers;
use crate::store::redis::settings::Ack;
use crate::store::{HealthReceiver, StoreError, StoreHealth};

pub(crate) mod ack_links;
pub(crate) mod address;
mod denial_check;
pub(crate) mod failure;
mod keep_alive;
pub(crate) mod layout;
pub(crate) mod link;
pub(crate) mod mode;
mod partition_check;
mod replacements;
pub(crate) mod stream_history;
pub(crate) mod supervisor;
pub(crate) mod tail_signal;

#[cfg(test)]
pub(crate) mod fake;

/// What an error begins with after which nothing was sent.
pub(crate) const NOT_CONNECTED: &str = "not connected";

/// How long calls wait for another master. A failover takes less, with usual settings.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// What an outage names that no failover ends.
const ACCESS_CAUSES: [&str; 4] = ["WRONGPASS", "NOAUTH", "NOPERM", " lacks +"];

/// The current connections to one Redis. The [`supervisor::Supervisor`] replaces them.
#[derive(Debug)]
pub(crate) struct Connections {
    /// Each worker's.
    calls: Box<[ArcSwapOption<Link>]>,
    probes: ArcSwapOption<Link>,
    tail: ArcSwapOption<Link>,
    /// Each worker's for calls that wait for this acknowledgement.
    acks: Box<[AckLinks]>,
    ack: Option<Ack>,
    /// Since when there are none.
    away_since: Mutex<Option<Instant>>,
    /// Why there are none.
    cause: ArcSwapOption<String>,
    /// Notified when one is lost.
    losses: Arc<Notify>,
    health: watch::Sender<StoreHealth>,
}

impl Connections {
    /// Creates them for so many workers, whose marks have this acknowledgement.
    pub(crate) fn new(workers: usize, ack: Option<Ack>) -> Self {
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        let calls = (0..workers).map(|_| ArcSwapOption::empty()).collect();
        let acks = (0..workers).map(|_| AckLinks::new(ack_connections(ack))).collect();
        let (probes, tail, cause) = Default::default();
        let away_since = Mutex::new(Some(Instant::now()));
        Self { calls, probes, tail, acks, ack, away_since, cause, losses: Arc::default(), health }
    }

    /// Returns the connection for calls of this thread's worker; while it is lost that for probes, or any
    /// other worker's that is alive. A call does not wait for a lost one to come back.
    pub(crate) fn calls(&self) -> Result<MultiplexedConnection, StoreError> {
        Ok(self.calls_link()?.connection())
    }

    fn calls_link(&self) -> Result<Arc<Link>, StoreError> {
        self.calls_link_of(workers::current())
    }

    /// Waits for a connection that a call of this thread's worker may block until it is acknowledged. While
    /// all for that are lost it is the one for calls.
    pub(crate) async fn free_for_ack(&self) -> Result<FreeLink, StoreError> {
        let own = match self.acks.get(workers::current()) {
            Some(acks) => acks.free().await,
            None => None,
        };
        let free = match own {
            Some(free) => Some(free),
            None => FreeLink::of_others(self.calls_link()?).await,
        };
        free.ok_or_else(|| self.not_connected())
    }

    fn calls_link_of(&self, worker: usize) -> Result<Arc<Link>, StoreError> {
        let own = self.living_link(Role::Calls(worker));
        own.or_else(|| self.living_for_others()).ok_or_else(|| self.not_connected())
    }

    /// Returns whether there is a connection for calls.
    pub(crate) fn are_living(&self) -> bool {
        self.living_for_others().is_some()
    }

    /// Returns whether a call that finds no connection may wait for one: not if the outage is long, or of
    /// the kind that stays.
    pub(crate) fn may_be_back_soon(&self) -> bool {
        if self.away_since().is_some_and(|since| since.elapsed() > FAILOVER_MAX) {
            return false;
        }
        match &*self.health.borrow() {
            StoreHealth::Away(cause) => !ACCESS_CAUSES.iter().any(|access| cause.contains(access)),
            StoreHealth::Ready { .. } => true,
        }
    }

    fn away_since(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.away_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn living_for_others(&self) -> Option<Arc<Link>> {
        let mut roles = [Role::Probes].into_iter().chain(self.calls_roles());
        roles.find_map(|role| self.living_link(role))
    }

    /// Returns the connection that blocks until the stream has entries. Nothing else may use it.
    pub(crate) fn tail(&self) -> Result<MultiplexedConnection, StoreError> {
        self.living(Role::Tail).ok_or_else(|| self.not_connected())
    }

    /// Subscribes to the health.
    pub(crate) fn health(&self) -> HealthReceiver {
        self.health.subscribe()
    }

    /// Returns the roles of all connections.
    fn roles(&self) -> impl Iterator<Item = Role> + use<> {
        roles(self.calls.len(), self.ack)
    }

    /// Returns the roles of the connections for calls.
    fn calls_roles(&self) -> impl Iterator<Item = Role> + use<> {
        (0..self.calls.len()).map(Role::Calls)
    }

    /// Returns where a connection is kept; `None` if there is no such worker.
    fn slot(&self, role: Role) -> Option<&ArcSwapOption<Link>> {
        match role {
            Role::Calls(worker) => self.calls.get(worker),
            Role::Acks { worker, number } => self.acks.get(worker)?.slot(number),
            Role::Probes => Some(&self.probes),
            Role::Tail => Some(&self.tail),
        }
    }

    fn living(&self, role: Role) -> Option<MultiplexedConnection> {
        self.living_link(role).map(|link| link.connection())
    }

    fn living_link(&self, role: Role) -> Option<Arc<Link>> {
        self.slot(role)?.load_full().filter(|link| !link.is_lost())
    }

    /// Returns whether this connection is in use and lost.
    fn is_lost(&self, role: Role) -> bool {
        let link = self.slot(role).map(ArcSwapOption::load);
        link.is_some_and(|link| link.as_ref().is_some_and(|link| link.is_lost()))
    }

    fn note_loss(&self, role: Role) {
        if let Some(slot) = self.slot(role)
            && let Some(link) = &*slot.load()
        {
            link.note_loss();
        }
    }

    fn put_to_use(&self, role: Role, link: Link) {
        if let Some(slot) = self.slot(role) {
            slot.store(Some(Arc::new(link)));
        }
        self.acks.iter().for_each(AckLinks::note_change);
        *self.away_since() = None;
        self.cause.store(None);
    }

    /// Uses no connection any more.
    fn leave_all(&self, cause: &str) {
        self.away_since().get_or_insert_with(Instant::now);
        self.cause.store(Some(Arc::new(without_class(cause).to_owned())));
        for slot in self.roles().filter_map(|role| self.slot(role)) {
            slot.store(None);
        }
        self.acks.iter().for_each(AckLinks::note_change);
    }

    fn not_connected(&self) -> StoreError {
        StoreError::unavailable(match &*self.cause.load() {
            Some(cause) => format!("{NOT_CONNECTED}: {cause}"),
            None => NOT_CONNECTED.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_wait_for_a_failover_and_not_for_an_outage_that_stays() {
        let connections = Connections::new(1, None);
        assert!(connections.may_be_back_soon());
        for access in ["it is at a:1: WRONGPASS invalid", "the Redis user lacks +role"] {
            connections.health.send_replace(StoreHealth::Away(access.to_owned()));
            assert!(!connections.may_be_back_soon());
        }
        connections.health.send_replace(StoreHealth::Away("no answer".to_owned()));
        sleep(FAILOVER_MAX).await;
        assert!(connections.may_be_back_soon());
        connections.leave_all("again");
        sleep(Duration::from_millis(1)).await;
        assert!(!connections.may_be_back_soon());
        // The next outage counts anew.
        *connections.away_since() = None;
        connections.leave_all("another");
        assert!(connections.may_be_back_soon());
    }
}
