//! The atomic step: what is sent to the script `mark_read.lua`, and what its replies mean.

use std::time::Duration;

use redis::{Cmd, Value};

use super::errors::{classify_text, unexpected};
use super::keys;
use super::script::{Script, integer, script, text};
use crate::ids::UserId;
use crate::mark_read::{Mark, Outcome, Quota, RateLimit, ReadCursor};
use crate::store::{MarkResult, StoreError};
use crate::telemetry::Traceparent;
use crate::users::Users;

/// The script, and the settings that every call of it carries.
#[derive(Debug)]
pub(super) struct MarkReadScript {
    pub(super) script: Script,
    stream: String,
    stream_maxlen: u64,
    rate_limit: RateLimit,
}

impl MarkReadScript {
    pub(super) fn new(stream: String, stream_maxlen: u64, rate_limit: RateLimit) -> Self {
        Self { script: script!("mark_read.lua"), stream, stream_maxlen, rate_limit }
    }

    /// Gives a call of the script its keys and arguments. Each reader and each user object goes
    /// along once. The script takes a `traceparent` of each mark: these are all of one call.
    pub(super) fn fill(
        &self,
        mut call: Cmd,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
        users: &Users,
    ) -> Cmd {
        let mut readers: Vec<UserId> = Vec::new();
        let numbers: Vec<usize> = marks
            .iter()
            .map(|mark| {
                // Most lists are one reader's.
                let known = readers.iter().rposition(|reader| *reader == mark.reader);
                known.unwrap_or_else(|| {
                    readers.push(mark.reader);
                    readers.len() - 1
                }) + 1
            })
            .collect();
        call.arg(1 + 2 * readers.len()).arg(&self.stream);
        for reader in &readers {
            call.arg(keys::quota(*reader)).arg(keys::cursors(*reader));
        }
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms).arg(self.stream_maxlen);
        let users = users.iter();
        call.arg(users.len());
        for (user, object) in users {
            call.arg(user.get()).arg(object.as_str());
        }
        for reader in &readers {
            call.arg(reader.get());
        }
        let traceparent = traceparent.map(|known| known.to_string()).unwrap_or_default();
        for (mark, number) in marks.iter().zip(numbers) {
            call.arg(number).arg(mark.recipient.get()).arg(mark.last_read_event_id.get());
            call.arg(&traceparent);
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
        let [Value::BulkString(outcome), cursor, read_at_ms, used, reset_at_ms] = &fields[..]
        else {
            let (quota, retry_after) = refused(fields, self.rate_limit)?;
            return Ok(Outcome::OverQuota { quota, retry_after });
        };
        let cursor = ReadCursor {
            recipient: mark.recipient,
            last_read_event_id: text(cursor)?.parse().map_err(StoreError::corrupt)?,
            read_at_ms: integer(read_at_ms)?,
        };
        let quota = self.rate_limit.quota(integer(used)?, integer(reset_at_ms)?);
        match outcome.as_slice() {
            b"advanced" => Ok(Outcome::Advanced { cursor, quota }),
            b"unchanged" => Ok(Outcome::Unchanged { cursor, quota }),
            _ => Err(unexpected(reply)),
        }
    }
}

/// What every script replies where it does not do what it was asked.
pub(super) fn refused(
    fields: &[Value],
    rate_limit: RateLimit,
) -> Result<(Quota, Duration), StoreError> {
    match fields {
        [Value::BulkString(outcome), reset_at_ms, ttl_ms] if outcome == b"over_quota" => {
            let quota = rate_limit.quota(rate_limit.calls, integer(reset_at_ms)?);
            Ok((quota, Duration::from_millis(integer(ttl_ms)?)))
        }
        [Value::BulkString(outcome), problem] if outcome == b"error" => {
            Err(classify_text(text(problem)?))
        }
        _ => Err(StoreError::corrupt(format!("unexpected reply of {} fields", fields.len()))),
    }
}
