//! The entries that a feed holds until they are acknowledged.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::EntryId;

/// Most entries of a feed in memory.
pub(super) const MAX_ENTRIES: usize = 4096;

/// Bytes of all feeds of a process. A feed that holds nothing may read an entry beyond them.
pub(super) const PROCESS_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that an entry takes besides its payload, approximately.
const ENTRY_BYTES: usize = 400;

/// Most entries of one acknowledgement.
const ACK_MAX_ENTRIES: usize = 1000;

/// Entries that were read and not acknowledged.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// Entries with deliveries that are not decided yet.
    held: HashMap<EntryId, Held>,
    bytes: usize,
    /// Entries to acknowledge, and those of the acknowledgement under way.
    done: BTreeSet<EntryId>,
    acknowledging: BTreeSet<EntryId>,
    /// Entries that an earlier feed of this process was done with, and could not acknowledge.
    inherited: BTreeSet<EntryId>,
    /// Attempts that are to be noted.
    notes: HashMap<EntryId, u32>,
}

#[derive(Debug)]
struct Held {
    /// Deliveries that are left.
    left: usize,
    bytes: usize,
    attempts: u32,
}

impl Buffer {
    /// Creates it with what the process was done with before.
    pub(super) fn new(inherited: BTreeSet<EntryId>) -> Self {
        Self { inherited, ..Self::default() }
    }

    /// Returns whether an entry that was read is to be delivered. One that is here already is not, nor one
    /// that an earlier feed was done with, which is only acknowledged.
    pub(super) fn is_new(&mut self, entry: EntryId) -> bool {
        if self.inherited.remove(&entry) {
            self.done.insert(entry);
        }
        !self.knows(entry)
    }

    /// Holds a new entry until so many deliveries are decided.
    pub(super) fn hold(
        &mut self,
        entry: EntryId,
        deliveries: usize,
        payload: usize,
        attempts: u32,
    ) {
        if deliveries == 0 {
            self.done.insert(entry);
            return;
        }
        let bytes = payload + ENTRY_BYTES;
        self.bytes += bytes;
        self.held.insert(entry, Held { left: deliveries, bytes, attempts });
    }

    /// Notes that one delivery of an entry is decided.
    pub(super) fn decide(&mut self, entry: EntryId) {
        let Some(held) = self.held.get_mut(&entry) else { return };
        held.left = held.left.saturating_sub(1);
        if held.left == 0 {
            self.bytes = self.bytes.saturating_sub(held.bytes);
            self.held.remove(&entry);
            self.notes.remove(&entry);
            self.done.insert(entry);
        }
    }

    /// Notes how often one delivery of an entry was attempted.
    pub(super) fn note_attempts(&mut self, entry: EntryId, attempts: u32) {
        let Some(held) = self.held.get_mut(&entry) else { return };
        if attempts > held.attempts {
            held.attempts = attempts;
            self.notes.insert(entry, attempts);
        }
    }

    /// Returns whether an entry is here, maybe acknowledged already.
    fn knows(&self, entry: EntryId) -> bool {
        self.held.contains_key(&entry)
            || self.done.contains(&entry)
            || self.acknowledging.contains(&entry)
    }

    /// Returns whether a read of so many entries and bytes fits. Any bytes do if nothing is held.
    pub(super) fn has_room(&self, entries: usize, bytes: usize, feeds: usize) -> bool {
        self.known() + entries <= MAX_ENTRIES
            && (self.held.is_empty() || self.bytes + bytes <= share(feeds))
    }

    /// Returns how many entries are held.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// Returns how many bytes the entries take that are held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns how many entries are here that are pending in the store.
    pub(super) fn known(&self) -> usize {
        self.held.len() + self.unacknowledged()
    }

    /// Returns how many entries are done and not acknowledged.
    pub(super) fn unacknowledged(&self) -> usize {
        self.done.len() + self.acknowledging.len()
    }

    /// Takes the entries that are done and not acknowledged, as far as is known.
    pub(super) fn take_done(&mut self) -> BTreeSet<EntryId> {
        let mut done = std::mem::take(&mut self.done);
        done.append(&mut self.acknowledging);
        done.append(&mut self.inherited);
        done
    }

    /// Takes entries to acknowledge, if no acknowledgement is under way.
    pub(super) fn begin_acknowledgement(&mut self) -> Option<Vec<EntryId>> {
        if self.done.is_empty() || !self.acknowledging.is_empty() {
            return None;
        }
        let first = std::iter::from_fn(|| self.done.pop_first());
        self.acknowledging = first.take(ACK_MAX_ENTRIES).collect();
        Some(self.acknowledging.iter().copied().collect())
    }

    /// Ends the acknowledgement. If it failed, its entries are acknowledged again.
    pub(super) fn end_acknowledgement(&mut self, is_done: bool) {
        let mut entries = std::mem::take(&mut self.acknowledging);
        if !is_done {
            self.done.append(&mut entries);
        }
    }

    /// Returns whether everything is acknowledged that is decided.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.done.is_empty() && self.acknowledging.is_empty()
    }

    pub(super) fn has_notes(&self) -> bool {
        !self.notes.is_empty()
    }

    /// Takes the attempts that are to be noted.
    pub(super) fn take_notes(&mut self) -> Vec<(EntryId, u32)> {
        self.notes.drain().collect()
    }

    /// Gives notes back that could not be stored.
    pub(super) fn restore_notes(&mut self, notes: Vec<(EntryId, u32)>) {
        for (entry, attempts) in notes {
            if self.held.contains_key(&entry) {
                self.notes.entry(entry).or_insert(attempts);
            }
        }
    }
}

/// Returns the bytes of one of so many feeds of the process.
pub(super) fn share(feeds: usize) -> usize {
    PROCESS_BYTES / feeds.max(1)
}

/// The bytes that one feed takes of those of the process.
#[derive(Debug)]
pub(super) struct Memory {
    used: Arc<AtomicUsize>,
    own: usize,
}

impl Memory {
    /// Begins with none. `used` is what all feeds of the process take.
    pub(super) fn new(used: Arc<AtomicUsize>) -> Self {
        Self { used, own: 0 }
    }

    /// Takes so many bytes, no more and no less, whether there are any left or not.
    pub(super) fn set(&mut self, bytes: usize) {
        if bytes > self.own {
            self.used.fetch_add(bytes - self.own, Ordering::Relaxed);
        } else if bytes < self.own {
            self.used.fetch_sub(self.own - bytes, Ordering::Relaxed);
        }
        self.own = bytes;
    }

    /// Takes so many bytes if the process has them.
    pub(super) fn try_set(&mut self, bytes: usize) -> bool {
        let before = self.own;
        self.set(bytes);
        let fits = bytes <= before || self.used.load(Ordering::Relaxed) <= PROCESS_BYTES;
        if !fits {
            self.set(before);
        }
        fits
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> EntryId {
        EntryId { ms, count: 0 }
    }

    #[test]
    fn an_entry_is_acknowledged_after_its_last_delivery() {
        let mut buffer = Buffer::default();
        buffer.hold(id(1), 2, 10, 0);
        buffer.hold(id(2), 0, 10, 0);
        assert_eq!(buffer.begin_acknowledgement(), Some(vec![id(2)]));
        buffer.decide(id(1));
        buffer.end_acknowledgement(true);
        assert_eq!(buffer.begin_acknowledgement(), None);
        buffer.decide(id(1));
        assert_eq!((buffer.len(), buffer.bytes), (0, 0));
        assert_eq!(buffer.begin_acknowledgement(), Some(vec![id(1)]));
        // One at a time, and again if it failed.
        assert_eq!(buffer.begin_acknowledgement(), None);
        assert!(buffer.knows(id(1)));
        buffer.end_acknowledgement(false);
        assert_eq!(buffer.begin_acknowledgement(), Some(vec![id(1)]));
        buffer.end_acknowledgement(true);
        assert!(buffer.is_acknowledged() && !buffer.knows(id(1)));
    }

    #[test]
    fn memory_is_shared_by_the_feeds_and_one_entry_always_fits() {
        let mut buffer = Buffer::default();
        assert!(buffer.has_room(256, usize::MAX / 2, 256));
        buffer.hold(id(1), 1, 200 * 1024, 0);
        assert!(buffer.has_room(1, 50 * 1024, 256));
        assert!(!buffer.has_room(1, 100 * 1024, 256));
        assert!(buffer.has_room(MAX_ENTRIES - 1, 63 * 1024 * 1024, 1));
        assert!(!buffer.has_room(MAX_ENTRIES, 1, 1));
        buffer.decide(id(1));
        assert!(buffer.has_room(1, 100 * 1024 * 1024, 10_000));
        // What is done counts until it is acknowledged.
        for entry in 2..=MAX_ENTRIES {
            buffer.hold(id(u64::try_from(entry).unwrap()), 0, 0, 0);
        }
        assert!(!buffer.has_room(1, 1, 1));
    }

    #[test]
    fn the_bytes_of_a_process_are_those_of_its_feeds() {
        let used = Arc::default();
        let (mut one, mut other) = (Memory::new(Arc::clone(&used)), Memory::new(Arc::clone(&used)));
        assert!(one.try_set(PROCESS_BYTES - 10));
        assert!(!other.try_set(11) && other.try_set(10));
        other.set(500);
        assert!(!one.try_set(PROCESS_BYTES - 9) && one.try_set(100));
        drop(one);
        assert_eq!(used.load(Ordering::Relaxed), 500);
        drop(other);
        assert_eq!(used.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_entry_that_is_here_or_was_done_is_not_new() {
        let mut buffer = Buffer::new([id(1), id(7)].into());
        assert!(!buffer.is_new(id(1)) && buffer.is_new(id(2)));
        buffer.hold(id(2), 1, 0, 0);
        assert!(!buffer.is_new(id(2)));
        assert_eq!((buffer.known(), buffer.unacknowledged()), (2, 1));
        assert_eq!(buffer.begin_acknowledgement(), Some(vec![id(1)]));
        assert!(!buffer.is_new(id(1)));
        buffer.decide(id(2));
        assert_eq!(buffer.take_done(), [id(1), id(2), id(7)].into());
    }

    #[test]
    fn attempts_are_noted_of_what_is_held() {
        let mut buffer = Buffer::default();
        for entry in 1..=3 {
            buffer.hold(id(entry), 1, 0, 2);
            buffer.note_attempts(id(entry), 3);
        }
        // The other delivery of the entry was attempted less often.
        buffer.note_attempts(id(1), 1);
        buffer.decide(id(2));
        let mut notes = buffer.take_notes();
        notes.sort_unstable();
        assert_eq!(notes, [(id(1), 3), (id(3), 3)]);
        buffer.decide(id(3));
        buffer.note_attempts(id(1), 4);
        buffer.restore_notes(notes);
        assert_eq!(buffer.take_notes(), [(id(1), 4)]);
    }
}
