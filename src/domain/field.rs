//! Parameters of a request, and their problems.

use std::borrow::Cow;
use std::fmt;

use super::ids::{InvalidId, MAX_ID};
use super::position::InvalidPosition;

/// Name of the parameter with the most recent message that was read.
pub const LAST_READ_EVENT_ID: &str = "last_read_event_id";

/// Name of the parameter with the user whose messages were read.
pub const RECIPIENT_ID: &str = "recipient_id";

/// A parameter that is missing or invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// The field's name on the wire, with its place in a list: `recipient_ids[3]`,
    /// `requests[3].recipient_id`.
    pub name: Cow<'static, str>,
    /// The problem.
    pub problem: FieldProblem,
}

impl BadField {
    /// Creates it for a field of the request itself.
    pub fn new(name: &'static str, problem: impl Into<FieldProblem>) -> Self {
        Self { name: name.into(), problem: problem.into() }
    }

    /// Creates it for an item of a list.
    pub fn item(list: &str, index: usize, problem: impl Into<FieldProblem>) -> Self {
        Self { name: format!("{list}[{index}]").into(), problem: problem.into() }
    }

    /// Returns whether it is an item of a list, or a field of one.
    pub fn is_of_item(&self) -> bool {
        matches!(self.name, Cow::Owned(_))
    }

    /// Returns it as a field of an item of a list.
    #[must_use]
    pub fn of_item(self, list: &str, index: usize) -> Self {
        Self { name: format!("{list}[{index}].{}", self.name).into(), problem: self.problem }
    }
}

impl fmt::Display for BadField {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.problem)
    }
}

/// A problem of a parameter. The texts follow its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// Not an ID, or absent.
    #[error(transparent)]
    Id(#[from] InvalidId),
    /// Given more than once in the body or in the query.
    #[error("is given more than once")]
    Repeated,
    /// Given in the body and in the query with different values.
    #[error("differs between the body and the query")]
    Conflicting,
    /// An empty list, or one with too many items.
    #[error("must have 1 to {BATCH_MAX_ITEMS} items, got {got}")]
    ItemCount {
        /// The number of items in the request.
        got: usize,
    },
    /// A page size below 0 or too large.
    #[error("is out of range: it must be an integer from 0 to {PAGE_MAX_CURSORS}")]
    PageSize,
    /// A token that was altered, or was given to another reader.
    #[error("is not a token that this reader was given")]
    PageToken,
    /// Not a position in the event log.
    #[error(transparent)]
    Position(#[from] InvalidPosition),
    /// A position in the event logs of another store.
    #[error("is an ID of a store with other partitions than this one")]
    OtherPartitions,
    /// A position that the event log cannot have reached yet.
    #[error("is more than {AHEAD_MAX_SECONDS} s ahead of the store's clock")]
    Ahead,
}

/// Most items of a batch.
pub const BATCH_MAX_ITEMS: usize = 500;

/// Most bad fields of items that an answer names. A list of a kilobyte may have hundreds.
pub const BAD_ITEMS_MAX_NAMED: usize = 20;

/// How far a position may be ahead of the store's clock, in seconds.
pub const AHEAD_MAX_SECONDS: u64 = 60;

/// Most cursors of a page.
pub const PAGE_MAX_CURSORS: usize = 1000;

impl FieldProblem {
    /// Returns the values that its text contains, by name.
    pub fn bounds(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Id(_) => vec![("min_id", "1".to_owned()), ("max_id", MAX_ID.to_string())],
            Self::ItemCount { got } => {
                vec![
                    ("min_items", "1".to_owned()),
                    ("max_items", BATCH_MAX_ITEMS.to_string()),
                    ("items", got.to_string()),
                ]
            }
            Self::PageSize => vec![
                ("min_page_size", "0".to_owned()),
                ("max_page_size", PAGE_MAX_CURSORS.to_string()),
            ],
            Self::Ahead => vec![("max_ahead_seconds", AHEAD_MAX_SECONDS.to_string())],
            Self::Repeated
            | Self::Conflicting
            | Self::PageToken
            | Self::Position(_)
            | Self::OtherPartitions => Vec::new(),
        }
    }

    /// Returns whether the parameter is absent.
    pub fn is_missing(self) -> bool {
        self == Self::Id(InvalidId::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_named_with_its_place_in_a_list() {
        let missing = BadField::new(RECIPIENT_ID, InvalidId::Missing);
        assert_eq!(missing.to_string(), format!("recipient_id {}", InvalidId::Missing));
        let item = BadField::item("recipient_ids", 3, InvalidId::Zero);
        let of_item = missing.clone().of_item("requests", 3);
        assert_eq!((&*item.name, &*of_item.name), ("recipient_ids[3]", "requests[3].recipient_id"));
        assert!(item.is_of_item() && of_item.is_of_item() && !missing.is_of_item());
        assert!(missing.problem.is_missing() && of_item.problem.is_missing());
        assert!(!item.problem.is_missing() && !FieldProblem::Repeated.is_missing());
    }

    #[test]
    fn the_bounds_of_a_problem_are_those_in_its_text() {
        let problems = [
            (FieldProblem::Id(InvalidId::TooLarge), vec!["min_id", "max_id"]),
            (FieldProblem::ItemCount { got: 501 }, vec!["min_items", "max_items", "items"]),
            (FieldProblem::PageSize, vec!["min_page_size", "max_page_size"]),
            (FieldProblem::Ahead, vec!["max_ahead_seconds"]),
            (FieldProblem::Repeated, vec![]),
            (FieldProblem::Conflicting, vec![]),
            (FieldProblem::PageToken, vec![]),
            (FieldProblem::OtherPartitions, vec![]),
        ];
        for (problem, names) in problems {
            let (text, bounds) = (problem.to_string(), problem.bounds());
            assert_eq!(bounds.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names, "{text}");
            let numbers: Vec<_> = text.split([' ', ',']).collect();
            assert!(bounds.iter().all(|(_, bound)| numbers.contains(&&**bound)), "{text}");
        }
    }
}
