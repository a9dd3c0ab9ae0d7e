//! The checker against every order of small random histories, and against histories that are known to be wrong
//! beside twins that are right.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tonic::Code;

use super::*;
use crate::history::{Injected, Loss};
use crate::rules::setbacks::Reach;
use crate::world::{Durability, Mode};

const CONVERSATION: Conversation = Conversation { reader: 1, recipient: 2 };

const fn at(ms: u64) -> Moment {
    Duration::from_millis(ms)
}

// --- Against every order

fn random_seen(random: &mut StdRng, latest: u64) -> Seen {
    let began = random.random_range(0..latest);
    let ended = began + random.random_range(0..4);
    let sight = match random.random_range(0..5) {
        0 | 1 => Sight::Advanced(random.random_range(1..5)),
        2 => Sight::Found { cursor: random.random_range(1..5), by_mark: true },
        _ => Sight::Found { cursor: random.random_range(0..5), by_mark: false },
    };
    Seen { began: at(began), ended: at(ended), sight }
}

fn random_register(random: &mut StdRng) -> Register {
    let cursor = random.random_range(0..5);
    let mut register = Register::new(CONVERSATION, Some(cursor));
    let latest = *[4, 12, 20].choose(random).unwrap();
    for _ in 0..random.random_range(1..6) {
        register.seen.push(random_seen(random, latest));
    }
    for _ in 0..random.random_range(0..4) {
        let began = at(random.random_range(0..latest));
        register.unknown.entry(random.random_range(1..5)).or_default().push(began);
    }
    register.sort();
    register
}

/// One after the other, as faults are.
fn random_setbacks(random: &mut StdRng) -> Vec<Setback> {
    let mut setbacks = Vec::new();
    let mut from = random.random_range(0..6);
    for _ in 0..random.random_range(0..4) {
        let to = from + random.random_range(0..6);
        let reach = [Reach::Nothing, Reach::AnyState, Reach::Acknowledged];
        let reach = *reach.choose(random).unwrap();
        setbacks.push(Setback { from: at(from), to: at(to), reach });
        from = to + random.random_range(1..6);
    }
    setbacks
}

/// Takes the seeds' histories, judges each by both, and returns how many can be explained.
fn agree(seeds: u64, setbacks: impl Fn(&mut StdRng) -> Vec<Setback>) -> u64 {
    let mut explained = 0;
    for seed in 0..seeds {
        let mut random = StdRng::seed_from_u64(seed);
        let register = random_register(&mut random);
        let setbacks = setbacks(&mut random);
        let found = matches!(search::run(&register, &setbacks), Verdict::Explained { .. });
        let expected = brute::is_explained(&register, &setbacks);
        assert_eq!(found, expected, "seed {seed}: {register:#?} {setbacks:#?}");
        let labels = labels::of(&register, &setbacks);
        assert!(
            !found || labels.is_empty(),
            "seed {seed}: {labels:#?} {register:#?} {setbacks:#?}"
        );
        explained += u64::from(found);
    }
    explained
}

#[test]
fn the_search_agrees_with_every_order_without_losses() {
    let explained = agree(4_000, |_| Vec::new());
    assert!((200..3_800).contains(&explained), "{explained}");
}

#[test]
fn the_search_agrees_with_every_order_with_losses() {
    let explained = agree(4_000, random_setbacks);
    assert!((400..3_600).contains(&explained), "{explained}");
}

// --- Histories that are known to be wrong, and their twins

fn call(began: u64, ended: u64, request: Request, outcome: Outcome) -> Operation {
    let (began, ended) = (at(began), at(ended));
    Operation { client: 0, conversation: CONVERSATION, request, began, ended, outcome }
}

fn advanced(began: u64, ended: u64, message: u64) -> Operation {
    let outcome = Outcome::Marked { cursor: message, advanced: true };
    call(began, ended, Request::Mark(message), outcome)
}

fn unchanged(began: u64, ended: u64, message: u64, cursor: u64) -> Operation {
    let outcome = Outcome::Marked { cursor, advanced: false };
    call(began, ended, Request::Mark(message), outcome)
}

fn read(began: u64, ended: u64, cursor: Option<u64>) -> Operation {
    call(began, ended, Request::Read, Outcome::Read(cursor))
}

fn unknown(began: u64, ended: u64, message: u64) -> Operation {
    call(began, ended, Request::Mark(message), Outcome::Unknown(Code::Unavailable))
}

fn refused(began: u64, ended: u64, message: u64) -> Operation {
    call(began, ended, Request::Mark(message), Outcome::Refused(Code::ResourceExhausted))
}

/// A fault with a loss from one time to another, or without one.
fn fault(from: u64, to: u64, is_total: Option<bool>) -> Injected {
    let (from, to) = (at(from), at(to));
    let losses = is_total.map(|is_total| Loss { from, to, partitions: None, is_total });
    Injected { kind: "fault".to_owned(), from, to, losses: losses.into_iter().collect() }
}

/// The rules that a history breaks, on one Redis that keeps everything but what FLUSHALL erases.
fn broken(operations: &[Operation], cursor: Option<u64>, faults: &[Injected]) -> Vec<Rule> {
    let promise = Promise::new(Mode::Standalone, Durability::Always, 1);
    broken_under(&promise, operations, cursor, faults)
}

fn broken_under(
    promise: &Promise,
    operations: &[Operation],
    cursor: Option<u64>,
    faults: &[Injected],
) -> Vec<Rule> {
    let history = History {
        operations: operations.to_vec(),
        cursors: cursor.map(|cursor| (CONVERSATION, cursor)).into_iter().collect(),
        faults: faults.to_vec(),
        ..History::default()
    };
    judge(&history, promise).iter().map(|violation| violation.rule).collect()
}

#[test]
fn an_answer_must_not_contradict_its_request() {
    let set = advanced(0, 1, 9);
    assert_eq!(broken(&[set.clone(), unchanged(2, 3, 5, 9)], Some(9), &[]), []);
    let wrong = [Rule::WrongAnswer];
    assert_eq!(broken(&[set.clone(), unchanged(2, 3, 10, 9)], Some(9), &[]), wrong);
    let answer = Outcome::Marked { cursor: 9, advanced: true };
    assert_eq!(broken(&[set, call(2, 3, Request::Mark(5), answer)], Some(9), &[]), wrong);
}

#[test]
fn a_cursor_does_not_go_back() {
    let (five, nine) = (advanced(0, 1, 5), advanced(2, 4, 9));
    let history = |read| broken(&[five.clone(), nine.clone(), read], Some(9), &[]);
    assert_eq!(history(read(5, 6, Some(9))), []);
    // It overlaps the mark.
    assert_eq!(history(read(4, 6, Some(5))), []);
    assert_eq!(history(read(5, 6, Some(5))), [Rule::Back]);
    assert_eq!(history(read(5, 6, None)), [Rule::Back]);
    assert_eq!(history(unchanged(5, 6, 3, 5)), [Rule::Back]);
    assert_eq!(history(advanced(5, 6, 7)), [Rule::Back]);
    assert_eq!(history(advanced(3, 6, 7)), []);
}

#[test]
fn reads_do_not_go_back_either() {
    let marked = unknown(0, 1, 5);
    let history = |later| broken(&[marked.clone(), read(2, 3, Some(5)), later], Some(5), &[]);
    assert_eq!(history(read(3, 4, None)), []);
    assert_eq!(history(read(4, 5, None)), [Rule::Back]);
}

#[test]
fn an_acknowledged_mark_is_there_at_the_end() {
    let marks = [advanced(0, 1, 5), advanced(2, 3, 9)];
    assert_eq!(broken(&marks, Some(9), &[]), []);
    assert_eq!(broken(&marks, Some(5), &[]), [Rule::Lost]);
    assert_eq!(broken(&marks, None, &[]), [Rule::Lost]);
}

#[test]
fn a_loss_may_take_what_was_before_its_end_only() {
    let marks = [advanced(10, 11, 5), advanced(12, 13, 9)];
    assert_eq!(broken(&marks, None, &[fault(20, 21, Some(true))]), []);
    assert_eq!(broken(&marks, None, &[fault(20, 21, None)]), [Rule::Lost]);
    assert_eq!(broken(&marks, None, &[fault(8, 9, Some(true))]), [Rule::Lost]);
    // A mark that crosses a loss is before it or after it, and a total loss takes all that is before it.
    assert_eq!(broken(&marks, Some(9), &[fault(11, 12, Some(true))]), []);
    assert_eq!(broken(&marks, Some(5), &[fault(12, 13, Some(true))]), [Rule::NoOrder]);
}

#[test]
fn what_a_total_loss_took_does_not_come_back() {
    let lost = [fault(20, 21, Some(true))];
    let marks = [advanced(0, 1, 5), read(30, 31, None)];
    assert_eq!(broken(&marks, None, &lost), []);
    let back = [advanced(0, 1, 5), read(30, 31, Some(5))];
    assert_eq!(broken(&back, Some(5), &lost), [Rule::NoOrder]);
    // An unknown mark of the same message may come late: one.
    let late = [unknown(2, 3, 5), advanced(0, 1, 5), read(30, 31, Some(5))];
    assert_eq!(broken(&late, Some(5), &lost), []);
    let twice = [fault(20, 21, Some(true)), fault(40, 41, Some(true))];
    assert_eq!(broken(&late, Some(5), &twice), [Rule::NoOrder]);
}

#[test]
fn a_partial_loss_counts_where_it_is_promised() {
    let marks = [advanced(0, 1, 5), advanced(2, 3, 9), read(30, 31, Some(5))];
    let lost = [fault(20, 21, Some(false))];
    assert_eq!(broken(&marks, Some(5), &lost), [Rule::Lost, Rule::Back]);
    let promise = Promise::new(Mode::Standalone, Durability::Everysec, 1);
    assert_eq!(broken_under(&promise, &marks, Some(5), &lost), []);
    let between = [marks[0].clone(), marks[1].clone(), read(30, 31, Some(7))];
    assert_eq!(broken_under(&promise, &between, Some(7), &lost), [Rule::UnmarkedCursor]);
}

#[test]
fn a_failover_may_undo_what_was_not_acknowledged() {
    let promise = Promise::new(Mode::Sentinel, Durability::AlwaysReplica, 1);
    let failover = [fault(20, 21, None)];
    let history = |mark| {
        let operations = [advanced(0, 1, 5), mark, read(10, 11, Some(9)), read(40, 41, Some(5))];
        broken_under(&promise, &operations, Some(5), &failover)
    };
    assert_eq!(history(unknown(2, 3, 9)), []);
    assert_eq!(history(advanced(2, 3, 9)), [Rule::Lost, Rule::Back]);
    let no_fault = broken_under(
        &promise,
        &[unknown(2, 3, 9), read(10, 11, Some(9)), read(40, 41, None)],
        None,
        &[],
    );
    assert_eq!(no_fault, [Rule::Back]);
}

#[test]
fn a_message_advances_once() {
    let first = advanced(0, 1, 5);
    assert_eq!(broken(&[first.clone(), unchanged(0, 2, 5, 5)], Some(5), &[]), []);
    let twice = [first, advanced(0, 2, 5)];
    assert_eq!(broken(&twice, Some(5), &[]), [Rule::DoubledAdvance]);
    let parted = [advanced(0, 1, 5), advanced(30, 31, 5)];
    assert_eq!(broken(&parted, Some(5), &[fault(20, 21, Some(true))]), []);
    assert_eq!(broken(&parted, Some(5), &[fault(40, 41, Some(true))]), [Rule::DoubledAdvance]);
}

#[test]
fn a_mark_that_moved_nothing_found_what_someone_had_marked() {
    assert_eq!(broken(&[unknown(0, 1, 9), unchanged(2, 3, 5, 9)], Some(9), &[]), []);
    let refused = [refused(0, 1, 9), unchanged(2, 3, 5, 9)];
    assert_eq!(broken(&refused, Some(9), &[]), [Rule::UnmarkedCursor]);
    let later = [unchanged(2, 3, 5, 9), advanced(4, 5, 9)];
    assert_eq!(broken(&later, Some(9), &[]), [Rule::UnmarkedCursor, Rule::DoubledAdvance]);
    assert_eq!(broken(&[unchanged(2, 4, 5, 9), advanced(4, 5, 9)], Some(9), &[]), []);
}

#[test]
fn an_unknown_mark_takes_effect_late_or_never() {
    let mark = unknown(0, 1, 9);
    assert_eq!(broken(&[mark.clone(), read(2, 3, None)], None, &[]), []);
    assert_eq!(broken(&[mark.clone(), read(2, 3, None)], Some(9), &[]), []);
    assert_eq!(broken(&[mark.clone(), read(2, 3, None), read(4, 5, Some(9))], Some(9), &[]), []);
    assert_eq!(
        broken(&[unknown(4, 5, 9), read(2, 3, Some(9))], Some(9), &[]),
        [Rule::UnmarkedCursor]
    );
    assert_eq!(broken(&[refused(0, 1, 9)], Some(9), &[]), [Rule::UnmarkedCursor]);
}

#[test]
fn orders_that_contradict_each_other_are_found() {
    // Each read alone can be explained, but one of the marks was first.
    let marks = [advanced(0, 20, 5), advanced(0, 20, 9)];
    let reads = |first, second| [marks.as_slice(), &[first, second]].concat();
    assert_eq!(broken(&reads(read(2, 3, Some(5)), read(5, 6, Some(9))), Some(9), &[]), []);
    // The mark to 5 found a lower cursor, but 9 was there before it began.
    let history = [advanced(0, 20, 9), read(2, 3, Some(9)), advanced(4, 5, 5)];
    assert_eq!(broken(&history, Some(9), &[]), [Rule::Back]);
    // The unknown mark had done it.
    let history = |mark| broken(&[unknown(0, 1, 5), read(2, 4, Some(5)), mark], Some(5), &[]);
    assert_eq!(history(advanced(4, 5, 5)), []);
    assert_eq!(history(advanced(5, 6, 5)), [Rule::DoubledAdvance]);
}

#[test]
fn what_losses_took_is_counted() {
    let taken = |promise: &Promise, operations: &[Operation], cursor, faults: &[Injected]| {
        let history = History {
            operations: operations.to_vec(),
            cursors: vec![(CONVERSATION, cursor)],
            faults: faults.to_vec(),
            ..History::default()
        };
        let (taken, undecided) = super::taken(&history, promise);
        assert_eq!(undecided, 0);
        taken
    };
    let always = Promise::new(Mode::Standalone, Durability::Always, 1);
    let everysec = Promise::new(Mode::Standalone, Durability::Everysec, 1);
    let marks = [advanced(0, 1, 5), advanced(2, 3, 9), advanced(30, 31, 11)];
    assert_eq!(taken(&always, &marks, 11, &[]), 0);
    assert_eq!(taken(&always, &marks, 11, &[fault(20, 21, Some(true))]), 2);
    // What was before the mark to 11 does not show.
    assert_eq!(taken(&everysec, &marks, 11, &[fault(20, 21, Some(false))]), 0);
    let marks = [advanced(0, 1, 5), advanced(2, 3, 9), advanced(30, 31, 7)];
    assert_eq!(taken(&everysec, &marks, 7, &[fault(20, 21, Some(false))]), 1);
}

#[test]
fn a_register_with_too_many_orders_breaks_no_rule_and_is_counted() {
    let promise = Promise::new(Mode::Standalone, Durability::None, 1);
    let at_once = |message| advanced(0, 200, message);
    let operations: Vec<_> = (1..=30).map(at_once).collect();
    let faults = [fault(50, 100, Some(false))];
    assert_eq!(broken_under(&promise, &operations, Some(30), &faults), []);
    let cursors = vec![(CONVERSATION, 30)];
    let faults = faults.to_vec();
    let history = History { operations, cursors, faults, ..History::default() };
    assert_eq!(super::taken(&history, &promise), (0, 1));
}

/// Rounds of marks, each with its read, and a fault that may have set the cursor back, but did not.
fn rounds(count: u64) -> (Vec<Operation>, Vec<Injected>) {
    let mut operations = Vec::new();
    let mut faults = Vec::new();
    for begin in (0..count).map(|round| round * 100) {
        for step in (0..40).step_by(2) {
            let message = begin + step + 1;
            operations.push(advanced(begin + step, begin + step + 3, message));
            operations.push(read(begin + step + 3, begin + step + 5, Some(message)));
        }
        faults.push(fault(begin + 15, begin + 60, Some(false)));
    }
    (operations, faults)
}

#[test]
fn a_hundred_losses_are_judged_at_once() {
    let promise = Promise::new(Mode::Standalone, Durability::None, 1);
    let (operations, faults) = rounds(100);
    assert_eq!(broken_under(&promise, &operations, Some(9_939), &faults), []);
    let (mut operations, faults) = rounds(3);
    assert_eq!(broken_under(&promise, &operations, Some(239), &faults), []);
    // Either can be explained, but not the final cursor after it.
    operations.push(advanced(290, 291, 201));
    assert_eq!(broken_under(&promise, &operations, Some(239), &faults), [Rule::NoOrder]);
}
