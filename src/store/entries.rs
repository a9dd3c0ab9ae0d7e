//! Parts of the event log.

use crate::domain::{EntryId, Event, Position};

/// Consecutive entries of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    /// Their events. Entries of other programs have none.
    pub events: Vec<Event>,
    /// The positions before the first and after the last entry; `None` if there are no entries.
    pub span: Option<(Position, Position)>,
    /// How many entries there are.
    pub count: usize,
    /// Their size, in bytes.
    pub bytes: usize,
}

impl Entries {
    /// Parses entries by their IDs and payloads.
    pub fn parse<'a>(entries: impl IntoIterator<Item = (EntryId, &'a str)>) -> Self {
        let mut all = Self::default();
        for (id, payload) in entries {
            let position = Position::from(id);
            all.events.extend(Event::parse(position, payload));
            let start = all.span.map_or(id.before().into(), |(start, _)| start);
            all.span = Some((start, position));
            all.count += 1;
            all.bytes += payload.len();
        }
        all
    }

    /// Appends the entries right after these.
    #[must_use]
    pub fn followed_by(mut self, mut later: Self) -> Self {
        self.events.append(&mut later.events);
        self.span = match (self.span, later.span) {
            (Some((start, _)), Some((_, end))) => Some((start, end)),
            (one, other) => one.or(other),
        };
        self.count += later.count;
        self.bytes += later.bytes;
        self
    }
}

/// Chooses how many entries to read, by the size of those that were read before: other programs may put
/// entries of any size into the log.
#[derive(Clone, Copy, Debug)]
pub struct ReadSize {
    entries: usize,
    max_entries: usize,
    /// Bytes of a read to aim at.
    bytes: usize,
}

impl ReadSize {
    /// Creates it for reads of this many entries and bytes at most. The first ones are small, since the
    /// size of entries is not known.
    pub const fn new(max_entries: usize, bytes: usize) -> Self {
        Self { entries: 16, max_entries, bytes }
    }

    /// Returns the number of entries to read.
    pub fn entries(&self) -> usize {
        self.entries
    }

    /// Learns from a read. Entries may become larger at any time: reads grow slowly, and shrink at once.
    pub fn adapt(&mut self, read: &Entries) {
        if read.count > 0 {
            let fitting = self.bytes * read.count / read.bytes.max(1);
            self.entries = fitting.min(self.entries * 4).clamp(1, self.max_entries);
        }
    }

    /// Learns that a read failed, maybe because it was too large.
    pub fn shrink(&mut self) {
        self.entries = (self.entries / 4).max(1);
    }
}

/// The span of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBounds {
    /// ID of the oldest entry, if there is one.
    pub oldest: Option<EntryId>,
    /// ID of the newest entry, if there is one.
    pub newest: Option<EntryId>,
    /// The greatest ID that was ever given to an entry.
    pub last_id: EntryId,
    /// The greatest ID of an entry that was removed otherwise than from the oldest end.
    pub max_removed: EntryId,
    /// The greatest position before which entries are known to be lost otherwise than by trimming: the
    /// log was flushed, or went back in a failover. Zero if nothing is known to be lost.
    pub gap_before: EntryId,
    /// True if entries were ever removed.
    pub trimmed: bool,
    /// Number of entries.
    pub length: u64,
    /// The store's clock, in milliseconds since 1970.
    pub now_ms: u64,
}

impl LogBounds {
    /// Returns the position before the oldest entry.
    pub fn start(&self) -> Position {
        self.oldest.map_or(self.last_id, EntryId::before).into()
    }

    /// Returns the position after the newest entry.
    pub fn end(&self) -> Position {
        let last_id = Position::from(self.last_id);
        if self.length == 0 { last_id.max(self.empty()) } else { last_id }
    }

    /// Returns the position of a log without entries. It differs after each loss, so that whoever
    /// resumes from there hears of losses since.
    pub fn empty(&self) -> Position {
        self.gap_before.after().into()
    }

    /// Returns the greatest time in a position that was ever given, in milliseconds since 1970, or the
    /// time of the store's clock if that is greater.
    pub fn latest_ms(&self) -> u64 {
        self.now_ms.max(self.last_id.ms).max(self.gap_before.ms)
    }

    /// Returns where a watcher goes on that resumes after a position.
    pub fn resume(&self, after: Position) -> Resumption {
        if after == Position::START {
            return Resumption::Complete(after);
        }
        // All entries have come since.
        if after == self.empty() && !self.trimmed {
            return Resumption::Complete(self.start());
        }
        // Nobody knows when the watcher was at its position: any removal may have been after that.
        let known = Losses { gap_before: self.gap_before, max_removed: EntryId::ZERO };
        match self.loss(after, &known) {
            _ if after.entry() <= self.gap_before => Resumption::Gap(self.start()),
            Loss::Nothing => Resumption::Complete(after),
            Loss::Removed => Resumption::Gap(after),
            Loss::Trimmed | Loss::Log => Resumption::Gap(self.start()),
        }
    }

    /// Returns where a watcher goes on that resumes with the entries since a time, in milliseconds since 1970:
    /// that of an event of another partition, and so of another clock.
    pub fn resume_at(&self, ms: u64) -> Resumption {
        let start = self.start();
        let before = Position::from(EntryId { ms, count: 0 }.before());
        // Of an empty log, the greatest ID that it had.
        let is_trimmed = self.trimmed && before < start;
        if ms <= self.gap_before.ms || is_trimmed {
            return Resumption::Gap(start);
        }
        let at = before.clamp(start, start.max(self.last_id.into()));
        // Nobody knows when the watcher was at this time: any removal may have been after that.
        if at.entry() < self.max_removed {
            return Resumption::Gap(at);
        }
        Resumption::Complete(at)
    }

    /// Returns the losses that the log reveals.
    pub fn losses(&self) -> Losses {
        Losses { gap_before: self.gap_before, max_removed: self.max_removed }
    }

    /// Returns what a reader may have lost who has read a log up to a position, and heard of some losses.
    pub fn loss(&self, after: Position, known: &Losses) -> Loss {
        if self.gap_before != known.gap_before || self.is_another(after) {
            Loss::Log
        } else if self.trimmed && after < self.start() {
            Loss::Trimmed
        } else if self.max_removed > known.max_removed && after.entry() < self.max_removed {
            Loss::Removed
        } else {
            Loss::Nothing
        }
    }

    /// Returns whether a reader who has read a log up to a position has read another one than this.
    pub fn is_another(&self, after: Position) -> bool {
        let is_first = !self.trimmed && (after == Position::START || after == self.empty());
        let is_before_first = !self.trimmed && after < self.start();
        !is_first && (is_before_first || after > self.end())
    }

    /// Returns how old the oldest entry is, in milliseconds by the store's clock.
    pub fn oldest_age_ms(&self) -> u64 {
        self.oldest.map_or(0, |oldest| self.now_ms.saturating_sub(oldest.ms))
    }
}

/// Losses of a log that its bounds show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// As [`LogBounds::gap_before`].
    pub gap_before: EntryId,
    /// As [`LogBounds::max_removed`].
    pub max_removed: EntryId,
}

/// What a reader may have lost after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// Single entries, which were removed. The reader goes on where it is.
    Removed,
    /// The entries before the oldest one, with which the reader goes on.
    Trimmed,
    /// The log is another one, and the position not one of it. The reader goes on with the oldest entry.
    Log,
}

/// Where a watcher goes on that resumes after a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// Nothing is missing from here on.
    Complete(Position),
    /// Entries may be missing that were after the watcher's position, and it goes on here.
    Gap(Position),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64, count: u64) -> EntryId {
        EntryId { ms, count }
    }

    fn bounds(oldest: u64, newest: u64) -> LogBounds {
        LogBounds {
            oldest: Some(id(oldest, 0)),
            newest: Some(id(newest, 0)),
            last_id: id(newest, 0),
            length: newest - oldest + 1,
            ..LogBounds::default()
        }
    }

    #[test]
    fn a_position_is_resumed_where_it_is_or_with_a_gap_at_the_oldest_entry() {
        let whole = bounds(5, 9);
        let trimmed = LogBounds { trimmed: true, ..whole };
        let flushed = LogBounds { gap_before: id(4, 2), ..whole };
        let behind = LogBounds { gap_before: id(7, 0), ..whole };
        let holed = LogBounds { max_removed: id(7, 0), ..whole };
        let removed = LogBounds { trimmed: true, ..holed };
        let empty = LogBounds::default();
        let emptied = LogBounds { last_id: id(9, 0), trimmed: true, ..empty };
        let flushed_empty = LogBounds { gap_before: id(9, 0), ..empty };
        let (complete, gap) = (|at| (true, at), |at| (false, at));
        let start = id(5, 0).before();
        for (name, log, after, expected) in [
            ("from the beginning", whole, id(0, 0), complete(id(0, 0))),
            ("from the beginning", trimmed, id(0, 0), complete(id(0, 0))),
            ("from the beginning", behind, id(0, 0), complete(id(0, 0))),
            ("an empty log's heartbeat", whole, id(0, 1), complete(start)),
            ("an empty log's heartbeat, trimmed", trimmed, id(0, 1), gap(start)),
            ("one of before a flush", flushed, id(0, 1), gap(start)),
            ("one of after a flush", flushed, id(4, 3), complete(start)),
            ("one of after a flush, of later IDs", behind, id(7, 1), complete(start)),
            ("before the oldest", whole, id(4, 9), gap(start)),
            ("right before the oldest", whole, start, complete(start)),
            ("an entry", whole, id(5, 0), complete(id(5, 0))),
            ("the last", whole, id(9, 0), complete(id(9, 0))),
            ("past the last", whole, id(9, 1), gap(start)),
            ("lost", behind, id(7, 0), gap(start)),
            ("after what is lost", behind, id(8, 0), complete(id(8, 0))),
            ("before one that was removed", holed, id(6, 0), gap(id(6, 0))),
            ("before the oldest and one that was removed", removed, id(4, 9), gap(start)),
            ("one that was removed", holed, id(7, 0), complete(id(7, 0))),
            ("an empty log", empty, id(0, 1), complete(id(0, 0))),
            ("not of this log", empty, id(0, 2), gap(id(0, 0))),
            ("the last of what was removed", emptied, id(9, 0), complete(id(9, 0))),
            ("of what was removed", emptied, id(8, 0), gap(id(9, 0))),
            ("the last before a flush", flushed_empty, id(9, 0), gap(id(0, 0))),
            ("after a flush", flushed_empty, id(9, 1), complete(id(0, 0))),
        ] {
            let resumed = match log.resume(after.into()) {
                Resumption::Complete(at) => complete(at.entry()),
                Resumption::Gap(at) => gap(at.entry()),
            };
            assert_eq!(resumed, expected, "{name}: {after} in {log:?}");
        }
    }

    #[test]
    fn a_time_is_resumed_where_it_is_or_with_a_gap() {
        let whole = bounds(500, 900);
        let trimmed = LogBounds { trimmed: true, ..whole };
        let behind = LogBounds { gap_before: id(700, 3), ..whole };
        let holed = LogBounds { max_removed: id(700, 0), ..whole };
        let empty = LogBounds::default();
        let emptied = LogBounds { last_id: id(900, 0), trimmed: true, ..empty };
        let flushed = LogBounds { gap_before: id(900, 0), ..empty };
        let (complete, gap) = (|at| (true, at), |at| (false, at));
        let start = id(500, 0).before();
        for (name, log, ms, expected) in [
            ("before a log that lost nothing", whole, 400, complete(start)),
            ("before the oldest that is left", trimmed, 400, gap(start)),
            ("the oldest that is left", trimmed, 500, complete(start)),
            ("within", whole, 600, complete(id(600, 0).before())),
            ("past the end", whole, 2_000, complete(id(900, 0))),
            ("before a loss", behind, 700, gap(start)),
            ("after a loss", behind, 701, complete(id(701, 0).before())),
            ("before one that was removed", holed, 600, gap(id(600, 0).before())),
            ("after one that was removed", holed, 701, complete(id(701, 0).before())),
            ("an empty log", empty, 600, complete(id(0, 0))),
            ("before the end of what was removed", emptied, 900, gap(id(900, 0))),
            ("after what was removed", emptied, 901, complete(id(900, 0))),
            ("before a flush", flushed, 900, gap(id(0, 0))),
            ("after a flush", flushed, 901, complete(id(0, 0))),
        ] {
            let resumed = match log.resume_at(ms) {
                Resumption::Complete(at) => complete(at.entry()),
                Resumption::Gap(at) => gap(at.entry()),
            };
            assert_eq!(resumed, expected, "{name}");
        }
    }

    #[test]
    fn a_reader_loses_what_was_removed_since_it_heard_of_losses() {
        let log = LogBounds { max_removed: id(7, 0), trimmed: true, ..bounds(5, 9) };
        let known = |removed| Losses { max_removed: id(removed, 0), ..log.losses() };
        let failed_over = Losses { gap_before: id(6, 0), ..log.losses() };
        for (name, after, known, expected) in [
            ("removed since", 6, known(3), Loss::Removed),
            ("removed before", 6, known(7), Loss::Nothing),
            ("of another log, where more was removed", 6, known(8), Loss::Nothing),
            ("removed since, behind the reader", 7, known(3), Loss::Nothing),
            ("trimmed too", 4, known(3), Loss::Trimmed),
            ("of another log", 8, failed_over, Loss::Log),
            ("past the end", 10, known(7), Loss::Log),
        ] {
            assert_eq!(log.loss(id(after, 0).into(), &known), expected, "{name}");
        }
    }

    #[test]
    fn the_position_of_an_empty_log_is_one_that_it_resumes() {
        let empty = LogBounds::default();
        for log in [
            empty,
            LogBounds { gap_before: id(9, 0), ..empty },
            LogBounds { gap_before: id(9, u64::MAX), ..empty },
            LogBounds { last_id: id(9, 0), trimmed: true, ..empty },
            LogBounds { last_id: id(9, 0), trimmed: true, gap_before: id(10, 0), ..empty },
            bounds(5, 9),
        ] {
            assert!(matches!(log.resume(log.end()), Resumption::Complete(_)), "{log:?}");
        }
        assert_eq!(empty.end(), Position::EMPTY);
    }

    #[test]
    fn reads_are_as_large_as_entries_allow() {
        let read = |count, bytes| Entries { count, bytes, ..Entries::default() };
        let mut size = ReadSize::new(1000, 1_000_000);
        for (of, entries) in [
            (read(0, 0), 16),
            (read(1, 400), 64),
            (read(1, 0), 256),
            (read(7, 2_800), 1000),
            (read(1000, 400_000), 1000),
            (read(1000, 1_000_000_000), 1),
            (read(1, 100_000), 4),
        ] {
            size.adapt(&of);
            assert_eq!(size.entries(), entries, "{of:?}");
        }
        size.shrink();
        size.shrink();
        assert_eq!(size.entries(), 1);
    }
}
