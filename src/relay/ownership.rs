//! The webhooks that this process knows, and the feeds that it delivers.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::{Instant, timeout};

use super::Context;
use super::assignment::feeds_of;
use super::checks::Checks;
use super::doorbell::Doorbell;
use super::endpoint::Endpoint;
use super::feed::{Feed, FeedEnd, FeedStart, FeedStatus};
use super::lease::LEASE_TTL;
use super::webhook::Webhooks;
use crate::chance::random;
use crate::domain::{EntryId, WebhookName};
use crate::store::StoreError;
use crate::store::relay::{FeedId, Lease, Leased, RelayProcess};

/// Acquisitions at the same time.
const ACQUIRE_MAX: usize = 64;

/// Longest time of one acquisition.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(4);

/// How long deliveries under way may finish when a feed goes to another process.
const HAND_OVER: Duration = Duration::from_secs(10);

/// Entries that are remembered of feeds whose leases were lost, in all, and for how long: Redis is back by then,
/// or others deliver them.
const DONE_MAX: usize = 100_000;
const DONE_AGE_MAX: Duration = Duration::from_secs(600);

/// The webhooks and feeds of this process.
pub(super) struct Ownership {
    context: Arc<Context>,
    doorbells: Vec<Arc<Doorbell>>,
    endpoints: BTreeMap<WebhookName, KnownWebhook>,
    /// The processes of the last assignment.
    processes: Vec<RelayProcess>,
    /// The feeds that are this process's by the assignment, and those of them to acquire.
    wanted: BTreeSet<FeedId>,
    to_acquire: VecDeque<FeedId>,
    acquiring: FuturesUnordered<BoxFuture<'static, Acquisition>>,
    under_acquisition: BTreeSet<FeedId>,
    feeds: BTreeMap<FeedId, OwnedFeed>,
    tasks: JoinSet<FeedEnd>,
    feeds_of_tasks: HashMap<Id, FeedId>,
    /// Entries that were done when their feed's lease was lost, and could not be acknowledged.
    done: BTreeMap<FeedId, (Instant, BTreeSet<EntryId>)>,
}

struct KnownWebhook {
    endpoint: Arc<Endpoint>,
    checks: AbortHandle,
}

impl Drop for KnownWebhook {
    fn drop(&mut self) {
        self.checks.abort();
        self.endpoint.metrics.reset();
    }
}

/// A feed that is delivered.
struct OwnedFeed {
    endpoint: Arc<Endpoint>,
    status: Arc<FeedStatus>,
    stop: watch::Sender<Option<Instant>>,
}

/// Result of trying to acquire a lease, by a call that was sent at a time.
struct Acquisition {
    lease: Lease,
    sent: Instant,
    result: Result<Leased<EntryId>, StoreError>,
}

impl Ownership {
    pub(super) fn new(context: Arc<Context>, doorbells: Vec<Arc<Doorbell>>) -> Self {
        Self {
            context,
            doorbells,
            endpoints: BTreeMap::new(),
            processes: Vec::new(),
            wanted: BTreeSet::new(),
            to_acquire: VecDeque::new(),
            acquiring: FuturesUnordered::new(),
            under_acquisition: BTreeSet::new(),
            feeds: BTreeMap::new(),
            tasks: JoinSet::new(),
            feeds_of_tasks: HashMap::new(),
            done: BTreeMap::new(),
        }
    }

    /// Takes the webhooks of the file: new ones are checked, and the feeds of removed ones are given back.
    pub(super) fn set_webhooks(&mut self, webhooks: &Webhooks) {
        let names: BTreeSet<_> = webhooks.iter().map(|webhook| &webhook.name).collect();
        self.endpoints.retain(|name, _| names.contains(name));
        for webhook in webhooks.iter() {
            if let Some(known) = self.endpoints.get(&webhook.name) {
                known.endpoint.set_webhook(webhook);
                continue;
            }
            let endpoint = Endpoint::new(Arc::clone(webhook), self.context.config.concurrency);
            let endpoint = Arc::new(endpoint);
            let checks = Checks::new(Arc::clone(&self.context), Arc::clone(&endpoint));
            let checks = tokio::spawn(checks.run()).abort_handle();
            self.endpoints.insert(webhook.name.clone(), KnownWebhook { endpoint, checks });
        }
        self.processes.clear();
        let endpoints = &self.endpoints;
        self.wanted.retain(|feed| endpoints.contains_key(&feed.webhook));
        self.done.retain(|feed, _| endpoints.contains_key(&feed.webhook));
        self.hand_over();
    }

    pub(super) fn webhooks(&self) -> Vec<WebhookName> {
        self.endpoints.keys().cloned().collect()
    }

    pub(super) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.values().map(|known| Arc::clone(&known.endpoint)).collect()
    }

    /// Returns the feeds that are delivered here.
    pub(super) fn feeds(&self) -> Vec<FeedId> {
        self.feeds.keys().cloned().collect()
    }

    /// Takes the processes that are alive: feeds that are another's are handed over, and own ones acquired.
    pub(super) fn assign(&mut self, processes: &[RelayProcess]) {
        if self.processes != processes {
            self.processes = processes.to_vec();
            self.wanted = feeds_of(&self.context.process, processes, self.doorbells.len());
            let endpoints = &self.endpoints;
            self.wanted.retain(|feed| endpoints.contains_key(&feed.webhook));
            self.hand_over();
        }
        let is_free = |feed: &&FeedId| !self.feeds.contains_key(*feed);
        self.to_acquire = self.wanted.iter().filter(is_free).cloned().collect();
        self.acquire();
    }

    fn hand_over(&mut self) {
        let deadline = Instant::now() + HAND_OVER;
        for (id, feed) in &self.feeds {
            // A webhook that was removed and came back is another one.
            let known = self.endpoints.get(&id.webhook).map(|known| &known.endpoint);
            let is_same = known.is_some_and(|known| Arc::ptr_eq(known, &feed.endpoint));
            if !is_same || !self.wanted.contains(id) {
                feed.stop_by(deadline);
            }
        }
    }

    /// Begins to acquire feeds that are wanted, some at a time.
    fn acquire(&mut self) {
        while self.under_acquisition.len() < ACQUIRE_MAX {
            let Some(feed) = self.to_acquire.pop_front() else { return };
            if self.wanted.contains(&feed) && self.under_acquisition.insert(feed.clone()) {
                self.acquiring.push(Box::pin(acquire(Arc::clone(&self.context), feed)));
            }
        }
    }

    /// Waits for the next end of an acquisition or of a feed, and follows it.
    pub(super) async fn advance(&mut self) {
        tokio::select! {
            biased;
            Some(acquisition) = self.acquiring.next() => self.acquired(acquisition),
            Some(ended) = self.tasks.join_next_with_id() => {
                let (task, end) = match ended {
                    Ok((task, end)) => (task, end),
                    // A panic, which is logged.
                    Err(error) => (error.id(), FeedEnd::default()),
                };
                self.ended(task, end);
            }
            else => std::future::pending().await,
        }
    }

    fn acquired(&mut self, acquisition: Acquisition) {
        let Acquisition { lease, sent, result } = acquisition;
        self.under_acquisition.remove(&lease.feed);
        match result {
            Ok(Leased::Held(position)) => self.begin_feed(lease, sent, position),
            // It is tried again after the next announcement.
            Ok(Leased::Lost) => {}
            Err(error) => {
                if let Some(known) = self.endpoints.get(&lease.feed.webhook) {
                    known.endpoint.log_store_failure("cannot acquire a lease", &error);
                }
            }
        }
        self.acquire();
    }

    fn begin_feed(&mut self, lease: Lease, sent: Instant, position: EntryId) {
        let id = lease.feed.clone();
        let endpoint = self.endpoints.get(&id.webhook).map(|known| Arc::clone(&known.endpoint));
        let (Some(endpoint), Some(doorbell)) = (endpoint, self.doorbells.get(id.partition)) else {
            let context = Arc::clone(&self.context);
            // Its webhook was removed meanwhile. If this fails, the lease expires.
            tokio::spawn(async move { context.store.release(&lease).await });
            return;
        };
        tracing::debug!(webhook = id.webhook.as_str(), partition = id.partition, "lease taken");
        let (context, doorbell) = (Arc::clone(&self.context), Arc::clone(doorbell));
        let done = self.done.remove(&id).map(|(_, done)| done).unwrap_or_default();
        let start = FeedStart { lease, sent, position, done };
        let feed = Feed::new(context, Arc::clone(&endpoint), doorbell, start);
        let status = feed.status();
        let (stop, stopped) = watch::channel(None);
        let task = self.tasks.spawn(feed.run(stopped)).id();
        endpoint.metrics.add_leases(1);
        self.feeds_of_tasks.insert(task, id.clone());
        let feed = OwnedFeed { endpoint, status, stop };
        // The assignment may have changed since.
        if !self.wanted.contains(&id) {
            feed.stop_by(Instant::now() + HAND_OVER);
        }
        self.feeds.insert(id, feed);
        self.context.set_owned(self.feeds.len());
    }

    fn ended(&mut self, task: Id, end: FeedEnd) {
        let Some(id) = self.feeds_of_tasks.remove(&task) else { return };
        let Some(feed) = self.feeds.remove(&id) else { return };
        feed.endpoint.metrics.add_leases(-1);
        self.context.set_owned(self.feeds.len());
        let (webhook, partition) = (id.webhook.as_str(), id.partition);
        if end.is_released {
            tracing::debug!(webhook, partition, "lease given back");
        } else {
            tracing::debug!(webhook, partition, "lease lost");
        }
        self.remember(id, end.done);
    }

    /// Remembers what a feed was done with, for the next one of this process.
    fn remember(&mut self, feed: FeedId, done: BTreeSet<EntryId>) {
        let now = Instant::now();
        self.done.retain(|_, (since, _)| now - *since < DONE_AGE_MAX);
        let known: usize = self.done.values().map(|(_, done)| done.len()).sum();
        let is_known = self.endpoints.contains_key(&feed.webhook);
        if is_known && !done.is_empty() && known + done.len() <= DONE_MAX {
            self.done.insert(feed, (now, done));
        }
    }

    /// Gives all feeds back by a time.
    pub(super) async fn stop(&mut self, deadline: Instant, grace: Duration) {
        self.wanted.clear();
        self.to_acquire.clear();
        for feed in self.feeds.values() {
            feed.stop_by(deadline);
        }
        let all = async {
            while !self.feeds.is_empty() || !self.under_acquisition.is_empty() {
                self.advance().await;
                for feed in self.feeds.values() {
                    feed.stop_by(deadline);
                }
            }
        };
        if timeout(deadline - Instant::now() + grace, all).await.is_err() {
            tracing::warn!(feeds = self.feeds.len(), "feeds were not given back in time");
        }
    }

    /// Returns a sentence for each webhook of which nothing is delivered, or checks fail.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<_> =
            self.endpoints.values().filter_map(|known| known.endpoint.warning()).collect();
        for (name, known) in &self.endpoints {
            let feed = |partition| FeedId { webhook: name.clone(), partition };
            let feeds = self.feeds.range(feed(0)..=feed(usize::MAX));
            let stills: Vec<_> = feeds.filter_map(|(_, feed)| feed.status.standstill()).collect();
            let Some((longest, failure)) = stills.iter().max_by_key(|(still, _)| *still) else {
                continue;
            };
            if known.endpoint.is_open() {
                let (feeds, seconds) = (stills.len(), longest.as_secs());
                let cause = failure.as_deref().unwrap_or("no attempt has failed");
                let probed =
                    if known.endpoint.is_circuit_open() { ", and it is only probed" } else { "" };
                warnings.push(format!(
                    "webhook {name}: nothing was delivered of {feeds} partitions for {seconds} s{probed}: {cause}"
                ));
            }
        }
        warnings
    }
}

impl OwnedFeed {
    /// Stops it by a time, or by an earlier one if that was set.
    fn stop_by(&self, deadline: Instant) {
        self.stop.send_if_modified(|stop| {
            let earlier = stop.map_or(deadline, |known| known.min(deadline));
            stop.replace(earlier) != Some(earlier)
        });
    }
}

async fn acquire(context: Arc<Context>, feed: FeedId) -> Acquisition {
    let token = format!("{}:{:016x}", context.process, random::<u64>());
    let lease = Lease { feed, token: token.into() };
    let max_age_ms = u64::try_from(context.config.max_age.as_millis()).unwrap_or(u64::MAX);
    let begin_ms = (context.clock)().saturating_sub(max_age_ms);
    let begin = EntryId { ms: begin_ms, count: 0 };
    let sent = Instant::now();
    let acquired = timeout(ACQUIRE_TIMEOUT, context.store.acquire(&lease, LEASE_TTL, begin)).await;
    let result =
        acquired.unwrap_or_else(|_| Err(StoreError::unavailable("no answer to an acquisition")));
    Acquisition { lease, sent, result }
}
