//! What a node of a cluster answers instead of running a call.

use crate::store::{StoreError, StoreErrorKind};

/// Why a call was not run, and where it may be. Nothing of it was done, so it may be sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotRun {
    /// The slot is another node's.
    Moved,
    /// The slot is on its way to this node, and the key of the call has arrived there already.
    Ask(String),
    /// The slot has no node, is on its way, or the node is not ready or no master any more.
    Later,
}

/// Codes of a slot that the node does not serve.
const UNSERVED: [&str; 2] = ["MOVED", "CLUSTERDOWN"];

/// Codes of a slot that is on its way from one node to another.
const ON_ITS_WAY: [&str; 2] = ["ASK", "TRYAGAIN"];

/// Codes of a node that runs nothing now.
const NOT_NOW: [&str; 3] = ["LOADING", "MASTERDOWN", "READONLY"];

/// How the error of a script begins that would have touched a slot of another node. Of the mark nothing
/// is written, since the script reads all of its keys first.
const FOREIGN_SLOT: &str = "ERR Script attempted to access a non local key";

impl NotRun {
    /// Returns why a call was not run; `None` if it may have been, or if sending it again would not help.
    pub(crate) fn of(error: &StoreError) -> Option<Self> {
        if error.kind != StoreErrorKind::Unavailable {
            return None;
        }
        error.with_text(|text| {
            let mut words = text.split(' ');
            match (words.next()?, words.nth(1)) {
                ("MOVED", _) => Some(Self::Moved),
                ("ASK", Some(address)) => Some(Self::Ask(address.to_owned())),
                (code, _) if [&UNSERVED[..], &ON_ITS_WAY, &NOT_NOW].concat().contains(&code) => {
                    Some(Self::Later)
                }
                _ if text.starts_with(FOREIGN_SLOT) => Some(Self::Moved),
                _ => None,
            }
        })
    }
}

/// Returns whether a node does not serve a slot, by the text of its error.
pub(crate) fn says_unserved(cause: &str) -> bool {
    UNSERVED.contains(&code_of(cause))
}

/// Returns whether a slot is on its way, by the text of a node's error.
pub(crate) fn says_on_its_way(cause: &str) -> bool {
    ON_ITS_WAY.contains(&code_of(cause))
}

fn code_of(cause: &str) -> &str {
    let text = cause.strip_prefix(UNAVAILABLE).unwrap_or(cause);
    text.split(' ').next().unwrap_or_default()
}

/// What the text of [`StoreError`] puts in front of Redis's.
const UNAVAILABLE: &str = "the store is unavailable: ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_was_provably_not_run_is_told_from_any_other() {
        let ask = || NotRun::Ask("127.0.0.1:7001".to_owned());
        for (text, expected) in [
            ("MOVED 3999 127.0.0.1:7001", Some(NotRun::Moved)),
            ("ASK 3999 127.0.0.1:7001", Some(ask())),
            ("TRYAGAIN Multiple keys request during rehashing of slot", Some(NotRun::Later)),
            ("CLUSTERDOWN The cluster is down", Some(NotRun::Later)),
            ("LOADING Redis is loading the dataset in memory", Some(NotRun::Later)),
            ("MASTERDOWN Link with MASTER is down", Some(NotRun::Later)),
            ("READONLY You can't write against a read only replica.", Some(NotRun::Later)),
            (
                "ERR Script attempted to access a non local key in a cluster node script: x",
                Some(NotRun::Moved),
            ),
            ("OOM command not allowed when used memory > 'maxmemory'.", None),
            ("MISCONF Redis is configured to save RDB snapshots", None),
            ("broken pipe", None),
        ] {
            assert_eq!(NotRun::of(&StoreError::unavailable(text)), expected, "{text}");
        }
        assert_eq!(NotRun::of(&StoreError::corrupt("MOVED 1 a:1")), None);
    }

    #[test]
    fn a_slot_that_is_not_served_is_told_from_one_on_its_way() {
        for (cause, unserved, on_its_way) in [
            ("the store is unavailable: MOVED 1 127.0.0.1:1", true, false),
            ("the store is unavailable: CLUSTERDOWN Hash slot not served", true, false),
            ("the store is unavailable: ASK 1 127.0.0.1:1", false, true),
            ("TRYAGAIN Multiple keys request during rehashing of slot", false, true),
            ("the store is unavailable: OOM command not allowed", false, false),
        ] {
            assert_eq!(says_unserved(cause), unserved, "{cause}");
            assert_eq!(says_on_its_way(cause), on_its_way, "{cause}");
        }
    }
}
