//! The streams: one event for one advance, in order, and with its cursor.
//!
//! The streams of the harness are not trimmed, so that only a setback can have taken an event. A total loss
//! begins a stream anew, and a partial one leaves the begin of it, so that what holds of a stream holds of whatever is left
//! of it at the end.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Conversation, Event, History, Moment, Operation, Outcome, Request};

use super::setbacks::{self, Reach, Setback};
use super::{Promise, Rule, Violation, lines};

/// A mark by its conversation and message.
pub(super) type Key = (Conversation, u64);

/// What was asked of a message.
#[derive(Default)]
pub(super) struct Marks<'a> {
    /// The marks that advanced to it.
    pub(super) advanced: Vec<&'a Operation>,
    /// The marks whose outcome is unknown.
    pub(super) unknown: Vec<&'a Operation>,
    /// The marks that were refused.
    refused: usize,
}

impl Marks<'_> {
    /// When the first of those began that may have published the event.
    pub(super) fn earliest(&self) -> Option<Moment> {
        self.advanced.iter().chain(&self.unknown).map(|mark| mark.began).min()
    }

    /// When the event can have been published at the latest.
    pub(super) fn latest(&self) -> Moment {
        let ended = self.advanced.iter().map(|mark| mark.ended).max();
        ended.filter(|_| self.unknown.is_empty()).unwrap_or(Moment::MAX)
    }
}

/// Returns what was asked, by conversation and message.
pub(super) fn marks(history: &History) -> HashMap<Key, Marks<'_>> {
    let mut marks: HashMap<Key, Marks<'_>> = HashMap::new();
    for operation in &history.operations {
        let Request::Mark(message) = operation.request else {
            continue;
        };
        let same = marks.entry((operation.conversation, message)).or_default();
        match operation.outcome {
            Outcome::Marked { advanced: true, .. } => same.advanced.push(operation),
            Outcome::Unknown(_) => same.unknown.push(operation),
            Outcome::Refused(_) => same.refused += 1,
            Outcome::Marked { .. } | Outcome::Read(_) => {}
        }
    }
    marks
}

/// Returns what is wrong with the streams.
pub(super) fn judge(history: &History, promise: &Promise) -> Vec<Violation> {
    let marks = marks(history);
    let setbacks = setbacks::of_all(history, promise);
    let mut violations = in_order(history);
    violations.extend(published_once(history, &marks, &setbacks));
    violations.extend(missing(history, promise, &marks, &setbacks));
    violations.extend(torn(history));
    violations
}

/// Counts the acknowledged advances whose events setbacks took.
pub(super) fn taken(history: &History, promise: &Promise) -> usize {
    let left = counts(history);
    let setbacks = setbacks::of_all(history, promise);
    let marks = marks(history);
    let gone = marks.iter().map(|(key, marks)| {
        let partition = setbacks::partition(key.0, promise.partitions);
        let lost = marks.advanced.iter();
        let lost = lost.filter(|mark| may_be_lost(&setbacks[partition], mark.began)).count();
        // One that came after the loss may have the event that is left.
        marks.advanced.len().saturating_sub(left.get(key).copied().unwrap_or(0)).min(lost)
    });
    gone.sum()
}

/// Whether a setback may have taken what was acknowledged, of a call that began at this moment.
pub(super) fn may_be_lost(setbacks: &[Setback], began: Moment) -> bool {
    setbacks.iter().any(|setback| setback.loses() && setback.to >= began)
}

fn counts(history: &History) -> HashMap<Key, usize> {
    let mut counts = HashMap::new();
    for event in &history.events {
        *counts.entry((event.conversation, event.message)).or_default() += 1;
    }
    counts
}

fn violation(rule: Rule, (conversation, message): Key, at: Moment, text: String) -> Violation {
    let (conversation, message) = (Some(conversation), Some(message));
    Violation { rule, conversation, message, who: None, at, count: 1, text }
}

fn of_event(rule: Rule, event: &Event, text: String) -> Violation {
    violation(rule, (event.conversation, event.message), Moment::MAX, text)
}

/// Entries rise in a stream, and messages in a conversation.
fn in_order(history: &History) -> Vec<Violation> {
    let mut entries: HashMap<usize, &Event> = HashMap::new();
    let mut messages: HashMap<Conversation, &Event> = HashMap::new();
    let mut violations = Vec::new();
    for event in &history.events {
        let before = entries.insert(event.partition, event);
        let of_entry = before.filter(|before| before.entry >= event.entry);
        let before = messages.insert(event.conversation, event);
        let of_message = before.filter(|before| before.message > event.message);
        if let Some(before) = of_entry.or(of_message) {
            let text = format!("{} comes after {}", lines::event(event), lines::event(before));
            violations.push(of_event(Rule::OutOfOrder, event, text));
        }
    }
    violations
}

/// No message has two events, and each event has a mark that can have published it.
fn published_once(
    history: &History,
    marks: &HashMap<Key, Marks<'_>>,
    setbacks: &[Vec<Setback>],
) -> Vec<Violation> {
    let mut seen: HashMap<Key, &Event> = HashMap::new();
    let mut violations = Vec::new();
    for event in &history.events {
        let key = (event.conversation, event.message);
        if let Some(before) = seen.insert(key, event) {
            let text = format!("{} and {}", lines::event(before), lines::event(event));
            violations.push(of_event(Rule::DoubledEvent, event, text));
        }
        // What ended before everything was gone left nothing.
        let totals = setbacks.get(event.partition).into_iter().flatten();
        let totals = totals.filter(|setback| setback.reach == Reach::Nothing);
        let from = totals.map(|setback| setback.from).max().unwrap_or(Moment::ZERO);
        let marks = marks.get(&key);
        let is_marked = marks.is_some_and(|marks| {
            !marks.unknown.is_empty() || marks.advanced.iter().any(|mark| mark.ended >= from)
        });
        if !is_marked {
            let why = match marks {
                Some(marks) if !marks.advanced.is_empty() => {
                    "the mark was before everything was lost"
                }
                Some(marks) if marks.refused > 0 => "the mark was refused",
                _ => "no mark advanced to it",
            };
            let text = format!("{}, but {why}", lines::event(event));
            violations.push(of_event(Rule::UnmarkedEvent, event, text));
        }
    }
    violations
}

/// Each acknowledged advance that nothing took has its event.
fn missing(
    history: &History,
    promise: &Promise,
    marks: &HashMap<Key, Marks<'_>>,
    setbacks: &[Vec<Setback>],
) -> Vec<Violation> {
    let left = counts(history);
    let mut violations = Vec::new();
    for (key, marks) in marks {
        let partition = setbacks::partition(key.0, promise.partitions);
        let kept = marks.advanced.iter();
        let mut kept = kept.filter(|mark| !may_be_lost(&setbacks[partition], mark.began));
        if let (Some(mark), None) = (kept.next(), left.get(key)) {
            let text = format!("no event of: {}", lines::operation(mark));
            violations.push(violation(Rule::MissingEvent, *key, mark.ended, text));
        }
    }
    violations.sort_by_key(|violation| violation.at);
    violations
}

/// At the end the greatest event of a conversation is its cursor's: both are written in one step.
fn torn(history: &History) -> Vec<Violation> {
    let mut last: BTreeMap<Conversation, (Option<u64>, Option<u64>)> = BTreeMap::new();
    for event in &history.events {
        let message = &mut last.entry(event.conversation).or_default().0;
        *message = (*message).max(Some(event.message));
    }
    for (conversation, cursor) in &history.cursors {
        last.entry(*conversation).or_default().1 = Some(*cursor);
    }
    let torn = last.into_iter().filter(|(_, (message, cursor))| message != cursor);
    let torn = torn.map(|(conversation, (message, cursor))| {
        let text = format!(
            "the cursor is {}, but the greatest event is of {}",
            lines::cursor(cursor),
            lines::cursor(message)
        );
        let message = message.max(cursor).unwrap_or(0);
        violation(Rule::Torn, (conversation, message), Moment::MAX, text)
    });
    torn.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tonic::Code;

    use super::*;
    use crate::history::{Injected, Loss};
    use crate::world::{Durability, Mode};

    const CONVERSATION: Conversation = Conversation { reader: 1, recipient: 2 };

    const fn at(ms: u64) -> Moment {
        Duration::from_millis(ms)
    }

    fn mark(began: u64, message: u64, outcome: Outcome) -> Operation {
        Operation {
            client: 0,
            conversation: CONVERSATION,
            request: Request::Mark(message),
            began: at(began),
            ended: at(began + 1),
            outcome,
        }
    }

    fn advanced(began: u64, message: u64) -> Operation {
        mark(began, message, Outcome::Marked { cursor: message, advanced: true })
    }

    fn event(ms: u64, message: u64) -> Event {
        Event { partition: 0, entry: (ms, 0), conversation: CONVERSATION, message }
    }

    fn fault(from: u64, to: u64, is_total: bool) -> Injected {
        let (from, to) = (at(from), at(to));
        let losses = vec![Loss { from, to, partitions: None, is_total }];
        Injected { kind: "fault".to_owned(), from, to, losses }
    }

    fn broken(history: &History) -> Vec<Rule> {
        let promise = Promise::new(Mode::Standalone, Durability::Everysec, 1);
        judge(history, &promise).iter().map(|violation| violation.rule).collect()
    }

    /// Two advances with their events.
    fn right() -> History {
        History {
            operations: vec![advanced(0, 5), advanced(2, 9)],
            cursors: vec![(CONVERSATION, 9)],
            events: vec![event(1, 5), event(3, 9)],
            ..History::default()
        }
    }

    #[test]
    fn an_acknowledged_advance_has_its_event() {
        assert_eq!(broken(&right()), []);
        let mut history = right();
        history.events.remove(0);
        assert_eq!(broken(&history), [Rule::MissingEvent]);
        history.faults.push(fault(2, 4, false));
        assert_eq!(broken(&history), []);
        history.operations[0].began = at(5);
        assert_eq!(broken(&history), [Rule::MissingEvent]);
    }

    #[test]
    fn a_message_has_one_event() {
        let mut history = right();
        history.events.push(event(4, 9));
        assert_eq!(broken(&history), [Rule::DoubledEvent]);
    }

    #[test]
    fn messages_and_entries_rise() {
        let mut history = right();
        history.events.reverse();
        assert_eq!(broken(&history), [Rule::OutOfOrder]);
        let mut history = right();
        history.events[0].entry.0 = 3;
        assert_eq!(broken(&history), [Rule::OutOfOrder]);
        history.events[0].partition = 1;
        assert_eq!(broken(&history), []);
        let mut history = right();
        history.events = vec![event(1, 9), event(3, 5)];
        assert_eq!(broken(&history), [Rule::OutOfOrder]);
    }

    #[test]
    fn an_event_has_a_mark_that_can_have_published_it() {
        let history = |outcome| {
            let mut history = right();
            history.operations[0].outcome = outcome;
            broken(&history)
        };
        assert_eq!(history(Outcome::Unknown(Code::Unavailable)), []);
        assert_eq!(history(Outcome::Refused(Code::ResourceExhausted)), [Rule::UnmarkedEvent]);
        let unchanged = Outcome::Marked { cursor: 9, advanced: false };
        assert_eq!(history(unchanged), [Rule::UnmarkedEvent]);
    }

    #[test]
    fn nothing_comes_back_after_a_total_loss() {
        let mut history = right();
        history.faults.push(fault(2, 2, true));
        // The first mark ended before it, and the second one is after it.
        history.operations[1].began = at(3);
        assert_eq!(broken(&history), [Rule::UnmarkedEvent]);
        history.events.remove(0);
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn a_cursor_and_its_event_are_written_in_one_step() {
        let mut history = right();
        history.cursors[0].1 = 5;
        assert_eq!(broken(&history), [Rule::Torn]);
        history.cursors.clear();
        assert_eq!(broken(&history), [Rule::Torn]);
        let mut history = right();
        history.faults.push(fault(2, 4, false));
        history.events.pop();
        assert_eq!(broken(&history), [Rule::Torn]);
        history.cursors[0].1 = 5;
        assert_eq!(broken(&history), []);
    }

    #[test]
    fn what_losses_took_is_counted() {
        let promise = Promise::new(Mode::Standalone, Durability::Everysec, 1);
        let mut history = right();
        history.events.pop();
        assert_eq!(taken(&history, &promise), 0);
        history.faults.push(fault(2, 4, false));
        assert_eq!(taken(&history, &promise), 1);
        history.operations.push(advanced(8, 9));
        history.events.push(event(8, 9));
        assert_eq!(taken(&history, &promise), 1);
    }
}
