//! The atomic step: calls of the scripts `single_marks.lua` and `mark_read.lua`, and their replies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quick_cache::sync::Cache;
use redis::{Cmd, Value};

use crate::domain::{Mark, Outcome, RateLimit, ReadCursor, UserId, Users};
use crate::store::redis::errors::{classify_text, unexpected};
use crate::store::redis::keys::Keys;
use crate::store::redis::marks::acks::MissingAck;
use crate::store::redis::marks::single_marks::{SingleMarksScript, are_traced};
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

/// Which script a call runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MarkScript {
    /// `single_marks.lua`: marks of any readers. It leaves rare ones to the other.
    Single,
    /// `mark_read.lua`: marks of any readers, each for itself.
    Full,
    /// `mark_read.lua`: a batch, all of one reader.
    Batch,
}

/// The scripts, and the arguments that every call of them has.
#[derive(Debug)]
pub(crate) struct MarkReadScript {
    full: Script,
    pub(super) single: SingleMarksScript,
    pub(super) stream_limit: Arc<StreamLimit>,
    rate_limit: RateLimit,
    /// Bucket count last seen per reader; may be stale. The scripts look there first.
    pub(super) bucket_hints: Cache<UserId, u64>,
    unmoved_log: LogThrottle,
    /// Whether all marks go by the full script, as tests have it.
    full_only: AtomicBool,
    /// Whether calls have marks of one partition only, as benches have it.
    declared_keys_only: AtomicBool,
}

/// A reply: one result for each mark. Those of rare marks, which were not done, are to be replaced.
#[derive(Debug)]
pub(crate) struct MarkReply {
    pub(crate) results: Vec<MarkResult>,
    /// The places of rare marks.
    pub(crate) rare: Vec<usize>,
}

impl MarkReply {
    /// The reply to marks that all failed.
    pub(super) fn failed(marks: usize, error: &StoreError) -> Self {
        Self { results: vec![Err(error.clone()); marks], rare: Vec::new() }
    }

    /// Takes back what is not acknowledged as it has to be.
    pub(super) fn note_missing_ack(&mut self, missing: MissingAck) {
        let Some(missing) = missing else { return };
        for result in &mut self.results {
            if let Ok(Outcome::Advanced { .. } | Outcome::Unchanged { .. }) = result {
                *result = Err(StoreError::unavailable(missing));
            }
        }
    }
}

impl MarkReadScript {
    pub(crate) fn new(
        stream_limit: Arc<StreamLimit>,
        rate_limit: RateLimit,
        is_cluster: bool,
    ) -> Self {
        Self {
            full: Script::mark_read(),
            single: SingleMarksScript::new(&stream_limit, rate_limit, is_cluster),
            stream_limit,
            rate_limit,
            bucket_hints: Cache::new(HINTED_READERS),
            unmoved_log: LogThrottle::default(),
            full_only: AtomicBool::new(false),
            declared_keys_only: AtomicBool::new(false),
        }
    }

    /// Returns all scripts.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Script> {
        self.single.texts().chain([&self.full])
    }

    /// Returns whether all marks go by the full script.
    pub(crate) fn is_full_only(&self) -> bool {
        self.full_only.load(Ordering::Relaxed)
    }

    /// Makes all marks go by the full script.
    pub(crate) fn use_full_only(&self) {
        self.full_only.store(true, Ordering::Relaxed);
    }

    /// Returns whether marks of several partitions may be in one call.
    pub(super) fn may_cross_slots(&self) -> bool {
        !self.is_full_only() && !self.declared_keys_only.load(Ordering::Relaxed)
    }

    /// Keeps marks of several partitions out of one call.
    pub(super) fn use_declared_keys_only(&self) {
        self.declared_keys_only.store(true, Ordering::Relaxed);
    }

    /// Returns the script that marks are sent to first: if they are several of one reader, a batch.
    pub(crate) fn choose(&self, marks: &[TracedMark]) -> MarkScript {
        if marks.len() > 1 && is_batch(marks) {
            MarkScript::Batch
        } else if self.is_full_only() {
            MarkScript::Full
        } else {
            MarkScript::Single
        }
    }

    /// Returns the script's text for these marks.
    pub(crate) fn script(&self, script: MarkScript, marks: &[TracedMark]) -> &Script {
        match script {
            MarkScript::Single => self.single.text(marks),
            MarkScript::Full | MarkScript::Batch => &self.full,
        }
    }

    /// Returns a call of the script by its digest, without keys and arguments.
    pub(crate) fn by_digest(&self, script: MarkScript, marks: &[TracedMark], users: &Users) -> Cmd {
        match script {
            MarkScript::Single => self.start_single_marks(marks, users),
            MarkScript::Full | MarkScript::Batch => self.full.by_digest(),
        }
    }

    /// Adds keys and arguments to a call.
    pub(crate) fn add_arguments(
        &self,
        script: MarkScript,
        call: Cmd,
        (keys, placement): (&Keys, &Placement),
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        match script {
            MarkScript::Single => self.add_single_marks(call, keys, placement, marks, users),
            MarkScript::Full => self.add_any_marks(call, keys, placement, marks, 1, users),
            MarkScript::Batch => {
                self.add_any_marks(call, keys, placement, marks, marks.len().max(1), users)
            }
        }
    }

    /// Adds keys and arguments to a call of the full script: so many marks of each reader. Each user object
    /// is sent once.
    fn add_any_marks(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        marks: &[TracedMark],
        each: usize,
        users: &Users,
    ) -> Cmd {
        let readers = marks.chunks(each);
        call.arg(2 + 2 * readers.len()).arg(keys.layout()).arg(keys.stream());
        for TracedMark { mark, .. } in marks.iter().step_by(each) {
            call.arg(keys.quota(mark.reader)).arg(keys.cursors(mark.reader));
        }
        call.arg(placement.version());
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms);
        call.arg(self.stream_limit.entries());
        let are_traced = are_traced(marks);
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

    /// Forgets in which buckets the cursors of these readers are looked for.
    pub(crate) fn forget_buckets(&self, marks: &[TracedMark]) {
        for TracedMark { mark, .. } in marks {
            self.bucket_hints.remove(&mark.reader);
        }
    }

    /// Parses the reply of either script, and stores the bucket counts in it.
    pub(crate) fn parse(
        &self,
        marks: &[TracedMark],
        reply: &Value,
    ) -> Result<MarkReply, StoreError> {
        let Value::Array(values) = reply else { return Err(unexpected(reply)) };
        let Some((clock, values)) = values.split_first() else {
            return Err(unexpected(reply));
        };
        let advanced_at_ms = match clock {
            Value::Int(_) => integer(clock)?,
            _ => text(clock)?.parse().map_err(StoreError::corrupt)?,
        };
        let mut values = values.iter();
        let (mut results, mut rare) = (Vec::with_capacity(marks.len()), Vec::new());
        for (place, TracedMark { mark, .. }) in marks.iter().enumerate() {
            let result = self.parse_mark(mark, advanced_at_ms, &mut values)?;
            if result.is_none() {
                rare.push(place);
            }
            results.push(result.unwrap_or_else(|| Err(StoreError::missing_result())));
        }
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
        Ok(MarkReply { results, rare })
    }

    fn warn_unmoved(&self, problem: &str) {
        if let Some(suppressed) = self.unmoved_log.permit() {
            let problem = self.full.locate_lines(problem);
            tracing::warn!(
                %problem,
                suppressed,
                "cursors cannot be moved to the layout's placement: marks are served, and find them \
                 where they are"
            );
        }
    }

    /// Parses the values of one mark, which has no result if it is rare. The outer error means that the
    /// reply is malformed, and so fails all marks of the call.
    fn parse_mark<'a>(
        &self,
        mark: &Mark,
        advanced_at_ms: u64,
        values: &mut impl Iterator<Item = &'a Value>,
    ) -> Result<Option<MarkResult>, StoreError> {
        let mut next = || values.next().ok_or_else(StoreError::missing_result);
        let recipient = mark.recipient;
        let first = next()?;
        if let Value::Int(_) = first {
            let (last_read_event_id, read_at_ms) = (mark.last_read_event_id, advanced_at_ms);
            let cursor = ReadCursor { recipient, last_read_event_id, read_at_ms };
            let (used, reset_at_ms) = (integer(first)?, integer(next()?)?);
            let quota = self.rate_limit.quota(used, reset_at_ms);
            // The call itself is counted, so a mark that was done has used one.
            return Ok((used > 0).then_some(Ok(Outcome::Advanced { cursor, quota })));
        }
        Ok(Some(match text(first)? {
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
            "error" => Err(self.full.locate(classify_text(text(next()?)?))),
            _ => return Err(unexpected(first)),
        }))
    }
}

/// Returns whether all marks are of one reader.
fn is_batch(marks: &[TracedMark]) -> bool {
    marks.windows(2).all(|two| two[0].mark.reader == two[1].mark.reader)
}
