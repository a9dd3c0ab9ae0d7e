//! Changes of a Redis's layout, which operators make (`docs/production.md`, "Upgrade").

use std::fmt;

use redis::{Cmd, cmd};

use super::AdminError;
use super::connection::{AdminConnection, ScannedReaders};
use super::cursors::CursorAdmin;
use super::store::StoreAdmin;
use crate::domain::UserId;
use crate::store::redis::connection::layout::{DOWNGRADING, placement};
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::errors::classify;
use crate::store::redis::keys::Keys;
use crate::store::redis::placement::{Placement, PlacementKey};
use crate::store::redis::reads::{fill_move, parse_move};
use crate::store::redis::scripts::Script;

/// The version of the keyed placement.
const KEYED: &str = "2";

/// Sets another version and a key, if the layout still has the version that was read. An absent key is
/// added, a present one kept; an empty one is removed.
const CHANGE: &str = "
    if redis.call('HGET', KEYS[1], 'version') ~= ARGV[1] then return 0 end
    if ARGV[3] == '' then
        redis.call('HDEL', KEYS[1], 'key')
    elseif ARGV[3] ~= 'keep' then
        redis.call('HSETNX', KEYS[1], 'key', ARGV[3])
    end
    redis.call('HSET', KEYS[1], 'version', ARGV[2])
    return 1";

/// What a downgrade has done so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    /// Keys that were looked at.
    pub keys: u64,
    /// Readers whose cursors were moved.
    pub readers: u64,
    /// Those cursors.
    pub cursors: u64,
}

/// Changes the layout of a store.
pub struct LayoutAdmin(Vec<PartitionLayout>);

/// Changes the layout of a partition.
struct PartitionLayout {
    connection: AdminConnection,
    keys: Keys,
}

impl Progress {
    fn plus(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            readers: self.readers + other.readers,
            cursors: self.cursors + other.cursors,
        }
    }
}

impl fmt::Debug for LayoutAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayoutAdmin").finish_non_exhaustive()
    }
}

impl LayoutAdmin {
    /// Connects.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`] with the cause.
    pub async fn connect(mode: &RedisMode) -> Result<Self, AdminError> {
        // Names of the stream and of user objects do not matter here.
        let store = StoreAdmin::open(mode, "").await?;
        let layout = |partition: CursorAdmin| PartitionLayout {
            keys: partition.shared.keys.clone(),
            connection: partition.connection,
        };
        Ok(Self(store.partitions.into_iter().map(layout).collect()))
    }

    /// Writes version 2 and a new key in place of version 1. Returns whether the version was another.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; then nothing has changed, or everything, of each partition.
    pub async fn upgrade(&mut self) -> Result<bool, AdminError> {
        let mut is_changed = false;
        for partition in &mut self.0 {
            is_changed |= partition.upgrade().await?;
        }
        Ok(is_changed)
    }

    /// Moves all readers back to the placement of version 1, and then writes that version. No server
    /// accepts the layout until this is complete; what is interrupted goes on when it is run again.
    /// Returns whether the version was another.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn downgrade(
        &mut self,
        mut report: impl FnMut(Progress),
    ) -> Result<Option<Progress>, AdminError> {
        let mut all: Option<Progress> = None;
        for partition in &mut self.0 {
            let before = all.unwrap_or_default();
            if let Some(progress) =
                partition.downgrade(|progress| report(before.plus(progress))).await?
            {
                all = Some(before.plus(progress));
            }
        }
        Ok(all)
    }
}

impl PartitionLayout {
    async fn upgrade(&mut self) -> Result<bool, AdminError> {
        let fields = self.connection.layout_fields(&self.keys).await?;
        let from = match fields.0.as_deref() {
            Some(version) if version == Placement::Plain.version() || version == DOWNGRADING => {
                version.to_owned()
            }
            _ => {
                return placement(fields, self.keys.partition().count())
                    .map(|_| false)
                    .map_err(AdminError::Layout);
            }
        };
        let (_, partitions, key) = fields;
        let key = key.unwrap_or_else(|| PlacementKey::random().to_secret_text());
        // The partitions, and a key that is there already, must be valid.
        let new = placement(
            (Some(KEYED.to_owned()), partitions, Some(key.clone())),
            self.keys.partition().count(),
        );
        let new = new.map_err(AdminError::Layout)?;
        self.try_move(&from).await?;
        if !self.change(&from, new.version(), &key).await? {
            return Err(changed_meanwhile());
        }
        Ok(true)
    }

    async fn downgrade(
        &mut self,
        mut report: impl FnMut(Progress),
    ) -> Result<Option<Progress>, AdminError> {
        let fields = self.connection.layout_fields(&self.keys).await?;
        match fields.0.as_deref() {
            Some(DOWNGRADING) => self.try_downgrade(DOWNGRADING).await?,
            Some(KEYED) => {
                placement(fields, self.keys.partition().count()).map_err(AdminError::Layout)?;
                self.try_downgrade(KEYED).await?;
                if !self.change(KEYED, DOWNGRADING, "keep").await? {
                    return Err(changed_meanwhile());
                }
            }
            _ => {
                return placement(fields, self.keys.partition().count())
                    .map(|_| None)
                    .map_err(AdminError::Layout);
            }
        }
        let progress = self.move_all(&mut report).await?;
        if !self.change(DOWNGRADING, Placement::Plain.version(), "").await? {
            return Err(changed_meanwhile());
        }
        Ok(Some(progress))
    }

    /// Tries each command of a downgrade, without which it could not be completed.
    async fn try_downgrade(&mut self, version: &str) -> Result<(), AdminError> {
        let scanned = self.connection.readers(&self.keys, 0).await;
        scanned.map_err(|error| unchanged(classify(error)))?;
        self.try_move(version).await
    }

    /// Tries each command by which readers are moved.
    async fn try_move(&mut self, version: &str) -> Result<(), AdminError> {
        let script = Script::may_move();
        let call = |mut call: Cmd| {
            let nobody = format!("{}0", self.keys.cursors_prefix());
            call.arg(2).arg(self.keys.layout()).arg(nobody).arg(version);
            call
        };
        let reply = self.connection.run(&script, call).await.map_err(unchanged)?;
        let refused: Vec<(String, String)> = redis::from_redis_value(reply).map_err(unchanged)?;
        match refused.first() {
            Some((command, problem)) => Err(unchanged(format!(
                "Redis refuses {command}, without which readers cannot be moved: {problem}"
            ))),
            None => Ok(()),
        }
    }

    async fn move_all(
        &mut self,
        report: &mut impl FnMut(Progress),
    ) -> Result<Progress, AdminError> {
        let script = Script::move_reader();
        let (mut progress, mut scan) = (Progress::default(), 0_u64);
        loop {
            let found = self.connection.readers(&self.keys, scan).await?;
            let ScannedReaders { found: mut open, hashes, next } = found;
            progress.keys += hashes;
            let mut is_first = true;
            while !open.is_empty() {
                let moved = self.move_some(&script, &open).await?;
                let mut left = Vec::new();
                for (reader, (cursors, more)) in open.into_iter().zip(moved) {
                    progress.cursors += cursors;
                    progress.readers += u64::from(is_first && (cursors > 0 || more));
                    if more {
                        left.push(reader);
                    }
                }
                (open, is_first) = (left, false);
                report(progress);
            }
            scan = next;
            if scan == 0 {
                return Ok(progress);
            }
        }
    }

    /// Moves some cursors of each of these readers. Returns how many, and whether more are left.
    async fn move_some(
        &mut self,
        script: &Script,
        readers: &[UserId],
    ) -> Result<Vec<(u64, bool)>, AdminError> {
        let mut results = Vec::with_capacity(readers.len());
        for readers in readers.chunks(100) {
            let fill = |call, reader: &UserId| fill_move(call, &self.keys, DOWNGRADING, *reader);
            for reply in self.connection.run_all(script, readers, fill).await? {
                let moved = parse_move(&reply)?;
                results.push((moved.cursors, moved.more));
            }
        }
        Ok(results)
    }

    async fn change(&mut self, from: &str, to: &str, key: &str) -> Result<bool, AdminError> {
        let mut change = cmd("EVAL");
        change.arg(CHANGE).arg(1).arg(self.keys.layout()).arg(from).arg(to).arg(key);
        Ok(self.connection.query(&change).await?)
    }
}

fn unchanged(problem: impl fmt::Display) -> AdminError {
    AdminError::Failed(format!("the layout was not changed: {problem}"))
}

fn changed_meanwhile() -> AdminError {
    AdminError::Failed("the layout was changed meanwhile: run the command again".to_owned())
}
