//! The shortest history that shows a violation.
//!
//! What clients saw is left out as long as the same rule is broken without it. What may excuse the violation is
//! left out last, since without it less is possible than was: acknowledged marks become unknown ones first, and
//! only when nothing can be left out any more, faults, unknown marks, gaps and dead letters are. So what remains is a
//! proof.

use crate::history::{
    Conversation, Deliveries, Event, History, Moment, Operation, Outcome, Request, Update, Watch,
};

use super::{Promise, Violation, judge, lines};

/// Returns the shortest history that shows the violation, and the faults of its time: one line each.
pub fn shortest(history: &History, promise: &Promise, violation: &Violation) -> Vec<String> {
    let holds =
        |history: &History| judge(history, promise).iter().any(|found| found.is_same(violation));
    let mut shortest = match violation.conversation {
        Some(conversation) => of_conversation(history, conversation),
        None => history.clone(),
    };
    if !holds(&shortest) {
        shortest = history.clone();
    }
    reduce(&mut shortest, &holds, |history| &mut history.operations, weaken);
    reduce(&mut shortest, &holds, |history| &mut history.events, |_| None);
    for index in 0..shortest.watches.len() {
        let keep = |update: &(Moment, Update)| match update.1 {
            Update::Event(_) => None,
            Update::Gap | Update::Resumed => Some(update.clone()),
        };
        reduce(&mut shortest, &holds, |history| &mut history.watches[index].updates, keep);
    }
    for index in 0..shortest.deliveries.len() {
        reduce(&mut shortest, &holds, |history| &mut history.deliveries[index].accepted, |_| None);
    }
    excuses(&mut shortest, &holds);
    print(history, &shortest, violation)
}

/// Leaves out what may excuse a violation, where it does not.
fn excuses(shortest: &mut History, holds: &dyn Fn(&History) -> bool) {
    reduce(shortest, holds, |history| &mut history.operations, |_| None);
    for index in 0..shortest.watches.len() {
        reduce(shortest, holds, |history| &mut history.watches[index].updates, |_| None);
    }
    for index in 0..shortest.deliveries.len() {
        reduce(shortest, holds, |history| &mut history.deliveries[index].dead, |_| None);
    }
    reduce(shortest, holds, |history| &mut history.cursors, |_| None);
    reduce(shortest, holds, |history| &mut history.faults, |_| None);
}

/// What is left of an operation that was not seen: a mark may still have been done.
fn weaken(operation: &Operation) -> Option<Operation> {
    match (operation.request, &operation.outcome) {
        (Request::Mark(_), Outcome::Marked { .. } | Outcome::Unknown(_)) => {
            let outcome = Outcome::Unknown(tonic::Code::Unknown);
            Some(Operation { outcome, ..operation.clone() })
        }
        _ => None,
    }
}

/// Replaces parts by what is left of them, in runs that get shorter, as long as the violation holds.
fn reduce<T: Clone + PartialEq>(
    history: &mut History,
    holds: &dyn Fn(&History) -> bool,
    parts: impl Fn(&mut History) -> &mut Vec<T>,
    rest: impl Fn(&T) -> Option<T>,
) {
    let mut run = parts(history).len();
    while run > 0 {
        let mut begin = 0;
        while begin < parts(history).len() {
            let all = parts(history);
            let end = (begin + run).min(all.len());
            let left: Vec<_> = all[begin..end].iter().filter_map(&rest).collect();
            let next = begin + left.len();
            if left[..] == all[begin..end] {
                begin = end;
                continue;
            }
            let before = all.clone();
            all.splice(begin..end, left);
            if holds(history) {
                begin = next;
            } else {
                *parts(history) = before;
                begin = end;
            }
        }
        run /= 2;
    }
}

fn of_conversation(history: &History, conversation: Conversation) -> History {
    let is_of = |event: &Event| event.conversation == conversation;
    let watches = history.watches.iter().map(|watch| {
        let updates = watch.updates.iter().filter(|(_, update)| match update {
            Update::Event(event) => is_of(event),
            Update::Gap | Update::Resumed => true,
        });
        Watch { updates: updates.cloned().collect(), ..watch.clone() }
    });
    let deliveries = history.deliveries.iter().map(|all| Deliveries {
        accepted: all.accepted.iter().filter(|(.., event)| is_of(event)).cloned().collect(),
        dead: all.dead.iter().filter(|event| is_of(event)).cloned().collect(),
        ..all.clone()
    });
    let operations = history.operations.iter();
    let operations = operations.filter(|operation| operation.conversation == conversation);
    History {
        operations: operations.cloned().collect(),
        cursors: history.cursors.iter().filter(|(of, _)| *of == conversation).copied().collect(),
        events: history.events.iter().filter(|event| is_of(event)).cloned().collect(),
        watches: watches.collect(),
        deliveries: deliveries.collect(),
        faults: history.faults.clone(),
    }
}

/// Prints what is left, by time, and the faults that the whole history has in that time.
fn print(history: &History, shortest: &History, violation: &Violation) -> Vec<String> {
    let mut lines: Vec<(Moment, String)> = Vec::new();
    for operation in &shortest.operations {
        lines.push((operation.began, lines::operation(operation)));
    }
    for (index, watch) in shortest.watches.iter().enumerate() {
        let who = lines::watcher(index, watch);
        if violation.who.as_ref() != Some(&who) {
            continue;
        }
        lines.push((watch.from, format!("{}  {who}: begins", lines::time(watch.from))));
        lines.extend(watch.updates.iter().map(|(at, update)| {
            (*at, format!("{}  {who}: {}", lines::time(*at), lines::update(update)))
        }));
    }
    for all in &shortest.deliveries {
        lines.extend(all.accepted.iter().map(|(at, user, event)| {
            let (time, event) = (lines::time(*at), lines::event(event));
            (*at, format!("{time}  {} accepted for {user}: {event}", all.webhook))
        }));
        lines.extend(all.dead.iter().map(|event| {
            (
                Moment::MAX,
                format!("the end  dead letter of {}: {}", all.webhook, lines::event(event)),
            )
        }));
    }
    let from = lines.iter().map(|(at, _)| *at).min().unwrap_or_default();
    let to = lines.iter().map(|(at, _)| *at).max().unwrap_or_default();
    let near = history.faults.iter().filter(|fault| fault.from <= to && fault.to >= from);
    let near = near.filter(|fault| !shortest.faults.contains(fault));
    lines.extend(near.map(|fault| (fault.from, format!("{} (meanwhile)", lines::fault(fault)))));
    lines.extend(shortest.faults.iter().map(|fault| (fault.from, lines::fault(fault))));
    lines.extend(
        shortest
            .events
            .iter()
            .map(|event| (Moment::MAX, format!("the end  in the stream: {}", lines::event(event)))),
    );
    lines.extend(shortest.cursors.iter().map(|(conversation, cursor)| {
        let conversation = lines::conversation(*conversation);
        (Moment::MAX, format!("the end  cursor in Redis: {conversation}: {cursor}"))
    }));
    lines.sort_by_key(|(at, _)| *at);
    lines.into_iter().map(|(_, line)| line).collect()
}
