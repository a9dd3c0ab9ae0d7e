//! Load on a server while its Redis fails, and the model that its answers are checked against.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use markread_harness::caller::{Caller, Refusal};
use markread_harness::{MESSAGE, READER, RECIPIENT, Raw, Redis, Server};
use rand::seq::{IndexedRandom, SliceRandom};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic::Code;

use crate::answers::assert_store_unavailable;

/// Flags for servers under load: no reader reaches the quota, and no window ends.
pub(super) const UNLIMITED: [&str; 4] = ["--rate-limit", "1000000", "--rate-window", "1h"];

/// The time in which a server serves again once Redis is back.
pub(super) const RECOVERY: Duration = Duration::from_secs(2);

/// The deadline of every second task's calls. The others have the call timeout only.
const DEADLINE: Duration = Duration::from_millis(500);
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// What a busy machine may add to a call.
const NOISE: Duration = Duration::from_millis(700);

const TASKS: u64 = 6;
const READERS: [u64; 3] = [READER, READER + 1, READER + 2];
const RECIPIENTS: [u64; 2] = [RECIPIENT, RECIPIENT + 1];

/// Tasks that mark, one call after the other, until they are stopped.
pub(super) struct Load {
    tasks: JoinSet<Vec<Call>>,
    stopped: Arc<AtomicBool>,
}

type Conversation = (u64, u64);

#[derive(Debug)]
struct Call {
    conversation: Conversation,
    message: u64,
    deadline: Option<Duration>,
    began: Instant,
    ended: Instant,
    answer: Result<Marked, Refusal>,
}

#[derive(Clone, Copy, Debug)]
struct Marked {
    cursor: u64,
    advanced: bool,
}

/// All calls of a load.
pub(super) struct Calls(Vec<Call>);

impl Load {
    /// Starts tasks that share conversations. Message IDs rise, out of order. Marks are repeated:
    /// refused ones half of the time, served ones rarely.
    pub(super) async fn on(server: &Server) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let messages = Arc::new(AtomicU64::new(MESSAGE));
        let mut tasks = JoinSet::new();
        for (task, reader) in (0..TASKS).zip(READERS.into_iter().cycle()) {
            let task = Task {
                caller: server.caller(reader),
                raw: Raw::to(server).await,
                reader,
                deadline: (task % 2 == 0).then_some(DEADLINE),
                messages: Arc::clone(&messages),
                stopped: Arc::clone(&stopped),
            };
            tasks.spawn(task.run());
        }
        Self { tasks, stopped }
    }

    /// Stops the tasks after their calls in flight.
    pub(super) async fn stop(self) -> Calls {
        self.stopped.store(true, Ordering::Relaxed);
        let calls: Vec<_> = self.tasks.join_all().await.into_iter().flatten().collect();
        Calls(calls)
    }
}

struct Task {
    caller: Caller,
    /// For calls with a deadline, which the generated client would enforce too.
    raw: Raw,
    reader: u64,
    deadline: Option<Duration>,
    messages: Arc<AtomicU64>,
    stopped: Arc<AtomicBool>,
}

impl Task {
    async fn run(self) -> Vec<Call> {
        const AT_ONCE: u64 = 8;
        let mut calls = Vec::new();
        loop {
            let first = self.messages.fetch_add(AT_ONCE, Ordering::Relaxed);
            let mut messages: Vec<u64> = (first..first + AT_ONCE).collect();
            messages.shuffle(&mut rand::rng());
            for message in messages {
                let recipient = *RECIPIENTS.choose(&mut rand::rng()).unwrap();
                let mut again = true;
                while again {
                    if self.stopped.load(Ordering::Relaxed) {
                        return calls;
                    }
                    let call = self.call(recipient, message).await;
                    again = rand::random_bool(if call.answer.is_ok() { 0.05 } else { 0.5 });
                    sleep(Duration::from_millis(if call.answer.is_ok() { 2 } else { 20 })).await;
                    calls.push(call);
                }
            }
        }
    }

    async fn call(&self, recipient: u64, message: u64) -> Call {
        let began = Instant::now();
        let answer = match self.deadline {
            Some(limit) => {
                let limit = format!("{}m", limit.as_millis());
                self.raw
                    .mark_within(&limit, self.reader, recipient, message)
                    .await
                    .marked()
                    .map_err(|denied| *denied)
            }
            None => self.caller.mark(recipient, message).await,
        };
        let answer = answer.map(|answer| {
            assert_eq!(answer.cursor.recipient_id, recipient);
            Marked { cursor: answer.cursor.last_read_event_id, advanced: answer.advanced }
        });
        let conversation = (self.reader, recipient);
        let ended = Instant::now();
        Call { conversation, message, deadline: self.deadline, began, ended, answer }
    }
}

impl Calls {
    /// Asserts that no call was refused.
    pub(super) fn assert_all_served(&self) {
        assert!(!self.0.is_empty());
        let refused = self.0.iter().find(|call| call.answer.is_err());
        assert!(refused.is_none(), "{refused:?}");
    }

    /// Asserts that some calls were refused, so that the fault had an effect.
    pub(super) fn assert_some_refused(&self) {
        assert!(self.0.iter().any(|call| call.answer.is_err()));
    }

    /// Asserts that calls were served between two moments.
    pub(super) fn assert_served_between(&self, from: Instant, to: Instant) {
        let during = |call: &&Call| call.began > from && call.ended < to;
        assert!(self.0.iter().filter(during).any(|call| call.answer.is_ok()));
    }

    /// Asserts that the last call was refused within [`RECOVERY`] of Redis's return, and that calls
    /// were served after it.
    pub(super) fn assert_recovered(&self, returned: Instant) {
        let refused = self.0.iter().filter(|call| call.answer.is_err()).map(|call| call.ended);
        let recovery = refused.max().unwrap_or(returned).saturating_duration_since(returned);
        assert!(recovery <= RECOVERY, "calls were refused for {recovery:?} after the return");
        self.assert_served_between(returned + recovery, Instant::now());
    }

    /// Asserts that no answer was late or wrong, alone or beside the others.
    pub(super) fn assert_truthful(&self) {
        let mut advances = HashSet::new();
        for call in &self.0 {
            let took = call.ended - call.began;
            let limit = call.deadline.unwrap_or(CALL_TIMEOUT) + NOISE;
            assert!(took <= limit, "answered after {took:?}: {call:?}");
            match &call.answer {
                Ok(marked) => {
                    assert!(marked.cursor >= call.message, "behind its own mark: {call:?}");
                    if marked.advanced {
                        assert_eq!(marked.cursor, call.message, "{call:?}");
                        let first = advances.insert((call.conversation, marked.cursor));
                        assert!(first, "advanced twice: {call:?}");
                    }
                }
                Err(denied) if denied.code == Code::DeadlineExceeded => {
                    assert!(call.deadline.is_some(), "{call:?}");
                    assert_eq!(denied.reason, "DEADLINE_EXCEEDED", "{call:?}");
                }
                Err(denied) => assert_store_unavailable(denied),
            }
        }
        self.assert_cursors_never_go_back();
    }

    /// Asserts that no call which began after another's answer got an older cursor.
    fn assert_cursors_never_go_back(&self) {
        let marked = |call: &Call| call.answer.as_ref().ok().map(|marked| marked.cursor);
        let mut by_beginning: Vec<&Call> = self.0.iter().collect();
        by_beginning.sort_by_key(|call| call.began);
        let mut by_end = by_beginning.clone();
        by_end.sort_by_key(|call| call.ended);
        let mut by_end = by_end.into_iter().peekable();
        let mut known: HashMap<Conversation, u64> = HashMap::new();
        for call in by_beginning {
            while let Some(earlier) = by_end.next_if(|earlier| earlier.ended <= call.began) {
                if let Some(cursor) = marked(earlier) {
                    let known = known.entry(earlier.conversation).or_default();
                    *known = cursor.max(*known);
                }
            }
            if let (Some(cursor), Some(known)) = (marked(call), known.get(&call.conversation)) {
                assert!(cursor >= *known, "{known} was answered before: {call:?}");
            }
        }
    }

    /// Asserts that no event is doubled, and returns when the calls were answered whose event is missing,
    /// though a later one of their conversation may be there.
    pub(super) async fn lost_by(&self, redis: &Redis) -> Vec<Instant> {
        let events = redis.events().await;
        let known: HashSet<_> = events.iter().copied().collect();
        assert_eq!(known.len(), events.len(), "an event is doubled");
        let is_lost = |call: &&Call| {
            let (reader, recipient) = call.conversation;
            let cursor = call.answer.as_ref().ok().map(|marked| marked.cursor);
            cursor.is_some_and(|cursor| !known.contains(&(reader, recipient, cursor)))
        };
        self.0.iter().filter(is_lost).map(|call| call.ended).collect()
    }

    /// Asserts that Redis holds everything acknowledged, each event once, and nothing else.
    pub(super) async fn assert_kept_by(&self, redis: &Redis) {
        let mut events: HashMap<Conversation, Vec<u64>> = HashMap::new();
        for (reader, recipient, message) in redis.events().await {
            events.entry((reader, recipient)).or_default().push(message);
        }
        let requested: HashSet<_> =
            self.0.iter().map(|call| (call.conversation, call.message)).collect();
        for (conversation, messages) in &events {
            assert!(messages.is_sorted_by(|a, b| a < b), "an event is doubled or out of order");
            let unexpected =
                messages.iter().find(|message| !requested.contains(&(*conversation, **message)));
            assert_eq!(unexpected, None, "an event that no call asked for");
        }
        for call in &self.0 {
            // An answered cursor was set once, so it has its event; so has every advance.
            if let Ok(marked) = &call.answer {
                let event = events[&call.conversation].binary_search(&marked.cursor);
                assert!(event.is_ok(), "its event is missing: {call:?}");
            }
        }
        for reader in READERS {
            let stored = redis.cursors(reader).await;
            for recipient in RECIPIENTS {
                let last = events.get(&(reader, recipient)).and_then(|events| events.last());
                assert_eq!(stored.get(&recipient), last, "the cursor is the last event");
            }
            let calls = || self.0.iter().filter(|call| call.conversation.0 == reader);
            let served = calls().filter(|call| call.answer.is_ok()).count();
            let used = usize::try_from(redis.used(reader).await.unwrap_or_default()).unwrap();
            assert!(served <= used, "{served} calls were served, but {used} counted");
            assert!(used <= calls().count(), "{used} calls were counted: one was sent twice");
        }
    }
}
