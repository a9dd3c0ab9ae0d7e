//! Page tokens: the place where the next page begins, for one reader.
//!
//! A token is not a secret. It has a version, the reader, the position before the page, and a checksum,
//! so that an altered token is refused. Version 1 has a recipient in the plain order, and is all that
//! earlier servers know; version 2 has any position.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::domain::{HashPart, ListOrder, ListPosition, UserId};

const AFTER_RECIPIENT: u8 = 1;
const ANY_POSITION: u8 = 2;

/// Length of the checksum, in bytes.
const CHECKSUM_BYTES: usize = 8;

/// Returns the token of the page after a position.
pub(super) fn write(reader: UserId, position: ListPosition) -> String {
    let mut token = Vec::with_capacity(64);
    let ListPosition { order, after, place, part, listed } = position;
    if let Some(after) = after
        && position == ListPosition::after(ListOrder::Plain, after)
    {
        token.push(AFTER_RECIPIENT);
        token.extend_from_slice(&reader.get().to_be_bytes());
        token.extend_from_slice(&after.get().to_be_bytes());
    } else {
        token.push(ANY_POSITION);
        token.extend_from_slice(&reader.get().to_be_bytes());
        let flags = u8::from(order == ListOrder::Keyed) | u8::from(part.is_some()) << 1;
        token.push(flags);
        token.extend_from_slice(&place.to_be_bytes());
        let id = |user: Option<UserId>| user.map_or(0, UserId::get);
        let (buckets, scan, until) =
            part.map_or((0, 0, None), |part| (part.buckets, part.scan, part.until));
        let (listed_place, listed_recipient) =
            listed.map_or((0, None), |(place, recipient)| (place, Some(recipient)));
        for number in
            [id(after), buckets, scan, id(until), listed_place.into(), id(listed_recipient)]
        {
            token.extend_from_slice(&number.to_be_bytes());
        }
    }
    token.extend_from_slice(&checksum(&token));
    URL_SAFE_NO_PAD.encode(token)
}

/// Parses a token of a reader. Returns the position that precedes the page.
pub(super) fn parse(reader: UserId, token: &str) -> Option<ListPosition> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (version, rest) = bytes.split_first()?;
    let fields = rest.get(8..)?;
    let position = match *version {
        AFTER_RECIPIENT => {
            let (after, _) = number(fields)?;
            ListPosition::after(ListOrder::Plain, after.try_into().ok()?)
        }
        ANY_POSITION => parse_any(fields)?,
        _ => return None,
    };
    // A token has only one form.
    (write(reader, position) == token).then_some(position)
}

fn parse_any(fields: &[u8]) -> Option<ListPosition> {
    let (flags, fields) = fields.split_first()?;
    let (place, mut fields) = fields.split_first_chunk()?;
    let place = u32::from_be_bytes(*place);
    let mut next = || {
        let (value, rest) = number(fields)?;
        fields = rest;
        Some(value)
    };
    let id = |number: u64| match number {
        0 => Some(None),
        number => UserId::try_from(number).ok().map(Some),
    };
    let after = id(next()?)?;
    let (buckets, scan, until) = (next()?, next()?, id(next()?)?);
    let (listed_place, listed) = (next()?, id(next()?)?);
    let order = if flags & 1 == 1 { ListOrder::Keyed } else { ListOrder::Plain };
    let part = (flags & 2 == 2).then_some(HashPart { buckets, scan, until });
    let listed_place = u32::try_from(listed_place).ok()?;
    let listed = listed.map(|recipient| (listed_place, recipient));
    let position = ListPosition { order, after, place, part, listed };
    (place < 1 << 31).then_some(position)
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*number), rest))
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

    fn positions() -> Vec<ListPosition> {
        let plain = ListPosition::beginning(ListOrder::Plain);
        let keyed = ListPosition::beginning(ListOrder::Keyed);
        let (last, user) = (user(i64::MAX.cast_unsigned()), user(3_805_104_374));
        let part = |scan, until| Some(HashPart { buckets: 0, scan, until });
        vec![
            ListPosition::after(ListOrder::Plain, super::tests::user(1)),
            ListPosition::after(ListOrder::Plain, user),
            ListPosition::after(ListOrder::Plain, last),
            ListPosition::after(ListOrder::Keyed, user),
            plain,
            keyed,
            ListPosition { place: (1 << 31) - 1, ..plain },
            ListPosition { after: Some(last), part: part(u64::MAX, None), ..plain },
            ListPosition { listed: Some((7, user)), part: part(0, Some(last)), ..keyed },
        ]
    }

    #[test]
    fn a_token_is_valid_for_its_reader_and_unaltered() {
        for position in positions() {
            let token = write(user(7), position);
            assert_eq!(parse(user(7), &token), Some(position));
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

    /// Earlier servers, which run beside this one on a Redis of layout version 1, know this form only.
    #[test]
    fn a_position_after_a_recipient_in_the_plain_order_has_the_first_form() {
        let token = write(user(7), ListPosition::after(ListOrder::Plain, user(9)));
        assert_eq!(token, "AQAAAAAAAAAHAAAAAAAAAAk5EmQ2CJ1yxA");
    }
}
