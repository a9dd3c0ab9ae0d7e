//! Every key in Redis: CONTRACT section 6. No other file builds one.

use crate::domain::{Nonce, UserId};

/// Names the layout of all other keys: a hash of `version` and `partitions`.
pub(crate) const LAYOUT: &str = "markread:layout";

/// How many calls a reader has used in the window that is open.
pub(crate) fn quota(reader: UserId) -> String {
    format!("markread:quota:{reader}")
}

/// How many reads a reader has used in the window that is open.
pub(crate) fn read_quota(reader: UserId) -> String {
    format!("markread:read_quota:{reader}")
}

/// A reader's cursors, or where they are many the number of their buckets: the scripts append
/// `:<bucket>` to it.
pub(crate) fn cursors(reader: UserId) -> String {
    format!("markread:cursors:{reader}")
}

/// A user object, which is not ours.
pub(crate) fn user(prefix: &str, user: UserId) -> String {
    format!("{prefix}{user}")
}

/// A nonce that was used.
pub(crate) fn nonce(nonce: &Nonce) -> String {
    use std::fmt::Write;
    let mut key = format!("markread:oauth1:{}:", nonce.timestamp);
    for byte in nonce.digest {
        // Writing to a String cannot fail.
        let _ = write!(key, "{byte:02x}");
    }
    key
}
