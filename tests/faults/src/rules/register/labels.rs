//! What two answers show by themselves: each of these is a proof that no order explains a register.

use std::collections::BTreeMap;

use crate::history::Moment;

use super::super::lines::time;
use super::super::setbacks::Setback;
use super::super::{Rule, Violation};
use super::{Register, Seen, Sight};

/// Returns what is wrong, at most one violation of each rule.
pub(super) fn of(register: &Register, setbacks: &[Setback]) -> Vec<Violation> {
    let found = [
        unmarked(register),
        doubled(register, setbacks),
        lost(register, setbacks),
        back(register, setbacks),
    ];
    found.into_iter().flatten().collect()
}

fn says(seen: &Seen) -> String {
    let (began, ended) = (time(seen.began), time(seen.ended));
    match seen.sight {
        _ if seen.began == Moment::MAX => format!("{} is left in Redis", seen.sight.cursor()),
        Sight::Advanced(message) => format!("a mark ({began} to {ended}) advanced to {message}"),
        Sight::Found { cursor, by_mark: true } => {
            format!("a mark ({began} to {ended}) found {cursor}")
        }
        Sight::Found { cursor, .. } => format!("a read ({began} to {ended}) found {cursor}"),
    }
}

fn unmarked(register: &Register) -> Option<Violation> {
    let mut strange = register.seen.iter().filter(|seen| {
        let cursor = seen.sight.cursor();
        let is_marked = register
            .seen
            .iter()
            .any(|other| other.sight == Sight::Advanced(cursor) && other.began <= seen.ended);
        let unknown = register.unknown.get(&cursor).and_then(|begins| begins.first());
        cursor != 0 && !is_marked && unknown.is_none_or(|&began| began > seen.ended)
    });
    let first = strange.next()?;
    let text = format!("{}, which no mark had asked for", says(first));
    let violation = register.violation(Rule::UnmarkedCursor, first.ended, text);
    Some(Violation { count: 1 + strange.count(), ..violation })
}

/// Two marks that advanced to the same message, or one where it already was.
fn doubled(register: &Register, setbacks: &[Setback]) -> Option<Violation> {
    let mut by_cursor: BTreeMap<u64, Vec<&Seen>> = BTreeMap::new();
    for seen in &register.seen {
        by_cursor.entry(seen.sight.cursor()).or_default().push(seen);
    }
    let mut first = None;
    let mut count = 0;
    for same in by_cursor.values() {
        for (index, later) in same.iter().enumerate() {
            let is_advance = |seen: &Seen| matches!(seen.sight, Sight::Advanced(_));
            let mut earlier = same[..index].iter().filter(|earlier| {
                let is_known = is_advance(earlier) || earlier.ended < later.began;
                is_known && !setbacks.iter().any(|setback| may_undo(setback, earlier, later))
            });
            if let (true, Some(earlier)) = (is_advance(later), earlier.next()) {
                count += 1;
                first.get_or_insert((*earlier, *later));
            }
        }
    }
    let (earlier, later) = first?;
    let text = format!("{}, then {}", says(earlier), says(later));
    let violation = register.violation(Rule::DoubledAdvance, later.ended, text);
    Some(Violation { count, ..violation })
}

fn lost(register: &Register, setbacks: &[Setback]) -> Option<Violation> {
    let at_end = register.seen.iter().find(|seen| seen.began == Moment::MAX)?;
    let is_taken =
        |seen: &Seen| setbacks.iter().any(|setback| setback.loses() && setback.to >= seen.began);
    let lost = register.seen.iter().filter(|seen| {
        seen.sight.acknowledges() && seen.sight.cursor() > at_end.sight.cursor() && !is_taken(seen)
    });
    let mut lost: Vec<_> = lost.collect();
    lost.sort_by_key(|seen| seen.ended);
    let text = format!("{}, but {}", says(lost.first()?), says(at_end));
    let violation = register.violation(Rule::Lost, lost.first()?.ended, text);
    Some(Violation { count: lost.len(), ..violation })
}

fn back(register: &Register, setbacks: &[Setback]) -> Option<Violation> {
    let mut by_end: Vec<_> = register.seen.iter().collect();
    by_end.sort_by_key(|seen| seen.ended);
    let mut first = None;
    let mut count = 0;
    for later in &register.seen {
        let ended = by_end.partition_point(|seen| seen.ended < later.began);
        let losses =
            setbacks.iter().filter(|setback| setback.loses() && setback.from <= later.ended);
        // What ended before the last loss may be gone by it, and so may all before that.
        let lost_until = losses.map(|setback| setback.to).max().unwrap_or(Moment::ZERO);
        let earlier = by_end[..ended].iter().rev().take_while(|seen| seen.ended >= lost_until);
        let mut higher = earlier.filter(|seen| {
            is_lower(later, seen) && !setbacks.iter().any(|setback| may_undo(setback, seen, later))
        });
        if let Some(higher) = higher.next() {
            count += 1;
            first.get_or_insert((*higher, later));
        }
    }
    let (higher, later) = first?;
    let text = format!("{}, then {}", says(higher), says(later));
    let violation = register.violation(Rule::Back, later.ended, text);
    Some(Violation { count, ..violation })
}

/// Whether a cursor that was seen later is too low. A lost one, at the end, has a rule of its own.
fn is_lower(later: &Seen, earlier: &Seen) -> bool {
    let before = earlier.sight.cursor();
    match later.sight {
        Sight::Advanced(message) => message < before,
        Sight::Found { .. } if later.began == Moment::MAX && earlier.sight.acknowledges() => false,
        Sight::Found { cursor, .. } => cursor < before,
    }
}

fn may_undo(setback: &Setback, earlier: &Seen, later: &Seen) -> bool {
    let is_possible = setback.loses() || !earlier.sight.acknowledges();
    is_possible && setback.is_between(earlier.began, later.ended)
}
