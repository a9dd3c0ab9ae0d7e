//! Classifies Redis's errors by whether a retry helps.

use redis::{RedisError, ServerErrorKind, Value};

use crate::store::StoreError;

/// Code of a script that found another version of the layout than it was called with.
pub(crate) const LAYOUT_CHANGED: &str = "LAYOUT";

/// Codes of a Redis that is busy, full, starting, failing over, in cluster mode or refuses access: the
/// condition may pass, and nothing of the mark was written. The redis crate has no kind for most of them.
const TEMPORARY_CODES: [&str; 19] = [
    LAYOUT_CHANGED,
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNBLOCKED",
    "UNKILLABLE",
    "WRONGPASS",
    "NOPROTO",
];

/// How the same conditions begin where the code is only ERR: past `maxclients`; where a user may not run
/// a script's command, or access its key, in Redis 7.0 and in later ones and Valkey; where a slot is another
/// node's; and where Redis or Valkey does not have a command, since it was renamed.
const TEMPORARY_TEXTS: [&str; 9] = [
    "ERR max number of clients",
    "ERR Script attempted to access a non local key",
    "ERR The user executing the script can't",
    "ERR ACL failure in script",
    "ERR unknown command",
    "ERR Unknown Redis command",
    "ERR Unknown command called from script",
    "ERR Invalid command passed to redis.acl_check_cmd",
    "ERR Invalid command passed to server.acl_check_cmd",
];

/// Longest text of a server that is kept. An address that it names fits.
const TEXT_MAX_BYTES: usize = 300;

/// Cuts the end of what is too long for a log line.
pub(crate) fn shortened(mut text: String) -> String {
    if text.len() > TEXT_MAX_BYTES {
        let mut ends = (0..=TEXT_MAX_BYTES).rev();
        text.truncate(ends.find(|end| text.is_char_boundary(*end)).unwrap_or_default());
        text.push('…');
    }
    text
}

/// Classifies an error by its text, whose first word is the code.
pub(crate) fn classify_text(text: &str) -> StoreError {
    let code = text.split(' ').next().unwrap_or_default();
    if TEMPORARY_CODES.contains(&code)
        || TEMPORARY_TEXTS.iter().any(|start| text.starts_with(start))
    {
        StoreError::unavailable(shortened(text.to_owned()))
    } else {
        StoreError::corrupt(shortened(text.to_owned()))
    }
}

/// Classifies an error of the redis crate: the server's by its text; any other is the connection's.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
pub(crate) fn classify(error: RedisError) -> StoreError {
    match server_text(&error) {
        Some(text) => classify_text(&text),
        // It may quote a reply.
        None => StoreError::unavailable(shortened(error.to_string())),
    }
}

/// Returns the server's error, its code first; of a pipeline, the first one.
pub(crate) fn server_text(error: &RedisError) -> Option<String> {
    // Of a pipeline, `code` has one at times, and `detail` never.
    if let Some(errors) = error.clone().into_server_errors() {
        let (_, first) = errors.first()?;
        let text = format!("{} {}", first.code(), first.details().unwrap_or_default());
        return Some(shortened(text));
    }
    Some(shortened(format!("{} {}", error.code()?, error.detail().unwrap_or_default())))
}

/// Returns whether Redis does not have the script.
pub(crate) fn lost_script(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns whether a script, or one mark of it, was not run since the layout has another version than it
/// was called with.
pub(crate) fn is_layout_change<T>(result: &Result<T, StoreError>) -> bool {
    let is_code = |text: &str| text.split(' ').next() == Some(LAYOUT_CHANGED);
    result.as_ref().is_err_and(|error| error.source_is(is_code))
}

/// Returns whether a key has another type than the command needs.
pub(crate) fn is_wrong_type(error: &RedisError) -> bool {
    error.code() == Some("WRONGTYPE")
}

/// Creates the error for a reply that the script never gives. It contains only the shape, since values
/// are IDs.
pub(crate) fn unexpected(reply: &Value) -> StoreError {
    StoreError::corrupt(match reply {
        Value::Array(items) => format!("unexpected reply: an array of {}", items.len()),
        Value::BulkString(bytes) => format!("unexpected reply: a string of {} bytes", bytes.len()),
        Value::Int(_) => "unexpected reply: an integer".to_owned(),
        _ => "unexpected reply: neither array, string nor integer".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use redis::ErrorKind;

    use super::*;
    use crate::store::StoreErrorKind::{Corrupt, Unavailable};

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let whole = "a".repeat(TEXT_MAX_BYTES);
        assert_eq!(shortened(whole.clone()), whole);
        let long = "é".repeat(1_000_000);
        assert_eq!(shortened(format!("a{long}")).len(), TEXT_MAX_BYTES - 1 + "…".len());
        assert!(classify_text(&format!("OOM {long}")).to_string().len() < 2 * TEXT_MAX_BYTES);
        for error in [
            RedisError::from((ErrorKind::Extension, "", long.clone())),
            RedisError::from((ErrorKind::UnexpectedReturnType, "", long)),
        ] {
            assert!(server_text(&error).is_none_or(|text| text.len() < 2 * TEXT_MAX_BYTES));
            assert!(classify(error).to_string().len() < 2 * TEXT_MAX_BYTES);
        }
    }

    #[test]
    fn a_temporary_error_is_unavailable_any_other_corrupt() {
        let table = [
            ("OOM command not allowed when used memory > 'maxmemory'.", Unavailable),
            ("LOADING Redis is loading the dataset in memory", Unavailable),
            ("BUSY Redis is busy running a script.", Unavailable),
            ("READONLY You can't write against a read only replica.", Unavailable),
            ("NOREPLICAS Not enough good replicas to write.", Unavailable),
            ("MISCONF Redis is configured to save RDB snapshots", Unavailable),
            ("ERR max number of clients reached", Unavailable),
            ("ERR The user executing the script can't run this command or subcommand", Unavailable),
            (
                "ERR ACL failure in script: User m has no permissions to run the 'set' command",
                Unavailable,
            ),
            ("ERR ACL failure in script: No permissions to access a key", Unavailable),
            ("ERR Unknown command called from script", Unavailable),
            ("ERR Invalid command passed to server.acl_check_cmd()", Unavailable),
            ("NOPERM ACL failure in script: User m has no permissions to run 'x'", Unavailable),
            ("WRONGTYPE Operation against a key holding the wrong kind of value", Corrupt),
            ("CORRUPT the quota is not a count", Corrupt),
            ("ERR unknown command 'EVALSHA', with args beginning with: ", Unavailable),
            ("ERR Unknown Redis command called from script", Unavailable),
            ("ERR syntax error", Corrupt),
            ("CROSSSLOT Keys in request don't hash to the same slot", Unavailable),
        ];
        for (text, kind) in table {
            assert_eq!(classify_text(text).kind, kind, "{text}");
        }
    }
}
