//! What follows from what was known of a stream, and what is found. The e2e tests do the same to a Redis.

use super::*;
use crate::store::LogBounds;

fn id(ms: u64) -> EntryId {
    EntryId { ms, count: 0 }
}

/// A stream with these entries, after the trimming of others.
fn span(trimmed: u64, entries: std::ops::RangeInclusive<u64>) -> Span {
    let (oldest, newest) = (*entries.start(), *entries.end());
    let length = newest + 1 - oldest;
    let bounds = LogBounds {
        oldest: Some(id(oldest)),
        newest: Some(id(newest)),
        last_id: id(newest),
        trimmed: trimmed > 0,
        length,
        ..LogBounds::default()
    };
    Span { bounds, added: length + trimmed, ..Span::default() }
}

/// A server that knows the entries 1 to 10.
fn known() -> Knowledge {
    Knowledge { checked: Some(span(0, 1..=10)), ..Knowledge::default() }
}

impl Knowledge {
    fn find(&mut self, found: &Sighting) -> Option<EntryId> {
        let known = self.clone();
        self.update(&known, found)
    }
}

/// Finds a stream in which these entries are in their place, under the known layout.
fn found(span: Span, present: &[u64]) -> Sighting {
    let present = present.iter().map(|ms| id(*ms)).collect();
    Sighting { span, present, layout_is_new: false }
}

/// The same stream, under a layout that has this loss.
fn with_gap(gap_before: EntryId, found: Sighting) -> Sighting {
    let bounds = LogBounds { gap_before, ..found.span.bounds };
    Sighting { span: Span { bounds, ..found.span }, ..found }
}

#[test]
fn a_stream_that_goes_on_is_the_same() {
    let new_layout = |found: Sighting| Sighting { layout_is_new: true, ..found };
    let removed = LogBounds { max_removed: id(10), ..span(0, 1..=12).bounds };
    let emptied = LogBounds { oldest: None, newest: None, length: 0, ..span(0, 1..=10).bounds };
    for (name, found) in [
        ("unchanged", found(span(0, 1..=10), &[10])),
        ("longer", found(span(0, 1..=20), &[10])),
        ("trimmed, with the known entry", found(span(4, 5..=20), &[10])),
        ("trimmed past the known entry", found(span(11, 12..=20), &[])),
        ("trimmed to nothing", found(Span { bounds: emptied, ..span(0, 1..=10) }, &[])),
        ("the known entry was deleted", found(Span { bounds: removed, ..span(0, 1..=12) }, &[])),
        ("only the layout was deleted", new_layout(found(span(0, 1..=10), &[10]))),
    ] {
        let mut known = known();
        assert_eq!(known.find(&found), None, "{name}");
        assert_eq!(known.gap_before, EntryId::ZERO, "{name}");
        assert_eq!(known.checked, Some(found.span), "{name}");
    }
}

#[test]
fn a_stream_without_the_known_entry_is_another() {
    let new_layout = |found: Sighting| Sighting { layout_is_new: true, ..found };
    for (name, found) in [
        ("flushed", found(Span::default(), &[])),
        ("flushed and written", found(span(0, 11..=13), &[])),
        ("flushed and longer than before", found(span(0, 11..=40), &[])),
        ("flushed and written with lower IDs", found(span(0, 3..=5), &[])),
        ("flushed, longer, and trimmed a little", found(span(9, 31..=60), &[])),
        ("flushed, longer, and trimmed", new_layout(found(span(30, 41..=60), &[]))),
        ("gone back", found(span(0, 1..=8), &[])),
        ("gone back, and on in another way", found(span(0, 1..=13), &[])),
        ("written with the same ID", found(span(0, 10..=10), &[10])),
    ] {
        let mut known = known();
        assert_eq!(known.find(&found), Some(id(10)), "{name}");
        assert_eq!(known.checked, Some(found.span), "{name}");
        // It is found once.
        let last = found.span.bounds.last_id.ms;
        let again = Sighting { present: vec![id(last)], layout_is_new: false, ..found };
        assert_eq!(known.find(&with_gap(id(10), again)), None, "{name}");
    }
}

#[test]
fn what_was_read_since_the_check_is_known_too() {
    let read = |entries: &[(u64, u64)]| {
        let mut known = known();
        for (first, last) in entries {
            known.note_read(id(*first), id(*last));
        }
        known
    };
    // A failover lost 12, which only this server had read.
    let replica = span(0, 1..=11);
    assert_eq!(read(&[(11, 11)]).find(&found(replica, &[10, 11])), None);
    assert_eq!(read(&[(11, 11), (12, 12)]).find(&found(replica, &[10, 11])), Some(id(12)));
    // What was read last is of the new stream: it is not lost.
    let new = span(0, 15..=17);
    assert_eq!(read(&[(15, 16)]).find(&found(new, &[15, 16])), Some(id(10)));
    let mixed = read(&[(11, 13), (15, 16)]).find(&found(new, &[16]));
    assert_eq!(mixed, Some(id(16).before()));
    // Before the first check.
    let mut first = Knowledge::default();
    first.note_read(id(1), id(3));
    assert_eq!(first.find(&found(span(0, 1..=3), &[1, 3])), None);
    let mut first = Knowledge { checked: Some(Span::default()), ..Knowledge::default() };
    first.note_read(id(1), id(3));
    assert_eq!(first.find(&found(span(0, 9..=9), &[])), Some(id(3)));
    // Entries that come between the check's command and its end, and those that are read again.
    let mut known = read(&[(11, 12)]);
    assert_eq!(known.find(&found(span(0, 1..=11), &[10, 11, 12])), None);
    assert_eq!(known.last_read, Some(id(12)));
    known.note_read(id(1), id(9));
    assert_eq!(known.entries(), [id(11), id(12)]);
    // What is read while a check is under way is not looked for by it.
    let (before, mut known) = (self::known(), self::known());
    known.note_read(id(11), id(13));
    assert_eq!(known.update(&before, &found(span(0, 1..=12), &[10])), None);
    assert_eq!(known.entries(), [id(12), id(13)]);
}

#[test]
fn each_loss_has_a_greater_position() {
    let mut known = known();
    assert_eq!(known.find(&found(Span::default(), &[])), Some(id(10)));
    let written =
        |span, layout_is_new| with_gap(id(10), Sighting { layout_is_new, ..found(span, &[]) });
    assert_eq!(known.find(&written(Span::default(), false)), None);
    // Flushed again, after entries with lower IDs, or none that anybody knows.
    let mut lower = known.clone();
    assert_eq!(lower.find(&written(span(0, 3..=4), false)), None);
    assert_eq!(lower.find(&written(Span::default(), true)), Some(id(10).after()));
    let mut unknown = known.clone();
    assert_eq!(unknown.find(&written(Span::default(), true)), Some(id(10).after()));
    let mut vanished = known.clone();
    assert_eq!(vanished.find(&found(Span::default(), &[])), Some(id(10).after()));
    // A new server on a new Redis.
    let mut new = Knowledge::default();
    let first = Sighting { layout_is_new: true, ..found(Span::default(), &[]) };
    assert_eq!(new.find(&first), None);
}

#[test]
fn what_other_servers_know_to_be_lost_is_taken_over_and_kept() {
    let mut known = known();
    let written = with_gap(id(12), found(span(0, 1..=10), &[10]));
    assert_eq!(known.find(&written), None);
    assert_eq!(known.gap_before, id(12));
    // Somebody deleted the layout.
    assert_eq!(known.find(&found(span(0, 1..=10), &[10])), Some(id(12)));
    // Another server wrote it first, and knew more.
    let mut known = Knowledge { gap_before: EntryId::ZERO, ..self::known() };
    let written = with_gap(id(15), found(Span::default(), &[]));
    assert_eq!(known.find(&written), None);
    assert_eq!(known.gap_before, id(15));
}
