//! Connections of one worker for calls that wait for an acknowledgement.
//!
//! `WAIT` looks at the last write of its connection, and blocks what follows it there. So a connection has
//! one such call in flight, which waits only for its own acknowledgement, and the others queue here, in
//! order, where a call whose caller gives up is never sent.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit};

use super::link::Link;

/// The connections of one worker.
#[derive(Debug)]
pub(super) struct AckLinks {
    links: Box<[ArcSwapOption<Link>]>,
    /// Held by the call that is next, so that they come in order.
    turn: Mutex<()>,
    /// Notified when a connection may have become free.
    freed: Arc<Notify>,
}

/// A connection that one call may block, until this is dropped.
#[derive(Debug)]
pub(crate) struct FreeLink {
    link: Arc<Link>,
    permit: Option<OwnedSemaphorePermit>,
    freed: Arc<Notify>,
}

impl AckLinks {
    pub(super) fn new(count: usize) -> Self {
        let links = (0..count).map(|_| ArcSwapOption::empty()).collect();
        let (turn, freed) = Default::default();
        Self { links, turn, freed }
    }

    /// Returns where a connection is kept; `None` if there is no such one.
    pub(super) fn slot(&self, number: usize) -> Option<&ArcSwapOption<Link>> {
        self.links.get(number)
    }

    /// Notes that connections were replaced, or left.
    pub(super) fn note_change(&self) {
        self.freed.notify_one();
    }

    /// Waits for a connection that no call blocks. Returns `None` if all are lost.
    pub(super) async fn free(&self) -> Option<FreeLink> {
        let _turn = self.turn.lock().await;
        loop {
            let mut all_lost = true;
            let loaded = self.links.iter().filter_map(ArcSwapOption::load_full);
            for link in loaded.filter(|link| !link.is_lost()) {
                all_lost = false;
                if let Some(permit) = link.try_block() {
                    return Some(FreeLink::new(link, permit, &self.freed));
                }
            }
            if all_lost {
                return None;
            }
            self.freed.notified().await;
        }
    }
}

impl FreeLink {
    fn new(link: Arc<Link>, permit: OwnedSemaphorePermit, freed: &Arc<Notify>) -> Self {
        Self { link, permit: Some(permit), freed: Arc::clone(freed) }
    }

    /// Waits until no other call blocks a connection that is not among a worker's for this.
    pub(super) async fn of_others(link: Arc<Link>) -> Option<Self> {
        let permit = link.block().await?;
        Some(Self::new(link, permit, &Arc::default()))
    }

    /// Returns the connection.
    pub(crate) fn connection(&self) -> MultiplexedConnection {
        self.link.connection()
    }
}

impl Drop for FreeLink {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.freed.notify_one();
    }
}
