//! The masters of a cluster as operators' commands reach them: one connection each, looked for again when a
//! slot is elsewhere or a connection is lost. Every step of these commands may be done twice.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::ask_seeds;
use super::count::slot_of_count;
use super::tags::{Tag, tags};
use super::topology::{Address, Topology, View};
use crate::store::StoreError;
use crate::store::redis::connection::mode::ClusterSeeds;

/// Shortest time between two looks at the cluster.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Longest time for a master to say how it sees the cluster, and to connect to it.
const VIEW_TIMEOUT: Duration = Duration::from_secs(2);

/// The masters of a cluster.
pub(crate) struct Masters {
    seeds: ClusterSeeds,
    tags: Vec<Tag>,
    config: AsyncConnectionConfig,
    /// What was found at the last look.
    found: RwLock<Arc<FoundMasters>>,
    /// The time of the last look.
    look: Mutex<Option<Instant>>,
}

/// The masters at one time.
#[derive(Default)]
struct FoundMasters {
    connections: HashMap<Address, MultiplexedConnection>,
    /// The master of each partition.
    owners: Vec<Option<Address>>,
    /// The master that has the number of partitions.
    count_owner: Option<Address>,
    /// Partitions whose slots are on their way from one master to another.
    moving: BTreeSet<usize>,
}

impl Masters {
    /// Finds the masters. Each partition must have one.
    pub(crate) async fn connect(
        seeds: &ClusterSeeds,
        config: AsyncConnectionConfig,
    ) -> Result<Arc<Self>, String> {
        let masters = Self {
            seeds: seeds.clone(),
            tags: tags(seeds.partitions),
            config,
            found: RwLock::default(),
            look: Mutex::default(),
        };
        masters.look_now().await?;
        Ok(Arc::new(masters))
    }

    /// Returns the tag of each partition.
    pub(crate) fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// Returns the connection to the master of a partition, as it was found last.
    pub(crate) fn of_partition(&self, partition: usize) -> Result<MultiplexedConnection, String> {
        let found = self.found();
        let slot = self.tags.get(partition).map_or(0, |tag| tag.slot);
        let Some(owner) = found.owners.get(partition).and_then(Option::as_ref) else {
            return Err(format!("no node of the cluster has slot {slot}"));
        };
        let connection = found.connections.get(owner);
        connection
            .cloned()
            .ok_or_else(|| format!("not connected to {owner}, which has slot {slot}"))
    }

    /// Returns the connection to the master that has the number of partitions.
    pub(crate) fn of_count(&self) -> Result<MultiplexedConnection, String> {
        let found = self.found();
        let owner = found.count_owner.as_ref().and_then(|owner| found.connections.get(owner));
        owner
            .cloned()
            .ok_or_else(|| "not connected to the node that has markread:layout".to_owned())
    }

    /// Returns the connections to the masters that have partitions, in a fixed order.
    pub(crate) fn all(&self) -> Result<Vec<MultiplexedConnection>, String> {
        let found = self.found();
        let addresses: BTreeSet<_> = found.owners.iter().flatten().collect();
        let of = |address: &Address| {
            let connection = found.connections.get(address).cloned();
            connection.ok_or_else(|| format!("not connected to {address}"))
        };
        addresses.into_iter().map(of).collect()
    }

    /// Returns the master of each partition; `None` while slots are on their way between masters, when the
    /// keys of one are at two.
    pub(crate) fn settled_owners(&self) -> Option<Vec<Option<Address>>> {
        let found = self.found();
        found.moving.is_empty().then(|| found.owners.clone())
    }

    /// Looks at the cluster again, unless somebody else has just done so.
    pub(crate) async fn look(&self) -> Result<(), String> {
        let asked = Instant::now();
        let last = *self.look.lock().await;
        match last {
            Some(last) if last >= asked => Ok(()),
            _ => self.look_now().await,
        }
    }

    async fn look_now(&self) -> Result<(), String> {
        let mut last = self.look.lock().await;
        if let Some(last) = *last {
            tokio::time::sleep_until(last + LOOK_INTERVAL).await;
        }
        let looked = self.find().await;
        *last = Some(Instant::now());
        let found = looked?;
        *self.found.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(found);
        Ok(())
    }

    async fn find(&self) -> Result<FoundMasters, String> {
        let mut connections = self.found().connections.clone();
        let views = self.ask_all(&mut connections).await;
        let mut views: Vec<_> = views.into_iter().map(|(_, view)| view).collect();
        if views.is_empty() {
            views = ask_seeds(&self.seeds.seeds).await?;
        }
        let topology = Topology::new(views);
        self.connect_all(&topology, &mut connections).await;
        // What is on its way only the masters themselves say.
        let views = self.ask_all(&mut connections).await;
        let moving: BTreeSet<u16> =
            views.iter().flat_map(|(_, view)| view.moving().iter().copied()).collect();
        let owners = topology.owners();
        let owner = |slot: u16| {
            let owner = owners.get(usize::from(slot)).copied().flatten();
            owner.map(|master| master.address.clone())
        };
        let of_partition = |tag: &Tag| owner(tag.slot);
        let is_moving = |(_, tag): &(usize, &Tag)| moving.contains(&tag.slot);
        let tags = self.tags.iter().enumerate();
        Ok(FoundMasters {
            owners: self.tags.iter().map(of_partition).collect(),
            count_owner: owner(slot_of_count()),
            moving: tags.filter(is_moving).map(|(partition, _)| partition).collect(),
            connections,
        })
    }

    /// Asks all masters how they see the cluster, and leaves those that do not answer.
    async fn ask_all(
        &self,
        connections: &mut HashMap<Address, MultiplexedConnection>,
    ) -> Vec<(Address, View)> {
        let asked = connections.iter().map(|(address, connection)| {
            let (address, mut connection) = (address.clone(), connection.clone());
            async move {
                let view = timeout(VIEW_TIMEOUT, View::ask(&mut connection, &address)).await;
                Some((address, view.ok()?.ok()?))
            }
        });
        let views: Vec<_> = join_all(asked).await.into_iter().flatten().collect();
        connections.retain(|address, _| views.iter().any(|(answered, _)| answered == address));
        views
    }

    async fn connect_all(
        &self,
        topology: &Topology,
        connections: &mut HashMap<Address, MultiplexedConnection>,
    ) {
        connections.retain(|address, _| topology.addresses().any(|known| known == address));
        let missing = topology.addresses().filter(|address| !connections.contains_key(address));
        let opened = missing.map(|address| async move {
            let client = self.seeds.at(address)?.client().ok()?;
            let connect = client.get_multiplexed_async_connection_with_config(&self.config);
            let connection = timeout(VIEW_TIMEOUT, connect).await.ok()?.ok()?;
            Some((address.clone(), connection))
        });
        let opened = join_all(opened).await;
        connections.extend(opened.into_iter().flatten());
    }

    fn found(&self) -> Arc<FoundMasters> {
        Arc::clone(&self.found.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for Masters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Masters").finish_non_exhaustive()
    }
}

/// Returns whether a step failed since the cluster has changed, or a connection was lost, so that it is to
/// be done again once the masters were looked for.
pub(crate) fn may_be_elsewhere(error: &StoreError) -> bool {
    super::redirect::NotRun::of(error).is_some() || error.with_text(|text| !has_code(text))
}

/// Returns whether a text is Redis's, and not one of a connection.
fn has_code(text: &str) -> bool {
    let code = text.split(' ').next().unwrap_or_default();
    !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_uppercase())
}
