//! Connections to one Redis: made, probed each second, replaced when they are lost.
//!
//! The redis crate's own connection manager reconnects too, but does not report when. Here each new
//! connection has its layout checked, and what was cached about the previous Redis is dropped.

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;

use crate::store::{HealthReceiver, StoreError, StoreHealth};

pub(crate) mod address;
mod failure;
pub(crate) mod layout;
pub(crate) mod supervisor;

#[cfg(test)]
pub(crate) mod fake;

/// The current connections to one Redis. The [`supervisor::Supervisor`] replaces them.
#[derive(Debug)]
pub(crate) struct Connections {
    calls: ArcSwapOption<MultiplexedConnection>,
    tail: ArcSwapOption<MultiplexedConnection>,
    health: watch::Sender<StoreHealth>,
}

impl Connections {
    pub(crate) fn new() -> Self {
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        let (calls, tail) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        Self { calls, tail, health }
    }

    /// Returns the connection for calls. A call does not wait for a lost one to come back.
    pub(crate) fn calls(&self) -> Result<MultiplexedConnection, StoreError> {
        current(&self.calls)
    }

    /// Returns the connection that blocks until the stream has entries. Nothing else may use it.
    pub(crate) fn tail(&self) -> Result<MultiplexedConnection, StoreError> {
        current(&self.tail)
    }

    /// Subscribes to the health.
    pub(crate) fn health(&self) -> HealthReceiver {
        self.health.subscribe()
    }
}

fn current(
    connection: &ArcSwapOption<MultiplexedConnection>,
) -> Result<MultiplexedConnection, StoreError> {
    match &*connection.load() {
        Some(connection) => Ok(MultiplexedConnection::clone(connection)),
        None => Err(StoreError::unavailable("not connected")),
    }
}
