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

/// The script in its texts.
#[derive(Debug)]
pub(crate) struct SingleMarksScript {
    untraced: Script,
    traced: Script,
    /// For the partitions of a cluster's node in one call.
    across_slots: Option<[Script; 2]>,
}

/// How the keys of a call are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeysAs {
    /// They are declared.
    Keys,
    /// They are arguments, and so are the numbers of both.
    Arguments,
}

impl SingleMarksScript {
    pub(crate) fn new(stream_limit: &StreamLimit, rate_limit: RateLimit, is_cluster: bool) -> Self {
        let settings = |are_traced| SingleMarksSettings {
            rate_limit,
            are_traced,
            stream_maxlen: stream_limit.constant(),
        };
        let across_slots = || {
            [false, true].map(|are_traced| Script::single_marks_across_slots(settings(are_traced)))
        };
        Self {
            untraced: Script::single_marks(settings(false)),
            traced: Script::single_marks(settings(true)),
            across_slots: is_cluster.then(across_slots),
        }
    }

    /// Returns the texts.
    pub(crate) fn texts(&self) -> impl Iterator<Item = &Script> {
        [&self.untraced, &self.traced].into_iter().chain(self.across_slots.iter().flatten())
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
        call: Cmd,
        keys: &Keys,
        placement: &Placement,
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        self.add_marks(KeysAs::Keys, are_traced(marks), call, keys, placement, marks, users)
    }

    /// Returns the script for the marks of several partitions, and a call of it by its digest, with room for
    /// them; `None` outside a cluster.
    pub(super) fn start_across_slots(
        &self,
        are_traced: bool,
        (marks, bytes): (usize, usize),
    ) -> Option<(&Script, Cmd)> {
        let [untraced, traced] = self.single.across_slots.as_ref()?;
        let script = if are_traced { traced } else { untraced };
        let each = 2 * KEY_BYTES + 3 * ID_BYTES;
        Some((script, script.by_digest_for(6 + 10 * marks, marks * each + bytes)))
    }

    /// Adds a partition's keys and arguments to that call.
    pub(super) fn add_across_slots(
        &self,
        are_traced: bool,
        call: Cmd,
        (keys, placement): (&Keys, &Placement),
        marks: &[TracedMark],
        users: &Users,
    ) -> Cmd {
        self.add_marks(KeysAs::Arguments, are_traced, call, keys, placement, marks, users)
    }

    #[allow(clippy::too_many_arguments, reason = "they are those of both kinds of calls")]
    fn add_marks(
        &self,
        keys_as: KeysAs,
        are_traced: bool,
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
        let is_maxlen_sent = self.stream_limit.constant().is_none();
        if keys_as == KeysAs::Arguments {
            let each = if are_traced { 4 } else { 3 };
            let of_users = 2 * users.iter().len();
            call.arg(1 + usize::from(is_maxlen_sent) + each * marks.len() + of_users);
        }
        call.arg(placement.version());
        if is_maxlen_sent {
            call.arg(self.stream_limit.entries());
        }
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
