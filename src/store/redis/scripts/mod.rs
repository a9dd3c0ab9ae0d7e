//! The scripts that Redis runs, each joined at build time from files of one purpose.
//!
//! A script is sent by its digest, and with its source if Redis does not have it.

use std::borrow::Cow;

use redis::{Cmd, Pipeline, Value, cmd, pipe};

pub(crate) use self::single_marks::SingleMarksSettings;
use super::errors::unexpected;
use crate::store::StoreError;

mod single_marks;

/// Returns the pipeline that loads scripts, so that their first calls find them.
pub(crate) fn load<'a>(scripts: impl IntoIterator<Item = &'a Script>) -> Pipeline {
    let mut load = pipe();
    for script in scripts {
        load.add_command(script.load());
    }
    load
}

/// A script.
#[derive(Debug)]
pub(crate) struct Script {
    source: Cow<'static, str>,
    /// Its parts: file names and contents.
    parts: Vec<(&'static str, Cow<'static, str>)>,
    sha1: String,
}

/// The script of single marks, without its first statement.
const SINGLE_MARKS: &str = include_str!("single_marks.lua");

/// Joins files of this folder to a script.
macro_rules! join {
    ($($file:literal),+) => {
        Script::new(
            Cow::Borrowed(concat!($(include_str!($file)),+)),
            vec![$(($file, Cow::Borrowed(include_str!($file)))),+],
        )
    };
}

impl Script {
    /// Creates the script that marks messages as read.
    pub(crate) fn mark_read() -> Self {
        join!(
            "prelude.lua",
            "clock.lua",
            "quota.lua",
            "buckets.lua",
            "moves.lua",
            "cursor.lua",
            "read_time.lua",
            "batch.lua",
            "mark_read.lua"
        )
    }

    /// Creates the script of single marks.
    pub(crate) fn single_marks(settings: SingleMarksSettings) -> Self {
        let begin = format!("local KEYS, ARGV, clock = KEYS, ARGV\n{}", settings.statement());
        Self::of_parts(vec![("settings", begin.into()), ("single_marks.lua", SINGLE_MARKS.into())])
    }

    /// Creates the script of single marks for several partitions in one call.
    pub(crate) fn single_marks_across_slots(settings: SingleMarksSettings) -> Self {
        let begin =
            format!("local clock\nlocal function marks(KEYS, ARGV)\n{}", settings.statement());
        Self::of_parts(vec![
            ("settings", begin.into()),
            ("single_marks.lua", format!("{SINGLE_MARKS}end\n").into()),
            ("across_slots.lua", include_str!("across_slots.lua").into()),
        ])
    }

    fn of_parts(parts: Vec<(&'static str, Cow<'static, str>)>) -> Self {
        let source: String = parts.iter().map(|(_, text)| &**text).collect();
        Self::new(Cow::Owned(source), parts)
    }

    /// Creates the script that reads cursors.
    pub(crate) fn read_states() -> Self {
        join!(
            "prelude.lua",
            "clock.lua",
            "quota.lua",
            "read_quota.lua",
            "buckets.lua",
            "cursor.lua",
            "read_time.lua",
            "read_states.lua"
        )
    }

    /// Creates the script that reads a page of a reader's cursors.
    pub(crate) fn list_cursors() -> Self {
        join!(
            "prelude.lua",
            "clock.lua",
            "quota.lua",
            "read_quota.lua",
            "buckets.lua",
            "moves.lua",
            "list_cursors.lua"
        )
    }

    /// Creates the script that moves some of a reader's cursors to the current placement.
    pub(crate) fn move_reader() -> Self {
        join!("prelude.lua", "buckets.lua", "moves.lua", "move_reader.lua")
    }

    /// Creates the script that tries the commands of a move.
    pub(crate) fn may_move() -> Self {
        join!("may_move.lua")
    }

    /// Creates the script that tries what calls need.
    pub(crate) fn may_serve() -> Self {
        join!("may_serve.lua")
    }

    /// Creates the script that takes reads from a read quota.
    pub(crate) fn take_reads() -> Self {
        join!("prelude.lua", "clock.lua", "quota.lua", "take_reads.lua")
    }

    /// Creates the script that uses a nonce.
    pub(crate) fn use_nonce() -> Self {
        join!("prelude.lua", "clock.lua", "use_nonce.lua")
    }

    /// Creates the script that acquires a lease of the relay.
    pub(crate) fn relay_acquire() -> Self {
        join!(
            "relay_call.lua",
            "relay_table.lua",
            "relay_group.lua",
            "relay_order.lua",
            "relay_acquire.lua"
        )
    }

    /// Creates the script that extends a lease.
    pub(crate) fn relay_renew() -> Self {
        join!("relay_call.lua", "relay_lease.lua", "relay_renew.lua")
    }

    /// Creates the script that gives a lease back.
    pub(crate) fn relay_release() -> Self {
        join!("relay_call.lua", "relay_lease.lua", "relay_release.lua")
    }

    /// Creates the script that reads new entries of a feed.
    pub(crate) fn relay_new_entries() -> Self {
        join!(
            "relay_call.lua",
            "relay_lease.lua",
            "relay_table.lua",
            "relay_group.lua",
            "relay_try.lua",
            "relay_order.lua",
            "relay_entry.lua",
            "relay_new_entries.lua"
        )
    }

    /// Creates the script that reads pending entries of a feed.
    pub(crate) fn relay_pending() -> Self {
        join!(
            "relay_call.lua",
            "relay_lease.lua",
            "relay_try.lua",
            "relay_order.lua",
            "relay_entry.lua",
            "relay_pending.lua"
        )
    }

    /// Creates the script that acknowledges entries of a feed.
    pub(crate) fn relay_acknowledge() -> Self {
        join!("relay_call.lua", "relay_lease.lua", "relay_acknowledge.lua")
    }

    /// Creates the script that notes attempts to deliver entries of a feed.
    pub(crate) fn relay_note_attempts() -> Self {
        join!("relay_call.lua", "relay_lease.lua", "relay_order.lua", "relay_note_attempts.lua")
    }

    /// Creates the script that reads how far feeds of a partition are behind.
    pub(crate) fn relay_lag() -> Self {
        join!("relay_call.lua", "relay_table.lua", "relay_lag.lua")
    }

    /// Creates the script that announces a process of the relay.
    pub(crate) fn relay_announce() -> Self {
        join!("relay_call.lua", "relay_announce.lua")
    }

    /// Creates the script that replaces the state of a webhook.
    pub(crate) fn relay_set_state() -> Self {
        join!("relay_call.lua", "relay_set_state.lua")
    }

    /// Creates the script that reads dead letters.
    pub(crate) fn dead_letters() -> Self {
        join!("relay_call.lua", "dead_letters.lua")
    }

    /// Creates the script that puts cursors, for operators.
    pub(crate) fn put_cursors() -> Self {
        join!(
            "prelude.lua",
            "clock.lua",
            "buckets.lua",
            "moves.lua",
            "cursor.lua",
            "batch.lua",
            "put_cursors.lua"
        )
    }

    /// Creates the script that erases a reader's cursors, for operators.
    pub(crate) fn erase_reader() -> Self {
        join!("prelude.lua", "buckets.lua", "erase_reader.lua")
    }

    /// Creates the script that erases cursors towards a user, for operators.
    pub(crate) fn erase_recipient() -> Self {
        join!("prelude.lua", "buckets.lua", "cursor.lua", "erase_recipient.lua")
    }

    fn new(source: Cow<'static, str>, parts: Vec<(&'static str, Cow<'static, str>)>) -> Self {
        let sha1 = redis::Script::new(&source).get_hash().to_owned();
        Self { source, parts, sha1 }
    }

    /// Returns the command that loads it.
    pub(crate) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(&*self.source);
        load
    }

    /// Returns a call by the script's digest, without keys and arguments.
    pub(crate) fn by_digest(&self) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.sha1);
        call
    }

    /// The same, with room for this many arguments of this many bytes.
    pub(crate) fn by_digest_for(&self, arguments: usize, bytes: usize) -> Cmd {
        const NAME: &str = "EVALSHA";
        let mut call = Cmd::with_capacity(2 + arguments, NAME.len() + self.sha1.len() + bytes);
        call.arg(NAME).arg(&self.sha1);
        call
    }

    /// Returns a call with the source, which loads the script again.
    pub(crate) fn by_source(&self) -> Cmd {
        let mut call = cmd("EVAL");
        call.arg(&*self.source);
        call
    }

    /// Replaces line numbers of the joined script in an error by files and their line numbers.
    pub(crate) fn locate(&self, error: StoreError) -> StoreError {
        error.map_text(|text| text.contains(LINE_PREFIX).then(|| self.locate_lines(text)))
    }

    /// The same for a text.
    pub(crate) fn locate_lines(&self, text: &str) -> String {
        let mut pieces = text.split(LINE_PREFIX);
        let mut located = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            let digits = piece.len() - piece.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let (line, rest) = piece.split_at(digits);
            match line.parse().ok().and_then(|line| self.file_and_line(line)) {
                Some((file, line)) => located.extend([file, ":", &line.to_string(), rest]),
                None => located.extend([LINE_PREFIX, piece]),
            }
        }
        located
    }

    /// Finds the file of a line of the joined script, and the line's number in the file.
    fn file_and_line(&self, line: usize) -> Option<(&'static str, usize)> {
        let mut before = 0;
        for (file, contents) in &self.parts {
            let lines = contents.matches('\n').count();
            if line <= before + lines {
                return Some((file, line.checked_sub(before)?));
            }
            before += lines;
        }
        None
    }
}

/// Redis's text before a line number in a script's errors.
const LINE_PREFIX: &str = "user_script:";

/// Parses a whole number in a reply, which is never negative.
pub(crate) fn integer(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(integer) => u64::try_from(*integer).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}

/// Parses a text in a reply.
pub(crate) fn text(value: &Value) -> Result<&str, StoreError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::process::Command;

    use super::*;
    use crate::domain::RateLimit;

    pub(crate) fn scripts() -> Vec<Script> {
        let settings = |are_traced, stream_maxlen| SingleMarksSettings {
            rate_limit: RateLimit { calls: u64::MAX, window_ms: 900_000 },
            are_traced,
            stream_maxlen,
        };
        let single_marks = |are_traced, maxlen| Script::single_marks(settings(are_traced, maxlen));
        vec![
            single_marks(false, Some(1_000_000)),
            single_marks(true, Some(0)),
            single_marks(false, None),
            single_marks(true, None),
            Script::single_marks_across_slots(settings(false, Some(1_000_000))),
            Script::single_marks_across_slots(settings(true, None)),
            Script::mark_read(),
            Script::read_states(),
            Script::list_cursors(),
            Script::take_reads(),
            Script::move_reader(),
            Script::may_move(),
            Script::may_serve(),
            Script::use_nonce(),
            Script::put_cursors(),
            Script::erase_reader(),
            Script::erase_recipient(),
            Script::relay_acquire(),
            Script::relay_renew(),
            Script::relay_release(),
            Script::relay_new_entries(),
            Script::relay_pending(),
            Script::relay_acknowledge(),
            Script::relay_note_attempts(),
            Script::relay_lag(),
            Script::relay_announce(),
            Script::relay_set_state(),
            Script::dead_letters(),
        ]
    }

    #[test]
    fn each_command_of_a_move_is_tried_before() {
        let (tried, moves) = (Script::may_move().source, Script::move_reader().source);
        let mut pieces = moves.split("call('");
        let commands: Vec<_> =
            pieces.by_ref().skip(1).filter_map(|piece| piece.split('\'').next()).collect();
        assert!(commands.contains(&"HRANDFIELD") && commands.contains(&"HSET"), "{commands:?}");
        for command in commands {
            assert!(tried.contains(&format!("try('{command}'")), "{command}");
        }
    }

    #[test]
    fn an_error_names_the_file_and_its_line() {
        for script in scripts() {
            let (first, _) = script.parts[0];
            for (file, contents) in &script.parts {
                let before = script.source.split(&**contents).next().unwrap();
                let line = before.matches('\n').count() + 2;
                let error =
                    StoreError::corrupt(format!("ERR user_script:{line}: x on @user_script:1."));
                let located = script.locate(error).to_string();
                assert!(located.ends_with(&format!("ERR {file}:2: x on @{first}:1.")), "{located}");
            }
        }
        let unknown = Script::mark_read().locate(StoreError::corrupt("user_script:99999: x"));
        assert!(unknown.to_string().ends_with("user_script:99999: x"), "{unknown}");
    }

    /// `luacheck` is in Debian's package `lua-check`, which `tests/run` installs.
    #[test]
    fn luacheck_finds_nothing_in_the_joined_scripts() {
        for script in scripts() {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("script.lua");
            std::fs::write(&file, &*script.source).unwrap();
            let checked = Command::new("luacheck")
                .args(["--std", "lua51", "--read-globals", "redis", "KEYS", "ARGV"])
                .args(["--max-line-length", "100", "--no-color", "--"])
                .arg(&file)
                .output()
                .expect("luacheck is installed");
            assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
        }
    }
}
