//! IDs of stream entries: milliseconds since 1970, then a count within the millisecond.

use std::fmt;
use std::str::FromStr;

/// The ID of an entry of the stream, ordered as Redis orders them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// The count within the millisecond.
    pub count: u64,
}

impl EntryId {
    /// Before every entry.
    pub const ZERO: Self = Self { ms: 0, count: 0 };

    /// The least that an entry can have: where an empty stream is, which is not [`Self::ZERO`], as that
    /// is where somebody begins who wants everything.
    pub const FIRST: Self = Self { ms: 0, count: 1 };

    /// The ID right before this one.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.ms, self.count) {
            (0, 0) => Self::ZERO,
            (ms, 0) => Self { ms: ms - 1, count: u64::MAX },
            (ms, count) => Self { ms, count: count - 1 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.count)
    }
}

/// Why a text is no [`EntryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no ID of an event")]
pub struct InvalidEntryId;

impl FromStr for EntryId {
    type Err = InvalidEntryId;

    fn from_str(text: &str) -> Result<Self, InvalidEntryId> {
        let number = |text: &str| {
            let canonical = text == "0"
                || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
            text.parse().ok().filter(|_| canonical).ok_or(InvalidEntryId)
        };
        let (ms, count) = text.split_once('-').ok_or(InvalidEntryId)?;
        Ok(Self { ms: number(ms)?, count: number(count)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_two_numbers_in_order() {
        for text in ["0-0", "1518127183443-0", "18446744073709551615-18446744073709551615"] {
            assert_eq!(text.parse::<EntryId>().unwrap().to_string(), text);
        }
        for text in ["", "1", "-", "1-", "-1", "1-2-3", "01-0", "+1-0", " 1-0", "1-0 ", "١-0", "$"]
        {
            assert_eq!(text.parse::<EntryId>(), Err(InvalidEntryId), "{text:?}");
        }
        let id = |ms, count| EntryId { ms, count };
        assert!(id(2, 0) > id(1, u64::MAX) && id(1, 2) > id(1, 1));
        assert_eq!(id(2, 0).before(), id(1, u64::MAX));
        assert_eq!(id(2, 5).before(), id(2, 4));
        assert_eq!(EntryId::ZERO.before(), EntryId::ZERO);
    }
}
