//! The atomic step: what is sent to the script `mark_read.lua`, and what its replies mean.

use std::time::Duration;

use redis::{Cmd, Value};

use super::errors::classify_text;
use super::keys;
use super::script::{Script, integer, script, text};
use crate::ids::UserId;
use crate::mark_read::{Mark, Outcome, Quota, RateLimit, ReadCursor};
use crate::store::{MarkResult, StoreError};
use crate::telemetry::Traceparent;
use crate::users::Users;

/// A mark, and its event's place in a trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct TracedMark {
    pub(super) mark: Mark,
    pub(super) traceparent: Option<Traceparent>,
}

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
    /// along once.
    pub(super) fn fill(&self, mut call: Cmd, marks: &[TracedMark], users: &Users) -> Cmd {
        let mut readers: Vec<UserId> = Vec::new();
        let numbers: Vec<usize> = marks
            .iter()
            .map(|TracedMark { mark, .. }| {
                // Most lists are one reader's, or each reader's first.
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
        for (TracedMark { mark, traceparent }, number) in marks.iter().zip(numbers) {
            call.arg(number).arg(mark.recipient.get()).arg(mark.last_read_event_id.get());
            match traceparent {
                Some(traceparent) => call.arg(traceparent.to_string()),
                None => call.arg(""),
            };
        }
        call
    }

    /// What the script replied, one result a mark.
    pub(super) fn results(
        &self,
        marks: &[TracedMark],
        reply: &Value,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let mut lines = text(reply)?.split('\n');
        let results = marks.iter().map(|TracedMark { mark, .. }| {
            let line = lines.next().ok_or_else(|| StoreError::corrupt("a mark without a reply"))?;
            self.result(mark, line)
        });
        let results = results.collect();
        match lines.next() {
            None => Ok(results),
            Some(_) => Err(StoreError::corrupt("a reply without a mark")),
        }
    }

    fn result(&self, mark: &Mark, reply: &str) -> MarkResult {
        // Only the shape is told of what makes no sense: values are IDs.
        let senseless =
            || StoreError::corrupt(format!("unexpected reply of {} bytes", reply.len()));
        let (outcome, rest) = reply.split_once(' ').ok_or_else(senseless)?;
        if outcome == "error" {
            return Err(classify_text(rest));
        }
        let mut numbers = rest.split(' ').map(|number| number.parse::<u64>().ok());
        let mut next = || numbers.next().flatten().ok_or_else(senseless);
        let cursor = match outcome {
            "advanced" | "unchanged" => ReadCursor {
                recipient: mark.recipient,
                last_read_event_id: next()?.try_into().map_err(StoreError::corrupt)?,
                read_at_ms: next()?,
            },
            "over_quota" => {
                let quota = self.rate_limit.quota(self.rate_limit.calls, next()?);
                let retry_after = Duration::from_millis(next()?);
                return Ok(Outcome::OverQuota { quota, retry_after });
            }
            _ => return Err(senseless()),
        };
        let quota = self.rate_limit.quota(next()?, next()?);
        Ok(if outcome == "advanced" {
            Outcome::Advanced { cursor, quota }
        } else {
            Outcome::Unchanged { cursor, quota }
        })
    }
}

/// What the scripts that read reply where they do not do what they were asked.
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
