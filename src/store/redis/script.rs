//! The atomic step: what is sent to the script `mark_read.lua`, and what its replies mean.

use std::time::Duration;

use redis::{Cmd, Script, Value, cmd};

use super::errors::{classify_text, unexpected};
use super::keys;
use crate::mark_read::{Mark, Outcome, Quota, RateLimit, ReadCursor};
use crate::store::{MarkResult, StoreError};
use crate::users::Users;

const SOURCE: &str = include_str!("mark_read.lua");

/// The script, and the settings that every call of it carries.
#[derive(Debug)]
pub(super) struct MarkReadScript {
    sha1: String,
    stream: String,
    stream_maxlen: u64,
    rate_limit: RateLimit,
}

impl MarkReadScript {
    pub(super) fn new(stream: String, stream_maxlen: u64, rate_limit: RateLimit) -> Self {
        let sha1 = Script::new(SOURCE).get_hash().to_owned();
        Self { sha1, stream, stream_maxlen, rate_limit }
    }

    /// Loads the script, so that the first call finds it.
    pub(super) fn load() -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(SOURCE);
        load
    }

    /// One call for these marks, by the script's digest.
    pub(super) fn by_digest(&self, marks: &[Mark], users: &Users) -> Cmd {
        self.call(cmd("EVALSHA"), &self.sha1, marks, users)
    }

    /// The same with the script itself, for a Redis that has lost it; which loads it again.
    pub(super) fn by_source(&self, marks: &[Mark], users: &Users) -> Cmd {
        self.call(cmd("EVAL"), SOURCE, marks, users)
    }

    fn call(&self, mut call: Cmd, script: &str, marks: &[Mark], users: &Users) -> Cmd {
        call.arg(script).arg(1 + 2 * marks.len()).arg(&self.stream);
        for mark in marks {
            call.arg(keys::quota(mark.reader)).arg(keys::cursors(mark.reader));
        }
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms).arg(self.stream_maxlen);
        let users = users.iter();
        call.arg(users.len());
        for (user, object) in users {
            call.arg(user.get()).arg(object.as_str());
        }
        for mark in marks {
            call.arg(mark.reader.get())
                .arg(mark.recipient.get())
                .arg(mark.last_read_event_id.get());
        }
        call
    }

    /// What the script replied, one result a mark.
    pub(super) fn results(
        &self,
        marks: &[Mark],
        reply: Value,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let Value::Array(replies) = reply else { return Err(unexpected(&reply)) };
        if replies.len() != marks.len() {
            return Err(StoreError::corrupt("the script answered another number of marks"));
        }
        Ok(marks.iter().zip(&replies).map(|(mark, reply)| self.result(mark, reply)).collect())
    }

    fn result(&self, mark: &Mark, reply: &Value) -> MarkResult {
        let Value::Array(fields) = reply else { return Err(unexpected(reply)) };
        match fields.as_slice() {
            [Value::BulkString(outcome), cursor, read_at_ms, used, reset_at_ms] => {
                let cursor = ReadCursor {
                    recipient: mark.recipient,
                    last_read_event_id: text(cursor)?.parse().map_err(StoreError::corrupt)?,
                    read_at_ms: integer(read_at_ms)?,
                };
                let quota = self.quota(integer(used)?, integer(reset_at_ms)?);
                match outcome.as_slice() {
                    b"advanced" => Ok(Outcome::Advanced { cursor, quota }),
                    b"unchanged" => Ok(Outcome::Unchanged { cursor, quota }),
                    _ => Err(unexpected(reply)),
                }
            }
            [Value::BulkString(outcome), reset_at_ms, ttl_ms] if outcome == b"over_quota" => {
                let quota = self.quota(self.rate_limit.calls, integer(reset_at_ms)?);
                let retry_after = Duration::from_millis(integer(ttl_ms)?);
                Ok(Outcome::OverQuota { quota, retry_after })
            }
            [Value::BulkString(outcome), problem] if outcome == b"error" => {
                Err(classify_text(text(problem)?))
            }
            _ => Err(unexpected(reply)),
        }
    }

    fn quota(&self, used: u64, reset_at_ms: u64) -> Quota {
        let limit = self.rate_limit.calls;
        Quota { limit, remaining: limit.saturating_sub(used), reset_at_ms }
    }
}

fn integer(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(integer) => u64::try_from(*integer).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}

fn text(value: &Value) -> Result<&str, StoreError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}
