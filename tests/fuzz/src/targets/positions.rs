//! Places that callers send back: page tokens, positions of watches, and IDs.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use markread::domain::{
    DeliveryId, EntryId, HashPart, ListOrder, ListPosition, MessageId, Position, Start, UserId,
    WatchPosition, WebhookName,
};
use markread::edge::grpc::fuzzing::{parse_page_token, write_page_token};

use crate::input::{id, number};

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

/// A token as it comes, one with the right checksum, and one that was given: only that one is accepted, by its
/// reader alone, and not with any change.
pub(super) fn page_token(data: &[u8]) {
    let reader = user(7);
    let check = |token: &str| {
        if let Some(position) = parse_page_token(reader, token) {
            assert_eq!(write_page_token(reader, position), token, "{position:?}");
            assert_eq!(parse_page_token(user(8), token), None);
        }
    };
    if let Ok(token) = std::str::from_utf8(data) {
        check(token);
    }
    let checksum = digest(&SHA256, data);
    check(&URL_SAFE_NO_PAD.encode([data, &checksum.as_ref()[..8]].concat()));

    let position = position(data);
    let token = write_page_token(reader, position);
    assert_eq!(parse_page_token(reader, &token), Some(position), "{token}");
    assert_eq!(parse_page_token(user(8), &token), None);
    let mut altered = token.into_bytes();
    let at = data.iter().map(|byte| usize::from(*byte)).sum::<usize>() % altered.len();
    altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
    let altered = String::from_utf8(altered).unwrap();
    assert_eq!(parse_page_token(reader, &altered), None, "{altered}");
    assert_eq!(parse_page_token(reader, &altered[..at]), None, "{altered}");
}

fn position(mut data: &[u8]) -> ListPosition {
    let flags = number(&mut data);
    let order = if flags & 1 == 1 { ListOrder::Keyed } else { ListOrder::Plain };
    let place = u32::try_from(number(&mut data) % (1 << 31)).unwrap();
    let mut user = |bit: u64| {
        let user = id(&mut data);
        (flags & bit > 0).then_some(user)
    };
    let (after, until, listed) = (user(2), user(4), user(8));
    let (buckets, scan) = (number(&mut data), number(&mut data));
    let part = (flags & 16 > 0).then_some(HashPart { buckets, scan, until });
    let listed = listed.map(|recipient| (u32::try_from(scan >> 32).unwrap(), recipient));
    ListPosition { order, after, place, part, listed }
}

/// A position as it comes, and one with these bytes encoded: what is parsed is written as it was, and begins
/// in each partition or in none.
pub(super) fn watch_position(data: &[u8]) {
    let encoded = format!("p{}", URL_SAFE_NO_PAD.encode(data));
    for text in std::str::from_utf8(data).into_iter().chain([encoded.as_str()]) {
        let Ok(position) = text.parse::<WatchPosition>() else { continue };
        assert_eq!(position.to_string(), text);
        for partitions in [1, 2, 64, 1024] {
            let Some(starts) = position.starts(partitions) else { continue };
            assert_eq!(starts.len(), partitions);
            let is_known = |start: &Start| *start != Start::Unknown;
            let is_all = matches!(position, WatchPosition::All(_));
            assert!(is_all || starts.iter().all(is_known), "{text} of {partitions}");
        }
    }
}

/// Two IDs: each is written as it was, and they have the order that Redis gives them.
pub(super) fn entry_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\n').unwrap_or((text, ""));
    let parsed = [one, other].map(|text| {
        let id = text.parse::<EntryId>().ok()?;
        assert_eq!(id.to_string(), text);
        assert_eq!(text.parse::<Position>(), Ok(Position::from(id)));
        if id < (EntryId { ms: u64::MAX, count: u64::MAX }) {
            assert!(id < id.after());
            assert_eq!(id.after().before(), id);
        }
        Some(id)
    });
    if let [Some(first), Some(second)] = parsed {
        // Longer numbers are greater, equal lengths go digit by digit.
        let key = |text: &str| {
            let numbers = text.split('-').map(|number| (number.len(), number.to_owned()));
            numbers.collect::<Vec<_>>()
        };
        assert_eq!(first.cmp(&second), key(one).cmp(&key(other)), "{one} and {other}");
    }
    for text in [one, other] {
        if let Ok(id) = text.parse::<DeliveryId>() {
            assert_eq!(id.to_string(), text);
        }
        if let Ok(name) = text.parse::<WebhookName>() {
            assert_eq!(name.as_str(), text);
            assert!(text.len() <= 64);
        }
        if let Ok(id) = text.parse::<MessageId>() {
            assert_eq!(id.to_string(), text);
            assert!((1..=u64::MAX >> 1).contains(&id.get()));
        }
    }
}
