//! How parts of a history are printed: one a line.

use crate::history::{
    Conversation, Event, Injected, Moment, Operation, Outcome, Request, Update, Watch,
};

/// Prints a moment: `12.345s`.
pub(crate) fn time(moment: Moment) -> String {
    if moment == Moment::MAX {
        return "the end".to_owned();
    }
    format!("{:.3}s", moment.as_secs_f64())
}

/// Prints a conversation: `7→9`.
pub(super) fn conversation(conversation: Conversation) -> String {
    format!("{}→{}", conversation.reader, conversation.recipient)
}

/// Prints a cursor, or what stands for none.
pub(super) fn cursor(cursor: Option<u64>) -> String {
    cursor.map_or_else(|| "none".to_owned(), |cursor| cursor.to_string())
}

/// Prints an operation.
pub(super) fn operation(operation: &Operation) -> String {
    let request = match operation.request {
        Request::Mark(message) => format!("mark {message}"),
        Request::Read => "read".to_owned(),
    };
    let outcome = match &operation.outcome {
        Outcome::Marked { cursor, advanced: true } => format!("advanced to {cursor}"),
        Outcome::Marked { cursor, advanced: false } => format!("unchanged at {cursor}"),
        Outcome::Read(read) => cursor(*read),
        Outcome::Refused(code) => format!("refused ({code:?})"),
        Outcome::Unknown(code) => format!("unknown ({code:?})"),
    };
    let span = format!("{} to {}", time(operation.began), time(operation.ended));
    let conversation = conversation(operation.conversation);
    format!("{span}  client {}: {conversation}: {request}: {outcome}", operation.client)
}

/// Prints an event.
pub(super) fn event(event: &Event) -> String {
    let (ms, sequence) = event.entry;
    let conversation = conversation(event.conversation);
    format!("event {}/{ms}-{sequence}: {conversation}: {}", event.partition, event.message)
}

/// Names the watcher of a watch.
pub(super) fn watcher(index: usize, watch: &Watch) -> String {
    format!("watcher {index} of {}", watch.user)
}

/// Prints what a watcher received.
pub(super) fn update(update: &Update) -> String {
    match update {
        Update::Event(heard) => event(heard),
        Update::Gap => "gap".to_owned(),
        Update::Resumed => "resumed".to_owned(),
    }
}

/// Prints a fault and what it may lose.
pub(super) fn fault(fault: &Injected) -> String {
    let losses = fault.losses.iter().map(|loss| {
        let reach = if loss.is_total { "loses all" } else { "may lose" };
        let partitions = loss
            .partitions
            .as_ref()
            .map_or_else(String::new, |partitions| format!(" of partitions {partitions:?}"));
        format!("; {reach}{partitions} from {} to {}", time(loss.from), time(loss.to))
    });
    let span = format!("{} to {}", time(fault.from), time(fault.to));
    format!("{span}  fault {}{}", fault.kind, losses.collect::<String>())
}
