//! The atomic step: what is sent to the script `mark_read.lua`, and what its replies mean.

use std::time::Duration;

use quick_cache::sync::Cache;
use redis::{Cmd, Value};

use crate::domain::{Mark, Outcome, Quota, RateLimit, ReadCursor, UserId, Users};
use crate::store::redis::errors::{classify_text, unexpected};
use crate::store::redis::keys;
use crate::store::redis::scripts::{Script, integer, script, text};
use crate::store::{MarkResult, StoreError};
use crate::telemetry::Traceparent;

/// Readers whose number of buckets is remembered.
const CAPACITY_READERS: usize = 64 * 1024;

/// A mark, and its event's place in a trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TracedMark {
    pub(crate) mark: Mark,
    pub(crate) traceparent: Option<Traceparent>,
}

/// The script, and the settings that every call of it carries.
#[derive(Debug)]
pub(crate) struct MarkReadScript {
    pub(crate) script: Script,
    stream: String,
    stream_maxlen: u64,
    rate_limit: RateLimit,
    /// How many buckets readers had when their last mark was done that did not know. It may be another
    /// number by now: it only says where to look first.
    buckets: Cache<UserId, u64>,
}

impl MarkReadScript {
    pub(crate) fn new(stream: String, stream_maxlen: u64, rate_limit: RateLimit) -> Self {
        let (script, buckets) = (script!("mark_read.lua"), Cache::new(CAPACITY_READERS));
        Self { script, stream, stream_maxlen, rate_limit, buckets }
    }

    /// Gives a call of the script its keys and arguments: marks of one reader, or of any readers,
    /// each by itself. Each user object goes along once.
    pub(crate) fn fill(&self, mut call: Cmd, marks: &[TracedMark], users: &Users) -> Cmd {
        let is_batch = marks.windows(2).all(|two| two[0].mark.reader == two[1].mark.reader);
        let each = if is_batch { marks.len().max(1) } else { 1 };
        let readers = marks.chunks(each);
        call.arg(1 + 2 * readers.len()).arg(&self.stream);
        for TracedMark { mark, .. } in marks.iter().step_by(each) {
            call.arg(keys::quota(mark.reader)).arg(keys::cursors(mark.reader));
        }
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms).arg(self.stream_maxlen);
        let are_traced = marks.iter().any(|traced| traced.traceparent.is_some());
        call.arg(each).arg(if are_traced { 3 } else { 2 });
        let users = users.iter();
        // A batch looks at the number of buckets once, whatever it is told.
        let singles = if each > 1 { &[] } else { marks };
        let buckets: Vec<_> = singles
            .iter()
            .filter_map(|TracedMark { mark, .. }| {
                Some((mark.reader, self.buckets.get(&mark.reader)?))
            })
            .collect();
        call.arg(users.len()).arg(buckets.len());
        for (user, object) in users {
            call.arg(user.get()).arg(object.as_str());
        }
        for (reader, count) in buckets {
            call.arg(reader.get()).arg(count);
        }
        for marks in readers {
            call.arg(marks[0].mark.reader.get());
            for TracedMark { mark, traceparent } in marks {
                call.arg(mark.recipient.get()).arg(mark.last_read_event_id.get());
                match traceparent {
                    Some(traceparent) => call.arg(traceparent.to_string()),
                    None if are_traced => call.arg(""),
                    None => &mut call,
                };
            }
        }
        call
    }

    /// What the script replied, one result a mark; and remembers how many buckets there are.
    pub(crate) fn results(
        &self,
        marks: &[TracedMark],
        reply: &Value,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let Value::Array(values) = reply else { return Err(unexpected(reply)) };
        let Some((advanced_at_ms, values)) = values.split_first() else {
            return Err(unexpected(reply));
        };
        let (advanced_at_ms, mut values) = (integer(advanced_at_ms)?, values.iter());
        let result = |traced: &TracedMark| self.result(&traced.mark, advanced_at_ms, &mut values);
        let results = marks.iter().map(result).collect();
        while let Some(reader) = values.next() {
            let reader = text(reader)?.parse().map_err(StoreError::corrupt)?;
            let count = values.next().ok_or_else(|| StoreError::corrupt("uncounted buckets"))?;
            self.buckets.insert(reader, integer(count)?);
        }
        results
    }

    /// What was replied of one mark: its values, and no more of them. That none are left, or that
    /// they make no sense, is an error of all that were asked for.
    fn result<'a>(
        &self,
        mark: &Mark,
        advanced_at_ms: u64,
        values: &mut impl Iterator<Item = &'a Value>,
    ) -> Result<MarkResult, StoreError> {
        let mut next =
            || values.next().ok_or_else(|| StoreError::corrupt("a mark without a reply"));
        let recipient = mark.recipient;
        let first = next()?;
        if let Value::Int(_) = first {
            let (last_read_event_id, read_at_ms) = (mark.last_read_event_id, advanced_at_ms);
            let cursor = ReadCursor { recipient, last_read_event_id, read_at_ms };
            let quota = self.rate_limit.quota(integer(first)?, integer(next()?)?);
            return Ok(Ok(Outcome::Advanced { cursor, quota }));
        }
        Ok(match text(first)? {
            "unchanged" => {
                let last_read_event_id = text(next()?)?.parse().map_err(StoreError::corrupt)?;
                let read_at_ms = text(next()?)?.parse().map_err(StoreError::corrupt)?;
                let cursor = ReadCursor { recipient, last_read_event_id, read_at_ms };
                let quota = self.rate_limit.quota(integer(next()?)?, integer(next()?)?);
                Ok(Outcome::Unchanged { cursor, quota })
            }
            "over_quota" => {
                let quota = self.rate_limit.quota(self.rate_limit.calls, integer(next()?)?);
                let retry_after = Duration::from_millis(integer(next()?)?);
                Ok(Outcome::OverQuota { quota, retry_after })
            }
            "error" => Err(classify_text(text(next()?)?)),
            _ => return Err(unexpected(first)),
        })
    }
}

/// What the scripts that read reply where they do not do what they were asked.
pub(crate) fn refused(
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
