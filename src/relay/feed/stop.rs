//! How a feed is given back.

use std::time::Duration;

use tokio::time::Instant;

use super::{Feed, FeedEnd, within};
use crate::store::StoreError;
use crate::store::relay::Leased;

/// Longest time of each last operation, and attempts at it.
const LAST_CALL_TIMEOUT: Duration = Duration::from_secs(1);
const LAST_CALLS: usize = 2;

impl Feed {
    /// Returns whether nothing is under way that a stop waits for.
    pub(super) fn is_finished(&self) -> bool {
        self.attempts == 0
            && !self.writing.is_running
            && !self.noting.is_running
            && self.buffer.is_acknowledged()
    }

    /// Ends what is under way, acknowledges what is done, and gives the lease back.
    pub(super) async fn release(mut self) -> FeedEnd {
        self.running.clear();
        self.buffer.end_acknowledgement(false);
        let context = self.context.clone();
        let (store, lease) = (context.store.as_ref(), self.lease.clone());
        while let Some(entries) = self.buffer.begin_acknowledgement() {
            let is_done = self.last_call(|| store.acknowledge(&lease, &entries)).await;
            if !is_done {
                break;
            }
            self.buffer.end_acknowledgement(true);
        }
        let notes = self.buffer.take_notes();
        if !notes.is_empty() {
            self.last_call(|| store.note_attempts(&lease, &notes)).await;
        }
        // If it fails, the lease expires.
        let released = async || store.release(&lease).await.map(Leased::Held);
        self.last_call(released).await;
        FeedEnd { is_released: true, done: self.buffer.take_done() }
    }

    /// Calls the store, again if it fails. Returns whether it was done.
    async fn last_call<F>(&mut self, call: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<Leased<()>, StoreError>>,
    {
        for _ in 0..LAST_CALLS {
            if !self.validity.holds(Instant::now()) {
                return false;
            }
            match within(LAST_CALL_TIMEOUT, call()).await {
                Ok(Leased::Held(())) => return true,
                Ok(Leased::Lost) => return false,
                Err(error) => self.endpoint.log_store_failure("cannot give a feed back", &error),
            }
        }
        false
    }
}
