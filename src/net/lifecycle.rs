//! Where a server stands between its start and its exit.

use tokio::sync::watch;

/// The phases, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls are taken.
    Serving,
    /// Calls are taken still, but readiness is off: `--drain-delay`.
    Leaving,
    /// Calls under way are waited for, new ones are refused: `--drain`.
    Draining,
}

/// A handle on the phase, which only ever moves on.
#[derive(Clone, Debug)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Lifecycle {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// The phase as it changes.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }

    /// Moves on to a later phase.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }

    /// Waits until new calls are refused.
    pub async fn draining(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.watch().wait_for(|phase| *phase >= Phase::Draining).await;
    }
}
