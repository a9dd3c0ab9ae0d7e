//! What must hold of a history.
//!
//! ```text
//! register    answers and cursors: a max-register with unknown outcomes and losses
//! events      the streams: one event for one advance, in order
//! watches     what watchers heard: everything once, or a gap
//! deliveries  what receivers accepted: everything at least once, in order
//! setbacks    what faults may take away, as the rules above read it
//! shortest    the shortest history that shows a violation
//! ```

use std::fmt;
use std::time::Duration;

use crate::history::{Conversation, History, Moment};
use crate::world::{Durability, Mode};

mod deliveries;
mod events;
mod lines;
mod register;
mod setbacks;
mod shortest;
#[cfg(test)]
mod simulation;
mod watches;

pub use shortest::shortest;

/// What a mode and its durability promise.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Promise {
    /// The number of partitions: 1 outside a cluster.
    pub partitions: usize,
    /// Whether a loss may take what was acknowledged. A total one always may: nothing survives FLUSHALL.
    pub partial_losses: bool,
    /// Whether a failover may undo what no acknowledgement has covered, though reads and watchers have
    /// seen it: reads wait for no replica.
    pub undoes_unacknowledged: bool,
    /// The kinds of faults that may cause a gap though nothing was lost. Those with a loss always may.
    pub gaps: Gaps,
    /// How long after a fault its consequences may still appear: failovers, gaps.
    pub settling: Duration,
    /// How long after a fault what it did may come to light: longer than a lease and an attempt.
    pub redelivery: Duration,
    /// How long after a fault an event may be delivered again. What failed seven times, and was accepted meanwhile
    /// though the answer was lost, is sent again after up to 72 s (`src/relay/retry.rs`).
    pub repeats: Duration,
    /// How long after the begin the same is true: the second relay takes feeds from the first, and deliveries that are
    /// under way then have 10 s.
    pub assignment: Duration,
}

/// Kinds of faults after which a gap is true.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gaps {
    /// All.
    Any,
    /// These.
    Of(Vec<String>),
}

impl Promise {
    /// Returns what a mode promises with Redis persisting like this.
    pub fn new(mode: Mode, durability: Durability, partitions: usize) -> Self {
        let is_replicated = mode != Mode::Standalone;
        let keeps = match durability {
            Durability::Always => !is_replicated,
            Durability::AlwaysReplica => true,
            Durability::None | Durability::Snapshots | Durability::Everysec => false,
        };
        Self {
            partitions,
            partial_losses: !keeps,
            undoes_unacknowledged: is_replicated,
            gaps: if is_replicated { Gaps::Any } else { Gaps::Of(Vec::new()) },
            settling: Duration::from_secs(10),
            redelivery: Duration::from_secs(35),
            repeats: Duration::from_secs(120),
            assignment: Duration::from_secs(15),
        }
    }
}

/// A rule that can be broken.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Rule {
    /// An answer contradicts its own request.
    WrongAnswer,
    /// A cursor that no mark can have set.
    UnmarkedCursor,
    /// A cursor went back without a loss.
    Back,
    /// What an acknowledged mark did is gone at the end, without a loss.
    Lost,
    /// Two marks of the same message moved the cursor, without a loss between them.
    DoubledAdvance,
    /// No order of the operations explains all answers.
    NoOrder,
    /// An acknowledged advance has no event.
    MissingEvent,
    /// Two events of the same message.
    DoubledEvent,
    /// An event that no mark can have published.
    UnmarkedEvent,
    /// A later event of a conversation has a lower message, or entries do not rise.
    OutOfOrder,
    /// A cursor without its event, or an event without its cursor.
    Torn,
    /// A watcher missed an event, and was told of no gap.
    Unheard,
    /// A watcher heard an event twice.
    HeardTwice,
    /// A watcher heard events out of order.
    HeardOutOfOrder,
    /// A watcher heard an event that is not in the stream, or not its user's.
    HeardUnpublished,
    /// A watcher was told of a gap, and no fault allows one.
    NeedlessGap,
    /// A receiver never got an event.
    Undelivered,
    /// A receiver accepted an event twice, with no fault near.
    DeliveredTwice,
    /// A receiver accepted events of a conversation out of order.
    DeliveredOutOfOrder,
    /// A receiver got an event that is not in the stream, or not for it.
    DeliveredUnpublished,
    /// Events were counted as missed, and nothing was lost.
    NeedlessMissed,
}

impl Rule {
    /// Returns what its violation is called.
    pub fn name(self) -> &'static str {
        match self {
            Self::WrongAnswer => "wrong answer",
            Self::UnmarkedCursor => "unmarked cursor",
            Self::Back => "back",
            Self::Lost => "lost",
            Self::DoubledAdvance => "doubled advance",
            Self::NoOrder => "no order",
            Self::MissingEvent => "missing event",
            Self::DoubledEvent => "doubled event",
            Self::UnmarkedEvent => "unmarked event",
            Self::OutOfOrder => "out of order",
            Self::Torn => "torn",
            Self::Unheard => "unheard",
            Self::HeardTwice => "heard twice",
            Self::HeardOutOfOrder => "heard out of order",
            Self::HeardUnpublished => "heard unpublished",
            Self::NeedlessGap => "needless gap",
            Self::Undelivered => "undelivered",
            Self::DeliveredTwice => "delivered twice",
            Self::DeliveredOutOfOrder => "delivered out of order",
            Self::DeliveredUnpublished => "delivered unpublished",
            Self::NeedlessMissed => "needless missed",
        }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The conversation, if it is about one.
    pub conversation: Option<Conversation>,
    /// The message, if it is about one.
    pub message: Option<u64>,
    /// The watcher or the webhook, if it is about one.
    pub who: Option<String>,
    /// When it showed.
    pub at: Moment,
    /// How many marks or events are concerned.
    pub count: usize,
    /// What is wrong, for people.
    pub text: String,
}

impl Violation {
    /// Whether the other one is the same, of a shorter history.
    fn is_same(&self, other: &Self) -> bool {
        self.rule == other.rule
            && self.conversation == other.conversation
            && self.message == other.message
            && self.who == other.who
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: at {}: ", self.rule.name(), lines::time(self.at))?;
        if let Some(conversation) = self.conversation {
            write!(f, "{}: ", lines::conversation(conversation))?;
        }
        if let Some(who) = &self.who {
            write!(f, "{who}: ")?;
        }
        f.write_str(&self.text)
    }
}

/// Returns every rule that the history breaks.
pub fn judge(history: &History, promise: &Promise) -> Vec<Violation> {
    let mut violations = register::judge(history, promise);
    violations.extend(events::judge(history, promise));
    violations.extend(watches::judge(history, promise));
    violations.extend(deliveries::judge(history, promise));
    violations
}

/// What faults took that had the right to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Taken {
    /// Acknowledged marks that are certainly gone.
    pub marks: usize,
    /// Events of acknowledged marks.
    pub events: usize,
    /// Conversations of which too many orders are possible to try them all: their marks are not counted. Not a
    /// violation, since what pairs of answers show was judged all the same.
    pub undecided: usize,
}

/// Counts what faults took that had the right to.
pub fn taken(history: &History, promise: &Promise) -> Taken {
    let (marks, undecided) = register::taken(history, promise);
    Taken { marks, events: events::taken(history, promise), undecided }
}
