//! What happened in a run, as it is recorded and judged.

use std::time::Duration;

use tonic::Code;

/// A moment of the run: the time since its begin, by a monotonic clock.
pub type Moment = Duration;

/// A reader's conversation with a recipient, which has one cursor.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Conversation {
    /// Whose cursor it is.
    pub reader: u64,
    /// Whose messages were read.
    pub recipient: u64,
}

/// What a client asked of one conversation. An item of a batch is an operation of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// To move the cursor to a message.
    Mark(u64),
    /// To read the cursor.
    Read,
}

/// What a client was told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// The mark is acknowledged: the cursor after it, and whether this mark moved it there.
    Marked {
        /// The cursor after the mark.
        cursor: u64,
        /// Whether this mark moved it there.
        advanced: bool,
    },
    /// The cursor that was read, or `None` where the conversation has none.
    Read(Option<u64>),
    /// The call was refused by a status after which it provably did not run, and never will:
    /// `RESOURCE_EXHAUSTED`, `INVALID_ARGUMENT`, UNAUTHENTICATED and others that the contract names.
    Refused(Code),
    /// Nobody knows whether it ran, or will run after this moment: UNAVAILABLE, `DEADLINE_EXCEEDED`, a broken
    /// connection.
    Unknown(Code),
}

/// A request and its outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// Which of the clients called. A client's operations follow one another.
    pub client: usize,
    /// The conversation.
    pub conversation: Conversation,
    /// What was asked.
    pub request: Request,
    /// When the call began.
    pub began: Moment,
    /// When its answer was there.
    pub ended: Moment,
    /// What was answered.
    pub outcome: Outcome,
}

/// A mark-read event: in a stream, heard by a watcher or delivered to a receiver.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Event {
    /// The partition whose stream it is in: 0 on one Redis.
    pub partition: usize,
    /// The ID of its entry in the stream, `<ms>-<sequence>`.
    pub entry: (u64, u64),
    /// The conversation.
    pub conversation: Conversation,
    /// The message that the cursor was moved to.
    pub message: u64,
}

/// What a watcher received.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// An event.
    Event(Event),
    /// A gap: events may be missing before the next update.
    Gap,
    /// It lost its stream, and resumed after the last place that it knew.
    Resumed,
}

/// All that one watcher, of one user, received, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Watch {
    /// Whose events it hears: those in which the user is the reader or the recipient.
    pub user: u64,
    /// When its first heartbeat came: it hears what is published from then on.
    pub from: Moment,
    /// The updates.
    pub updates: Vec<(Moment, Update)>,
}

/// All that one webhook's receiver accepted with 2xx, in order of arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Deliveries {
    /// The webhook's name.
    pub webhook: String,
    /// Whose events it is owed: those of the subscribed users, or everyone's where it is `None`.
    pub users: Option<Vec<u64>>,
    /// Whether readers get their own events too, if they are among `users`.
    pub echo: bool,
    /// Events by the user that they were delivered for.
    pub accepted: Vec<(Moment, u64, Event)>,
    /// The events among its dead letters.
    pub dead: Vec<Event>,
    /// How many events it was told to have missed.
    pub missed: u64,
}

/// A fault's right to lose something: what was acknowledged before `to` may be gone after it.
#[derive(Clone, Debug, PartialEq)]
pub struct Loss {
    /// When the fault began.
    pub from: Moment,
    /// When nothing more could be lost by it.
    pub to: Moment,
    /// The partitions concerned, or all where it is `None`.
    pub partitions: Option<Vec<usize>>,
    /// Whether everything is certainly gone (`FLUSHALL`), or the newest part may be (a failover of an
    /// asynchronous replica, a restart without persistence).
    pub is_total: bool,
}

/// A fault that was injected.
#[derive(Clone, Debug, PartialEq)]
pub struct Injected {
    /// Its kind, as printed: `redis-killed`.
    pub kind: String,
    /// When it began.
    pub from: Moment,
    /// When everything was whole again: its cause was gone, and what that had led to.
    pub to: Moment,
    /// What it may lose.
    pub losses: Vec<Loss>,
}

/// A run: everything that is judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// The operations, in no particular order.
    pub operations: Vec<Operation>,
    /// The cursors at the end, read from Redis itself.
    pub cursors: Vec<(Conversation, u64)>,
    /// The events at the end, read from the streams, in the order of each stream.
    pub events: Vec<Event>,
    /// What watchers heard.
    pub watches: Vec<Watch>,
    /// What receivers accepted.
    pub deliveries: Vec<Deliveries>,
    /// The faults, in order.
    pub faults: Vec<Injected>,
}
