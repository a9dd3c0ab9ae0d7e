//! A simulated store: one stream a partition, leases that expire, and everything that is written is noted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::domain::{EntryId, Mark, Position, UserId, Users, WebhookName, event_payload};
use crate::store::relay::{
    DeadLetter, EntryContent, FeedEntry, FeedId, FeedLag, Lease, Leased, NewEntries, RelayProcess,
    RelayStore, WebhookState,
};
use crate::store::{Entries, EventLog, LogBounds, StoreError};

/// The wall clock when a test begins, in milliseconds.
pub(super) const START_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    #[default]
    Answers,
    Fails,
    Hangs,
}

pub(super) struct FakeStore {
    pub(super) partitions: usize,
    began: Instant,
    state: Mutex<State>,
    changed: Vec<Notify>,
}

#[derive(Default)]
struct State {
    streams: Vec<BTreeMap<EntryId, EntryContent>>,
    groups: HashMap<FeedId, Group>,
    leases: HashMap<FeedId, (Arc<str>, Instant)>,
    processes: BTreeMap<String, (RelayProcess, Instant)>,
    subscribed: HashMap<WebhookName, BTreeSet<UserId>>,
    letters: Vec<(WebhookName, DeadLetter)>,
    states: HashMap<WebhookName, WebhookState>,
    checks: HashMap<WebhookName, Instant>,
    acknowledged: Vec<(FeedId, EntryId)>,
    calls: BTreeMap<&'static str, usize>,
    mode: Mode,
    /// Operations that fail whatever the mode is.
    failing: BTreeSet<&'static str>,
    /// Replies to reads of new entries that are lost.
    lost_reads: usize,
    last: u64,
}

#[derive(Default)]
struct Group {
    read: EntryId,
    pending: BTreeMap<EntryId, u32>,
    missed: u64,
}

impl FakeStore {
    pub(super) fn new(partitions: usize) -> Arc<Self> {
        let state = State { streams: vec![BTreeMap::new(); partitions], ..State::default() };
        let changed = (0..partitions).map(|_| Notify::new()).collect();
        Arc::new(Self { partitions, began: Instant::now(), state: Mutex::new(state), changed })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The wall clock, which follows tokio's.
    pub(super) fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    pub(super) fn logs(self: &Arc<Self>) -> Vec<Arc<dyn EventLog>> {
        let log = |partition| -> Arc<dyn EventLog> {
            Arc::new(FakeLog { store: Arc::clone(self), partition })
        };
        (0..self.partitions).map(log).collect()
    }

    /// Adds an event, and returns its entry's ID: all of one millisecond differ.
    pub(super) fn publish(&self, partition: usize, reader: u64, recipient: u64) -> u64 {
        let user = |id: u64| UserId::try_from(id).unwrap();
        let last_read_event_id = 1.try_into().unwrap();
        let mark = Mark { reader: user(reader), recipient: user(recipient), last_read_event_id };
        let payload = event_payload(&mark, self.now_ms(), &Users::default());
        let payload = Some(payload.into_bytes().into());
        self.add(partition, EntryContent::Stored { payload, traceparent: None })
    }

    /// Adds an event with so many spaces behind it.
    pub(super) fn publish_large(&self, partition: usize, spaces: usize) {
        let user = |id: u64| UserId::try_from(id).unwrap();
        let last_read_event_id = 1.try_into().unwrap();
        let mark = Mark { reader: user(1), recipient: user(2), last_read_event_id };
        let payload = event_payload(&mark, self.now_ms(), &Users::default());
        let payload = Some((payload + &" ".repeat(spaces)).into_bytes().into());
        self.add(partition, EntryContent::Stored { payload, traceparent: None });
    }

    pub(super) fn add_payload(&self, payload: impl Into<Bytes>) -> u64 {
        self.add(0, EntryContent::Stored { payload: Some(payload.into()), traceparent: None })
    }

    pub(super) fn add(&self, partition: usize, content: EntryContent) -> u64 {
        let mut state = self.lock();
        state.last = (state.last + 1).max(self.now_ms());
        let ms = state.last;
        state.streams[partition].insert(EntryId { ms, count: 0 }, content);
        self.changed[partition].notify_one();
        ms
    }

    /// Removes an entry from its stream.
    pub(super) fn remove(&self, partition: usize, ms: u64) {
        self.lock().streams[partition].remove(&EntryId { ms, count: 0 });
    }

    /// Sets what the group of a feed has read, and what of it is pending, as after a failover.
    pub(super) fn set_group(&self, feed: &FeedId, read: u64, pending: &[u64]) {
        let id = |ms| EntryId { ms, count: 0 };
        let pending = pending.iter().map(|entry| (id(*entry), 0)).collect();
        let mut state = self.lock();
        let group = state.groups.entry(feed.clone()).or_default();
        (group.read, group.pending) = (id(read), pending);
    }

    /// Tells the next read of a feed that entries were missed.
    pub(super) fn miss(&self, feed: &FeedId, entries: u64) {
        self.lock().groups.entry(feed.clone()).or_default().missed += entries;
    }

    pub(super) fn subscribe(&self, webhook: &str, users: &[u64]) {
        let users = users.iter().map(|id| UserId::try_from(*id).unwrap());
        self.lock().subscribed.entry(webhook.parse().unwrap()).or_default().extend(users);
    }

    pub(super) fn letters(&self) -> Vec<DeadLetter> {
        self.lock().letters.iter().map(|(_, letter)| letter.clone()).collect()
    }

    pub(super) fn webhook_state(&self, webhook: &str) -> WebhookState {
        self.lock().states.get(&webhook.parse().unwrap()).cloned().unwrap_or_default()
    }

    pub(super) fn put_webhook_state(&self, webhook: &str, new: WebhookState) {
        self.lock().states.insert(webhook.parse().unwrap(), new);
    }

    /// Returns the entries that were acknowledged, in order.
    pub(super) fn acknowledged(&self) -> Vec<u64> {
        self.lock().acknowledged.iter().map(|(_, entry)| entry.ms).collect()
    }

    /// Returns the pending entries of all feeds, with their attempts.
    pub(super) fn pending_entries(&self) -> Vec<(u64, u32)> {
        let state = self.lock();
        let pending = state.groups.values().flat_map(|group| group.pending.iter());
        let mut pending: Vec<_> = pending.map(|(id, attempts)| (id.ms, *attempts)).collect();
        pending.sort_unstable();
        pending
    }

    /// Returns who has which lease now: the process of each feed.
    pub(super) fn owners(&self) -> BTreeMap<FeedId, String> {
        let (state, now) = (self.lock(), Instant::now());
        let held = state.leases.iter().filter(|(_, (_, end))| *end > now);
        let process = |token: &str| token.split(':').next().unwrap().to_owned();
        held.map(|(feed, (token, _))| (feed.clone(), process(token))).collect()
    }

    /// Gives a lease to someone else.
    pub(super) fn steal(&self, feed: &FeedId) {
        let until = Instant::now() + Duration::from_secs(3600);
        self.lock().leases.insert(feed.clone(), ("thief".into(), until));
    }

    /// Ends a lease.
    pub(super) fn free(&self, feed: &FeedId) {
        self.lock().leases.remove(feed);
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.lock().mode = mode;
    }

    pub(super) fn set_failing(&self, operation: &'static str, is_failing: bool) {
        let mut state = self.lock();
        if is_failing {
            state.failing.insert(operation);
        } else {
            state.failing.remove(operation);
        }
    }

    pub(super) fn lose_reads(&self, count: usize) {
        self.lock().lost_reads = count;
    }

    pub(super) fn calls(&self, operation: &'static str) -> usize {
        self.lock().calls.get(operation).copied().unwrap_or_default()
    }

    pub(super) fn all_calls(&self) -> usize {
        self.lock().calls.values().sum()
    }

    async fn call(&self, operation: &'static str) -> Result<(), StoreError> {
        // As over a network: others run meanwhile.
        tokio::task::yield_now().await;
        let mode = {
            let mut state = self.lock();
            *state.calls.entry(operation).or_default() += 1;
            if state.failing.contains(operation) { Mode::Fails } else { state.mode }
        };
        match mode {
            Mode::Answers => Ok(()),
            Mode::Fails => Err(StoreError::unavailable("the test says so")),
            Mode::Hangs => std::future::pending().await,
        }
    }
}

impl State {
    fn is_held(&self, lease: &Lease) -> bool {
        let held = self.leases.get(&lease.feed);
        held.is_some_and(|(token, until)| *token == lease.token && *until > Instant::now())
    }

    fn content(&self, feed: &FeedId, id: EntryId) -> EntryContent {
        let content = self.streams[feed.partition].get(&id);
        content.cloned().unwrap_or(EntryContent::Removed)
    }
}

#[async_trait::async_trait]
impl RelayStore for FakeStore {
    fn partitions(&self) -> usize {
        self.partitions
    }

    async fn announce(
        &self,
        process: &RelayProcess,
        ttl: Duration,
    ) -> Result<Vec<RelayProcess>, StoreError> {
        self.call("announce").await?;
        let (mut state, now) = (self.lock(), Instant::now());
        state.processes.insert(process.id.clone(), (process.clone(), now + ttl));
        state.processes.retain(|_, (_, until)| *until > now);
        Ok(state.processes.values().map(|(process, _)| process.clone()).collect())
    }

    async fn withdraw(&self, process: &str) -> Result<(), StoreError> {
        self.call("withdraw").await?;
        self.lock().processes.remove(process);
        Ok(())
    }

    async fn acquire(
        &self,
        lease: &Lease,
        ttl: Duration,
        begin: EntryId,
    ) -> Result<Leased<EntryId>, StoreError> {
        self.call("acquire").await?;
        let (mut state, now) = (self.lock(), Instant::now());
        if state.leases.get(&lease.feed).is_some_and(|(_, until)| *until > now) {
            return Ok(Leased::Lost);
        }
        state.leases.insert(lease.feed.clone(), (Arc::clone(&lease.token), now + ttl));
        let group = state.groups.entry(lease.feed.clone());
        let group = group.or_insert_with(|| Group { read: begin, ..Group::default() });
        Ok(Leased::Held(group.read))
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<Leased<()>, StoreError> {
        self.call("renew").await?;
        let mut state = self.lock();
        if !state.is_held(lease) {
            return Ok(Leased::Lost);
        }
        state.leases.insert(lease.feed.clone(), (Arc::clone(&lease.token), Instant::now() + ttl));
        Ok(Leased::Held(()))
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.call("release").await?;
        let mut state = self.lock();
        if state.is_held(lease) {
            state.leases.remove(&lease.feed);
        }
        Ok(())
    }

    async fn pending(
        &self,
        lease: &Lease,
        after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<Vec<FeedEntry>>, StoreError> {
        self.call("pending").await?;
        let state = self.lock();
        if !state.is_held(lease) {
            return Ok(Leased::Lost);
        }
        let Some(group) = state.groups.get(&lease.feed) else { return Ok(Leased::Lost) };
        let pending = group.pending.range(after.after()..).take(limit);
        let mut left = max_bytes;
        let entry = |(id, attempts): (&EntryId, &u32)| FeedEntry {
            id: *id,
            attempts: *attempts,
            content: state.content(&lease.feed, *id),
        };
        let fits = |entry: &FeedEntry| take_bytes(&mut left, &entry.content);
        Ok(Leased::Held(pending.map(entry).take_while(fits).collect()))
    }

    async fn new_entries(
        &self,
        lease: &Lease,
        _after: EntryId,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Leased<NewEntries>, StoreError> {
        self.call("new_entries").await?;
        let mut state = self.lock();
        if !state.is_held(lease) {
            return Ok(Leased::Lost);
        }
        let read = state.groups.get(&lease.feed).map(|group| group.read).unwrap_or_default();
        let stream = state.streams[lease.feed.partition].range(read.after()..);
        let mut left = max_bytes;
        let stream = stream.take(limit).take_while(|(_, content)| take_bytes(&mut left, content));
        let ids: Vec<_> = stream.map(|(id, _)| *id).collect();
        let content = |id: &EntryId| state.content(&lease.feed, *id);
        let entries: Vec<_> =
            ids.iter().map(|id| FeedEntry { id: *id, attempts: 0, content: content(id) }).collect();
        let Some(group) = state.groups.get_mut(&lease.feed) else { return Ok(Leased::Lost) };
        group.read = ids.last().copied().unwrap_or(read);
        group.pending.extend(ids.into_iter().map(|id| (id, 0)));
        let missed = std::mem::take(&mut group.missed);
        let pending = u64::try_from(group.pending.len()).unwrap();
        if state.lost_reads > 0 {
            state.lost_reads -= 1;
            return Err(StoreError::unavailable("the answer was lost"));
        }
        Ok(Leased::Held(NewEntries { entries, missed, pending }))
    }

    async fn acknowledge(
        &self,
        lease: &Lease,
        entries: &[EntryId],
    ) -> Result<Leased<()>, StoreError> {
        self.call("acknowledge").await?;
        let mut state = self.lock();
        if !state.is_held(lease) {
            return Ok(Leased::Lost);
        }
        let feed = &lease.feed;
        state.acknowledged.extend(entries.iter().map(|entry| (feed.clone(), *entry)));
        if let Some(group) = state.groups.get_mut(feed) {
            group.pending.retain(|id, _| !entries.contains(id));
        }
        Ok(Leased::Held(()))
    }

    async fn note_attempts(
        &self,
        lease: &Lease,
        attempts: &[(EntryId, u32)],
    ) -> Result<Leased<()>, StoreError> {
        self.call("note_attempts").await?;
        let mut state = self.lock();
        if !state.is_held(lease) {
            return Ok(Leased::Lost);
        }
        if let Some(group) = state.groups.get_mut(&lease.feed) {
            for (entry, attempts) in attempts {
                group.pending.entry(*entry).and_modify(|known| *known = *attempts);
            }
        }
        Ok(Leased::Held(()))
    }

    async fn lags(
        &self,
        partition: usize,
        webhooks: &[WebhookName],
    ) -> Result<Vec<FeedLag>, StoreError> {
        self.call("lags").await?;
        let state = self.lock();
        let lag = |webhook: &WebhookName| {
            let feed = FeedId { webhook: webhook.clone(), partition };
            let pending = state.groups.get(&feed).map(|group| &group.pending);
            let oldest = pending.and_then(|pending| pending.keys().next().copied());
            FeedLag { entries: 0, oldest }
        };
        Ok(webhooks.iter().map(lag).collect())
    }

    async fn are_subscribed(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<Vec<bool>, StoreError> {
        self.call("are_subscribed").await?;
        let state = self.lock();
        let subscribed = state.subscribed.get(webhook);
        let is_subscribed = |user| subscribed.is_some_and(|all| all.contains(user));
        Ok(users.iter().map(is_subscribed).collect())
    }

    async fn add_dead_letter(
        &self,
        webhook: &WebhookName,
        letter: &DeadLetter,
        _maxlen: u64,
    ) -> Result<(), StoreError> {
        self.call("add_dead_letter").await?;
        self.lock().letters.push((webhook.clone(), letter.clone()));
        Ok(())
    }

    async fn count_dead_letters(&self, _webhook: &WebhookName) -> Result<u64, StoreError> {
        self.call("count_dead_letters").await?;
        Ok(u64::try_from(self.lock().letters.len()).unwrap())
    }

    async fn state(&self, webhook: &WebhookName) -> Result<WebhookState, StoreError> {
        self.call("state").await?;
        Ok(self.lock().states.get(webhook).cloned().unwrap_or_default())
    }

    async fn set_state(
        &self,
        webhook: &WebhookName,
        state: &WebhookState,
    ) -> Result<(), StoreError> {
        self.call("set_state").await?;
        self.lock().states.insert(webhook.clone(), state.clone());
        Ok(())
    }

    async fn begin_check(&self, webhook: &WebhookName, ttl: Duration) -> Result<bool, StoreError> {
        self.call("begin_check").await?;
        let (mut state, now) = (self.lock(), Instant::now());
        if state.checks.get(webhook).is_some_and(|until| *until > now) {
            return Ok(false);
        }
        state.checks.insert(webhook.clone(), now + ttl);
        Ok(true)
    }

    async fn end_check(&self, webhook: &WebhookName, pause: Duration) -> Result<(), StoreError> {
        self.call("end_check").await?;
        self.lock().checks.insert(webhook.clone(), Instant::now() + pause);
        Ok(())
    }
}

/// Takes the bytes of an entry, unless they are used up.
fn take_bytes(left: &mut usize, content: &EntryContent) -> bool {
    let fits = *left > 0;
    if let EntryContent::Stored { payload: Some(payload), .. } = content {
        *left = left.saturating_sub(payload.len());
    }
    fits
}

/// The log of a partition of the store.
struct FakeLog {
    store: Arc<FakeStore>,
    partition: usize,
}

impl FakeLog {
    fn after(&self, after: Position, limit: usize) -> Entries {
        let state = self.store.lock();
        let stream = state.streams[self.partition].range(after.entry().after()..);
        let ids: Vec<_> = stream.take(limit).map(|(id, _)| *id).collect();
        Entries::parse(ids.into_iter().map(|id| (id, "")))
    }
}

#[async_trait::async_trait]
impl EventLog for FakeLog {
    async fn wait_for_entries(
        &self,
        after: Position,
        limit: usize,
        wait: Duration,
    ) -> Result<Entries, StoreError> {
        self.store.call("wait_for_entries").await?;
        let found = async {
            loop {
                let entries = self.after(after, limit);
                if entries.count > 0 {
                    return entries;
                }
                self.store.changed[self.partition].notified().await;
            }
        };
        Ok(timeout(wait, found).await.unwrap_or_default())
    }

    async fn entries(&self, after: Position, limit: usize) -> Result<Entries, StoreError> {
        Ok(self.after(after, limit))
    }

    async fn newest_entries(&self, _limit: usize) -> Result<Entries, StoreError> {
        Ok(Entries::default())
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        Ok(LogBounds::default())
    }
}
