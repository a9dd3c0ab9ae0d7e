//! Sends calls again that a node provably did not run.
//!
//! A call whose outcome is unknown, since its connection broke, is never sent again: the caller does that,
//! and is answered truthfully.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep};

use super::cluster::redirect::NotRun;
use super::connection::NOT_CONNECTED;
use super::marks::acks::Way;
use super::node::Node;
use super::partitions::PartitionStore;
use super::store::RedisStore;
use crate::chance::random_range;
use crate::store::StoreError;

/// The first pause before a call is sent again, and the longest. Each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// How long a call waits for a node to be connected to which it was sent on.
const CONNECTED_WITHIN: Duration = Duration::from_secs(1);

/// Pauses between attempts, which grow.
struct Pauses(Duration);

impl Pauses {
    async fn next(&mut self) {
        // At random, so that calls of many servers do not come together.
        let pause = self.0.mul_f64(random_range(0.5..1.0));
        self.0 = (2 * self.0).min(PAUSE_MAX);
        sleep(pause).await;
    }
}

/// Where a call is sent.
pub(super) struct Route<'a> {
    store: &'a RedisStore,
    partition: &'a PartitionStore,
    pub(super) node: Arc<Node>,
    pub(super) way: Way,
    /// Once the call is sent again.
    again: Option<Again<'a>>,
}

struct Again<'a> {
    _waiting: SemaphorePermit<'a>,
    pauses: Pauses,
}

impl RedisStore {
    /// Returns where calls of a partition are sent. A cluster's that has just got another node is waited for,
    /// until it was checked there.
    pub(super) async fn route<'a>(
        &'a self,
        partition: &'a PartitionStore,
    ) -> Result<Route<'a>, StoreError> {
        let node = match partition.node() {
            Err(_) if self.cluster.is_some() && partition.trouble().is_none() => {
                // Boxed: a partition has another node seldom.
                Box::pin(wait_for_node(partition)).await?
            }
            node => node?,
        };
        Ok(Route { store: self, partition, node, way: Way::Plain, again: None })
    }

    /// Returns whether another server takes over when a master is lost, or has its slots moved.
    pub(super) fn fails_over(&self) -> bool {
        self.has_sentinels || self.cluster.is_some()
    }

    /// Returns why a call was not run, if it is to be sent again.
    pub(super) fn retries_at(&self, error: &StoreError) -> Option<NotRun> {
        if self.has_sentinels && was_not_sent(error)
            || self.cluster.is_some() && was_not_connected_yet(error)
        {
            return Some(NotRun::Later);
        }
        if self.fails_over() { NotRun::of(error) } else { None }
    }
}

async fn wait_for_node(partition: &PartitionStore) -> Result<Arc<Node>, StoreError> {
    let Ok(_waiting) = partition.retries.try_acquire() else { return partition.node() };
    let (since, mut pauses) = (Instant::now(), Pauses(FIRST_PAUSE));
    while partition.node().is_err()
        && partition.trouble().is_none()
        && since.elapsed() < CONNECTED_WITHIN
    {
        pauses.next().await;
    }
    partition.node()
}

/// Returns whether there was no connection for a call.
fn was_not_sent(error: &StoreError) -> bool {
    error.with_text(|text| text.starts_with(NOT_CONNECTED))
}

/// Returns whether the node has never been connected to: a replica that was just promoted.
fn was_not_connected_yet(error: &StoreError) -> bool {
    error.with_text(|text| text == NOT_CONNECTED)
}

impl Route<'_> {
    /// Returns whether the call is to be sent again, after a moment and perhaps elsewhere: it provably was
    /// not run.
    pub(super) async fn is_to_be_sent_again<T>(&mut self, called: &Result<T, StoreError>) -> bool {
        let Err(error) = called else { return false };
        match self.store.retries_at(error) {
            // Boxed: slots and masters change seldom.
            Some(not_run) => Box::pin(self.find_again(not_run)).await,
            None => false,
        }
    }

    async fn find_again(&mut self, not_run: NotRun) -> bool {
        let Self { store, partition, again, .. } = self;
        let again = if let Some(again) = again {
            again
        } else {
            let Ok(waiting) = partition.retries.try_acquire() else { return false };
            again.insert(Again { _waiting: waiting, pauses: Pauses(FIRST_PAUSE) })
        };
        // The probe knows already that the partition is not served: whoever calls hears it at once.
        if not_run == NotRun::Later && partition.trouble().is_some() {
            return false;
        }
        let asked = match not_run {
            NotRun::Ask(address) => {
                let cluster = store.cluster.as_ref();
                cluster.and_then(|all| all.node(&address, &self.node.parts.name))
            }
            NotRun::Moved | NotRun::Later => None,
        };
        if asked.is_none() {
            store.shared.note_node_change();
            again.pauses.next().await;
        }
        let since = Instant::now();
        // Behind Sentinels there is no other node to try. A cluster's may be gone for long.
        let may_be_found =
            || partition.assigned().is_some_and(|node| node.connections().may_be_back_soon());
        let is_worth_waiting = || {
            if store.has_sentinels { may_be_found() } else { since.elapsed() < CONNECTED_WITHIN }
        };
        loop {
            let node = asked.clone().or_else(|| partition.node().ok());
            if let Some(node) = node.filter(|node| node.connections().are_living()) {
                self.way = if asked.is_some() { Way::Asking } else { Way::Plain };
                self.node = node;
                return true;
            }
            if !is_worth_waiting() || store.cluster.is_some() && partition.trouble().is_some() {
                return false;
            }
            again.pauses.next().await;
        }
    }
}
