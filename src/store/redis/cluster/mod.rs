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
use self::node_address::NodeAddress;
use self::topology::{Address, Master, Topology, View};
use super::connection::address::RedisAddress;
use super::connection::layout::LayoutMismatch;
use super::connection::link::Connect;
use super::connection::mode::ClusterSeeds;
use super::errors::classify;
use super::node::{Node, NodeMaker};
use super::parts::Shared;
use crate::chance::{random_range, rng};
use crate::store::{HealthReceiver, StoreError, StoreHealth};

pub(crate) mod count;
mod health;
pub(crate) mod masters;
mod node_address;
pub(crate) mod redirect;
#[cfg(test)]
mod simulation;
pub(crate) mod tags;
pub(crate) mod topology;

/// Time between two looks at the cluster: while all partitions are served, and while some are not.
const QUIET_INTERVAL: Duration = Duration::from_secs(5);
const UNSERVED_INTERVAL: Duration = Duration::from_millis(500);

/// Shortest time between two looks, however many calls are sent on.
const LOOK_PAUSE: Duration = Duration::from_millis(50);
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(400);

/// Why nothing is served when the cluster that a server knew is gone.
const ANOTHER_CLUSTER: &str = "--redis-url leads to another cluster than before: if that is intended, \
     restart this server";

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
    nodes: Mutex<BTreeMap<NodeKey, RunningNode>>,
    /// What was found at the last look. Who knows none of its nodes is of another cluster.
    last: Mutex<Topology>,
    /// Whether the store is known to have as many partitions as the settings say, and whether the key that
    /// has the number says so.
    is_counted: AtomicBool,
    count_was_read: AtomicBool,
    /// By slot.
    table: ArcSwap<SlotTable>,
    health: watch::Sender<StoreHealth>,
}

/// The node of each slot.
#[derive(Default)]
struct SlotTable(Vec<Option<Arc<Node>>>);

/// A node by its ID and where it is: at another address it is connected to anew, and another one at the same
/// address is another node.
type NodeKey = (String, Address);

/// A node, and the task that keeps it connected.
struct RunningNode {
    node: Arc<Node>,
    /// All by which other nodes may name it.
    names: Vec<Address>,
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
        let (nodes, last, table) = Default::default();
        let (is_counted, count_was_read) = Default::default();
        let cluster = Arc::new(Self {
            settings,
            maker,
            shared,
            nodes,
            last,
            is_counted,
            count_was_read,
            table,
            health,
        });
        let followed = Arc::clone(&cluster);
        let follow = async move {
            tokio::select! {
                biased;
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
        let nodes = self.nodes();
        let named = nodes.values().find(|running| running.names.contains(&address));
        named.map(|running| Arc::clone(&running.node))
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
        let mut pause = LOOK_PAUSE;
        loop {
            match self.look().await {
                Ok(topology) => {
                    let has_changed = self.apply(&topology, &mut supervisors);
                    // Whoever asks again and again for a look that finds nothing waits longer.
                    pause = if has_changed { LOOK_PAUSE } else { (2 * pause).min(LOOK_PAUSE_MAX) };
                    match self.count_partitions().await {
                        Ok(Counted::Now) => continue,
                        Ok(Counted::Before) => {}
                        Ok(Counted::Other(mismatch)) => return mismatch,
                        Err(cause) => self.note_unknown(&cause),
                    }
                }
                Err(cause) => self.note_unknown(&cause),
            }
            sleep(pause).await;
            let interval = if self.is_served() { QUIET_INTERVAL } else { UNSERVED_INTERVAL };
            let interval = interval.mul_f64(random_range(0.8..1.2));
            let Some(changes) = &self.shared.changes else { continue };
            tokio::select! {
                biased;
                () = changes.nodes.notified() => {}
                () = sleep(interval) => {}
                Some(Ok(mismatch)) = supervisors.join_next() => return mismatch,
            }
        }
    }

    /// Asks some nodes how they see the cluster; the seeds if none says how it is.
    async fn look(&self) -> Result<Topology, String> {
        let known: Vec<_> = {
            let nodes = self.nodes();
            let living = nodes.iter().filter(|(_, one)| one.node.connections().are_living());
            let living = living.map(|((_, address), one)| (address.clone(), Arc::clone(&one.node)));
            living.choose_multiple(&mut rng(), ASKED_NODES)
        };
        let views = known.iter().map(|(address, node)| async move {
            let mut connection = node.connections().calls()?;
            let asked = timeout(VIEW_TIMEOUT, View::ask(&mut connection, address)).await;
            asked.map_err(StoreError::unavailable)?
        });
        let views: Vec<View> = join_all(views).await.into_iter().flatten().collect();
        let mut topology = Topology::new(self.of_this_cluster(views));
        let owners = topology.owners();
        let is_owned = |slot: u16| owners.get(usize::from(slot)).is_some_and(Option::is_some);
        if !self.shared.partitions.all().iter().filter_map(|one| one.slot).all(is_owned) {
            // Perhaps these nodes see less than others.
            match ask_seeds(&self.settings.seeds).await {
                Ok(seen) => {
                    let seen = self.of_this_cluster(seen);
                    if seen.is_empty() && topology.nodes.is_empty() {
                        return Err(ANOTHER_CLUSTER.to_owned());
                    }
                    topology = Topology::merge(topology, seen);
                }
                Err(cause) if topology.nodes.is_empty() => return Err(cause),
                Err(_) => {}
            }
        }
        let mut last = self.last();
        topology.remember(&last, Instant::now());
        last.clone_from(&topology);
        Ok(topology)
    }

    /// Leaves out the views of nodes that are not, or no more, of this cluster.
    fn of_this_cluster(&self, views: Vec<View>) -> Vec<View> {
        let last = self.last();
        views.into_iter().filter(|view| view.is_of(&last.nodes)).collect()
    }

    /// Connects to new masters, leaves those that are gone, and gives each partition its node. Returns whether
    /// anything is new.
    fn apply(&self, topology: &Topology, supervisors: &mut JoinSet<LayoutMismatch>) -> bool {
        let key = |master: &Master| (master.id.clone(), master.address.clone());
        let mut nodes = self.nodes();
        let mut has_changed = false;
        for master in topology.masters() {
            let (id, address) = key(master);
            if !nodes.contains_key(&(id.clone(), address.clone()))
                && let Some(redis) = self.settings.at(&address)
            {
                let connect = NodeAddress { address: redis, id: id.clone() };
                let (node, run) = self.maker.of_cluster(connect, &address);
                let (supervisor, names) = (supervisors.spawn(run), master.names.clone());
                nodes.insert((id, address), RunningNode { node, names, supervisor });
                has_changed = true;
            }
        }
        let owners = topology.owners();
        let owner = |slot: u16| owners.get(usize::from(slot)).copied().flatten().map(key);
        let node_of = |master: Option<&Master>| {
            let running = nodes.get(&key(master?))?;
            Some(Arc::clone(&running.node))
        };
        self.table.store(Arc::new(SlotTable(owners.iter().copied().map(node_of).collect())));
        let mut moved = 0;
        let mut served: HashMap<NodeKey, Vec<_>> = HashMap::new();
        let is_counted = self.is_counted.load(Ordering::Relaxed);
        for partition in self.shared.partitions.all() {
            let owner = partition.slot.filter(|_| is_counted).and_then(owner);
            let running = owner.as_ref().and_then(|owner| nodes.get(owner));
            if is_counted && running.is_none() {
                partition.set_trouble(Some("no node of the cluster has its slot".to_owned()));
            }
            moved += usize::from(partition.set_node(running.map(|one| &one.node)));
            if let Some(owner) = owner {
                served.entry(owner).or_default().push(Arc::clone(partition));
            }
        }
        for (key, running) in &*nodes {
            running.node.parts.set_served(served.remove(key).unwrap_or_default());
        }
        nodes.retain(|(id, address), _| {
            let is_it = |master: &Master| master.id == *id && master.address == *address;
            let is_there = topology.masters().any(is_it);
            if !is_there {
                self.shared.totals.forget_node(&address.to_string());
                tracing::info!(redis = ?address.to_string(), "a node is no master of the cluster any more");
                has_changed = true;
            }
            is_there
        });
        if moved > 0 {
            // A replica that was promoted may not have all that was counted.
            self.shared.clear_denials();
            tracing::info!(partitions = moved, masters = nodes.len(), "partitions of the cluster");
            self.shared.note_health_change();
        }
        has_changed || moved > 0
    }

    /// Compares the number of partitions with the store's, before any partition is used. The error is why that
    /// is not possible yet.
    async fn count_partitions(&self) -> Result<Counted, String> {
        if self.count_was_read.load(Ordering::Relaxed) {
            return Ok(Counted::Before);
        }
        let was_counted = self.is_counted.load(Ordering::Relaxed);
        let counted = match self.read_count().await {
            Ok(Ok(())) => {
                self.count_was_read.store(true, Ordering::Relaxed);
                true
            }
            Ok(Err(mismatch)) if !was_counted => return Ok(Counted::Other(mismatch)),
            // The layout of a partition says it too: where it is depends on the number.
            Err(cause) if !was_counted && !self.has_layout().await => return Err(cause),
            // Partitions are served already, by what their layouts say.
            Ok(Err(_)) | Err(_) => true,
        };
        self.is_counted.store(counted, Ordering::Relaxed);
        Ok(if was_counted { Counted::Before } else { Counted::Now })
    }

    /// Reads the number of partitions from its key.
    async fn read_count(&self) -> Result<Result<(), LayoutMismatch>, String> {
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
        checked.map_err(|error| unknown(classify(error).to_string()))
    }

    /// Returns whether any partition that can be reached has a layout.
    async fn has_layout(&self) -> bool {
        let looks = self.shared.partitions.all().iter().map(|partition| async move {
            let node = self.node_of_slot(partition.slot?)?;
            let mut connection = node.connections().calls().ok()?;
            let read = count::has_layout(&mut connection, &partition.keys);
            timeout(VIEW_TIMEOUT, read).await.ok()?.ok()
        });
        join_all(looks).await.contains(&Some(true))
    }

    /// Notes that no node says how the cluster looks.
    fn note_unknown(&self, cause: &str) {
        for partition in self.shared.partitions.all() {
            if partition.assigned().is_none() {
                partition.set_trouble(Some(cause.to_owned()));
            }
        }
        self.shared.note_health_change();
    }

    fn last(&self) -> MutexGuard<'_, Topology> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeKey, RunningNode>> {
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
