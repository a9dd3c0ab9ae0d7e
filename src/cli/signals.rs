//! Signals of `serve` and `relay`.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::files::Reread;

/// SIGTERM and SIGINT, which mean the same.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one of them.
    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Returns a handle by which files are read again at each SIGHUP.
pub(super) fn reread_at_hangup() -> io::Result<Reread> {
    let reread = Reread::default();
    let hangup = signal(SignalKind::hangup())?;
    tokio::spawn(reread_at(hangup, reread.clone()));
    Ok(reread)
}

/// Reads files again at each signal, for ever.
async fn reread_at(mut hangup: Signal, reread: Reread) {
    while hangup.recv().await.is_some() {
        tracing::info!("SIGHUP: files are read again");
        reread.request();
    }
}
