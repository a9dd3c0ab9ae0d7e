//! The body of a delivery.

use bytes::Bytes;

use crate::domain::UserId;

/// Puts `for_user_id` in front of a payload's other members, which stay as they are, byte for byte. Returns
/// `None` if the payload does not begin like a JSON object with a member.
pub fn delivery_body(payload: &[u8], for_user: UserId) -> Option<Bytes> {
    let members = payload.trim_ascii_start().strip_prefix(b"{")?;
    if !members.trim_ascii_start().starts_with(b"\"") {
        return None;
    }
    let front = format!(r#"{{"for_user_id":"{for_user}","#);
    Some([front.as_bytes(), members].concat().into())
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
        for other in ["", "[]", "{}", "{ }", "\"a\"", "{1", "\u{feff}{\"a\":1}"] {
            assert_eq!(body(other), None, "{other}");
        }
    }
}
