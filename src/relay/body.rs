//! The body of a delivery.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::domain::UserId;

/// Puts `for_user_id` in front of a payload's other members, which stay as they are, byte for byte. Returns
/// `None` if the payload does not begin like a JSON object with a member, or has a `for_user_id` itself: which
/// of two counts would be up to the receiver's parser.
pub fn delivery_body(payload: &[u8], for_user: UserId) -> Option<Bytes> {
    let members = payload.trim_ascii_start().strip_prefix(b"{")?;
    if !members.trim_ascii_start().starts_with(b"\"") {
        return None;
    }
    if has_for_user_id(payload) {
        return None;
    }
    let front = format!(r#"{{"for_user_id":"{for_user}","#);
    Some([front.as_bytes(), members].concat().into())
}

/// Returns whether an object may have a member `for_user_id`.
fn has_for_user_id(payload: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(payload) else { return true };
    // A name may be escaped. Few payloads are parsed.
    if !text.contains("for_user_id") && !text.contains('\\') {
        return false;
    }
    serde_json::from_str::<Members>(text).map_or(true, |members| members.has_for_user_id)
}

/// The members of a payload, as far as they matter here.
#[derive(Deserialize)]
struct Members {
    #[serde(default, rename = "for_user_id", deserialize_with = "present")]
    has_for_user_id: bool,
}

/// Takes any value: the member is there.
fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn for_user_id_is_in_front_and_the_rest_is_unchanged() {
        let user = UserId::try_from(3_805_104_374).unwrap();
        let body = |payload: &str| delivery_body(payload.as_bytes(), user);
        for (payload, rest) in [
            (r#"{"users":{"7":{"name":"\u00e9 é"}} }"#, r#""users":{"7":{"name":"\u00e9 é"}} }"#),
            ("\n { \"a\":1.0}\n", " \"a\":1.0}\n"),
        ] {
            let expected = format!(r#"{{"for_user_id":"3805104374",{rest}"#);
            assert_eq!(body(payload).unwrap(), expected);
            let parsed: serde_json::Value = serde_json::from_str(&expected).unwrap();
            assert_eq!(parsed["for_user_id"], "3805104374");
        }
        // Within another member it is not the event's.
        for payload in [r#"{"users":{"7":{"for_user_id":"8"}}}"#, r#"{"a":"\"for_user_id\":7"}"#] {
            assert!(body(payload).is_some(), "{payload}");
        }
        for other in [
            r#"{"for_user_id":"42","a":1}"#,
            r#"{"a":1,"for_user_id":null}"#,
            r#"{"a":1,"for\u005fuser_id":[{}]}"#,
            r#"{"for_user_id":1,"a":1,"for_user_id":2}"#,
            r#"{"a":1,"for_user_id""#,
        ] {
            assert_eq!(body(other), None, "{other}");
        }
        for other in ["", "[]", "{}", "{ }", "\"a\"", "{1", "\u{feff}{\"a\":1}"] {
            assert_eq!(body(other), None, "{other}");
        }
    }
}
