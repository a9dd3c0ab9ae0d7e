//! The embedded store behind `serve --dev`: the same rules in memory, gone with the process.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::{MarkResult, NONCE_KEPT_MS, NonceUse, Store, StoreError, StoreHealth};
use crate::event;
use crate::identity::oauth1::Nonce;
use crate::ids::UserId;
use crate::mark_read::{Mark, Outcome, Quota, RateLimit, ReadCursor, advances};
use crate::metrics::{self, StoreTimer};
use crate::users::{UserObject, Users, distinct_users};

/// A stream entry's ID: milliseconds since 1970, then a count within the millisecond.
pub type EntryId = (u64, u64);

/// How many windows are opened between two sweeps of those that have ended.
const WINDOWS_BETWEEN_SWEEPS: u32 = 1024;

/// Cursors, quotas and events in memory.
#[derive(Debug)]
pub struct MemoryStore {
    rate_limit: RateLimit,
    stream_max_entries: usize,
    timer: StoreTimer,
    state: Mutex<State>,
    health: watch::Sender<StoreHealth>,
}

#[derive(Debug, Default)]
struct State {
    windows: HashMap<UserId, Window>,
    windows_until_sweep: u32,
    cursors: HashMap<(UserId, UserId), ReadCursor>,
    users: HashMap<UserId, Vec<u8>>,
    /// Used nonces, and until when they are kept, the oldest first.
    nonces: VecDeque<(Nonce, u64)>,
    stream: VecDeque<(EntryId, String)>,
    last_entry_id: EntryId,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    used: u64,
    ends_at_ms: u64,
}

impl MemoryStore {
    /// An empty store. `stream_max_entries` trims the stream from its oldest end; 0 never trims.
    pub fn new(rate_limit: RateLimit, stream_max_entries: usize) -> Self {
        let health = watch::Sender::new(StoreHealth::Ready { warnings: Vec::new() });
        let timer = StoreTimer::new("mark_read");
        Self { rate_limit, stream_max_entries, timer, state: Mutex::default(), health }
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
    async fn mark_read(&self, marks: &[Mark]) -> Result<Vec<MarkResult>, StoreError> {
        let _timing = self.timer.start();
        Ok(self.with_state(|state| {
            let now_ms = now_ms();
            let users = state.users_of(marks);
            let outcomes =
                marks.iter().map(|mark| Ok(self.mark_one(state, mark, now_ms, &users))).collect();
            metrics::set_stream_length(u32::try_from(state.stream.len()).unwrap_or(u32::MAX));
            outcomes
        }))
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
        let mut window = self.window(state, mark.reader, now_ms);
        if window.used >= self.rate_limit.calls {
            let retry_after = Duration::from_millis(window.ends_at_ms.saturating_sub(now_ms));
            return Outcome::OverQuota { quota: self.quota(window), retry_after };
        }
        window.used += 1;
        state.windows.insert(mark.reader, window);
        let quota = self.quota(window);

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
                state.publish(event::payload(mark, now_ms, users), now_ms, self.stream_max_entries);
                state.cursors.insert(conversation, cursor);
                Outcome::Advanced { cursor, quota }
            }
        }
    }

    /// The reader's window: the one that is open, else one that opens now.
    fn window(&self, state: &mut State, reader: UserId, now_ms: u64) -> Window {
        match state.windows.get(&reader) {
            Some(&window) if now_ms < window.ends_at_ms => window,
            _ => {
                state.sweep_windows(now_ms);
                Window { used: 0, ends_at_ms: now_ms + self.rate_limit.window_ms }
            }
        }
    }

    fn quota(&self, window: Window) -> Quota {
        Quota {
            limit: self.rate_limit.calls,
            remaining: self.rate_limit.calls.saturating_sub(window.used),
            reset_at_ms: window.ends_at_ms,
        }
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
        let (last_ms, last_count) = self.last_entry_id;
        // Like Redis: IDs rise strictly even where the clock does not.
        self.last_entry_id = if now_ms > last_ms { (now_ms, 0) } else { (last_ms, last_count + 1) };
        self.stream.push_back((self.last_entry_id, payload));
        if max_entries > 0 && self.stream.len() > max_entries {
            self.stream.pop_front();
        }
    }

    /// Forgets, once in a while, the windows that have ended.
    fn sweep_windows(&mut self, now_ms: u64) {
        if self.windows_until_sweep == 0 {
            self.windows.retain(|_, window| now_ms < window.ends_at_ms);
            self.windows_until_sweep = WINDOWS_BETWEEN_SWEEPS;
        }
        self.windows_until_sweep -= 1;
    }
}

fn now_ms() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX)
}
