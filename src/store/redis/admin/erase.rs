//! Erases what Redis holds of a user: calls of `erase_reader.lua` and `erase_recipient.lua`.

use std::sync::Arc;

use redis::{Value, cmd};

use super::AdminError;
use super::cursors::{CursorAdmin, Shared};
use super::store::{Node, StoreAdmin, StoreScan};
use crate::domain::UserId;
use crate::store::redis::errors::unexpected;
use crate::store::redis::keys::Keys;
use crate::store::redis::scripts::{integer, text};

/// Problems that are kept.
const PROBLEMS_MAX: usize = 10;

/// Readers whose cursors one script call looks for.
const READERS_PER_CALL: usize = 64;

/// What was erased of a user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Erasure {
    /// The user's own cursors.
    pub own: CursorErasure,
    /// The user's quotas, of marks and of reads.
    pub quotas: u64,
    /// Webhooks that the user was subscribed to.
    pub subscriptions: u64,
    /// Cursors of other readers in their conversations with the user.
    pub as_recipient: u64,
    /// Events that name the user.
    pub events: u64,
    /// Dead letters that are for the user, or name the user.
    pub dead_letters: u64,
}

/// What was erased of a user's own cursors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorErasure {
    /// Cursors.
    pub cursors: u64,
    /// Keys in which cursors cannot be found, or not counted: another type than a hash, an invalid
    /// number of buckets, and the buckets that belong to those.
    pub damaged_keys: u64,
}

/// What was done about other readers' cursors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecipientErasure {
    /// Cursors that were erased.
    pub cursors: u64,
    /// Readers whose cursors cannot be read.
    pub unread: u64,
    /// What Redis said about the first of them.
    pub problems: Vec<String>,
}

/// How far a walk through all keys has come.
#[derive(Clone, Debug)]
pub struct KeyProgress {
    /// The position of each node's SCAN; `None`: it is done.
    pub scans: Vec<Option<u64>>,
    /// What was erased so far.
    pub erased: u64,
}

impl CursorAdmin {
    /// Erases a reader's cursors, in both placements. Where they are damaged, everything is erased that
    /// has a name of theirs.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; some cursors may have been erased.
    pub async fn erase_cursors(&mut self, reader: UserId) -> Result<CursorErasure, AdminError> {
        let shared = Arc::clone(&self.shared);
        let Shared { keys, scripts } = &*shared;
        let script = &scripts.erase_reader;
        let mut erasure = CursorErasure::default();
        loop {
            let reply = self.run(script, |mut call, version| {
                call.arg(2).arg(keys.layout()).arg(keys.cursors(reader)).arg(version);
                call
            });
            let reply = reply.await?;
            let Value::Array(values) = &reply else { return Err(unexpected(&reply).into()) };
            let [outcome, cursors, damaged] = &values[..] else {
                return Err(unexpected(&reply).into());
            };
            erasure.cursors += integer(cursors)?;
            erasure.damaged_keys += integer(damaged)?;
            match text(outcome)? {
                "more" => {}
                "done" => return Ok(erasure),
                "damaged" => {
                    erasure.damaged_keys += self.erase_damaged(&keys.cursors(reader)).await?;
                    return Ok(erasure);
                }
                _ => return Err(unexpected(&reply).into()),
            }
        }
    }

    /// Erases the buckets of a damaged key wherever they are, and then the key: until it is gone, no mark
    /// creates new ones.
    async fn erase_damaged(&mut self, key: &str) -> Result<u64, AdminError> {
        let (mut erased, mut scan) = (0, 0);
        loop {
            let (next, found) = self.connection.scan(scan, &format!("{key}:*"), None).await?;
            if !found.is_empty() {
                let mut unlink = cmd("UNLINK");
                unlink.arg(found);
                erased += self.connection.query::<u64>(&unlink).await?;
            }
            scan = next;
            if scan == 0 {
                break;
            }
        }
        let mut unlink = cmd("UNLINK");
        unlink.arg(key);
        Ok(erased + self.connection.query::<u64>(&unlink).await?)
    }

    /// Erases a reader's quotas.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`].
    pub async fn erase_quotas(&mut self, reader: UserId) -> Result<u64, AdminError> {
        let shared = Arc::clone(&self.shared);
        let keys = &shared.keys;
        let mut unlink = cmd("UNLINK");
        unlink.arg(keys.quota(reader)).arg(keys.read_quota(reader));
        Ok(self.connection.query(&unlink).await?)
    }

    pub(super) async fn erase_towards(
        &mut self,
        user: UserId,
        readers: &[UserId],
        done: &mut RecipientErasure,
    ) -> Result<(), AdminError> {
        let shared = Arc::clone(&self.shared);
        let Shared { keys, scripts } = &*shared;
        let script = &scripts.erase_recipient;
        let reply = self.run(script, |mut call, version| {
            call.arg(1 + readers.len()).arg(keys.layout());
            for reader in readers {
                call.arg(keys.cursors(*reader));
            }
            call.arg(version).arg(user.get());
            call
        });
        let reply = reply.await?;
        let Value::Array(values) = &reply else { return Err(unexpected(&reply).into()) };
        let [erased, problems @ ..] = &values[..] else { return Err(unexpected(&reply).into()) };
        done.cursors += integer(erased)?;
        done.unread += u64::try_from(problems.len()).unwrap_or(u64::MAX);
        for problem in problems.iter().take(PROBLEMS_MAX.saturating_sub(done.problems.len())) {
            done.problems.push(script.locate_lines(text(problem)?));
        }
        Ok(())
    }
}

impl StoreAdmin {
    /// Erases a user's subscriptions to webhooks. They belong to no partition.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`].
    pub async fn erase_subscriptions(
        &mut self,
        user: UserId,
        mut report: impl FnMut(KeyProgress),
    ) -> Result<u64, AdminError> {
        let pattern = format!("{}*", Keys::SUBSCRIPTIONS_PREFIX);
        let (mut erased, mut scan) = (0, StoreScan::default());
        while let Some((node, sets)) = self.scan(&mut scan, &pattern, "set").await? {
            let Some(Node { connection, .. }) = self.nodes.get_mut(node) else { continue };
            for set in sets {
                let mut remove = cmd("SREM");
                remove.arg(set).arg(user.get());
                erased += connection.query::<u64>(&remove).await?;
            }
            report(KeyProgress { scans: scan.positions(), erased });
        }
        Ok(erased)
    }

    /// Erases other readers' cursors in their conversations with a user.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; some cursors may have been erased.
    pub async fn erase_as_recipient(
        &mut self,
        user: UserId,
        mut report: impl FnMut(KeyProgress),
    ) -> Result<RecipientErasure, AdminError> {
        let (mut done, mut scan) = (RecipientErasure::default(), StoreScan::default());
        while let Some(found) = self.readers(&mut scan).await? {
            for (partition, readers) in found {
                let partition = self.partition(partition)?;
                for readers in readers.chunks(READERS_PER_CALL) {
                    partition.erase_towards(user, readers, &mut done).await?;
                }
            }
            report(KeyProgress { scans: scan.positions(), erased: done.cursors });
        }
        Ok(done)
    }
}
