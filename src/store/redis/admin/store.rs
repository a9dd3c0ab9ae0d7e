//! All partitions of a store, and the Redis processes that have them.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tokio::time::sleep;

use super::AdminError;
use super::connection::AdminConnection;
use super::cursors::{CursorAdmin, READERS_AT_ONCE, Scripts};
use super::put::{PutReply, PutRule};
use crate::domain::{CursorRecord, UserId};
use crate::store::StoreError;
use crate::store::redis::cluster::count;
use crate::store::redis::cluster::masters::{Masters, may_be_elsewhere};
use crate::store::redis::cluster::tags::partition_of;
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::errors::classify;
use crate::store::redis::keys::{Keys, Partition};
use crate::store::redis::probe::durability;

/// How often all keys are walked through again, since slots were moved meanwhile.
const WALKS_MAX: u32 = 5;

/// How often a partition's master is looked for when a command begins.
const MASTER_TRIES: u32 = 10;

/// Time between two looks while slots are on their way between the nodes of a cluster.
const SETTLE_INTERVAL: Duration = Duration::from_millis(500);

/// All partitions of a store.
#[derive(Clone)]
pub struct StoreAdmin {
    pub(super) partitions: Vec<CursorAdmin>,
    pub(super) nodes: Vec<Node>,
    cluster: Option<Arc<Masters>>,
    /// The master of each partition, when the nodes were looked for.
    owners: Vec<Option<Address>>,
    database: i64,
    /// Whether the run IDs of nodes are needed.
    needs_run_ids: bool,
}

/// A Redis process.
#[derive(Clone)]
pub(super) struct Node {
    pub(super) connection: AdminConnection,
    /// Its run ID, which a restart changes, if it was asked for.
    pub(super) run_id: String,
}

/// Readers that one step of SCAN has found, each of them once, by partition.
pub type FoundReaders = Vec<(usize, Vec<UserId>)>;

/// A walk through the keys of all nodes.
#[derive(Clone, Debug, Default)]
pub struct StoreScan {
    nodes: usize,
    node: usize,
    at: u64,
    walks: u32,
    is_done: bool,
}

impl StoreScan {
    /// Returns the position of each node's SCAN; `None`: it is done.
    pub fn positions(&self) -> Vec<Option<u64>> {
        let of = |node: usize| match node.cmp(&self.node) {
            Ordering::Less => None,
            Ordering::Equal => Some(self.at),
            Ordering::Greater => Some(0),
        };
        (0..self.nodes).map(of).collect()
    }

    fn again(&mut self, cause: &str) -> Result<(), AdminError> {
        if self.walks >= WALKS_MAX {
            return Err(AdminError::Failed(format!(
                "the cluster changes all the time: run the command again when it stays as it is: {cause}"
            )));
        }
        *self = Self { walks: self.walks + 1, ..Self::default() };
        Ok(())
    }
}

/// What is done if the number of partitions is not in the cluster yet.
#[derive(Clone, Copy)]
enum IfAbsent {
    Write,
    Leave,
}

/// Connects to the master of a partition. While its slot goes from one to another, there may be none.
async fn of_partition(
    masters: &Arc<Masters>,
    partition: usize,
) -> Result<AdminConnection, AdminError> {
    for _ in 0..MASTER_TRIES {
        if let Ok(connection) = AdminConnection::of_partition(masters, partition) {
            return Ok(connection);
        }
        sleep(SETTLE_INTERVAL).await;
        masters.look().await.map_err(AdminError::Failed)?;
    }
    AdminConnection::of_partition(masters, partition)
}

impl fmt::Debug for StoreAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreAdmin").finish_non_exhaustive()
    }
}

impl StoreAdmin {
    /// Connects to a store that has a layout, and whose stream of events has this name.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was written.
    pub async fn connect(mode: &RedisMode, stream: &str) -> Result<Self, AdminError> {
        let mut store = Self::open(mode, stream).await?;
        store.check_count(IfAbsent::Leave).await?;
        for partition in &mut store.partitions {
            partition.read_layout().await?;
        }
        Ok(store)
    }

    /// The same, also if the cursors were moved to another Redis.
    pub(super) async fn connect_to_move(
        mode: &RedisMode,
        stream: &str,
    ) -> Result<Self, AdminError> {
        let mut store = Self::open(mode, stream).await?;
        store.check_count(IfAbsent::Leave).await?;
        for partition in &mut store.partitions {
            partition.accept_moved();
            partition.read_layout().await?;
        }
        store.find_run_ids().await?;
        Ok(store)
    }

    /// Connects, and writes the layout if it is absent. Returns also whether it was.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn connect_or_create(mode: &RedisMode) -> Result<(Self, bool), AdminError> {
        let mut store = Self::open(mode, "").await?;
        let was_absent = store.create_layout().await?;
        Ok((store, was_absent))
    }

    /// The same for the destination of a move: each of its nodes must be a master that keeps all cursors.
    /// Returns also what may lose them nevertheless.
    pub(super) async fn connect_destination(
        mode: &RedisMode,
    ) -> Result<(Self, Vec<&'static str>), AdminError> {
        let mut store = Self::open(mode, "").await?;
        store.find_run_ids().await?;
        let mut warnings = Vec::new();
        for node in &mut store.nodes {
            warnings.extend(node.warnings().await?);
        }
        if warnings.contains(&durability::EVICTS) {
            return Err(AdminError::Failed(durability::EVICTS.to_owned()));
        }
        warnings.sort_unstable();
        warnings.dedup();
        store.create_layout().await?;
        Ok((store, warnings))
    }

    async fn create_layout(&mut self) -> Result<bool, AdminError> {
        self.check_count(IfAbsent::Write).await?;
        let mut was_absent = false;
        for partition in &mut self.partitions {
            was_absent |= partition.create_layout().await?;
        }
        Ok(was_absent)
    }

    /// Compares the number of partitions of a cluster's store with the settings'. Another one has other keys.
    async fn check_count(&self, if_absent: IfAbsent) -> Result<(), AdminError> {
        let Some(cluster) = &self.cluster else { return Ok(()) };
        let expected = u16::try_from(cluster.tags().len()).unwrap_or(u16::MAX);
        let mut connection = cluster.of_count().map_err(AdminError::Failed)?;
        let checked = match if_absent {
            IfAbsent::Write => count::check(&mut connection, expected).await?,
            IfAbsent::Leave => count::compare(&mut connection, expected).await?,
        };
        checked.map_err(AdminError::Layout)
    }

    /// Connects, and looks at no layout.
    pub(super) async fn open(mode: &RedisMode, stream: &str) -> Result<Self, AdminError> {
        let scripts = Arc::new(Scripts::new());
        // The prefix of user objects does not matter here.
        let keys = |partition| Keys::new(partition, stream, "");
        let (mut partitions, mut cluster) = (Vec::new(), None);
        if let RedisMode::Cluster(seeds) = mode {
            let masters = Masters::connect(seeds, AdminConnection::config()).await;
            let masters = masters.map_err(AdminError::Failed)?;
            for (number, tag) in masters.tags().iter().enumerate() {
                let connection = of_partition(&masters, number).await?;
                let partition = Partition::Tagged { tag: tag.tag, count: seeds.partitions };
                partitions.push(CursorAdmin::new(connection, keys(partition), &scripts));
            }
            cluster = Some(masters);
        } else {
            let keys = keys(Partition::Only);
            let connection = AdminConnection::connect(mode, &keys).await?;
            partitions.push(CursorAdmin::new(connection, keys, &scripts));
        }
        let (nodes, owners) = Default::default();
        let (database, needs_run_ids) = (mode.database(), false);
        Ok(Self { partitions, nodes, cluster, owners, database, needs_run_ids })
    }

    /// Returns the partition of a reader.
    ///
    /// # Errors
    ///
    /// [`AdminError`], which does not occur.
    pub fn of(&mut self, reader: UserId) -> Result<&mut CursorAdmin, AdminError> {
        let number = self.partition_of(reader);
        self.partition(number)
    }

    /// Returns a partition by its number.
    ///
    /// # Errors
    ///
    /// [`AdminError`], if there is none.
    pub fn partition(&mut self, number: usize) -> Result<&mut CursorAdmin, AdminError> {
        let partition = self.partitions.get_mut(number);
        partition.ok_or_else(|| AdminError::Failed(format!("there is no partition {number}")))
    }

    /// Returns the number of a reader's partition.
    pub(super) fn partition_of(&self, reader: UserId) -> usize {
        partition_of(reader, u16::try_from(self.partitions.len()).unwrap_or(u16::MAX))
    }

    /// Puts cursors, those of a partition in order, each for itself.
    ///
    /// # Errors
    ///
    /// [`AdminError`]: Redis is away or refuses, and some of the cursors may have been put.
    pub async fn put(
        &mut self,
        records: &[CursorRecord],
        rule: PutRule,
    ) -> Result<PutReply, AdminError> {
        if let [only] = &mut self.partitions[..] {
            return only.put(records, rule).await;
        }
        let mut by_partition: HashMap<usize, (Vec<usize>, Vec<CursorRecord>)> = HashMap::new();
        for (index, record) in records.iter().enumerate() {
            let partition = self.partition_of(record.conversation.reader);
            let (indexes, of_partition) = by_partition.entry(partition).or_default();
            indexes.push(index);
            of_partition.push(*record);
        }
        let mut unmoved = None;
        let mut outcomes = Vec::with_capacity(records.len());
        for (partition, (indexes, records)) in by_partition {
            let reply = self.partition(partition)?.put(&records, rule).await?;
            unmoved = unmoved.or(reply.unmoved);
            outcomes.extend(indexes.into_iter().zip(reply.outcomes));
        }
        outcomes.sort_by_key(|(index, _)| *index);
        let outcomes = outcomes.into_iter().map(|(_, outcome)| outcome).collect();
        Ok(PutReply { outcomes, unmoved })
    }

    /// Does one step of a walk over the readers who have cursors. Returns `None` at its end. A cluster whose
    /// slots were moved meanwhile is walked through again.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`].
    pub async fn readers(
        &mut self,
        scan: &mut StoreScan,
    ) -> Result<Option<FoundReaders>, AdminError> {
        let pattern = self.cursors_pattern();
        let found = self.scan(scan, &pattern, "hash").await?;
        Ok(found.map(|(_, keys)| self.readers_of(&keys)))
    }

    /// Does one step of a walk over keys. Returns the node that has them.
    pub(super) async fn scan(
        &mut self,
        scan: &mut StoreScan,
        pattern: &str,
        kind: &str,
    ) -> Result<Option<(usize, Vec<String>)>, AdminError> {
        if scan.is_done {
            return Ok(None);
        }
        if scan.nodes == 0 {
            self.settle().await?;
            scan.nodes = self.nodes.len();
        }
        let node = scan.node;
        let Some(Node { connection, .. }) = self.nodes.get_mut(node) else {
            return Err(AdminError::Failed("the store has no node".to_owned()));
        };
        let (next, keys) = match connection.scan(scan.at, pattern, Some(kind)).await {
            Ok(step) => step,
            Err(error) => {
                let error = classify(error);
                if !self.may_have_changed(&error) {
                    return Err(error.into());
                }
                scan.again(&error.to_string())?;
                sleep(SETTLE_INTERVAL).await;
                return Ok(Some((0, Vec::new())));
            }
        };
        scan.at = next;
        if next == 0 {
            scan.node += 1;
        }
        if scan.node == scan.nodes {
            if self.settle().await? {
                scan.again("slots were moved")?;
            } else {
                scan.is_done = true;
            }
        }
        Ok(Some((node, keys)))
    }

    /// Does one step of SCAN over the readers of a node. Returns also where the next one begins; 0 if this was
    /// the last one.
    pub(super) async fn readers_of_node(
        &mut self,
        node: usize,
        from: u64,
    ) -> Result<(FoundReaders, u64), StoreError> {
        let pattern = self.cursors_pattern();
        let Some(Node { connection, .. }) = self.nodes.get_mut(node) else {
            return Ok((Vec::new(), 0));
        };
        let step = connection.scan(from, &pattern, Some("hash")).await;
        let (next, keys) = step.map_err(classify)?;
        Ok((self.readers_of(&keys), next))
    }

    fn cursors_pattern(&self) -> String {
        match &self.partitions[..] {
            [only] => format!("{}*", only.shared.keys.cursors_prefix()),
            _ => "markread:{*}:cursors:*".to_owned(),
        }
    }

    /// Returns the readers whose own hashes are among these keys.
    fn readers_of(&self, keys: &[String]) -> FoundReaders {
        let mut by_partition: HashMap<usize, Vec<UserId>> = HashMap::new();
        for key in keys {
            // A bucket's key has more than the reader behind the prefix.
            let Some((_, reader)) = key.rsplit_once(':') else { continue };
            let Ok(reader) = reader.parse() else { continue };
            let partition = self.partition_of(reader);
            let is_own = |admin: &CursorAdmin| admin.shared.keys.cursors(reader) == *key;
            if self.partitions.get(partition).is_some_and(is_own) {
                by_partition.entry(partition).or_default().push(reader);
            }
        }
        let mut readers: Vec<_> = by_partition.into_iter().collect();
        for (_, of_partition) in &mut readers {
            of_partition.sort_unstable();
            of_partition.dedup();
        }
        readers
    }

    /// Waits until no slot of a cluster is on its way between nodes, when its keys are at two. Returns whether
    /// other nodes have the partitions than the last time.
    pub(super) async fn settle(&mut self) -> Result<bool, AdminError> {
        let Some(masters) = self.cluster.clone() else {
            if self.nodes.is_empty() {
                self.find_nodes().await?;
            }
            return Ok(false);
        };
        loop {
            masters.look().await.map_err(AdminError::Failed)?;
            if let Some(owners) = masters.settled_owners() {
                let is_changed = owners != self.owners;
                if is_changed || self.nodes.is_empty() {
                    self.find_nodes().await?;
                }
                return Ok(is_changed);
            }
            sleep(SETTLE_INTERVAL).await;
        }
    }

    async fn find_nodes(&mut self) -> Result<(), AdminError> {
        self.nodes.clear();
        let Some(masters) = self.cluster.clone() else {
            let connection = self.first()?.connection.clone();
            self.nodes.push(self.node(connection).await?);
            return Ok(());
        };
        self.owners = masters.settled_owners().unwrap_or_default();
        for connection in masters.all().map_err(AdminError::Failed)? {
            self.nodes.push(self.node(AdminConnection::on(connection)).await?);
        }
        Ok(())
    }

    async fn node(&self, connection: AdminConnection) -> Result<Node, AdminError> {
        let mut node = Node { connection, run_id: String::new() };
        if self.needs_run_ids {
            node.look().await?;
        }
        Ok(node)
    }

    /// Asks all nodes for their run IDs, from now on whenever they are looked for. Each must be a master.
    pub(super) async fn find_run_ids(&mut self) -> Result<(), AdminError> {
        self.needs_run_ids = true;
        self.settle().await?;
        self.find_nodes().await
    }

    /// Returns whether a node of a cluster may be lost, or no master any more, by what it failed with.
    pub(super) fn may_have_changed(&self, error: &StoreError) -> bool {
        self.cluster.is_some() && may_be_elsewhere(error)
    }

    /// Returns which node has which partition, as a text that is equal as long as nothing changes.
    pub(super) fn owners(&self) -> String {
        let owner =
            |owner: &Option<Address>| owner.as_ref().map_or("-".to_owned(), Address::to_string);
        self.owners.iter().map(owner).collect::<Vec<_>>().join(" ")
    }

    /// Returns the partition that has what concerns the whole store.
    pub(super) fn first(&mut self) -> Result<&mut CursorAdmin, AdminError> {
        self.partition(0)
    }

    /// Returns whether there is any cursor.
    pub(super) async fn has_cursors(&mut self) -> Result<bool, AdminError> {
        let mut scan = StoreScan::default();
        while let Some(found) = self.readers(&mut scan).await? {
            if !found.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts all cursors that can be read, and their readers.
    pub(super) async fn count(&mut self) -> Result<(u64, u64), AdminError> {
        let (mut cursors, mut readers) = (0, 0);
        let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        let mut scan = StoreScan::default();
        let mut walks = scan.walks;
        while let Some(found) = self.readers(&mut scan).await? {
            if scan.walks != walks {
                (cursors, readers, walks) = (0, 0, scan.walks);
                continue;
            }
            for (partition, of_partition) in found {
                let partition = self.partition(partition)?;
                for of_partition in of_partition.chunks(READERS_AT_ONCE) {
                    let count = async |records: &[CursorRecord]| {
                        cursors += number(records.len());
                        Ok(())
                    };
                    let problems = partition.read_all(of_partition, count).await?;
                    readers += number(of_partition.len() - problems.len());
                }
            }
        }
        Ok((cursors, readers))
    }

    /// Returns whether a Redis process has keys of both stores.
    pub(super) fn shares_a_node_with(&self, other: &Self) -> bool {
        let is_same = |one: &Node, another: &Node| {
            one.run_id == another.run_id && self.database == other.database
        };
        self.nodes.iter().any(|one| other.nodes.iter().any(|other| is_same(one, other)))
    }
}

impl Node {
    /// Asks for the run ID of a master.
    async fn look(&mut self) -> Result<(), AdminError> {
        let info: String = self.connection.query(&cmd("INFO")).await?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        if field("role") != "master" {
            return Err(AdminError::Failed(
                "this Redis is a replica: the URL must be that of the master".to_owned(),
            ));
        }
        self.run_id = field("run_id");
        Ok(())
    }

    /// Returns a warning for each setting that may lose cursors.
    async fn warnings(&mut self) -> Result<Vec<&'static str>, AdminError> {
        let info: String = self.connection.query(&cmd("INFO")).await?;
        let fields = info.lines().filter_map(|line| line.trim_end().split_once(':')).collect();
        Ok(durability::warnings(&fields, self.connection.redis()).await)
    }
}
