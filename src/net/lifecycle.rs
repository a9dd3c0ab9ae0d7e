//! The phases of a server between its start and its exit.

use tokio::sync::watch;

/// The phases, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Calls are accepted.
    Serving,
    /// Calls are still accepted, but readiness is off: `--drain-delay`.
    Leaving,
    /// New calls are refused, and calls in flight may finish: `--drain`.
    Draining,
}

/// Handle of the phase, which only moves forward. Clones share it.
#[derive(Clone, Debug)]
pub struct Lifecycle(watch::Sender<Phase>);

impl Default for Lifecycle {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Serving))
    }
}

impl Lifecycle {
    /// Returns the current phase.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Subscribes to the phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }

    /// Moves to a later phase; an earlier one is ignored.
    pub fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let later = to > *phase;
            if later {
                *phase = to;
            }
            later
        });
    }

    /// Waits for [`Phase::Draining`].
    pub async fn draining(&self) {
        // The sender lives in `self`: the wait cannot fail.
        let _ = self.watch().wait_for(|phase| *phase >= Phase::Draining).await;
    }
}
