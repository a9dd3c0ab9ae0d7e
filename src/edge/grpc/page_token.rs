//! Where the next page begins, in a text that only its reader can use.
//!
//! It is no secret: whose it is, where it points, and a checksum, so that one that was cut or mixed
//! up is told from one that was given.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::UserId;

/// How tokens are made: another way is another version.
const VERSION: u8 = 1;

/// The length of the checksum, in bytes.
const CHECKSUM_BYTES: usize = 8;

/// Writes the token of the page behind this recipient.
pub(super) fn write(reader: UserId, after: UserId) -> String {
    let mut token = vec![VERSION];
    token.extend_from_slice(&reader.get().to_be_bytes());
    token.extend_from_slice(&after.get().to_be_bytes());
    token.extend_from_slice(&checksum(&token));
    URL_SAFE_NO_PAD.encode(token)
}

/// The recipient that a token of this reader points behind.
pub(super) fn read(reader: UserId, token: &str) -> Option<UserId> {
    let after = URL_SAFE_NO_PAD.decode(token).ok()?;
    let after = after.get(1 + 8..1 + 8 + 8)?.first_chunk().copied().map(u64::from_be_bytes)?;
    let after = after.try_into().ok()?;
    // There is one way to write it.
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
    fn a_token_is_its_readers_as_it_was_given_and_no_others() {
        for after in [1, 3_805_104_374, i64::MAX.cast_unsigned()] {
            let token = write(user(7), user(after));
            assert_eq!(read(user(7), &token), Some(user(after)));
            assert_eq!(read(user(8), &token), None);
            for at in 0..token.len() {
                let mut altered = token.clone().into_bytes();
                altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
                assert_eq!(read(user(7), std::str::from_utf8(&altered).unwrap()), None, "{at}");
                assert_eq!(read(user(7), &token[..at]), None, "{at}");
            }
            for other in [format!("{token}="), format!("{token}A"), format!(" {token}")] {
                assert_eq!(read(user(7), &other), None, "{other}");
            }
        }
        for trash in ["", "x", "é", &"A".repeat(60_000)] {
            assert_eq!(read(user(7), trash), None);
        }
    }
}
