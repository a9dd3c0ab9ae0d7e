//! What a server knows of the stream, by which it finds that the stream is another one: that Redis was
//! flushed, restarted without its data, or lost entries in a failover.
//!
//! Replication and the append-only file keep a prefix of what was written. So while an entry is in its
//! place, everything before it is or was trimmed, and if the last known entry is missing, so may be any
//! number of entries before it. IDs of a new stream may be the same as those of the old one or lower. So
//! the last ID of what is lost is kept in the layout, as `gap_before`, for all servers, also those that start
//! later: whoever resumes at or below it gets a gap.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};
use tokio::time::{Instant, timeout};

use super::layout::KnownLayout;
use crate::domain::EntryId;
use crate::store::Entries;
use crate::store::redis::keys::Keys;
use crate::store::redis::placement::Placement;
use crate::store::redis::stream::{self, Span};
use crate::telemetry::LogThrottle;

/// Raises `gap_before`, and never lowers it. IDs have up to 20 digits, more than Lua's numbers.
const RAISE: &str = "
    local function greater(a, b)
        if #a ~= #b then return #a > #b end
        return a > b
    end
    local known = redis.call('HGET', KEYS[1], 'gap_before')
    local ms, count = string.match(known or '', '^(%d+)-(%d+)$')
    local new_ms, new_count = string.match(ARGV[1], '^(%d+)-(%d+)$')
    if ms and (greater(ms, new_ms) or ms == new_ms and not greater(new_count, count)) then return 0 end
    redis.call('HSET', KEYS[1], 'gap_before', ARGV[1])
    return 1";

/// The pause after a check, in its durations. Redis copies the first and the last entry for each, into memory of
/// the script: that takes it 0.1 s for entries of 30 MB, and 2 s for 200 MB.
const PAUSE_OF_CHECKS: u32 = 10;

/// Longest wait for one, within that for a probe.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// What a server knows of the stream.
#[derive(Debug, Default)]
pub(crate) struct StreamHistory {
    knowledge: Mutex<Knowledge>,
    /// When the last check ended, and how long it took.
    last_check: Mutex<Option<(Instant, Duration)>>,
    unwritten: LogThrottle,
}

#[derive(Clone, Debug, Default)]
struct Knowledge {
    /// The stream at the last check.
    checked: Option<Span>,
    /// The first and the last entry that were read since.
    first_read: Option<EntryId>,
    last_read: Option<EntryId>,
    /// The greatest position before which entries are known to be lost.
    gap_before: EntryId,
    /// The layout at the last check, and whether it was found absent since.
    placement: Option<Arc<Placement>>,
    layout_was_absent: bool,
}

/// What a check found in Redis.
#[derive(Clone, Debug)]
struct Sighting {
    span: Span,
    /// The known entries that are in their place.
    present: Vec<EntryId>,
    layout_is_new: bool,
}

impl StreamHistory {
    /// Returns the greatest position before which entries are known to be lost.
    pub(crate) fn gap_before(&self) -> EntryId {
        self.knowledge().gap_before
    }

    /// Notes new entries that were read.
    pub(crate) fn note_read(&self, read: &Entries) {
        if let Some((before, end)) = read.span {
            self.knowledge().note_read(before.entry().after(), end.entry());
        }
    }

    /// Notes that the layout was absent: Redis was flushed, or only the layout's key was deleted.
    pub(crate) fn note_absent_layout(&self) {
        self.knowledge().layout_was_absent = true;
    }

    /// Checks the stream once a second, as [`Self::check`] does, or less often if a check takes long. Returns the
    /// stream as it was found last.
    pub(crate) async fn check_paced(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        layout: &KnownLayout,
    ) -> RedisResult<Option<Span>> {
        let last = *self.last_check.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none_or(|(end, took)| end.elapsed() >= took * PAUSE_OF_CHECKS) {
            let began = Instant::now();
            // Whether Redis answers at all, the rest of the probe finds.
            let checked = timeout(CHECK_TIMEOUT, self.check(connection, keys, layout)).await;
            // One that is given up takes Redis longer than that.
            let took = if checked.is_ok() { began.elapsed() } else { 2 * CHECK_TIMEOUT };
            let ended = Some((Instant::now(), took));
            *self.last_check.lock().unwrap_or_else(PoisonError::into_inner) = ended;
            if let Ok(checked) = checked {
                return checked;
            }
        }
        Ok(self.knowledge().checked)
    }

    /// Compares the stream with what is known of it. If it is another one, it writes the last known ID into
    /// the layout. To be called before a connection is put to use, and once a second. Returns the stream as it
    /// was found.
    pub(crate) async fn check(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        layout: &KnownLayout,
    ) -> RedisResult<Option<Span>> {
        let placement = layout.known();
        let known = self.knowledge().clone();
        let (span, present) = match stream::span(connection, keys, &known.entries()).await {
            Ok(found) => found,
            // Nothing can be known of what cannot be read, such as a key of another type.
            Err(error) if error.code().is_some() => return Ok(None),
            Err(error) => return Err(error),
        };
        let layout_is_new = known.layout_was_absent
            || is_another_layout(known.placement.as_deref(), placement.as_deref());
        let found = Sighting { span, present, layout_is_new };
        let to_write = {
            let mut now = self.knowledge();
            now.placement = placement;
            now.update(&known, &found)
        };
        if let Some(gap_before) = to_write {
            self.write(connection, keys, gap_before).await?;
        }
        Ok(Some(span))
    }

    /// Writes a known loss. If Redis refuses, the next check tries it again; until then only this server
    /// knows of it.
    async fn write(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
        gap_before: EntryId,
    ) -> RedisResult<()> {
        let mut raise = cmd("EVAL");
        raise.arg(RAISE).arg(1).arg(keys.layout()).arg(gap_before.to_string());
        match raise.query_async::<bool>(connection).await {
            Err(error) if error.code().is_some() => {
                if self.unwritten.permit().is_some() {
                    tracing::warn!(
                        cause = ?error.to_string(),
                        "the loss of entries of the stream cannot be written for other servers"
                    );
                }
                Ok(())
            }
            written => written.map(|_| ()),
        }
    }

    fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether a layout was written by a server that found none. An operator changes its version, but
/// no key.
fn is_another_layout(known: Option<&Placement>, found: Option<&Placement>) -> bool {
    match (known, found) {
        (Some(Placement::Keyed(known)), Some(Placement::Keyed(found))) => known != found,
        _ => false,
    }
}

impl Knowledge {
    fn last_checked(&self) -> EntryId {
        self.checked.map_or(EntryId::ZERO, |span| span.bounds.last_id)
    }

    fn note_read(&mut self, first: EntryId, last: EntryId) {
        // Entries are read again after a gap.
        let checked = self.last_checked();
        if last <= checked {
            return;
        }
        let first = if first > checked { first } else { last };
        self.first_read.get_or_insert(first);
        self.last_read = self.last_read.max(Some(last));
    }

    /// The entries that have to be in their place, unless they were trimmed.
    fn entries(&self) -> Vec<EntryId> {
        let checked = Some(self.last_checked()).filter(|id| *id != EntryId::ZERO);
        let mut entries: Vec<_> =
            [checked, self.first_read, self.last_read].into_iter().flatten().collect();
        entries.dedup();
        entries
    }

    /// Takes over what a check found of what was known when it began. Returns the position that is to be
    /// written into the layout.
    fn update(&mut self, known: &Self, found: &Sighting) -> Option<EntryId> {
        let lost = known.lost(found);
        if let Some(lost) = lost {
            tracing::warn!(
                gap_before = %lost,
                "the stream is not the one that was read before: Redis was flushed, or lost entries"
            );
        }
        self.gap_before =
            self.gap_before.max(found.span.bounds.gap_before).max(lost.unwrap_or_default());
        let last_id = found.span.bounds.last_id;
        self.checked = Some(found.span);
        // Entries may have been read after the check.
        self.last_read = self.last_read.filter(|last| *last > last_id && lost.is_none());
        self.first_read = self.last_read;
        // It may have been found absent meanwhile: the next check knows it.
        self.layout_was_absent &= !known.layout_was_absent;
        (self.gap_before > found.span.bounds.gap_before).then_some(self.gap_before)
    }

    /// Returns the position before which entries are lost, if the stream is another one.
    fn lost(&self, found: &Sighting) -> Option<EntryId> {
        let entries = self.entries();
        let missing: Vec<_> =
            entries.iter().copied().filter(|entry| self.is_missing(*entry, found)).collect();
        let went_back = self.checked.is_some_and(|checked| found.span.added < checked.added);
        let is_other = !missing.is_empty() || (went_back && !entries.is_empty());
        // Nothing was known to be in the log. What came since was lost with the layout.
        let was_empty = self.checked.is_some() && entries.is_empty();
        let is_flushed = found.layout_is_new || found.span.bounds.gap_before < self.gap_before;
        let is_other = is_other || (was_empty && is_flushed);
        if !is_other {
            return None;
        }
        // If what was read last is there and what was read before it is not, the stream was replaced in
        // between, after some entry before the last one.
        let before_last = self.last_read.map(EntryId::before);
        let reads_are_mixed = self.first_read.is_some_and(|first| missing.contains(&first));
        let before_last = before_last.filter(|_| reads_are_mixed);
        let known = missing.into_iter().max().or(self.checked.map(|span| span.bounds.last_id));
        // At least what the heartbeats of an empty log gave, so that those positions get a gap too.
        known.max(before_last).max(Some(self.gap_before.after()))
    }

    /// Returns whether an entry is not in its place although nobody removed it from this stream.
    fn is_missing(&self, entry: EntryId, found: &Sighting) -> bool {
        if found.present.contains(&entry) {
            return false;
        }
        let Span { bounds, added, .. } = found.span;
        let known_added = self.checked.map_or(0, |checked| checked.added);
        let is_same = !found.layout_is_new && bounds.last_id >= entry && added >= known_added;
        // Trimming takes the oldest first: it must have taken everything that was known up to this one.
        let removed = known_added + u64::from(entry > self.last_checked());
        let is_trimmed =
            bounds.oldest.is_none_or(|oldest| entry < oldest) && found.span.removed() >= removed;
        !(is_same && (is_trimmed || entry <= bounds.max_removed))
    }
}

#[cfg(test)]
mod tests;
