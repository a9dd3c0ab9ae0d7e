//! Why a connection or a probe failed.

use std::fmt;

use redis::RedisError;

use super::layout::LayoutMismatch;
use crate::store::redis::errors::{classify, server_text};

/// Why a connection or a probe failed, by what follows from it.
pub(crate) enum Failure {
    /// Redis has another layout: this server must not use it.
    Layout(LayoutMismatch),
    /// The master was demoted, or new connections reach another Redis: leave all and connect again.
    Moved(String),
    /// This connection is gone: replace it.
    Lost(String),
    /// No answer: the connection may recover.
    NoAnswer(String),
    /// Redis answers, but would refuse a call, for example since it is full.
    Refused(String),
}

impl Failure {
    /// Puts words before the text.
    pub(crate) fn in_context(self, context: &str) -> Self {
        let put = |text: String| format!("{context}: {}", without_class(&text));
        match self {
            Self::Layout(mismatch) => Self::Layout(mismatch),
            Self::Moved(text) => Self::Moved(put(text)),
            Self::Lost(text) => Self::Lost(put(text)),
            Self::NoAnswer(text) => Self::NoAnswer(put(text)),
            Self::Refused(text) => Self::Refused(put(text)),
        }
    }
}

/// Returns a cause without what every one begins with.
pub(super) fn without_class(cause: &str) -> &str {
    cause.strip_prefix("the store is unavailable: ").unwrap_or(cause)
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layout(mismatch) => mismatch.fmt(f),
            Self::Moved(text) | Self::Lost(text) | Self::NoAnswer(text) | Self::Refused(text) => {
                f.write_str(text)
            }
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let reply = server_text(&error);
        // A demoted master keeps its connections open and refuses writes; or everything, if it has no link to
        // its master and may not serve old data.
        let is_refusal_of_replica =
            |text: &String| ["READONLY ", "MASTERDOWN "].iter().any(|code| text.starts_with(code));
        let is_demoted = reply.as_ref().is_some_and(is_refusal_of_replica);
        let is_lost = error.is_unrecoverable_error();
        let text = classify(error).to_string();
        match reply {
            _ if is_demoted => Self::Moved(text),
            _ if is_lost => Self::Lost(text),
            Some(_) => Self::Refused(text),
            None => Self::NoAnswer(text),
        }
    }
}
