//! A watcher's end of its queue.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::{Hub, Update};
use crate::domain::{UserId, WatchPosition};

/// The updates for one watcher. Dropping it ends the watch.
pub struct Subscription {
    pub(super) hub: Arc<Hub>,
    pub(super) user: UserId,
    pub(super) id: u64,
    pub(super) updates: mpsc::Receiver<Update>,
    /// Ready if the queue was full. Otherwise the sender is dropped.
    pub(super) overflow: Option<oneshot::Receiver<()>>,
    pub(super) overflowed: bool,
}

impl Subscription {
    /// Receives the next update; `None` if the watcher is too slow to receive more.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// Polls for the next update, as [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        self.updates.poll_recv(cx)
    }

    /// Ready if the watcher is too slow. What is queued for it is dropped: for one that does not read.
    pub fn poll_overflow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(overflow) = &mut self.overflow
            && let Poll::Ready(sent) = Pin::new(overflow).poll(cx)
        {
            self.overflow = None;
            self.overflowed = sent.is_ok();
            if self.overflowed {
                self.updates.close();
                while self.updates.try_recv().is_ok() {}
            }
        }
        if self.overflowed { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns the position up to which the watcher has received everything, as far as that is more than
    /// its last update says.
    pub fn position(&self) -> Option<WatchPosition> {
        let state = self.hub.state();
        // Not while it catches up. With the lock held, since events are queued with it.
        let watcher = state.watcher(self.user, self.id).filter(|_| self.updates.is_empty())?;
        Some(state.position(&watcher.absences))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.state().leave(self.user, self.id);
    }
}
