//! Calls of the script `single_marks.lua`.

use redis::Cmd;

use crate::domain::{RateLimit, Users};
use crate::store::redis::keys::Keys;
use crate::store::redis::marks::script_call::{MarkReadScript, TracedMark};
use crate::store::redis::placement::Placement;
use crate::store::redis::scripts::{Script, SingleMarksSettings};
use crate::store::redis::stream_limit::StreamLimit;

/// Longest key of a quota or of cursors, roughly.
const KEY_BYTES: usize = 64;

/// The script in its two texts.
#[derive(Debug)]
pub(crate) struct SingleMarksScript {
    untraced: Script,
    traced: Script,
}

impl SingleMarksScript {
    pub(crate) fn new(stream_limit: &StreamLimit, rate_limit: RateLimit, keys: &Keys) -> Self {
        let script = |are_traced| {
            Script::single_marks(SingleMarksSettings {
                rate_limit,
                cursors_prefix: &keys.cursors_prefix(),
                are_traced,
                stream_maxlen: stream_limit.constant(),
            })
        };
        Self { untraced: script(false), traced: script(true) }
    }

    /// Returns the texts.
    pub(crate) fn texts(&self) -> [&Script; 2] {
        [&self.untraced, &self.traced]
    }

    /// Returns the text for these marks.
    pub(crate) fn text(&self, marks: &[TracedMark]) -> &Script {
        if are_traced(marks) { &self.traced } else { &self.untraced }
    }
}

impl MarkReadScript {
    /// Adds keys and arguments to a call of the script of single marks. Each user object is sent once.
    pub(super) fn add_single_marks(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        let hint = |mark: &TracedMark| self.bucket_hints.get(&mark.mark.reader);
        let in_buckets = marks.iter().any(|mark| hint(mark).is_some());
        call.arg(1 + 2 * marks.len() + usize::from(in_buckets)).arg(keys.stream());
        let mut key = String::with_capacity(KEY_BYTES);
        for traced @ TracedMark { mark, .. } in marks {
            key.clear();
            keys.write_quota(&mut key, mark.reader);
            call.arg(&key);
            key.clear();
            keys.write_cursors(&mut key, mark.reader);
            if in_buckets && let Some(count) = hint(traced) {
                placement.append_bucket(&mut key, mark.recipient, count);
            }
            call.arg(&key);
        }
        if in_buckets {
            call.arg(keys.layout());
        }
        if self.stream_limit.constant().is_none() {
            call.arg(self.stream_limit.entries());
        }
        let are_traced = are_traced(marks);
        for TracedMark { mark, traceparent } in marks {
            call.arg(mark.reader.get()).arg(mark.recipient.get());
            call.arg(mark.last_read_event_id.get());
            match traceparent {
                Some(traceparent) => call.arg(traceparent.to_string()),
                None if are_traced => call.arg(""),
                None => &mut call,
            };
        }
        if in_buckets {
            call.arg(placement.version());
        }
        for (user, object) in users.iter() {
            call.arg(user.get()).arg(object.as_str());
        }
        call
    }
}

fn are_traced(marks: &[TracedMark]) -> bool {
    marks.iter().any(|traced| traced.traceparent.is_some())
}
