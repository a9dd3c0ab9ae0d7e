//! What watchers heard: every event that concerns them once and in order, or a gap.
//!
//! A watcher has to hear an event if every mark that may have published it began after the watch did. A gap excuses
//! what is missing between what was heard before it and what was heard after it, in a partition. After a gap a watcher
//! hears everything that is left, also what it heard before; so it may after it has resumed.

use std::collections::{HashMap, HashSet};

use crate::history::{Event, History, Moment, Update, Watch};

use super::events::{self, Key, Marks};
use super::setbacks::{self, Setback};
use super::{Promise, Rule, Violation, lines};

/// Returns what is wrong with what watchers heard.
pub(super) fn judge(history: &History, promise: &Promise) -> Vec<Violation> {
    let marks = events::marks(history);
    let setbacks = setbacks::of_all(history, promise);
    let judged = history.watches.iter().enumerate().map(|(index, watch)| {
        let heard = Heard { watch, who: lines::watcher(index, watch) };
        let mut violations = heard.in_order();
        violations.extend(heard.published(history, promise, &setbacks));
        violations.extend(heard.missing(history, &marks));
        violations.extend(heard.needless_gaps(history, promise));
        violations
    });
    judged.flatten().collect()
}

struct Heard<'a> {
    watch: &'a Watch,
    who: String,
}

impl Heard<'_> {
    fn events(&self) -> impl Iterator<Item = (usize, Moment, &Event)> {
        self.watch.updates.iter().enumerate().filter_map(|(index, (at, update))| match update {
            Update::Event(event) => Some((index, *at, event)),
            Update::Gap | Update::Resumed => None,
        })
    }

    fn violation(&self, rule: Rule, event: &Event, at: Moment, text: String) -> Violation {
        Violation {
            rule,
            conversation: Some(event.conversation),
            message: Some(event.message),
            who: Some(self.who.clone()),
            at,
            count: 1,
            text,
        }
    }

    /// Nothing is heard twice, and entries of a partition rise.
    fn in_order(&self) -> Vec<Violation> {
        let mut known: HashSet<(usize, (u64, u64))> = HashSet::new();
        let mut last: HashMap<usize, (u64, u64)> = HashMap::new();
        let mut violations = Vec::new();
        for (at, update) in &self.watch.updates {
            let event = match update {
                Update::Event(event) => event,
                // A server that is behind the one before it sends again what comes after its own place.
                Update::Gap | Update::Resumed => {
                    last.clear();
                    continue;
                }
            };
            let before = last.insert(event.partition, event.entry);
            let is_new = known.insert((event.partition, event.entry));
            if before.is_none_or(|before| before < event.entry) {
                continue;
            }
            let rule = if is_new { Rule::HeardOutOfOrder } else { Rule::HeardTwice };
            let (ms, sequence) = before.unwrap_or_default();
            let text = format!("{} was heard after {ms}-{sequence}", lines::event(event));
            violations.push(self.violation(rule, event, *at, text));
            last.insert(event.partition, before.unwrap_or_default());
        }
        violations
    }

    /// What was heard is in the stream, or a setback took it; and it is the user's.
    fn published(
        &self,
        history: &History,
        promise: &Promise,
        setbacks: &[Vec<Setback>],
    ) -> Vec<Violation> {
        let left: HashSet<&Event> = history.events.iter().collect();
        let strange = self.events().filter(|(_, at, event)| {
            // A server has recent events in its memory, and knows of a setback some seconds later.
            let is_taken = setbacks::takes(&setbacks[event.partition], *at, promise.settling);
            (!left.contains(event) && !is_taken) || !concerns(self.watch.user, event)
        });
        let violations = strange.map(|(_, at, event)| {
            let text = format!("{} was heard, and is not in its stream", lines::event(event));
            self.violation(Rule::HeardUnpublished, event, at, text)
        });
        violations.collect()
    }

    /// What is in the stream was heard, or is in a gap.
    fn missing(&self, history: &History, marks: &HashMap<Key, Marks<'_>>) -> Vec<Violation> {
        let mut first: HashMap<(usize, (u64, u64)), usize> = HashMap::new();
        for (index, _, event) in self.events() {
            first.entry((event.partition, event.entry)).or_insert(index);
        }
        let missing = history.events.iter().filter(|event| {
            let marks = marks.get(&(event.conversation, event.message));
            let earliest = marks.and_then(Marks::earliest);
            concerns(self.watch.user, event)
                && earliest.is_some_and(|began| began >= self.watch.from)
                && !first.contains_key(&(event.partition, event.entry))
                && !self.is_in_gap(event)
        });
        let violations = missing.map(|event| {
            let text = format!("{} was never heard, and there was no gap", lines::event(event));
            self.violation(Rule::Unheard, event, Moment::MAX, text)
        });
        violations.collect()
    }

    /// Whether a gap was told after all that was heard before the event, and before anything after it.
    fn is_in_gap(&self, event: &Event) -> bool {
        let of_partition =
            || self.events().filter(|(.., heard)| heard.partition == event.partition);
        let mut later = of_partition().filter(|(.., heard)| heard.entry > event.entry);
        let later = later.next().map_or(self.watch.updates.len(), |(index, ..)| index);
        let earlier = of_partition().take_while(|&(index, ..)| index < later);
        let earlier = earlier.filter(|(.., heard)| heard.entry < event.entry).last();
        let earlier = earlier.map_or(0, |(index, ..)| index);
        self.watch.updates[earlier..later].iter().any(|(_, update)| *update == Update::Gap)
    }

    /// A gap has a fault that may be its reason.
    fn needless_gaps(&self, history: &History, promise: &Promise) -> Vec<Violation> {
        let gaps = self.watch.updates.iter().filter(|(at, update)| {
            let mut faults = history.faults.iter();
            *update == Update::Gap
                && !faults.any(|fault| setbacks::explains_gap(fault, promise, *at))
                && !setbacks::has_ids_ahead(history, *at)
        });
        let violations = gaps.map(|(at, _)| Violation {
            rule: Rule::NeedlessGap,
            conversation: None,
            message: None,
            who: Some(self.who.clone()),
            at: *at,
            count: 1,
            text: "a gap was told, and no fault allows one".to_owned(),
        });
        violations.collect()
    }
}

/// Whether a user hears of an event.
fn concerns(user: u64, event: &Event) -> bool {
    event.conversation.reader == user || event.conversation.recipient == user
}
