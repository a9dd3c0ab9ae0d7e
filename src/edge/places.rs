//! Places among the calls and watches of a reader, which a request takes after identity.
//!
//! A mark or a state takes its place when its small message is complete, so that half-sent calls keep no
//! place from whole ones. A page or a batch takes it before its message is read: messages of those that
//! wait would be memory.

use tokio::time::Instant;

use super::Edge;
use crate::domain::{Refusal, UserId};
use crate::proto::Rpc;
use crate::service::QuotaKind;
use crate::service::readers::{CallPlace, NoPlace, Readers, WatchPlace, Weight};

/// The place of a request, until it is dropped.
#[derive(Debug)]
pub(super) enum Place {
    /// Among the reader's calls under way.
    Call {
        /// Frees the place.
        _place: CallPlace,
    },
    /// Among the reader's watches.
    Watch {
        /// Frees the place.
        _place: WatchPlace,
    },
    /// None: readers are not bounded, or the call is answered from memory.
    None,
}

impl Edge {
    /// Takes a place for a call of a reader, or waits for one.
    pub(super) async fn place(
        &self,
        rpc: Rpc,
        reader: UserId,
        deadline: Instant,
    ) -> Result<Place, Refusal> {
        let Some(readers) = &self.readers else { return Ok(Place::None) };
        let Some((quota, weight)) = cost(rpc) else {
            let place = readers.open_watch(reader).ok_or(Refusal::TooManyOfReader)?;
            return Ok(Place::Watch { _place: place });
        };
        if let Some(place) = readers.try_enter(reader, weight) {
            return Ok(Place::Call { _place: place });
        }
        // A reader whose quota is known to be used up is answered from memory.
        if self.service.denies(reader, quota) {
            return Ok(Place::None);
        }
        // Boxed: few calls wait, and the future would enlarge every call's.
        Box::pin(self.wait_for_place(readers, reader, weight, deadline)).await
    }

    /// Refuses a light call of a reader whose queue is full. A call that is refused in any case does not
    /// wait for a place.
    pub(super) fn check_queue(&self, rpc: Rpc, reader: UserId) -> Result<(), Refusal> {
        let (Some(readers), Some((quota, Weight::Light))) = (&self.readers, cost(rpc)) else {
            return Ok(());
        };
        if !self.service.denies(reader, quota) && readers.refuses(reader) {
            return Err(Refusal::TooManyOfReader);
        }
        Ok(())
    }

    async fn wait_for_place(
        &self,
        readers: &std::sync::Arc<Readers>,
        reader: UserId,
        weight: Weight,
        deadline: Instant,
    ) -> Result<Place, Refusal> {
        let answers = self.service.store_answers();
        let entered = readers.enter(reader, weight, deadline).await;
        entered.map(|place| Place::Call { _place: place }).map_err(|no_place| match no_place {
            // The reader's calls do not end because the store does not answer.
            NoPlace::Late if self.service.store_answers() == answers => Refusal::StoreUnavailable,
            NoPlace::Late | NoPlace::TooMany => Refusal::TooManyOfReader,
        })
    }
}

/// Returns what a call costs its reader; `None` for a watch.
fn cost(rpc: Rpc) -> Option<(QuotaKind, Weight)> {
    match rpc {
        Rpc::MarkRead => Some((QuotaKind::Marks, Weight::Light)),
        Rpc::BatchMarkRead => Some((QuotaKind::Marks, Weight::Heavy)),
        Rpc::GetReadState => Some((QuotaKind::Reads, Weight::Light)),
        Rpc::BatchGetReadStates | Rpc::ListReadCursors => Some((QuotaKind::Reads, Weight::Heavy)),
        Rpc::WatchMarkReadEvents => None,
    }
}
