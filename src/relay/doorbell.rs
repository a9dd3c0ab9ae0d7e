//! Wakes the feeds of a partition when it has new entries. One wait at the log serves all webhooks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};

use crate::domain::EntryId;
use crate::store::{EventLog, StoreError};
use crate::telemetry::LogThrottle;

/// Longest wait of one read, and how much longer its reply may take.
const WAIT: Duration = Duration::from_secs(1);
const GRACE: Duration = Duration::from_secs(5);

/// Pause after a failed wait, after which the feeds look for themselves.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// The doorbell of a partition.
pub(super) struct Doorbell {
    log: Arc<dyn EventLog>,
    partition: usize,
    state: Mutex<State>,
    changed: Notify,
    failures: LogThrottle,
}

#[derive(Default)]
struct State {
    /// The greatest ID that a feed has read up to, or that was seen in the log.
    known: EntryId,
    waiters: Vec<(EntryId, oneshot::Sender<EntryId>)>,
}

impl Doorbell {
    pub(super) fn new(partition: usize, log: Arc<dyn EventLog>) -> Self {
        let (state, changed) = (Mutex::default(), Notify::new());
        Self { log, partition, state, changed, failures: LogThrottle::default() }
    }

    /// Waits until there may be entries after this one. Returns up to where a feed has read that finds none.
    pub(super) async fn wait(&self, after: EntryId) -> EntryId {
        let woken = {
            let mut state = self.state();
            if state.known > after {
                return state.known;
            }
            state.known = after;
            let (ring, woken) = oneshot::channel();
            state.waiters.push((after, ring));
            woken
        };
        self.changed.notify_one();
        // The doorbell drops a waiter only with itself.
        woken.await.unwrap_or(after)
    }

    /// Watches the log while feeds wait, for ever.
    pub(super) async fn run(&self) {
        loop {
            let Some(least) = self.state().least() else {
                self.changed.notified().await;
                continue;
            };
            let wait = self.log.wait_for_entries(least.into(), 1, WAIT);
            let read = timeout(WAIT + GRACE, wait).await.unwrap_or_else(|_| {
                Err(StoreError::unavailable("no reply to the wait for new entries"))
            });
            match read {
                Ok(entries) => {
                    if let Some((_, end)) = entries.span {
                        self.state().ring(end.entry());
                    }
                }
                Err(error) => {
                    self.log_failure(&error);
                    sleep(FAILURE_PAUSE).await;
                    let mut state = self.state();
                    let known = state.known;
                    for (_, ring) in state.waiters.drain(..) {
                        // A feed that has left.
                        let _ = ring.send(known);
                    }
                }
            }
        }
    }

    fn log_failure(&self, error: &StoreError) {
        if let Some(suppressed) = self.failures.permit() {
            let (partition, cause) = (self.partition, error.to_string());
            tracing::warn!(partition, ?cause, suppressed, "cannot wait for new entries");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn least(&mut self) -> Option<EntryId> {
        self.waiters.retain(|(_, ring)| !ring.is_closed());
        self.waiters.iter().map(|(after, _)| *after).min()
    }

    /// Wakes the feeds that have not read this entry.
    fn ring(&mut self, entry: EntryId) {
        self.known = self.known.max(entry);
        for (_, ring) in self.waiters.extract_if(.., |(after, _)| *after < entry) {
            // A feed that has left.
            let _ = ring.send(entry);
        }
    }
}
