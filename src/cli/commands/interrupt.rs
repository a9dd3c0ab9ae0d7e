//! Interruptions of a command that takes long.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::store::redis::AdminError;

/// SIGINT and SIGTERM, from when it is created on. Before, while a command connects, they end the process.
#[derive(Debug)]
pub(super) struct Interrupt {
    int: Signal,
    term: Signal,
}

impl Interrupt {
    pub(super) fn new() -> Result<Self, AdminError> {
        let listen =
            |kind| signal(kind).map_err(|error| AdminError::Failed(format!("signals: {error}")));
        Ok(Self { int: listen(SignalKind::interrupt())?, term: listen(SignalKind::terminate())? })
    }

    /// Waits for one of them.
    pub(super) async fn wait(&mut self) {
        tokio::select! {
            _ = self.int.recv() => {}
            _ = self.term.recv() => {}
        }
    }
}
