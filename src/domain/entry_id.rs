//! IDs of stream entries: milliseconds since 1970, then a number within the millisecond.

use std::fmt;
use std::str::FromStr;

/// ID of a stream entry, ordered as Redis orders them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId {
    /// Milliseconds since 1970.
    pub ms: u64,
    /// Number of the entry within the millisecond.
    pub count: u64,
}

impl EntryId {
    /// Before every entry.
    pub const ZERO: Self = Self { ms: 0, count: 0 };

    /// Returns the ID right before this one.
    #[must_use]
    pub fn before(self) -> Self {
        match (self.ms, self.count) {
            (0, 0) => Self::ZERO,
            (ms, 0) => Self { ms: ms - 1, count: u64::MAX },
            (ms, count) => Self { ms, count: count - 1 },
        }
    }

    /// Returns the ID right after this one.
    #[must_use]
    pub fn after(self) -> Self {
        match (self.ms, self.count) {
            (u64::MAX, u64::MAX) => self,
            (ms, u64::MAX) => Self { ms: ms + 1, count: 0 },
            (ms, count) => Self { ms, count: count + 1 },
        }
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.count)
    }
}

/// The text is not an [`EntryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not the ID of a stream entry")]
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
    fn an_entry_id_is_two_numbers_in_order() {
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
        assert_eq!(id(2, 5).after(), id(2, 6));
        assert_eq!(id(2, u64::MAX).after(), id(3, 0));
        assert_eq!(id(u64::MAX, u64::MAX).after(), id(u64::MAX, u64::MAX));
    }
}
