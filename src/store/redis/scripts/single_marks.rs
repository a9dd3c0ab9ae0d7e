//! The settings in the text of `single_marks.lua`.

use crate::domain::RateLimit;

/// The greatest count of a quota.
const QUOTA_MAX: u64 = 1_000_000_000_000_000;

/// What is written into the text of the script of single marks. Redis keeps every script that it ever
/// got, so a process has few of these texts: two.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SingleMarksSettings {
    pub(crate) rate_limit: RateLimit,
    /// Whether each mark has a traceparent.
    pub(crate) are_traced: bool,
    /// The stream's length (0: any); `None` if an argument has it, since it changes.
    pub(crate) stream_maxlen: Option<u64>,
}

impl SingleMarksSettings {
    /// Values of each mark.
    fn values(self) -> u8 {
        if self.are_traced { 4 } else { 3 }
    }

    /// Returns the statement that comes first, but for KEYS and ARGV.
    pub(super) fn statement(self) -> String {
        let Self { rate_limit: RateLimit { calls, window_ms }, .. } = self;
        // No quota counts further: see `take` in quota.lua.
        let calls = calls.min(QUOTA_MAX);
        let values = self.values();
        let (maxlen, first) = match self.stream_maxlen {
            Some(maxlen) => (format!("'{maxlen}'"), 2),
            None => ("ARGV[2]".to_owned(), 3),
        };
        format!(
            "local LIMIT, WINDOW_MS, VALUES, MAXLEN, FIRST =\n\
             {calls}, {window_ms}, {values}, {maxlen}, {first}\n"
        )
    }
}
