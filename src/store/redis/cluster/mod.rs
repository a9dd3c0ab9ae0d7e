//! The masters of a cluster: one [`Node`] each, and partition to slot to node in one table, renewed when a
//! node says that a slot is elsewhere, when a connection is lost, and every few seconds.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use rand::seq::IteratorRandom;
use redis::AsyncConnectionConfig;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use self::count::slot_of_count;
use self::tags::SLOTS;
use self::topology::{Address, Topology, View};
use super::connection::address::RedisAddress;
use super::connection::layout::LayoutMismatch;
use super::connection::link::Connect;
use super::connection::mode::ClusterSeeds;
use super::errors::classify;
use super::node::{Node, NodeMaker};
use super::parts::Shared;
use crate::store::{HealthReceiver, StoreError, StoreHealth};

pub(crate) mod count;
mod health;
pub(crate) mod masters;
pub(crate) mod redirect;
pub(crate) mod tags;
pub(crate) mod topology;

/// Time between two looks at the cluster: while all partitions are served, and while some are not.
const QUIET_INTERVAL: Duration = Duration::from_secs(5);
const UNSERVED_INTERVAL: Duration = Duration::from_millis(500);

/// Shortest time between two looks, however many calls are sent on.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Nodes that are asked in a look: a node that was cut off from the others may see the past.
const ASKED_NODES: usize = 3;

/// Longest time for the answer of a node, and to connect to a seed for it.
const VIEW_TIMEOUT: Duration = Duration::from_millis(500);
const SEED_TIMEOUT: Duration = Duration::from_secs(2);

/// A cluster.
pub(crate) struct Cluster {
    settings: ClusterSeeds,
    maker: NodeMaker,
    shared: Arc<Shared>,
    nodes: Mutex<HashMap<Address, RunningNode>>,
    /// Whether the store is known to have as many partitions as the settings say.
    is_counted: AtomicBool,
    /// By slot.
    table: ArcSwap<SlotTable>,
    health: watch::Sender<StoreHealth>,
}

/// The node of each slot.
#[derive(Default)]
struct SlotTable(Vec<Option<Arc<Node>>>);

/// A node, and the task that keeps it connected.
struct RunningNode {
    node: Arc<Node>,
    supervisor: AbortHandle,
}

/// Whether the store has as many partitions as the settings say.
enum Counted {
    Before,
    Now,
    Other(LayoutMismatch),
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

impl Cluster {
    /// Creates a cluster, and the task that follows it. The task ends only if the first Redis it meets has
    /// another layout.
    pub(crate) fn new(
        settings: ClusterSeeds,
        maker: NodeMaker,
    ) -> (Arc<Self>, impl Future<Output = LayoutMismatch> + use<>) {
        let shared = Arc::clone(&maker.shared);
        let health = watch::Sender::new(StoreHealth::Away("not connected yet".to_owned()));
        let (nodes, table, is_counted) = Default::default();
        let cluster = Self { settings, maker, shared, nodes, is_counted, table, health };
        let cluster = Arc::new(cluster);
        let followed = Arc::clone(&cluster);
        let follow = async move {
            tokio::select! {
                mismatch = followed.follow() => mismatch,
                never = followed.report_health() => match never {},
            }
        };
        (cluster, follow)
    }

    /// Subscribes to the health.
    pub(crate) fn health(&self) -> HealthReceiver {
        self.health.subscribe()
    }

    /// Returns the node at an address that another node has named. A host that it does not know is its own.
    pub(crate) fn node(&self, address: &str, named_by: &str) -> Option<Arc<Node>> {
        let mut address = Address::parse(address)?;
        if address.host.is_empty() || address.host == "?" {
            address.host = Address::parse(named_by)?.host;
        }
        self.nodes().get(&address).map(|running| Arc::clone(&running.node))
    }

    /// Returns the node that has a slot.
    pub(crate) fn node_of_slot(&self, slot: u16) -> Option<Arc<Node>> {
        self.table.load().0.get(usize::from(slot))?.clone()
    }

    /// Returns all nodes.
    pub(crate) fn all_nodes(&self) -> Vec<Arc<Node>> {
        self.nodes().values().map(|running| Arc::clone(&running.node)).collect()
    }

    /// Follows the cluster, until a node has another layout.
    async fn follow(&self) -> LayoutMismatch {
        let mut supervisors = JoinSet::new();
        loop {
            match self.look().await {
                Ok(topology) => {
                    self.apply(&topology, &mut supervisors);
                    match self.count_partitions().await {
                        Ok(Counted::Now) => continue,
                        Ok(Counted::Before) => {}
                        Ok(Counted::Other(mismatch)) => return mismatch,
                        Err(cause) => self.note_unknown(&cause),
                    }
                }
                Err(cause) => self.note_unknown(&cause),
            }
            sleep(LOOK_PAUSE).await;
            let interval = if self.is_served() { QUIET_INTERVAL } else { UNSERVED_INTERVAL };
            let interval = interval.mul_f64(rand::random_range(0.8..1.2));
            let Some(changes) = &self.shared.changes else { continue };
            tokio::select! {
                () = changes.nodes.notified() => {}
                () = sleep(interval) => {}
                Some(Ok(mismatch)) = supervisors.join_next() => return mismatch,
            }
        }
    }

    /// Asks some nodes how they see the cluster; the seeds while there is none.
    async fn look(&self) -> Result<Topology, String> {
        let known: Vec<_> = {
            let nodes = self.nodes();
            let living = nodes.iter().filter(|(_, one)| one.node.connections().are_living());
            let living = living.map(|(address, one)| (address.clone(), Arc::clone(&one.node)));
            living.choose_multiple(&mut rand::rng(), ASKED_NODES)
        };
        let views = known.iter().map(|(address, node)| async move {
            let mut connection = node.connections().calls()?;
            let asked = timeout(VIEW_TIMEOUT, View::ask(&mut connection, address)).await;
            asked.map_err(StoreError::unavailable)?
        });
        let views: Vec<View> = join_all(views).await.into_iter().flatten().collect();
        let views = if views.is_empty() { ask_seeds(&self.settings.seeds).await? } else { views };
        Ok(Topology::new(views))
    }

    /// Connects to new masters, leaves those that are gone, and gives each partition its node.
    fn apply(&self, topology: &Topology, supervisors: &mut JoinSet<LayoutMismatch>) {
        let mut nodes = self.nodes();
        for address in topology.addresses() {
            if !nodes.contains_key(address)
                && let Some(connect) = self.settings.at(address)
            {
                let (node, run) = self.maker.of_cluster(connect, address);
                let supervisor = supervisors.spawn(run);
                nodes.insert(address.clone(), RunningNode { node, supervisor });
            }
        }
        let node_of = |slot| {
            let running = nodes.get(topology.owner(slot)?)?;
            Some(Arc::clone(&running.node))
        };
        self.table.store(Arc::new(SlotTable((0..SLOTS).map(node_of).collect())));
        let mut moved = 0;
        let mut served: BTreeMap<&Address, Vec<_>> = BTreeMap::new();
        for partition in self.shared.partitions.all() {
            let is_counted = self.is_counted.load(Ordering::Relaxed);
            let slot = partition.slot.filter(|_| is_counted);
            let owner = slot.and_then(|slot| topology.owner(slot));
            let node = owner.and_then(|owner| nodes.get(owner));
            if is_counted && node.is_none() {
                partition.set_trouble(Some("no node of the cluster has its slot".to_owned()));
            }
            moved += usize::from(partition.set_node(node.map(|one| &one.node)));
            if let Some(owner) = owner {
                served.entry(owner).or_default().push(Arc::clone(partition));
            }
        }
        for (address, running) in &*nodes {
            let served = served.remove(address).unwrap_or_default();
            running.node.parts.served.store(Arc::new(served));
        }
        nodes.retain(|address, _| {
            let is_there = topology.addresses().any(|one| one == address);
            if !is_there {
                self.shared.totals.forget_node(&address.to_string());
                tracing::info!(redis = %address, "a node is no master of the cluster any more");
            }
            is_there
        });
        if moved > 0 {
            // A replica that was promoted may not have all that was counted.
            self.shared.clear_denials();
            tracing::info!(partitions = moved, masters = nodes.len(), "partitions of the cluster");
            self.shared.note_health_change();
        }
    }

    /// Compares the number of partitions with the store's, before any partition is used. The error is why that
    /// is not possible yet.
    async fn count_partitions(&self) -> Result<Counted, String> {
        if self.is_counted.load(Ordering::Relaxed) {
            return Ok(Counted::Before);
        }
        let slot = slot_of_count();
        let node = self.node_of_slot(slot);
        let node = node.ok_or_else(|| format!("no node of the cluster has slot {slot}"))?;
        let since = Instant::now();
        while !node.connections().are_living() && since.elapsed() < VIEW_TIMEOUT {
            sleep(LOOK_PAUSE).await;
        }
        let unknown = |cause: String| {
            let name = &node.parts.name;
            format!("{name}, which has the number of partitions (markread:layout): {cause}")
        };
        if let StoreHealth::Away(cause) = &*node.connections().health().borrow()
            && !node.connections().are_living()
        {
            return Err(unknown(cause.clone()));
        }
        let mut connection =
            node.connections().calls().map_err(|error| unknown(error.to_string()))?;
        let check = count::check(&mut connection, self.settings.partitions);
        let checked = timeout(VIEW_TIMEOUT, check).await;
        let checked = checked.map_err(|late| unknown(late.to_string()))?;
        match checked.map_err(|error| unknown(classify(error).to_string()))? {
            Ok(()) => {
                self.is_counted.store(true, Ordering::Relaxed);
                Ok(Counted::Now)
            }
            Err(mismatch) => Ok(Counted::Other(mismatch)),
        }
    }

    /// Notes that no node says how the cluster looks.
    fn note_unknown(&self, cause: &str) {
        for partition in self.shared.partitions.all() {
            if partition.node().is_err() {
                partition.set_trouble(Some(cause.to_owned()));
            }
        }
        self.shared.note_health_change();
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<Address, RunningNode>> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the seeds how they see the cluster.
async fn ask_seeds(seeds: &[RedisAddress]) -> Result<Vec<View>, String> {
    let views = seeds.iter().map(async |seed| {
        let ask = async {
            let client = seed.client()?;
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(None)
                .set_response_timeout(None);
            let connected = RedisAddress::connect(&client, &config).await;
            let mut connection = connected.map_err(|failure| failure.to_string())?;
            let address = Address::of(seed)
                .ok_or_else(|| "--redis-url must have a host in a cluster".to_owned())?;
            let view = View::ask(&mut connection, &address).await;
            view.map(|view| (address, view)).map_err(|error| error.to_string())
        };
        let asked = timeout(SEED_TIMEOUT, ask).await;
        let asked = asked.unwrap_or_else(|_| Err("connecting timed out".to_owned()));
        let name = Address::of(seed).map(|address| address.to_string()).unwrap_or_default();
        asked.map_err(|cause| format!("{name}: {cause}"))
    });
    let mut answers = Vec::new();
    let mut cause = None;
    for view in join_all(views).await {
        match view {
            Ok(view) => answers.push(view),
            Err(problem) => cause = cause.or(Some(problem)),
        }
    }
    let Some((first, others)) = answers.split_first() else {
        return Err(cause.unwrap_or_else(|| "there is no --redis-url".to_owned()));
    };
    if let Some((other, _)) = others.iter().find(|(_, view)| !view.is_of_same_cluster(&first.1)) {
        let first = &first.0;
        return Err(format!("--redis-url names nodes of two clusters: {first} and {other}"));
    }
    Ok(answers.into_iter().map(|(_, view)| view).collect())
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}
