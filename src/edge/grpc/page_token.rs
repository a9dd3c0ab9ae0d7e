//! Page tokens: the place where the next page begins, for one reader.
//!
//! A token is not a secret. It has a version, the reader, the recipient before the page, and a checksum,
//! so that an altered token is refused.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::UserId;

/// Version of the format.
const VERSION: u8 = 1;

/// Length of the checksum, in bytes.
const CHECKSUM_BYTES: usize = 8;

/// Returns the token of the page after a recipient.
pub(super) fn write(reader: UserId, after: UserId) -> String {
    let mut token = vec![VERSION];
    token.extend_from_slice(&reader.get().to_be_bytes());
    token.extend_from_slice(&after.get().to_be_bytes());
    token.extend_from_slice(&checksum(&token));
    URL_SAFE_NO_PAD.encode(token)
}

/// Parses a token of a reader. Returns the recipient that precedes the page.
pub(super) fn parse(reader: UserId, token: &str) -> Option<UserId> {
    let after = URL_SAFE_NO_PAD.decode(token).ok()?;
    let after = after.get(1 + 8..1 + 8 + 8)?.first_chunk().copied().map(u64::from_be_bytes)?;
    let after = after.try_into().ok()?;
    // A token has only one form.
    (write(reader, after) == token).then_some(after)
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    digest(&SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(id: u64) -> UserId {
        id.try_into().unwrap()
    }

    #[test]
    fn a_token_is_valid_for_its_reader_and_unaltered() {
        for after in [1, 3_805_104_374, i64::MAX.cast_unsigned()] {
            let token = write(user(7), user(after));
            assert_eq!(parse(user(7), &token), Some(user(after)));
            assert_eq!(parse(user(8), &token), None);
            for at in 0..token.len() {
                let mut altered = token.clone().into_bytes();
                altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(parse(user(7), std::str::from_utf8(&altered).unwrap()), None, "{at}");
                assert_eq!(parse(user(7), &token[..at]), None, "{at}");
            }
            for other in [format!("{token}="), format!("{token}A"), format!(" {token}")] {
                assert_eq!(parse(user(7), &other), None, "{other}");
            }
        }
        for trash in ["", "x", "é", &"A".repeat(60_000)] {
            assert_eq!(parse(user(7), trash), None);
        }
    }
}
