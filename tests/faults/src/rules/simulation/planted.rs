//! Right histories in which one thing is planted that is wrong: each is found.

use super::super::{Rule, Violation, judge, shortest};
use super::*;

/// Plants something in the histories of many seeds, and returns the shortest histories of what is found. Where there
/// is nothing to plant it in, the seed is left out.
fn found(
    losses: Losses,
    rule: Rule,
    plant: impl Fn(&mut History) -> Option<()>,
) -> Vec<Vec<String>> {
    let promise = losses.promise();
    let mut planted = Vec::new();
    for seed in 0..200 {
        let mut history = simulate(seed, losses);
        if plant(&mut history).is_none() {
            continue;
        }
        let violations = judge(&history, &promise);
        let violation = violations.iter().find(|violation| violation.rule == rule);
        let Some(violation) = violation else {
            panic!("seed {seed}: {violations:#?}");
        };
        if planted.len() < 5 {
            planted.push(shortest(&history, &promise, violation));
        } else {
            planted.push(Vec::new());
        }
    }
    assert!(planted.len() > 50, "{}", planted.len());
    planted.truncate(5);
    planted
}

/// Where the last acknowledged advance of a conversation is.
fn last_advance(history: &History) -> Option<usize> {
    let is_advance =
        |operation: &Operation| matches!(operation.outcome, Outcome::Marked { advanced: true, .. });
    history.operations.iter().rposition(is_advance)
}

fn lines(shortest: &[Vec<String>], most: usize) {
    for lines in shortest {
        let lines: Vec<_> = lines.iter().filter(|line| !line.contains("(meanwhile)")).collect();
        assert!(!lines.is_empty() && lines.len() <= most, "{lines:#?}");
    }
}

#[test]
fn an_event_that_is_dropped() {
    for losses in [Losses::None, Losses::Unacknowledged] {
        let shortest = found(losses, Rule::MissingEvent, |history| {
            let mark = history.operations[last_advance(history)?].clone();
            let is_its = |event: &Event| {
                event.conversation == mark.conversation
                    && mark.request == Request::Mark(event.message)
            };
            history.events.retain(|event| !is_its(event));
            Some(())
        });
        lines(&shortest, 1);
    }
}

#[test]
fn an_event_that_is_doubled() {
    let shortest = found(Losses::Total, Rule::DoubledEvent, |history| {
        let mut event = history.events.last()?.clone();
        event.entry.1 += 1;
        history.events.push(event);
        Some(())
    });
    lines(&shortest, 2);
}

#[test]
fn a_cursor_that_goes_back() {
    let shortest = found(Losses::Unacknowledged, Rule::Back, |history| {
        let advance = history.operations[last_advance(history)?].clone();
        let later = advance.ended + at(1);
        let read = Operation {
            client: 9,
            request: Request::Read,
            began: later,
            ended: later,
            outcome: Outcome::Read(None),
            ..advance
        };
        history.operations.push(read);
        Some(())
    });
    lines(&shortest, 2);
}

#[test]
fn an_acknowledged_mark_that_is_dropped() {
    for losses in [Losses::None, Losses::Unacknowledged] {
        let shortest = found(losses, Rule::Lost, |history| {
            let (conversation, cursor) = *history.cursors.first()?;
            let is_it = |operation: &Operation| {
                operation.conversation == conversation
                    && operation.outcome == Outcome::Marked { cursor, advanced: true }
            };
            history.operations.iter().find(|operation| is_it(operation))?;
            history.cursors[0].1 = cursor - 1;
            history.events.retain(|event| event.message != cursor);
            Some(())
        });
        lines(&shortest, 2);
    }
}

#[test]
fn a_mark_that_advances_twice() {
    let shortest = found(Losses::None, Rule::DoubledAdvance, |history| {
        let mut again = history.operations[last_advance(history)?].clone();
        again.began = again.ended + at(1);
        again.ended = again.began + at(1);
        history.operations.push(again);
        Some(())
    });
    lines(&shortest, 2);
}

#[test]
fn a_watcher_that_skips() {
    for losses in [Losses::None, Losses::Unacknowledged] {
        let shortest = found(losses, Rule::Unheard, |history| {
            let from = history.watches[0].from;
            let must = history.events.iter().rev().find(|event| {
                let asked = history.operations.iter().filter(|operation| {
                    operation.conversation == event.conversation
                        && operation.request == Request::Mark(event.message)
                });
                let is_of = event.conversation.reader == 2 || event.conversation.recipient == 2;
                is_of && asked.clone().count() > 0 && asked.clone().all(|mark| mark.began >= from)
            });
            let skipped = Update::Event(must?.clone());
            let updates = &mut history.watches[0].updates;
            let place = updates.iter().rposition(|(_, update)| *update == skipped)?;
            // A gap that was told later would excuse it.
            if updates[place..].iter().any(|(_, update)| *update == Update::Gap) {
                return None;
            }
            let before = updates[..place].iter().rposition(|(_, update)| *update != Update::Gap);
            if before.is_none_or(|before| before + 1 != place) {
                return None;
            }
            updates.retain(|(_, update)| *update != skipped);
            Some(())
        });
        lines(&shortest, 4);
    }
}

#[test]
fn a_watcher_that_hears_twice() {
    let shortest = found(Losses::None, Rule::HeardTwice, |history| {
        let updates = &mut history.watches[0].updates;
        let again = updates.last()?.clone();
        updates.push(again);
        Some(())
    });
    lines(&shortest, 3);
}

#[test]
fn a_gap_without_a_reason() {
    let found = found(Losses::None, Rule::NeedlessGap, |history| {
        history.faults.clear();
        history.watches[0].updates.push((at(RUN), Update::Gap));
        Some(())
    });
    lines(&found, 2);
}

#[test]
fn a_delivery_that_never_arrives() {
    let shortest = found(Losses::None, Rule::Undelivered, |history| {
        history.deliveries[0].accepted.pop().map(|_| ())
    });
    lines(&shortest, 1);
}

#[test]
fn deliveries_out_of_order() {
    let shortest = found(Losses::None, Rule::DeliveredOutOfOrder, |history| {
        let accepted = &mut history.deliveries[0].accepted;
        let last = accepted.last()?.2.conversation;
        let before = accepted.iter().rposition(|(.., event)| event.conversation == last)?;
        let before =
            accepted[..before].iter().rposition(|(.., event)| event.conversation == last)?;
        let end = accepted.len() - 1;
        accepted.swap(before, end);
        Some(())
    });
    lines(&shortest, 4);
}

#[test]
fn a_delivery_that_arrives_again_is_excused_near_a_fault_only() {
    let again_after = |history: &mut History, ms| {
        let mut again = history.deliveries[0].accepted.last()?.clone();
        again.0 += at(ms);
        history.deliveries[0].accepted.push(again);
        Some(())
    };
    let again = |history: &mut History| again_after(history, 15_000);
    let shortest = found(Losses::None, Rule::DeliveredTwice, |history| {
        history.faults.clear();
        again(history)
    });
    lines(&shortest, 3);
    let near = |seed| {
        let mut history = simulate(seed, Losses::None);
        again(&mut history);
        let is_near = !history.faults.is_empty();
        let twice = |violation: &Violation| violation.rule == Rule::DeliveredTwice;
        (is_near, judge(&history, &Losses::None.promise()).iter().any(twice))
    };
    assert!((0..50).map(near).all(|(is_near, is_found)| is_near != is_found));
    // The relays have just been started, and divide the feeds.
    let mut history = simulate(0, Losses::None);
    history.faults.clear();
    again_after(&mut history, 100);
    assert_eq!(judge(&history, &Losses::None.promise()), []);
}

#[test]
fn what_nobody_published() {
    let event = |history: &History| {
        let mut event = history.events.last()?.clone();
        event.message += 1_000;
        event.entry.1 += 1;
        Some(event)
    };
    found(Losses::None, Rule::HeardUnpublished, |history| {
        let event = event(history).filter(|event| event.conversation != conversations()[2])?;
        history.faults.clear();
        history.watches[0].updates.push((at(RUN), Update::Event(event)));
        Some(())
    });
    found(Losses::None, Rule::DeliveredUnpublished, |history| {
        let event = event(history)?;
        history.faults.clear();
        let user = event.conversation.recipient;
        history.deliveries[0].accepted.push((at(RUN), user, event));
        Some(())
    });
    found(Losses::None, Rule::UnmarkedEvent, |history| {
        let event = event(history)?;
        history.events.push(event);
        Some(())
    });
}
