//! Follows a stream of events from a place on: what advanced after that place is in it, unless entries were
//! removed before they were read.

use crate::domain::{Conversation, CursorRecord, EntryId, Event, Mark};
use crate::store::redis::admin::AdminError;
use crate::store::redis::admin::cursors::CursorAdmin;
use crate::store::redis::keys::Keys;
use crate::store::{Loss, Losses, ReadSize};

/// Most entries of one read.
const READ_MAX_ENTRIES: usize = 1000;

/// Bytes of a read to aim at.
const READ_BYTES: usize = 1024 * 1024;

/// A place in a partition's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Follower {
    /// The entry up to which everything was read.
    pub(super) after: EntryId,
    /// Losses of the stream at that time.
    pub(super) losses: Losses,
    size: ReadSize,
}

/// What was read of the stream.
#[derive(Debug, Default)]
pub(super) struct FollowedEvents {
    /// The cursors that the events advanced.
    pub(super) records: Vec<CursorRecord>,
    /// Entries that were read.
    pub(super) entries: u64,
    /// Whether there may be more.
    pub(super) more: bool,
    /// Whether entries are lost that were not read.
    pub(super) lost: bool,
}

impl Follower {
    pub(super) fn new(after: EntryId, losses: Losses) -> Self {
        Self { after, losses, size: ReadSize::new(READ_MAX_ENTRIES, READ_BYTES) }
    }

    /// Begins at the stream's end.
    pub(super) async fn at_end(
        partition: &mut CursorAdmin,
        keys: &Keys,
    ) -> Result<Self, AdminError> {
        let bounds = partition.bounds(keys).await?;
        Ok(Self::new(bounds.end().entry(), bounds.losses()))
    }

    /// Reads what came after its place. The place moves on, unless entries are lost.
    pub(super) async fn read(
        &mut self,
        partition: &mut CursorAdmin,
        keys: &Keys,
    ) -> Result<FollowedEvents, AdminError> {
        // With the entry at its place: while that is there, nothing after it was trimmed.
        let limit = self.size.entries() + 1;
        let read = partition.entries(keys, self.after.before(), limit).await?;
        let is_in_place = read.span.is_some_and(|(before, _)| before.entry().after() == self.after);
        // After the read: what it did not return may be lost, and what it did was not.
        let bounds = partition.bounds(keys).await?;
        let lost = match bounds.loss(self.after.into(), &self.losses) {
            Loss::Nothing => false,
            Loss::Trimmed => !is_in_place,
            Loss::Removed | Loss::Log => true,
        };
        if lost {
            return Ok(FollowedEvents { lost, ..FollowedEvents::default() });
        }
        self.size.adapt(&read);
        let after = self.after;
        let new = read.events.iter().filter(|event| event.position.entry() > after);
        let records = new.map(record).collect();
        let count = read.count - usize::from(is_in_place);
        self.losses = bounds.losses();
        if let Some((_, end)) = read.span {
            self.after = self.after.max(end.entry());
        }
        let more = read.count >= limit;
        let entries = u64::try_from(count).unwrap_or(u64::MAX);
        Ok(FollowedEvents { records, entries, more, lost })
    }
}

fn record(event: &Event) -> CursorRecord {
    let Event { mark: Mark { reader, recipient, last_read_event_id }, created_ms, .. } = *event;
    CursorRecord {
        conversation: Conversation { reader, recipient },
        last_read_event_id,
        read_at_ms: Some(created_ms),
    }
}
