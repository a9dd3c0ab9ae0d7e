//! Connections to one Redis: made, probed each second, each replaced when it is lost.
//!
//! The redis crate's own connection manager reconnects too, but does not report when. Here each new
//! connection has its layout checked, and what was cached about the previous Redis is dropped.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Notify, watch};

use self::link::{Link, Role};
use crate::store::{HealthReceiver, StoreError, StoreHealth};

pub(crate) mod address;
mod denial_check;
pub(crate) mod failure;
mod keep_alive;
pub(crate) mod layout;
mod link;
mod replacements;
pub(crate) mod stream_history;
pub(crate) mod supervisor;

#[cfg(test)]
pub(crate) mod fake;

/// The current connections to one Redis. The [`supervisor::Supervisor`] replaces them.
#[derive(Debug)]
pub(crate) struct Connections {
    calls: ArcSwapOption<Link>,
    probes: ArcSwapOption<Link>,
    tail: ArcSwapOption<Link>,
    /// Why there are none.
    cause: ArcSwapOption<String>,
    /// Notified when one is lost.
    losses: Arc<Notify>,
    health: watch::Sender<StoreHealth>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        let (calls, probes, tail, cause) = Default::default();
        Self { calls, probes, tail, cause, losses: Arc::default(), health }
    }

    /// Returns the connection for calls; while it is lost that for probes, if that one is alive. A call
    /// does not wait for a lost one to come back.
    pub(crate) fn calls(&self) -> Result<MultiplexedConnection, StoreError> {
        let living = self.living(Role::Calls).or_else(|| self.living(Role::Probes));
        living.ok_or_else(|| self.not_connected())
    }

    /// Returns the connection that blocks until the stream has entries. Nothing else may use it.
    pub(crate) fn tail(&self) -> Result<MultiplexedConnection, StoreError> {
        self.living(Role::Tail).ok_or_else(|| self.not_connected())
    }

    /// Subscribes to the health.
    pub(crate) fn health(&self) -> HealthReceiver {
        self.health.subscribe()
    }

    fn slot(&self, role: Role) -> &ArcSwapOption<Link> {
        match role {
            Role::Calls => &self.calls,
            Role::Probes => &self.probes,
            Role::Tail => &self.tail,
        }
    }

    fn living(&self, role: Role) -> Option<MultiplexedConnection> {
        let link = self.slot(role).load();
        link.as_ref().filter(|link| !link.is_lost()).map(|link| link.connection())
    }

    /// Returns whether this connection is in use and lost.
    fn is_lost(&self, role: Role) -> bool {
        self.slot(role).load().as_ref().is_some_and(|link| link.is_lost())
    }

    fn note_loss(&self, role: Role) {
        if let Some(link) = &*self.slot(role).load() {
            link.note_loss();
        }
    }

    fn put_to_use(&self, role: Role, link: Link) {
        self.slot(role).store(Some(Arc::new(link)));
        self.cause.store(None);
    }

    /// Uses no connection any more.
    fn leave_all(&self, cause: &str) {
        let cause = cause.strip_prefix("the store is unavailable: ").unwrap_or(cause);
        self.cause.store(Some(Arc::new(cause.to_owned())));
        for role in Role::ALL {
            self.slot(role).store(None);
        }
    }

    fn not_connected(&self) -> StoreError {
        StoreError::unavailable(match &*self.cause.load() {
            Some(cause) => format!("not connected: {cause}"),
            None => "not connected".to_owned(),
        })
    }
}
