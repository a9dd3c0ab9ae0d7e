//! A conversation's cursor, judged as a max-register with unknown outcomes and losses.
//!
//! - A mark that advanced found a lower cursor and set it to its message; any other acknowledged mark, and a
//!   read, found the cursor that it reported. The final cursor is a read after everything.
//! - Each took effect at one moment between its begin and its end. What ended before another began was first;
//!   those that touch may be in any order.
//! - A mark of unknown outcome took effect once after its begin, perhaps long after its end, or never. One that
//!   was refused never did.
//! - A setback of the partition sets the cursor to none, or to a value that it had before ([`Reach`]).
//!
//! [`search`] decides exactly whether some order explains everything: `brute`, of the tests, tries all orders and
//! agrees. [`labels`] finds what a pair of answers shows by itself, and names it.
//!
//! [`Reach`]: super::setbacks::Reach

use std::collections::BTreeMap;

use crate::history::{Conversation, History, Moment, Operation, Outcome, Request};

use super::setbacks::{self, Setback};
use super::{Promise, Rule, Violation, lines};

#[cfg(test)]
mod brute;
mod era;
mod labels;
mod search;
#[cfg(test)]
mod tests;

use search::Verdict;

/// What an answer says of the cursor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Sight {
    /// This mark moved it to its message.
    Advanced(u64),
    /// It was there: 0 stands for none. A mark's answer acknowledges it, a read's does not.
    Found {
        /// The cursor.
        cursor: u64,
        /// Whether a mark was answered.
        by_mark: bool,
    },
}

impl Sight {
    /// The cursor once the operation has taken effect.
    fn cursor(self) -> u64 {
        match self {
            Self::Advanced(message) => message,
            Self::Found { cursor, .. } => cursor,
        }
    }

    /// Whether the cursor was acknowledged: replicas and disk have it as far as flags demand.
    fn acknowledges(self) -> bool {
        matches!(self, Self::Advanced(_) | Self::Found { by_mark: true, .. })
    }
}

/// An operation that was answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    began: Moment,
    ended: Moment,
    sight: Sight,
}

/// What is known of a conversation's cursor.
#[derive(Clone, Debug)]
struct Register {
    conversation: Conversation,
    /// What was answered, and the final cursor, by the begin.
    seen: Vec<Seen>,
    /// Where in `seen` the marks are that advanced, by message, in order.
    advances: BTreeMap<u64, Vec<usize>>,
    /// When the marks began whose outcome is unknown, by message, in order.
    unknown: BTreeMap<u64, Vec<Moment>>,
    /// Answers that contradict their own request.
    wrong: Vec<(Moment, String)>,
}

impl Register {
    /// A conversation of which nothing is known but its final cursor.
    fn new(conversation: Conversation, cursor: Option<u64>) -> Self {
        let sight = Sight::Found { cursor: cursor.unwrap_or(0), by_mark: false };
        let last = Seen { began: Moment::MAX, ended: Moment::MAX, sight };
        Self {
            conversation,
            seen: vec![last],
            advances: BTreeMap::new(),
            unknown: BTreeMap::new(),
            wrong: Vec::new(),
        }
    }

    fn add(&mut self, operation: &Operation) {
        let sight = match (operation.request, &operation.outcome) {
            (Request::Mark(message), &Outcome::Marked { cursor, advanced }) => {
                let is_right = if advanced { cursor == message } else { cursor >= message };
                if !is_right {
                    self.wrong.push((operation.ended, lines::operation(operation)));
                    return;
                }
                if advanced {
                    Sight::Advanced(message)
                } else {
                    Sight::Found { cursor, by_mark: true }
                }
            }
            (Request::Read, Outcome::Read(cursor)) => {
                Sight::Found { cursor: cursor.unwrap_or(0), by_mark: false }
            }
            (Request::Mark(message), Outcome::Unknown(_)) => {
                self.unknown.entry(message).or_default().push(operation.began);
                return;
            }
            (_, Outcome::Refused(_)) | (Request::Read, Outcome::Unknown(_)) => return,
            (Request::Mark(_), Outcome::Read(_)) | (Request::Read, Outcome::Marked { .. }) => {
                self.wrong.push((operation.ended, lines::operation(operation)));
                return;
            }
        };
        self.seen.push(Seen { began: operation.began, ended: operation.ended, sight });
    }

    fn sort(&mut self) {
        self.seen.sort_by_key(|seen| seen.began);
        self.unknown.values_mut().for_each(|begins| begins.sort());
        for (index, seen) in self.seen.iter().enumerate() {
            if let Sight::Advanced(message) = seen.sight {
                self.advances.entry(message).or_default().push(index);
            }
        }
    }

    fn violation(&self, rule: Rule, at: Moment, text: String) -> Violation {
        Violation {
            rule,
            conversation: Some(self.conversation),
            message: None,
            who: None,
            at,
            count: 1,
            text,
        }
    }

    fn judge(&self, setbacks: &[Setback]) -> Vec<Violation> {
        let wrong = self.wrong.iter().map(|(at, line)| {
            self.violation(Rule::WrongAnswer, *at, format!("the answer contradicts itself: {line}"))
        });
        let mut violations: Vec<_> = wrong.chain(labels::of(self, setbacks)).collect();
        if !violations.is_empty() {
            return violations;
        }
        // A search that gave up has found nothing wrong: `taken` counts it.
        if search::run(self, setbacks) == Verdict::Impossible {
            let text = "no order of the operations explains all answers".to_owned();
            violations.push(self.violation(Rule::NoOrder, Moment::MAX, text));
        }
        violations
    }
}

/// Returns what is wrong with the answers and the cursors.
pub(super) fn judge(history: &History, promise: &Promise) -> Vec<Violation> {
    let judged = by_setbacks(history, promise);
    judged.iter().flat_map(|(register, setbacks)| register.judge(setbacks)).collect()
}

/// Counts the acknowledged marks that setbacks certainly took, and the conversations that could not be decided.
pub(super) fn taken(history: &History, promise: &Promise) -> (usize, usize) {
    let (mut taken, mut undecided) = (0, 0);
    for (register, setbacks) in by_setbacks(history, promise) {
        match search::run(&register, &setbacks) {
            Verdict::Explained { taken: more } => taken += more,
            Verdict::Impossible => {}
            Verdict::GaveUp => undecided += 1,
        }
    }
    (taken, undecided)
}

fn by_setbacks(history: &History, promise: &Promise) -> Vec<(Register, Vec<Setback>)> {
    let setbacks = setbacks::of_all(history, promise);
    let registers = registers(history).into_iter().map(|register| {
        let partition = setbacks::partition(register.conversation, promise.partitions);
        (register, setbacks[partition].clone())
    });
    registers.collect()
}

fn registers(history: &History) -> Vec<Register> {
    let cursors: BTreeMap<_, _> = history.cursors.iter().copied().collect();
    let mut registers = BTreeMap::new();
    let called = history.operations.iter().map(|operation| operation.conversation);
    for conversation in called.chain(cursors.keys().copied()) {
        registers
            .entry(conversation)
            .or_insert_with(|| Register::new(conversation, cursors.get(&conversation).copied()));
    }
    for operation in &history.operations {
        if let Some(register) = registers.get_mut(&operation.conversation) {
            register.add(operation);
        }
    }
    registers.values_mut().for_each(Register::sort);
    registers.into_values().collect()
}
