//! Erases events that name a user.

use redis::cmd;

use super::AdminError;
use super::cursors::CursorAdmin;
use crate::domain::{EntryId, UserId};
use crate::store::Entries;
use crate::store::redis::stream;

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

impl CursorAdmin {
    /// Erases the events that name a user as reader or as recipient, up to the newest that is there when
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
        let name = self.shared.keys.stream().to_owned();
        let bounds = stream::bounds(self.connection.redis(), &self.shared.keys).await?;
        let mut done = EventErasure { length: bounds.length, ..EventErasure::default() };
        let mut after = EntryId::ZERO;
        while after < bounds.last_id {
            let read =
                stream::range(self.connection.redis(), &name, after, ENTRIES_PER_STEP).await?;
            let Entries { events, span: Some((_, end)), count, .. } = read else { break };
            after = end.entry();
            done.entries += u64::try_from(count).unwrap_or(u64::MAX);
            let mut remove = cmd("XDEL");
            remove.arg(&name);
            let mut names_user = false;
            for event in &events {
                if event.mark.reader == user || event.mark.recipient == user {
                    names_user = true;
                    remove.arg(event.position.entry().to_string());
                }
            }
            if names_user {
                done.events += remove.query_async::<u64>(self.connection.redis()).await?;
            }
            report(done);
        }
        Ok(done)
    }
}
