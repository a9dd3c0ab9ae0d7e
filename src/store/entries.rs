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
    /// The size of their payloads, in bytes.
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

/// The span of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// ID of the oldest entry, if there is one.
    pub oldest: Option<EntryId>,
    /// The greatest ID that was ever given to an entry.
    pub last_id: EntryId,
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
        Position::from(self.last_id).max(Position::EMPTY)
    }

    /// Returns whether entries after a position may be missing: some were removed there, or the
    /// position belongs to another log.
    pub fn may_have_lost(&self, after: Position) -> bool {
        (self.trimmed && after < self.start()) || after > self.end()
    }

    /// Returns how old the oldest entry is, in milliseconds by the store's clock.
    pub fn oldest_age_ms(&self) -> u64 {
        self.oldest.map_or(0, |oldest| self.now_ms.saturating_sub(oldest.ms))
    }
}
