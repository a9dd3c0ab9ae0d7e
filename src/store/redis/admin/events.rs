//! Erases events that name a user.

use redis::cmd;

use super::AdminError;
use super::cursors::CursorAdmin;
use super::store::StoreAdmin;
use crate::domain::{EntryId, UserId};
use crate::store::Entries;

/// Entries that one step reads: 3 MB at 2 times 16 KiB of user objects each.
const ENTRIES_PER_STEP: usize = 100;

/// What a walk through the stream has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventErasure {
    /// Events that were erased.
    pub events: u64,
    /// Entries that were looked at.
    pub entries: u64,
    /// Entries that there were at the beginning.
    pub length: u64,
}

impl StoreAdmin {
    /// Erases the events that name a user as reader or as recipient, up to the newest that are there when
    /// it begins.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`]; some events may have been erased.
    pub async fn erase_events(
        &mut self,
        user: UserId,
        mut report: impl FnMut(EventErasure),
    ) -> Result<EventErasure, AdminError> {
        let (mut done, mut ends) = (EventErasure::default(), Vec::new());
        for partition in &mut self.partitions {
            let keys = partition.shared.keys.clone();
            let bounds = partition.bounds(&keys).await?;
            done.length += bounds.length;
            ends.push(bounds.last_id);
        }
        for (partition, end) in self.partitions.iter_mut().zip(ends) {
            partition.erase_events_up_to(end, user, &mut done, &mut report).await?;
        }
        Ok(done)
    }
}

impl CursorAdmin {
    async fn erase_events_up_to(
        &mut self,
        last: EntryId,
        user: UserId,
        done: &mut EventErasure,
        report: &mut impl FnMut(EventErasure),
    ) -> Result<(), AdminError> {
        let keys = self.shared.keys.clone();
        let mut after = EntryId::ZERO;
        while after < last {
            let read = self.entries(&keys, after, ENTRIES_PER_STEP).await?;
            let Entries { events, span: Some((_, end)), count, .. } = read else { break };
            after = end.entry();
            done.entries += u64::try_from(count).unwrap_or(u64::MAX);
            let mut remove = cmd("XDEL");
            remove.arg(keys.stream());
            let mut names_user = false;
            for event in &events {
                if event.mark.reader == user || event.mark.recipient == user {
                    names_user = true;
                    remove.arg(event.position.entry().to_string());
                }
            }
            if names_user {
                done.events += self.connection.query::<u64>(&remove).await?;
            }
            report(*done);
        }
        Ok(())
    }
}
