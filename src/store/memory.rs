//! The embedded store of `serve --dev`: the same rules in memory, lost when the process exits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::timeout_at;

use super::{
    Cursors, Entries, EventLog, EventLogs, HealthReceiver, LogBounds, MarkResult, Marks,
    NONCE_KEPT_MS, NonceUse, Nonces, ReadQuotas, StoreError, StoreHealth, now_ms,
};
use crate::domain::{
    Conversation, CursorPage, EntryId, ListOrder, ListPosition, Mark, Nonce, Outcome, Position,
    Quota, RateLimit, ReadCursor, ReadOutcome, USER_OBJECT_MAX_BYTES, UserId, UserObject, Users,
    advances, distinct_users, event_payload,
};
use crate::telemetry::Traceparent;
use crate::telemetry::metrics::{self, StoreTimer};

/// Windows opened between two sweeps of those that have ended.
const WINDOWS_BETWEEN_SWEEPS: u32 = 1024;

/// Cursors, quotas and events in memory.
#[derive(Debug)]
pub struct MemoryStore {
    rate_limit: RateLimit,
    read_rate_limit: RateLimit,
    stream_max_entries: usize,
    /// Size of the stream's payloads; `None` is any size.
    stream_max_bytes: Option<usize>,
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
    /// Used nonces and when they are forgotten, oldest first.
    nonces: VecDeque<(Nonce, u64)>,
    stream: VecDeque<(EntryId, String)>,
    stream_bytes: usize,
    last_entry_id: EntryId,
    trimmed: bool,
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
        let stream_max_bytes = None;
        Self {
            rate_limit,
            read_rate_limit,
            stream_max_entries,
            stream_max_bytes,
            timer,
            state,
            health,
            published,
        }
    }

    /// Also trims the stream from its oldest end to this size of its payloads, in bytes.
    #[must_use]
    pub fn with_stream_max_bytes(self, stream_max_bytes: Option<usize>) -> Self {
        Self { stream_max_bytes, ..self }
    }

    /// Returns the health, which is always ready.
    pub fn health(&self) -> HealthReceiver {
        self.health.subscribe()
    }

    /// Returns a reader's cursor in a conversation.
    pub fn cursor(&self, reader: UserId, recipient: UserId) -> Option<ReadCursor> {
        self.with_state(|state| state.cursors.get(&(reader, recipient)).copied())
    }

    /// Stores a user object, as another program does in Redis.
    pub fn put_user(&self, user: UserId, value: &[u8]) {
        self.with_state(|state| state.users.insert(user, value.to_owned()));
    }

    /// Returns the entries of the log, oldest first.
    pub fn events(&self) -> Vec<(EntryId, String)> {
        self.with_state(|state| state.stream.iter().cloned().collect())
    }

    fn with_state<T>(&self, step: impl FnOnce(&mut State) -> T) -> T {
        // A poisoned lock is safe to use: no step panics half done.
        step(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl Marks for MemoryStore {
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult {
        let result = self.mark_read_all(&[mark], traceparent).await?.pop();
        result.unwrap_or_else(|| Err(StoreError::missing_result()))
    }

    /// The trace is dropped: only watchers read the embedded log, and they do not see it.
    async fn mark_read_all(
        &self,
        marks: &[Mark],
        _: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _timing = self.timer.start();
        let outcomes = self.with_state(|state| {
            let now_ms = now_ms();
            let users = state.users(marks);
            let outcomes =
                marks.iter().map(|mark| Ok(self.mark_one(state, mark, now_ms, &users))).collect();
            let bounds = state.bounds(now_ms);
            metrics::set_stream(bounds.length, Duration::from_millis(bounds.oldest_age_ms()));
            outcomes
        });
        self.published.notify_one();
        Ok(outcomes)
    }
}

#[async_trait::async_trait]
impl Cursors for MemoryStore {
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
        after: Option<ListPosition>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        Ok(self.read(caller, |state| {
            let range = state.cursors.range((caller, UserId::MIN)..=(caller, UserId::MAX));
            let after = after.and_then(|position| position.after);
            let behind =
                range.filter(|((_, recipient), _)| after.is_none_or(|after| *recipient > after));
            let mut cursors: Vec<_> =
                behind.map(|(_, cursor)| *cursor).take(limit.saturating_add(1)).collect();
            let more = cursors.len() > limit;
            cursors.truncate(limit);
            let last = cursors.last().filter(|_| more);
            let next = last.map(|last| ListPosition::after(ListOrder::Plain, last.recipient));
            CursorPage { cursors, next }
        }))
    }
}

impl EventLogs for MemoryStore {
    fn logs(self: Arc<Self>) -> Vec<Arc<dyn EventLog>> {
        vec![self]
    }
}

#[async_trait::async_trait]
impl EventLog for MemoryStore {
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        let began = tokio::time::Instant::now();
        loop {
            let entries = self.entries(after, limit).await?;
            let published = timeout_at(began + wait, self.published.notified());
            if entries.span.is_some() || published.await.is_err() {
                return Ok(entries);
            }
        }
    }

    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError> {
        Ok(self.with_state(|state| {
            let behind = state.stream.partition_point(|(id, _)| *id <= after.entry());
            let entries = state.stream.range(behind..).take(limit);
            Entries::parse(entries.map(|(id, payload)| (*id, payload.as_str())))
        }))
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        Ok(self.with_state(|state| {
            let first = state.stream.len().saturating_sub(limit);
            let entries = state.stream.range(first..);
            Entries::parse(entries.map(|(id, payload)| (*id, payload.as_str())))
        }))
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        Ok(self.with_state(|state| state.bounds(now_ms())))
    }
}

#[async_trait::async_trait]
impl ReadQuotas for MemoryStore {
    async fn take_reads(&self, watcher: UserId, reads: u64) -> Result<ReadOutcome<()>, StoreError> {
        let now_ms = now_ms();
        let taken = self.with_state(|state| {
            state.reads.take_many(watcher, reads, self.read_rate_limit, now_ms)
        });
        Ok(match taken {
            Ok(quota) => ReadOutcome::Served { read: (), quota },
            Err((quota, retry_after)) => ReadOutcome::OverQuota { quota, retry_after },
        })
    }
}

#[async_trait::async_trait]
impl Nonces for MemoryStore {
    async fn use_nonce(&self, reader: UserId, nonce: Nonce) -> Result<NonceUse, StoreError> {
        let now_ms = now_ms();
        Ok(self.with_state(|state| match state.marks.denial(reader, self.rate_limit, now_ms) {
            Some((quota, retry_after)) => NonceUse::OverQuota { quota, retry_after },
            None => state.use_nonce(nonce, now_ms),
        }))
    }

    async fn forget_nonce(&self, _: UserId, nonce: Nonce) -> Result<(), StoreError> {
        self.with_state(|state| state.nonces.retain(|(used, _)| *used != nonce));
        Ok(())
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
                state.publish(event_payload(mark, now_ms, users), now_ms);
                state.trim(self.stream_max_entries, self.stream_max_bytes);
                state.cursors.insert(conversation, cursor);
                Outcome::Advanced { cursor, quota }
            }
        }
    }

    /// Reads, for one of the caller's read quota.
    fn read<T>(&self, caller: UserId, read: impl FnOnce(&State) -> T) -> ReadOutcome<T> {
        self.with_state(|state| match state.reads.take(caller, self.read_rate_limit, now_ms()) {
            Ok(quota) => ReadOutcome::Served { read: read(state), quota },
            Err((quota, retry_after)) => ReadOutcome::OverQuota { quota, retry_after },
        })
    }
}

impl Window {
    fn left(self, now_ms: u64) -> Duration {
        Duration::from_millis(self.ends_at_ms.saturating_sub(now_ms))
    }
}

impl Windows {
    /// Takes one call of the reader's window, and opens one if none is open. If no call is left, the
    /// error has the time until the window ends.
    fn take(
        &mut self,
        reader: UserId,
        limit: RateLimit,
        now_ms: u64,
    ) -> Result<Quota, (Quota, Duration)> {
        self.take_many(reader, 1, limit, now_ms)
    }

    /// The same for several calls. If fewer are left, it takes those, and returns the error.
    fn take_many(
        &mut self,
        reader: UserId,
        calls: u64,
        limit: RateLimit,
        now_ms: u64,
    ) -> Result<Quota, (Quota, Duration)> {
        let mut window = self.current(reader, now_ms).unwrap_or_else(|| {
            self.sweep(now_ms);
            Window { used: 0, ends_at_ms: now_ms + limit.window_ms }
        });
        let served = calls.min(limit.calls.saturating_sub(window.used));
        if served > 0 {
            window.used += served;
            self.open.insert(reader, window);
        }
        let quota = limit.quota(window.used, window.ends_at_ms);
        if served < calls { Err((quota, window.left(now_ms))) } else { Ok(quota) }
    }

    /// Returns the quota of a reader who has no call left, and the time until the window ends.
    fn denial(&self, reader: UserId, limit: RateLimit, now_ms: u64) -> Option<(Quota, Duration)> {
        let window = self.current(reader, now_ms).filter(|window| window.used >= limit.calls)?;
        Some((limit.quota(window.used, window.ends_at_ms), window.left(now_ms)))
    }

    fn current(&self, reader: UserId, now_ms: u64) -> Option<Window> {
        self.open.get(&reader).filter(|window| now_ms < window.ends_at_ms).copied()
    }

    /// Removes, once in a while, the windows that have ended.
    fn sweep(&mut self, now_ms: u64) {
        if self.until_sweep == 0 {
            self.open.retain(|_, window| now_ms < window.ends_at_ms);
            self.until_sweep = WINDOWS_BETWEEN_SWEEPS;
        }
        self.until_sweep -= 1;
    }
}

impl State {
    /// Returns the user objects of the readers and recipients.
    fn users(&self, marks: &[Mark]) -> Users {
        let objects = distinct_users(marks).into_iter();
        Users::within_bounds(objects.filter_map(|user| {
            Some((user, UserObject::parse(self.users.get(&user)?, USER_OBJECT_MAX_BYTES)?))
        }))
    }

    fn bounds(&self, now_ms: u64) -> LogBounds {
        LogBounds {
            oldest: self.stream.front().map(|(id, _)| *id),
            newest: self.stream.back().map(|(id, _)| *id),
            last_id: self.last_entry_id,
            trimmed: self.trimmed,
            length: u64::try_from(self.stream.len()).unwrap_or(u64::MAX),
            now_ms,
            // Nothing is lost but by trimming, until the process exits.
            ..LogBounds::default()
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

    fn publish(&mut self, payload: String, now_ms: u64) {
        let EntryId { ms, count } = self.last_entry_id;
        // IDs rise strictly even if the clock does not, as in Redis.
        self.last_entry_id = if now_ms > ms {
            EntryId { ms: now_ms, count: 0 }
        } else {
            EntryId { ms, count: count + 1 }
        };
        self.stream_bytes += payload.len();
        self.stream.push_back((self.last_entry_id, payload));
    }

    /// Removes the oldest entries until the stream is within its bounds.
    fn trim(&mut self, max_entries: usize, max_bytes: Option<usize>) {
        let max_bytes = max_bytes.unwrap_or(usize::MAX);
        while (max_entries > 0 && self.stream.len() > max_entries) || self.stream_bytes > max_bytes
        {
            let Some((_, payload)) = self.stream.pop_front() else { return };
            self.stream_bytes -= payload.len();
            self.trimmed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_stream_is_trimmed_to_its_size_in_bytes() {
        const NO_LIMIT: RateLimit = RateLimit { calls: 1000, window_ms: 60_000 };
        let lengths = [(None, 20), (Some(2000), 10)];
        for (max_bytes, length) in lengths {
            let store = MemoryStore::new(NO_LIMIT, NO_LIMIT, 0).with_stream_max_bytes(max_bytes);
            for message in 100..120_u64 {
                let [reader, recipient] = [7_u64, 8].map(|user| user.try_into().unwrap());
                let last_read_event_id = message.try_into().unwrap();
                store
                    .mark_read(Mark { reader, recipient, last_read_event_id }, None)
                    .await
                    .unwrap();
            }
            let payloads: Vec<_> = store.events().into_iter().map(|(_, event)| event).collect();
            assert_eq!(payloads.len(), length, "{} bytes", payloads.concat().len());
        }
    }
}
