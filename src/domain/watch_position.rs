//! Places from which a watcher resumes, as callers see them: the `id` of events and heartbeats, and `after`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::entry_id::EntryId;
use super::position::{InvalidPosition, Position};

/// How far before an event's time the other partitions resume, in milliseconds (`docs/contract.md`, "gRPC").
/// The partitions' clocks may differ, and one may be read later than another.
pub const RESUME_BACK_MS: u64 = 60_000;

/// Most partitions of a store.
pub const MAX_PARTITIONS: usize = 1024;

/// First character, and version, of the text with all positions.
const ALL: char = 'p';
const VERSION: u8 = 1;

/// A place in the logs of all partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchPosition {
    /// In the only log: `<entry ID>`.
    Log(Position),
    /// After an event of one of several logs: `<partition>-<entry ID>`.
    Event {
        /// The event's partition.
        partition: u16,
        /// Its position in the partition's log.
        position: Position,
    },
    /// In each of several logs, in their order; `None` where it is not known. An opaque text.
    All(Arc<[Option<Position>]>),
}

/// Where a watcher resumes in one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// After this position.
    After(Position),
    /// With the entries since this time, in milliseconds since 1970.
    At(u64),
    /// Nobody knows.
    Unknown,
}

impl WatchPosition {
    /// Returns the place after an event of a partition; without one, of the only log.
    pub fn of_event(partition: Option<u16>, position: Position) -> Self {
        match partition {
            Some(partition) => Self::Event { partition, position },
            None => Self::Log(position),
        }
    }

    /// Returns where a watcher resumes in each log of a store with so many partitions; `None` if this place is
    /// one of another store.
    pub fn starts(&self, partitions: usize) -> Option<Vec<Start>> {
        let all = |start| Some(vec![start; partitions]);
        match self {
            Self::Log(Position::START) => all(Start::After(Position::START)),
            Self::Log(position) if partitions == 1 => all(Start::After(*position)),
            Self::Event { partition, position } if partitions > 1 => {
                let since = position.entry().ms.saturating_sub(RESUME_BACK_MS);
                let mut starts = all(Start::At(since))?;
                *starts.get_mut(usize::from(*partition))? = Start::After(*position);
                Some(starts)
            }
            Self::All(positions) if partitions > 1 && positions.len() == partitions => {
                let start = |position: &Option<_>| position.map_or(Start::Unknown, Start::After);
                Some(positions.iter().map(start).collect())
            }
            _ => None,
        }
    }
}

impl fmt::Display for WatchPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(position) => position.fmt(f),
            Self::Event { partition, position } => write!(f, "{partition}-{position}"),
            Self::All(positions) => write!(f, "{ALL}{}", URL_SAFE_NO_PAD.encode(encode(positions))),
        }
    }
}

impl FromStr for WatchPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        if let Some(encoded) = text.strip_prefix(ALL) {
            let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| InvalidPosition)?;
            return decode(&bytes).map(|all| Self::All(all.into())).ok_or(InvalidPosition);
        }
        match text.split_once('-') {
            Some((partition, position)) if position.contains('-') => {
                let number: u16 = partition.parse().map_err(|_| InvalidPosition)?;
                let is_canonical = number.to_string() == partition;
                let position = position.parse()?;
                let place = Self::Event { partition: number, position };
                if is_canonical { Ok(place) } else { Err(InvalidPosition) }
            }
            _ => text.parse().map(Self::Log),
        }
    }
}

/// Writes a version, the number of partitions, the greatest time, and each partition's position: 1 and how
/// much earlier its time is, and the number within the millisecond; or 0 if it is not known.
fn encode(positions: &[Option<Position>]) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    let entries = || positions.iter().map(|position| position.map(Position::entry));
    let latest = entries().flatten().map(|entry| entry.ms).max().unwrap_or_default();
    put(&mut bytes, positions.len().try_into().unwrap_or(u128::MAX));
    put(&mut bytes, latest.into());
    for entry in entries() {
        let Some(EntryId { ms, count }) = entry else {
            put(&mut bytes, 0);
            continue;
        };
        put(&mut bytes, 1 + u128::from(latest - ms));
        put(&mut bytes, count.into());
    }
    bytes
}

/// Reads what [`encode`] writes. Each list of positions has only one form.
fn decode(bytes: &[u8]) -> Option<Vec<Option<Position>>> {
    let (version, mut rest) = bytes.split_first()?;
    let count = usize::try_from(take(&mut rest)?).ok()?;
    if *version != VERSION || count > MAX_PARTITIONS {
        return None;
    }
    let latest = u64::try_from(take(&mut rest)?).ok()?;
    let mut positions = Vec::with_capacity(count);
    for _ in 0..count {
        let position = match take(&mut rest)? {
            0 => None,
            earlier => {
                let ms = latest.checked_sub(u64::try_from(earlier - 1).ok()?)?;
                let count = u64::try_from(take(&mut rest)?).ok()?;
                Some(Position::from(EntryId { ms, count }))
            }
        };
        positions.push(position);
    }
    (encode(&positions) == bytes).then_some(positions)
}

/// Appends a number in groups of seven bits, the lowest first (LEB128).
fn put(bytes: &mut Vec<u8>, mut number: u128) {
    loop {
        let group = u8::try_from(number & 0x7f).unwrap_or_default();
        number >>= 7;
        if number == 0 {
            bytes.push(group);
            return;
        }
        bytes.push(group | 0x80);
    }
}

fn take(bytes: &mut &[u8]) -> Option<u128> {
    let mut number = 0;
    // A number of 64 bits and one more has at most ten groups.
    for shift in (0..70).step_by(7) {
        let (group, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u128::from(group & 0x7f) << shift;
        if group & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(ms: u64, count: u64) -> Position {
        EntryId { ms, count }.into()
    }

    fn all(positions: impl IntoIterator<Item = Option<Position>>) -> WatchPosition {
        WatchPosition::All(positions.into_iter().collect())
    }

    #[test]
    fn a_place_is_parsed_as_it_was_written() {
        let max = position(u64::MAX, u64::MAX);
        for (place, text) in [
            (WatchPosition::Log(Position::START), "0-0"),
            (WatchPosition::Log(position(1_518_127_183_443, 7)), "1518127183443-7"),
            (WatchPosition::Event { partition: 0, position: position(5, 0) }, "0-5-0"),
            (WatchPosition::Event { partition: 65_535, position: max }, &format!("65535-{max}")),
            (all([Some(position(5, 0)), None, Some(Position::START)]), "pAQMFAQAABgA"),
            (all([Some(max), Some(Position::START)]), ""),
            (all([]), ""),
            (all(vec![None; MAX_PARTITIONS]), ""),
            (all(vec![Some(max); MAX_PARTITIONS]), ""),
        ] {
            let written = place.to_string();
            assert!(text.is_empty() || written == text, "{written}, not {text}");
            assert_eq!(written.parse(), Ok(place), "{written}");
        }
    }

    #[test]
    fn other_texts_are_no_places() {
        let good = all([Some(position(1_795_756_971_785, 3)), None, Some(position(9, 9))]);
        let good = good.to_string();
        for at in 0..good.len() {
            assert_eq!(good[..at].parse::<WatchPosition>(), Err(InvalidPosition), "{at}");
        }
        let too_many = all(vec![None; MAX_PARTITIONS + 1]).to_string();
        let long = format!("p{}", "A".repeat(60_000));
        let longer_form = format!("p{}", URL_SAFE_NO_PAD.encode([VERSION, 1, 5, 0x81, 0, 0]));
        let before_1970 = format!("p{}", URL_SAFE_NO_PAD.encode([VERSION, 1, 5, 7, 0]));
        for text in [
            "",
            "1",
            "-",
            "1-2-3-4",
            "01-5-0",
            "+1-5-0",
            "-1-5-0",
            "1--5",
            "65536-5-0",
            "1-05-0",
            "p",
            "p!",
            "x",
            " 0-0",
            "é",
            &format!("{good}A"),
            &format!("{good}="),
            &too_many,
            &long,
            &longer_form,
            &before_1970,
        ] {
            assert_eq!(text.parse::<WatchPosition>(), Err(InvalidPosition), "{text}");
        }
    }

    #[test]
    fn positions_of_64_partitions_take_less_than_a_kilobyte() {
        let now = 1_795_756_971_785;
        // Some partitions have been quiet for a week.
        let places = (0..64).map(|nth| Some(position(now - nth * 9_450_000, nth * 300)));
        let text = all(places).to_string();
        assert!(text.len() < 600, "{} bytes", text.len());
        let worst = all((0..64).map(|nth| Some(position(u64::MAX * (nth % 2), u64::MAX))));
        assert!(worst.to_string().len() < 1_800, "{} bytes", worst.to_string().len());
    }

    #[test]
    fn the_other_partitions_resume_60_s_before_an_event() {
        let at = position(100_000, 3);
        let (after, since) = (Start::After(at), Start::At(40_000));
        let event = |partition, position| WatchPosition::Event { partition, position };
        let beginning = Start::After(Position::START);
        for (place, partitions, starts) in [
            (WatchPosition::Log(at), 1, Some(vec![after])),
            (WatchPosition::Log(at), 2, None),
            (WatchPosition::Log(Position::START), 1, Some(vec![beginning])),
            (WatchPosition::Log(Position::START), 3, Some(vec![beginning; 3])),
            (event(1, at), 3, Some(vec![since, after, since])),
            (event(1, position(5, 0)), 2, Some(vec![Start::At(0), Start::After(position(5, 0))])),
            (event(3, at), 3, None),
            (event(0, at), 1, None),
            (all([Some(at), None]), 2, Some(vec![after, Start::Unknown])),
            (all([Some(at), None]), 3, None),
            (all([Some(at)]), 1, None),
            (all([]), 2, None),
        ] {
            assert_eq!(place.starts(partitions), starts, "{place} of {partitions}");
        }
    }
}
