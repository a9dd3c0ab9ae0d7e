//! What receivers accepted: every event at least once, and in order for each conversation.
//!
//! An event that became a dead letter has not been lost. What a relay counts as missed is excused only beside a loss.
//! Subscriptions are in Redis, so that a webhook of some users may miss events from a loss on until they are subscribed
//! again.

use std::collections::{HashMap, HashSet};

use crate::history::{Conversation, Deliveries, Event, History, Injected, Moment};

use super::events::{self, Key, Marks};
use super::setbacks::{self, Setback};
use super::{Promise, Rule, Violation, lines};

/// An event and whom it is for.
type Delivery<'a> = (u64, &'a Event);

/// Returns what is wrong with what receivers accepted.
pub(super) fn judge(history: &History, promise: &Promise) -> Vec<Violation> {
    let setbacks = setbacks::of_all(history, promise);
    let marks = events::marks(history);
    let judged = history.deliveries.iter().map(|deliveries| {
        let receiver = Receiver { deliveries, history, promise, setbacks: &setbacks };
        let mut violations = receiver.missing(&marks);
        violations.extend(receiver.published());
        violations.extend(receiver.twice());
        violations.extend(receiver.out_of_order());
        violations
    });
    judged.flatten().collect()
}

/// Whom an event is delivered for.
fn users<'a>(deliveries: &'a Deliveries, event: &Event) -> impl Iterator<Item = u64> + use<'a> {
    let Conversation { reader, recipient } = event.conversation;
    let own = (deliveries.echo && reader != recipient).then_some(reader);
    let is_subscribed =
        |user: &u64| deliveries.users.as_ref().is_none_or(|users| users.contains(user));
    [Some(recipient), own].into_iter().flatten().filter(is_subscribed)
}

struct Receiver<'a> {
    deliveries: &'a Deliveries,
    history: &'a History,
    promise: &'a Promise,
    setbacks: &'a [Vec<Setback>],
}

impl<'a> Receiver<'a> {
    fn violation(&self, rule: Rule, event: &Event, at: Moment, text: String) -> Violation {
        Violation {
            rule,
            conversation: Some(event.conversation),
            message: Some(event.message),
            who: Some(self.deliveries.webhook.clone()),
            at,
            count: 1,
            text,
        }
    }

    /// What was accepted, with the moments, by delivery.
    fn accepted(&self) -> HashMap<Delivery<'a>, Vec<Moment>> {
        let mut accepted: HashMap<Delivery<'a>, Vec<Moment>> = HashMap::new();
        for (at, user, event) in &self.deliveries.accepted {
            accepted.entry((*user, event)).or_default().push(*at);
        }
        accepted
    }

    /// Whether a loss may have taken the subscriptions when the event was published.
    fn is_unsubscribed(&self, marks: Option<&Marks<'_>>) -> bool {
        let earliest = marks.and_then(Marks::earliest).unwrap_or(Moment::ZERO);
        let latest = marks.map_or(Moment::MAX, Marks::latest);
        let mut losses = self.setbacks.iter().flatten().filter(|setback| setback.loses());
        self.deliveries.users.is_some()
            && losses.any(|loss| {
                loss.from <= latest && loss.to.saturating_add(self.promise.redelivery) >= earliest
            })
    }

    /// Every event of the streams arrived, is a dead letter, or was counted as missed.
    fn missing(&self, marks: &HashMap<Key, Marks<'_>>) -> Vec<Violation> {
        let accepted = self.accepted();
        let dead: HashSet<_> = self.deliveries.dead.iter().collect();
        let mut violations = Vec::new();
        for event in self.history.events.iter().filter(|event| !dead.contains(event)) {
            let marks = marks.get(&(event.conversation, event.message));
            for user in users(self.deliveries, event) {
                if !accepted.contains_key(&(user, event)) && !self.is_unsubscribed(marks) {
                    let text = format!("{} never arrived for {user}", lines::event(event));
                    violations.push(self.violation(Rule::Undelivered, event, Moment::MAX, text));
                }
            }
        }
        let missed = usize::try_from(self.deliveries.missed).unwrap_or(usize::MAX);
        if self.setbacks.iter().flatten().any(Setback::loses) {
            violations.drain(..missed.min(violations.len()));
        } else if missed > 0 {
            violations.push(Violation {
                rule: Rule::NeedlessMissed,
                conversation: None,
                message: None,
                who: Some(self.deliveries.webhook.clone()),
                at: Moment::MAX,
                count: missed,
                text: format!("{missed} entries were counted as missed, and nothing was lost"),
            });
        }
        violations
    }

    /// What arrived is in the stream, or was taken; and it is for this webhook.
    fn published(&self) -> Vec<Violation> {
        let left: HashSet<&Event> = self.history.events.iter().collect();
        let strange = self.deliveries.accepted.iter().filter(|(at, user, event)| {
            let setbacks = &self.setbacks[event.partition];
            let is_taken = setbacks::takes(setbacks, *at, self.promise.redelivery);
            let is_for = users(self.deliveries, event).any(|other| other == *user);
            (!left.contains(event) && !is_taken) || !is_for
        });
        let violations = strange.map(|(at, user, event)| {
            let text = format!("{} arrived for {user}, which is not to be", lines::event(event));
            self.violation(Rule::DeliveredUnpublished, event, *at, text)
        });
        violations.collect()
    }

    /// What arrived again has a fault before, or came while the relays divided the feeds. Relays promise no more than
    /// at least once.
    fn twice(&self) -> Vec<Violation> {
        let is_near = |at: Moment| {
            let follows = |fault: &Injected| {
                fault.from <= at && at <= fault.to.saturating_add(self.promise.repeats)
            };
            at <= self.promise.assignment || self.history.faults.iter().any(follows)
        };
        let mut violations = Vec::new();
        for ((user, event), at) in self.accepted() {
            if let Some(again) = at.iter().skip(1).find(|again| !is_near(**again)) {
                let first = lines::time(at[0]);
                let text =
                    format!("{} arrived again for {user}, after {first}", lines::event(event));
                violations.push(self.violation(Rule::DeliveredTwice, event, *again, text));
            }
        }
        violations.sort_by_key(|violation| violation.at);
        violations
    }

    /// Those of the stream arrive in its order for each conversation and user, the first time.
    fn out_of_order(&self) -> Vec<Violation> {
        let left: HashSet<&Event> = self.history.events.iter().collect();
        let mut known: HashSet<Delivery<'_>> = HashSet::new();
        let mut last: HashMap<(u64, Conversation), &Event> = HashMap::new();
        let mut violations = Vec::new();
        for (at, user, event) in &self.deliveries.accepted {
            if !left.contains(event) || !known.insert((*user, event)) {
                continue;
            }
            let before = last.entry((*user, event.conversation)).or_insert(event);
            if before.entry > event.entry {
                let (event_line, before) = (lines::event(event), lines::event(before));
                let text = format!("{event_line} arrived for {user} after {before}");
                violations.push(self.violation(Rule::DeliveredOutOfOrder, event, *at, text));
            } else {
                *before = event;
            }
        }
        violations
    }
}
