//! Errors of a store.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// Why a store operation failed.
#[derive(Clone, Debug)]
pub struct StoreError {
    /// The kind of error: whether a retry helps.
    pub kind: StoreErrorKind,
    source: Arc<dyn Error + Send + Sync>,
}

/// The kinds of [`StoreError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// Away, slow, loading, failing over, full, too few replicas. A retry is safe.
    Unavailable,
    /// More calls came than were served. It was not sent.
    Overloaded,
    /// Unexpected data: a key of a wrong type, a reply that cannot be parsed. A retry does not help.
    Corrupt,
}

impl StoreError {
    /// Creates an error after which a retry is safe.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Unavailable, source: source.into().into() }
    }

    /// Creates an error after which a retry does not help.
    pub fn corrupt(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind: StoreErrorKind::Corrupt, source: source.into().into() }
    }

    /// Returns whether the source's text has a property.
    pub(super) fn source_is(&self, has_property: impl FnOnce(&str) -> bool) -> bool {
        self.with_text(has_property)
    }

    /// Returns what a function finds in the source's text.
    pub(super) fn with_text<T>(&self, find: impl FnOnce(&str) -> T) -> T {
        find(&self.source.to_string())
    }

    /// Replaces the source's text, if `replace` returns another.
    pub(super) fn map_text(self, replace: impl FnOnce(&str) -> Option<String>) -> Self {
        match replace(&self.source.to_string()) {
            Some(text) => {
                let source: Box<dyn Error + Send + Sync> = text.into();
                Self { kind: self.kind, source: source.into() }
            }
            None => self,
        }
    }

    /// More calls came than are served, and this one was not sent.
    pub(super) fn overloaded() -> Self {
        Self { kind: StoreErrorKind::Overloaded, source: Arc::new(Overloaded) }
    }

    /// The reply to a list of marks has no result for one of them.
    pub(super) fn missing_result() -> Self {
        Self::corrupt("the reply has no result for a mark")
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            StoreErrorKind::Unavailable => write!(f, "the store is unavailable: {}", self.source),
            StoreErrorKind::Overloaded => write!(f, "the store is overloaded: {}", self.source),
            StoreErrorKind::Corrupt => {
                write!(f, "the store contains an invalid value: {}", self.source)
            }
        }
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}

/// The source of [`StoreErrorKind::Overloaded`]. It has no text of its own: such errors come in floods.
#[derive(Clone, Copy, Debug)]
struct Overloaded;

impl fmt::Display for Overloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("more calls wait than are served")
    }
}

impl Error for Overloaded {}
