//! Why a connection or a probe failed.

use redis::RedisError;

use super::layout::LayoutMismatch;
use crate::store::redis::errors::{classify, server_text};

/// Why a connection or a probe failed, by what follows from it.
pub(super) enum Failure {
    /// Redis has another layout: this server must not use it.
    Layout(LayoutMismatch),
    /// The connection is gone, or belongs to a demoted master: connect again.
    Lost(String),
    /// No answer: the connection may recover.
    NoAnswer(String),
    /// Redis answers, but would refuse a call, for example since it is full.
    Refused(String),
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let reply = server_text(&error);
        // A demoted master keeps its connections open and refuses writes.
        let demoted = reply.as_ref().is_some_and(|text| text.starts_with("READONLY"));
        let lost = error.is_unrecoverable_error() || demoted;
        let text = classify(error).to_string();
        match (lost, reply) {
            (true, _) => Self::Lost(text),
            (false, Some(_)) => Self::Refused(text),
            (false, None) => Self::NoAnswer(text),
        }
    }
}
