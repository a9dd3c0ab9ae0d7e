//! All partitions of a store, and the Redis processes that have them, for `markread admin move`.

use std::collections::HashMap;

use redis::cmd;

use super::AdminError;
use super::connection::AdminConnection;
use super::cursors::{CursorAdmin, READERS_AT_ONCE};
use crate::domain::{CursorRecord, UserId};
use crate::store::redis::cluster::tags::partition_of;
use crate::store::redis::connection::mode::RedisMode;

/// All partitions of a store.
#[derive(Clone)]
pub(super) struct StoreAdmin {
    pub(super) partitions: Vec<CursorAdmin>,
    pub(super) nodes: Vec<Node>,
}

/// A Redis process.
#[derive(Clone)]
pub(super) struct Node {
    connection: AdminConnection,
    /// Its run ID, which a restart changes.
    pub(super) run_id: String,
    /// The number of its database, where the keys are.
    database: i64,
    /// What the keys of cursors begin with, by partition.
    prefixes: HashMap<String, usize>,
    pattern: String,
}

/// Readers that one step of SCAN has found.
#[derive(Debug)]
pub(super) struct FoundReaders {
    /// Each of them once, by partition.
    pub(super) readers: Vec<(usize, Vec<UserId>)>,
    /// Where the next step begins; 0 if this was the last one.
    pub(super) next: u64,
}

impl StoreAdmin {
    /// Connects to a store whose cursors are to be moved, or were.
    pub(super) async fn connect_to_move(
        mode: &RedisMode,
        stream: &str,
    ) -> Result<Self, AdminError> {
        let only = CursorAdmin::connect_to_move(mode, stream).await?;
        Self::single(only, mode).await
    }

    /// Connects to a store, and writes the layout if it is absent.
    pub(super) async fn connect_or_create(mode: &RedisMode) -> Result<Self, AdminError> {
        let (only, _) = CursorAdmin::connect_or_create(mode).await?;
        Self::single(only, mode).await
    }

    async fn single(only: CursorAdmin, mode: &RedisMode) -> Result<Self, AdminError> {
        let database = mode.database();
        let prefix = only.shared.keys.cursors_prefix();
        let pattern = format!("{prefix}*");
        let prefixes = HashMap::from([(prefix, 0)]);
        let node = Node::look(only.connection.clone(), database, prefixes, pattern).await?;
        Ok(Self { partitions: vec![only], nodes: vec![node] })
    }

    /// Returns the partition of a reader.
    pub(super) fn partition_of(&self, reader: UserId) -> usize {
        partition_of(reader, u16::try_from(self.partitions.len()).unwrap_or(u16::MAX))
    }

    /// Returns the partition that has what concerns the whole store.
    pub(super) fn first(&mut self) -> Result<&mut CursorAdmin, AdminError> {
        let first = self.partitions.first_mut();
        first.ok_or_else(|| AdminError::Failed("the store has no partition".to_owned()))
    }

    /// Returns whether there is any cursor.
    pub(super) async fn has_cursors(&mut self) -> Result<bool, AdminError> {
        for node in &mut self.nodes {
            let mut scan = 0;
            loop {
                let found = node.readers(scan).await?;
                if !found.readers.is_empty() {
                    return Ok(true);
                }
                scan = found.next;
                if scan == 0 {
                    break;
                }
            }
        }
        Ok(false)
    }

    /// Counts all cursors that can be read, and their readers.
    pub(super) async fn count(&mut self) -> Result<(u64, u64), AdminError> {
        let (mut cursors, mut readers) = (0, 0);
        let number = |length: usize| u64::try_from(length).unwrap_or(u64::MAX);
        for node in &mut self.nodes {
            let mut scan = 0;
            loop {
                let found = node.readers(scan).await?;
                for (partition, of_partition) in found.readers {
                    let Some(admin) = self.partitions.get_mut(partition) else { continue };
                    for of_partition in of_partition.chunks(READERS_AT_ONCE) {
                        let count = async |records: &[CursorRecord]| {
                            cursors += number(records.len());
                            Ok(())
                        };
                        let problems = admin.read_all(of_partition, count).await?;
                        readers += number(of_partition.len() - problems.len());
                    }
                }
                scan = found.next;
                if scan == 0 {
                    break;
                }
            }
        }
        Ok((cursors, readers))
    }

    /// Returns whether a Redis process has keys of both stores.
    pub(super) fn shares_a_node_with(&self, other: &Self) -> bool {
        let is_same =
            |one: &Node, other: &Node| one.run_id == other.run_id && one.database == other.database;
        self.nodes.iter().any(|one| other.nodes.iter().any(|other| is_same(one, other)))
    }
}

impl Node {
    async fn look(
        mut connection: AdminConnection,
        database: i64,
        prefixes: HashMap<String, usize>,
        pattern: String,
    ) -> Result<Self, AdminError> {
        let info: String = cmd("INFO").query_async(connection.redis()).await?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or_default().trim().to_owned()
        };
        if field("role") != "master" {
            return Err(AdminError::Failed(
                "this Redis is a replica: the URL must be that of the master".to_owned(),
            ));
        }
        Ok(Self { connection, run_id: field("run_id"), database, prefixes, pattern })
    }

    /// Does one step of SCAN over the readers who have cursors.
    pub(super) async fn readers(&mut self, from: u64) -> Result<FoundReaders, AdminError> {
        let (next, keys) = self.connection.scan(from, &self.pattern, Some("hash")).await?;
        let mut by_partition: HashMap<usize, Vec<UserId>> = HashMap::new();
        for key in &keys {
            // A bucket's key has more than the reader behind the prefix.
            let Some((prefix, reader)) = key.rsplit_once(':') else { continue };
            let partition = self.prefixes.get(&format!("{prefix}:"));
            if let (Some(partition), Ok(reader)) = (partition, reader.parse()) {
                by_partition.entry(*partition).or_default().push(reader);
            }
        }
        let mut readers: Vec<_> = by_partition.into_iter().collect();
        for (_, of_partition) in &mut readers {
            of_partition.sort_unstable();
            of_partition.dedup();
        }
        Ok(FoundReaders { readers, next })
    }
}
