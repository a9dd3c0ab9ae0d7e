//! The atomic step: calls of the script `mark_read.lua`, and its replies.

use std::sync::Arc;
use std::time::Duration;

use quick_cache::sync::Cache;
use redis::{Cmd, Value};

use crate::domain::{Mark, Outcome, RateLimit, ReadCursor, UserId, Users};
use crate::store::redis::errors::{classify_text, unexpected};
use crate::store::redis::keys::Keys;
use crate::store::redis::placement::Placement;
use crate::store::redis::scripts::{Script, integer, text};
use crate::store::redis::stream_limit::StreamLimit;
use crate::store::{MarkResult, StoreError};
use crate::telemetry::{LogThrottle, Traceparent};

/// Readers in [`MarkReadScript::bucket_hints`].
const HINTED_READERS: usize = 64 * 1024;

/// A mark and its trace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TracedMark {
    pub(crate) mark: Mark,
    pub(crate) traceparent: Option<Traceparent>,
}

/// The script, and the arguments that every call of it has.
#[derive(Debug)]
pub(crate) struct MarkReadScript {
    pub(crate) script: Script,
    stream_limit: Arc<StreamLimit>,
    rate_limit: RateLimit,
    /// Bucket count last seen per reader; may be stale. The script looks there first.
    bucket_hints: Cache<UserId, u64>,
    unmoved_log: LogThrottle,
}

impl MarkReadScript {
    pub(crate) fn new(stream_limit: Arc<StreamLimit>, rate_limit: RateLimit) -> Self {
        let (script, bucket_hints) = (Script::mark_read(), Cache::new(HINTED_READERS));
        Self { script, stream_limit, rate_limit, bucket_hints, unmoved_log: LogThrottle::default() }
    }

    /// Adds keys and arguments to a call: a batch of one reader's marks, or single marks of any readers.
    /// Each user object is sent once.
    pub(crate) fn add_arguments(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        let is_batch = marks.windows(2).all(|two| two[0].mark.reader == two[1].mark.reader);
        let each = if is_batch { marks.len().max(1) } else { 1 };
        let readers = marks.chunks(each);
        call.arg(2 + 2 * readers.len()).arg(keys.layout()).arg(keys.stream());
        for TracedMark { mark, .. } in marks.iter().step_by(each) {
            call.arg(keys.quota(mark.reader)).arg(keys.cursors(mark.reader));
        }
        call.arg(placement.version());
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms);
        call.arg(self.stream_limit.entries());
        let are_traced = marks.iter().any(|traced| traced.traceparent.is_some());
        call.arg(each).arg(if are_traced { 3 } else { 2 });
        let users = users.iter();
        // A batch reads the bucket count once and needs no hint.
        let singles = if each > 1 { &[] } else { marks };
        let hints: Vec<_> = singles
            .iter()
            .filter_map(|TracedMark { mark, .. }| {
                Some((mark.reader, self.bucket_hints.get(&mark.reader)?))
            })
            .collect();
        call.arg(users.len()).arg(hints.len());
        for (user, object) in users {
            call.arg(user.get()).arg(object.as_str());
        }
        for (reader, count) in hints {
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

    /// Parses the reply, one result for each mark, and stores the bucket counts in it.
    pub(crate) fn parse(
        &self,
        marks: &[TracedMark],
        reply: &Value,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let Value::Array(values) = reply else { return Err(unexpected(reply)) };
        let Some((advanced_at_ms, values)) = values.split_first() else {
            return Err(unexpected(reply));
        };
        let (advanced_at_ms, mut values) = (integer(advanced_at_ms)?, values.iter());
        let result =
            |traced: &TracedMark| self.parse_mark(&traced.mark, advanced_at_ms, &mut values);
        let results = marks.iter().map(result).collect();
        while let Some(first) = values.next() {
            let second = values
                .next()
                .ok_or_else(|| StoreError::corrupt("the reply has no bucket count for a reader"))?;
            match text(first)? {
                "unmoved" => self.warn_unmoved(text(second)?),
                reader => {
                    let reader = reader.parse().map_err(StoreError::corrupt)?;
                    self.bucket_hints.insert(reader, integer(second)?);
                }
            }
        }
        results
    }

    fn warn_unmoved(&self, problem: &str) {
        if let Some(suppressed) = self.unmoved_log.permit() {
            let problem = self.script.locate_lines(problem);
            tracing::warn!(
                %problem,
                suppressed,
                "cursors cannot be moved to the layout's placement: marks are served, and find them \
                 where they are"
            );
        }
    }

    /// Parses the values of one mark. The outer error means that the reply is malformed, and so fails
    /// all marks of the call.
    fn parse_mark<'a>(
        &self,
        mark: &Mark,
        advanced_at_ms: u64,
        values: &mut impl Iterator<Item = &'a Value>,
    ) -> Result<MarkResult, StoreError> {
        let mut next = || values.next().ok_or_else(StoreError::missing_result);
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
            "error" => Err(self.script.locate(classify_text(text(next()?)?))),
            _ => return Err(unexpected(first)),
        })
    }
}
