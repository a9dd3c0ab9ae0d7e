//! A watcher's end of its queue.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::{mpsc, oneshot};

use super::{Hub, Update};
use crate::domain::{Position, UserId, WatchPosition};

/// The updates for one watcher. Dropping it ends the watch.
pub struct Subscription {
    pub(super) hub: Arc<Hub>,
    pub(super) user: UserId,
    pub(super) id: u64,
    pub(super) updates: mpsc::Receiver<Update>,
    /// Ready if the queue was full. Otherwise the sender is dropped.
    pub(super) overflow: Option<oneshot::Receiver<()>>,
    pub(super) overflowed: bool,
    /// The last heartbeat of several logs, with the events that followed it and are followed by heartbeats.
    pub(super) place: Option<Arc<[Option<Position>]>>,
    /// Whether that is the next update.
    pub(super) follows: bool,
}

impl Subscription {
    /// Receives the next update; `None` if the watcher is too slow to receive more.
    pub async fn next(&mut self) -> Option<Update> {
        if let Some(heartbeat) = self.following() {
            return Some(heartbeat);
        }
        self.updates.recv().await.inspect(|update| self.note(update))
    }

    /// Polls for the next update, as [`Self::next`].
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Update>> {
        if let Some(heartbeat) = self.following() {
            return Poll::Ready(Some(heartbeat));
        }
        self.updates.poll_recv(cx).map(|update| update.inspect(|update| self.note(update)))
    }

    /// Returns the heartbeat that follows the last event, once. So it takes no memory in the queue, where
    /// each would have a list of all logs.
    pub(super) fn following(&mut self) -> Option<Update> {
        let place = self.place.as_ref().filter(|_| std::mem::take(&mut self.follows))?;
        Some(Update::Heartbeat(WatchPosition::All(Arc::clone(place))))
    }

    pub(super) fn note(&mut self, update: &Update) {
        match update {
            Update::Heartbeat(WatchPosition::All(place)) => self.place = Some(Arc::clone(place)),
            Update::Event { partition: Some(partition), event, is_followed: true } => {
                let log = usize::from(*partition);
                if let Some(place) = self.place.as_mut().map(Arc::make_mut)
                    && let Some(position) = place.get_mut(log)
                {
                    *position = Some(event.position);
                    self.follows = true;
                }
            }
            // The event is a place of its own.
            Update::Event { .. } => self.place = None,
            _ => {}
        }
    }

    /// Returns the place after the last event if its heartbeat was not received yet.
    pub fn unsent_heartbeat(&mut self) -> Option<WatchPosition> {
        match self.following() {
            Some(Update::Heartbeat(position)) => Some(position),
            _ => None,
        }
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
