//! The embedded store behind `serve --dev`: the same rules in memory, gone with the process.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use super::{
    Entries, MarkResult, NONCE_KEPT_MS, NonceUse, Store, StoreError, StoreHealth, StreamSpan,
};
use crate::domain::{
    Conversation, CursorPage, EntryId, Mark, Nonce, Outcome, Quota, RateLimit, ReadCursor,
    ReadOutcome, UserId, UserObject, Users, advances, distinct_users, event_payload,
};
use crate::telemetry::Traceparent;
use crate::telemetry::metrics::{self, StoreTimer};

/// How many windows are opened between two sweeps of those that have ended.
const WINDOWS_BETWEEN_SWEEPS: u32 = 1024;

/// Cursors, quotas and events in memory.
#[derive(Debug)]
pub struct MemoryStore {
    rate_limit: RateLimit,
    read_rate_limit: RateLimit,
    stream_max_entries: usize,
    timer: StoreTimer,
    state: Mutex<State>,
    health: watch::Sender<StoreHealth>,
    published: Notify,
}

#[derive(Debug, Default)]
struct State {
    marks: Windows,
    reads: Windows,
    /// By reader, then recipient.
    cursors: BTreeMap<(UserId, UserId), ReadCursor>,
    users: HashMap<UserId, Vec<u8>>,
    /// Used nonces, and until when they are kept, the oldest first.
    nonces: VecDeque<(Nonce, u64)>,
    stream: VecDeque<(EntryId, String)>,
    last_entry_id: EntryId,
    removed: bool,
}

/// The windows of one kind of quota.
#[derive(Debug, Default)]
struct Windows {
    open: HashMap<UserId, Window>,
    until_sweep: u32,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    used: u64,
    ends_at_ms: u64,
}

impl MemoryStore {
    /// An empty store. `stream_max_entries` trims the stream from its oldest end; 0 never trims.
    pub fn new(
        rate_limit: RateLimit,
        read_rate_limit: RateLimit,
        stream_max_entries: usize,
    ) -> Self {
        metrics::set_stream_maxlen(u64::try_from(stream_max_entries).unwrap_or(u64::MAX));
        let health = watch::Sender::new(StoreHealth::Ready { warnings: Vec::new() });
        let timer = StoreTimer::new("mark_read");
        let state = Mutex::default();
        let published = Notify::new();
        Self { rate_limit, read_rate_limit, stream_max_entries, timer, state, health, published }
    }

    /// A reader's cursor of a conversation.
    pub fn cursor(&self, reader: UserId, recipient: UserId) -> Option<ReadCursor> {
        self.with_state(|state| state.cursors.get(&(reader, recipient)).copied())
    }

    /// Stores a user object, as somebody else does in Redis.
    pub fn put_user(&self, user: UserId, value: &[u8]) {
        self.with_state(|state| state.users.insert(user, value.to_owned()));
    }

    /// The events that the stream holds, oldest first.
    pub fn events(&self) -> Vec<(EntryId, String)> {
        self.with_state(|state| state.stream.iter().cloned().collect())
    }

    fn with_state<T>(&self, step: impl FnOnce(&mut State) -> T) -> T {
        // A panic while the lock was held cannot have left a step half done: no step panics.
        step(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl Store for MemoryStore {
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult {
        let result = self.mark_read_all(&[mark], traceparent).await?.pop();
        result.unwrap_or_else(|| Err(StoreError::unanswered_mark()))
    }

    /// Its entries are nothing but payloads, and nobody reads them but who watches.
    async fn mark_read_all(
        &self,
        marks: &[Mark],
        _: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _timing = self.timer.start();
        let outcomes = self.with_state(|state| {
            let now_ms = now_ms();
            let users = state.users_of(marks);
            let outcomes =
                marks.iter().map(|mark| Ok(self.mark_one(state, mark, now_ms, &users))).collect();
            metrics::set_stream(&state.span(now_ms));
            outcomes
        });
        self.published.notify_one();
        Ok(outcomes)
    }

    async fn read_states(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        Ok(self.read(caller, |state| {
            let cursor = |of: &Conversation| state.cursors.get(&(of.reader, of.recipient)).copied();
            conversations.iter().map(cursor).collect()
        }))
    }

    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        Ok(self.read(caller, |state| {
            let range = state.cursors.range((caller, UserId::MIN)..=(caller, UserId::MAX));
            let behind =
                range.filter(|((_, recipient), _)| after.is_none_or(|after| *recipient > after));
            let mut cursors: Vec<_> =
                behind.map(|(_, cursor)| *cursor).take(limit.saturating_add(1)).collect();
            let more = cursors.len() > limit;
            cursors.truncate(limit);
            CursorPage { cursors, more }
        }))
    }

    async fn next_entries(&self, after: EntryId, wait: Duration) -> Result<Entries, StoreError> {
        let began = tokio::time::Instant::now();
        loop {
            let entries = self.entries(after, usize::MAX).await?;
            let published = timeout_at(began + wait, self.published.notified());
            if entries.span.is_some() || published.await.is_err() {
                return Ok(entries);
            }
        }
    }

    async fn entries(&self, after: EntryId, limit: usize) -> Result<Entries, StoreError> {
        Ok(self.with_state(|state| {
            let behind = state.stream.partition_point(|(id, _)| *id <= after);
            let entries = state.stream.range(behind..).take(limit);
            Entries::of(entries.map(|(id, payload)| (*id, payload.as_str())))
        }))
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        Ok(self.with_state(|state| {
            let first = state.stream.len().saturating_sub(limit);
            let entries = state.stream.range(first..);
            Entries::of(entries.map(|(id, payload)| (*id, payload.as_str())))
        }))
    }

    async fn stream_span(&self) -> Result<StreamSpan, StoreError> {
        Ok(self.with_state(|state| state.span(now_ms())))
    }

    async fn use_nonce(&self, nonce: Nonce) -> Result<NonceUse, StoreError> {
        Ok(self.with_state(|state| state.use_nonce(nonce, now_ms())))
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.health.subscribe()
    }
}

impl MemoryStore {
    fn mark_one(&self, state: &mut State, mark: &Mark, now_ms: u64, users: &Users) -> Outcome {
        let quota = match state.marks.take(mark.reader, self.rate_limit, now_ms) {
            Ok(quota) => quota,
            Err((quota, retry_after)) => return Outcome::OverQuota { quota, retry_after },
        };

        let conversation = (mark.reader, mark.recipient);
        match state.cursors.get(&conversation) {
            Some(&cursor)
                if !advances(Some(cursor.last_read_event_id), mark.last_read_event_id) =>
            {
                Outcome::Unchanged { cursor, quota }
            }
            _ => {
                let &Mark { recipient, last_read_event_id, .. } = mark;
                let cursor = ReadCursor { recipient, last_read_event_id, read_at_ms: now_ms };
                state.publish(event_payload(mark, now_ms, users), now_ms, self.stream_max_entries);
                state.cursors.insert(conversation, cursor);
                Outcome::Advanced { cursor, quota }
            }
        }
    }

    /// A read, for one of the caller's quota of reads.
    fn read<T>(&self, caller: UserId, look: impl FnOnce(&State) -> T) -> ReadOutcome<T> {
        self.with_state(|state| match state.reads.take(caller, self.read_rate_limit, now_ms()) {
            Ok(quota) => ReadOutcome::Served { read: look(state), quota },
            Err((quota, retry_after)) => ReadOutcome::OverQuota { quota, retry_after },
        })
    }
}

impl Windows {
    /// Takes one call of a reader's window, the one that is open or else one that opens now. Where
    /// none is left, tells how long until the window ends.
    fn take(
        &mut self,
        reader: UserId,
        limit: RateLimit,
        now_ms: u64,
    ) -> Result<Quota, (Quota, Duration)> {
        let open = self.open.get(&reader).filter(|window| now_ms < window.ends_at_ms).copied();
        let mut window = open.unwrap_or_else(|| {
            self.sweep(now_ms);
            Window { used: 0, ends_at_ms: now_ms + limit.window_ms }
        });
        if window.used >= limit.calls {
            let left = Duration::from_millis(window.ends_at_ms.saturating_sub(now_ms));
            return Err((limit.quota(window.used, window.ends_at_ms), left));
        }
        window.used += 1;
        self.open.insert(reader, window);
        Ok(limit.quota(window.used, window.ends_at_ms))
    }

    /// Forgets, once in a while, the windows that have ended.
    fn sweep(&mut self, now_ms: u64) {
        if self.until_sweep == 0 {
            self.open.retain(|_, window| now_ms < window.ends_at_ms);
            self.until_sweep = WINDOWS_BETWEEN_SWEEPS;
        }
        self.until_sweep -= 1;
    }
}

impl State {
    /// The user objects of the readers and recipients.
    fn users_of(&self, marks: &[Mark]) -> Users {
        let objects = distinct_users(marks).into_iter();
        Users::within_bounds(
            objects.filter_map(|user| Some((user, UserObject::parse(self.users.get(&user)?)?))),
        )
    }

    fn span(&self, now_ms: u64) -> StreamSpan {
        StreamSpan {
            first: self.stream.front().map(|(id, _)| *id),
            last_given: self.last_entry_id,
            removed: self.removed,
            length: u64::try_from(self.stream.len()).unwrap_or(u64::MAX),
            now_ms,
        }
    }

    fn use_nonce(&mut self, nonce: Nonce, now_ms: u64) -> NonceUse {
        while self.nonces.front().is_some_and(|(_, until_ms)| *until_ms <= now_ms) {
            self.nonces.pop_front();
        }
        if self.nonces.iter().any(|(used, _)| *used == nonce) {
            return NonceUse::Repeated;
        }
        self.nonces.push_back((nonce, now_ms + NONCE_KEPT_MS));
        NonceUse::First
    }

    fn publish(&mut self, payload: String, now_ms: u64, max_entries: usize) {
        let EntryId { ms, count } = self.last_entry_id;
        // Like Redis: IDs rise strictly even where the clock does not.
        self.last_entry_id = if now_ms > ms {
            EntryId { ms: now_ms, count: 0 }
        } else {
            EntryId { ms, count: count + 1 }
        };
        self.stream.push_back((self.last_entry_id, payload));
        if max_entries > 0 && self.stream.len() > max_entries {
            self.stream.pop_front();
            self.removed = true;
        }
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
