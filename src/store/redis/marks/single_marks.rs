//! Calls of the script `single_marks.lua`.

use std::fmt::Write;

use redis::Cmd;

use crate::domain::{RateLimit, Users};
use crate::store::redis::keys::Keys;
use crate::store::redis::marks::script_call::{MarkReadScript, MarkScript, TracedMark};
use crate::store::redis::placement::Placement;
use crate::store::redis::scripts::{Script, SingleMarksSettings};
use crate::store::redis::stream_limit::StreamLimit;

/// Longest key of a quota or of cursors, and longest decimal of an ID, roughly.
const KEY_BYTES: usize = 48;
const ID_BYTES: usize = 19;

/// The script in its two texts.
#[derive(Debug)]
pub(crate) struct SingleMarksScript {
    untraced: Script,
    traced: Script,
}

impl SingleMarksScript {
    pub(crate) fn new(stream_limit: &StreamLimit, rate_limit: RateLimit) -> Self {
        let script = |are_traced| {
            Script::single_marks(SingleMarksSettings {
                rate_limit,
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
    /// Returns a call of the script of single marks by its digest, without keys and arguments, and with room
    /// for them.
    pub(super) fn start_single_marks(&self, marks: &[TracedMark], users: &Users) -> Cmd {
        let arguments = 6 + 6 * marks.len() + 2 * users.iter().len();
        let each = 2 * KEY_BYTES + 3 * ID_BYTES;
        let bytes = (1 + marks.len()) * each + users.iter().len() * ID_BYTES + users.bytes();
        self.script(MarkScript::Single, marks).by_digest_for(arguments, bytes)
    }

    /// Adds keys and arguments to a call of the script of single marks. Each user object is sent once.
    pub(super) fn add_single_marks(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        call.arg(2 + 2 * marks.len()).arg(keys.layout()).arg(keys.stream());
        // Each key and traceparent is written to this text, and copied from there.
        let mut text = String::with_capacity(KEY_BYTES);
        for TracedMark { mark, .. } in marks {
            text.clear();
            keys.write_quota(&mut text, mark.reader);
            call.arg(&text);
            text.clear();
            keys.write_cursors(&mut text, mark.reader);
            if let Some(count) = self.bucket_hints.get(&mark.reader) {
                placement.append_bucket(&mut text, mark.recipient, count);
            }
            call.arg(&text);
        }
        call.arg(placement.version());
        if self.stream_limit.constant().is_none() {
            call.arg(self.stream_limit.entries());
        }
        let are_traced = are_traced(marks);
        for TracedMark { mark, traceparent } in marks {
            call.arg(mark.reader.get()).arg(mark.recipient.get());
            call.arg(mark.last_read_event_id.get());
            if are_traced {
                text.clear();
                if let Some(traceparent) = traceparent {
                    // Writing to a String cannot fail.
                    let _ = write!(text, "{traceparent}");
                }
                call.arg(&text);
            }
        }
        for (user, object) in users.iter() {
            call.arg(user.get()).arg(object.as_str());
        }
        call
    }
}

pub(super) fn are_traced(marks: &[TracedMark]) -> bool {
    marks.iter().any(|traced| traced.traceparent.is_some())
}
