//! The layout key: the version of the keys in a Redis, the number of partitions, and the key of the
//! placement.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwapOption;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd, pipe};

use crate::store::StoreError;
use crate::store::redis::errors::classify;
use crate::store::redis::keys::Keys;
use crate::store::redis::placement::{Placement, PlacementKey};

/// The version while `markread admin downgrade-layout` is under way. No server accepts it.
pub(crate) const DOWNGRADING: &str = "2-to-1";

/// The versions after `markread admin move` has moved the cursors to another Redis, by those before it. No
/// server accepts them.
pub(crate) const MOVED: [(&str, &str); 2] = [("1", "1-moved"), ("2", "2-moved")];

/// Redis has cursors in a layout in which this server would not find them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LayoutMismatch {
    /// Another version, or another number of partitions.
    Other {
        /// The layout's version.
        version: String,
        /// Its number of partitions.
        partitions: String,
        /// The number that was expected.
        expected: u16,
    },
    /// The cursors were moved to another Redis.
    Moved,
    /// Version 2 without a valid key. The key is not shown: it may be a mistyped secret.
    NoKey,
}

impl LayoutMismatch {
    /// Writes the text for a server or a command, which `subject` names.
    pub(crate) fn write_for(&self, subject: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Other { version, partitions, expected } => {
                write!(
                    f,
                    "Redis has layout version {version:?} in {partitions:?} partitions, {subject} \
                     needs version \"1\" or \"2\" in \"{expected}\""
                )?;
                if version == DOWNGRADING {
                    f.write_str(": run markread admin downgrade-layout again to complete it")?;
                }
                Ok(())
            }
            Self::Moved => write!(
                f,
                "the cursors of this Redis were moved to another one by markread admin move --finish: \
                 {subject} must use that one"
            ),
            Self::NoKey => f.write_str(
                "Redis has layout version \"2\" without a valid placement key: restore the field key \
                 of the layout from a backup",
            ),
        }
    }
}

impl fmt::Display for LayoutMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_for("this server", f)
    }
}

/// The layout of a Redis.
pub(crate) struct Layout {
    /// Whether the key was absent, in whole or in part, and has been written: Redis is new, or was
    /// flushed.
    pub(crate) was_absent: bool,
    /// The placement that the layout names, if this server knows it.
    pub(crate) placement: Result<Placement, LayoutMismatch>,
}

/// Version, partitions and key, as they are in Redis.
pub(crate) type Fields = (Option<String>, Option<String>, Option<String>);

/// Reads the layout key, and writes it if it is absent: again as `known`, since Redis may have lost
/// nothing but this key; otherwise as version 2. Since the check would write, it fails where a call
/// would: on a replica, out of memory, with too few replicas.
pub(crate) async fn check(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    known: Option<&Placement>,
) -> RedisResult<Layout> {
    let key = keys.layout();
    let count = keys.partition().count();
    let mut layout = pipe();
    layout.cmd("HSETNX").arg(&key).arg("partitions").arg(count);
    layout.cmd("HMGET").arg(&key).arg("version").arg("partitions").arg("key");
    let (wrote_partitions, fields): (bool, Fields) = layout.query_async(connection).await?;
    if fields.0.is_some() {
        return Ok(Layout { was_absent: wrote_partitions, placement: placement(fields, count) });
    }
    let placement = match known {
        Some(placement) => placement.clone(),
        None => Placement::Keyed(PlacementKey::random()),
    };
    write(connection, keys, &placement).await
}

/// Writes an absent layout, unless another server writes it first.
async fn write(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
    new: &Placement,
) -> RedisResult<Layout> {
    let key = keys.layout();
    let mut layout = pipe();
    // The key before the version: a version 2 without a key is an error.
    if let Placement::Keyed(secret) = new {
        layout.cmd("HSETNX").arg(&key).arg("key").arg(secret.to_secret_text()).ignore();
    }
    layout.cmd("HSETNX").arg(&key).arg("version").arg(new.version()).ignore();
    layout.cmd("HMGET").arg(&key).arg("version").arg("partitions").arg("key");
    let (fields,): (Fields,) = layout.query_async(connection).await?;
    Ok(Layout { was_absent: true, placement: placement(fields, keys.partition().count()) })
}

fn is_moved(version: Option<&str>) -> bool {
    MOVED.iter().any(|(_, moved)| version == Some(moved))
}

/// Returns whether the cursors were moved, and what the last `markread admin move --undo` has left.
async fn reopened(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> RedisResult<(bool, Option<String>)> {
    let mut read = cmd("HMGET");
    read.arg(keys.layout()).arg("version").arg("reopened");
    let (version, reopened): (Option<String>, Option<String>) =
        read.query_async(connection).await?;
    Ok((is_moved(version.as_deref()), reopened))
}

/// Returns the placement that a layout of so many partitions names.
pub(crate) fn placement(
    (version, partitions, key): Fields,
    expected: u16,
) -> Result<Placement, LayoutMismatch> {
    if is_moved(version.as_deref()) {
        return Err(LayoutMismatch::Moved);
    }
    let is_whole = partitions.as_deref() == Some(&*expected.to_string());
    match version.as_deref() {
        Some("1") if is_whole => Ok(Placement::Plain),
        Some("2") if is_whole => {
            let key = key.as_deref().and_then(PlacementKey::parse);
            key.map(Placement::Keyed).ok_or(LayoutMismatch::NoKey)
        }
        _ => Err(LayoutMismatch::Other {
            version: version.unwrap_or_default(),
            partitions: partitions.unwrap_or_default(),
            expected,
        }),
    }
}

/// Returns the placement that a layout names, and its version, also if the cursors were moved to another
/// Redis.
pub(crate) fn placement_before_move(
    (version, partitions, key): Fields,
    expected: u16,
) -> Result<(Placement, &'static str), LayoutMismatch> {
    let moved = MOVED.iter().find(|(_, moved)| version.as_deref() == Some(moved));
    match moved {
        Some((before, moved)) => {
            let fields = (Some((*before).to_owned()), partitions, key);
            placement(fields, expected).map(|placement| (placement, *moved))
        }
        None => placement((version, partitions, key), expected)
            .map(|placement| (placement.clone(), placement.version())),
    }
}

/// The placement that Redis's layout named last.
#[derive(Debug, Default)]
pub(crate) struct KnownLayout {
    placement: ArcSwapOption<Placement>,
    /// Once the cursors were moved to another Redis.
    moved: Mutex<Option<Reopened>>,
}

/// The layout's `reopened` when the cursors were moved, if it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reopened(Option<String>);

impl KnownLayout {
    /// Reads the layout, and writes it if it is absent, as [`check`] does. Once it has named cursors that were
    /// moved, nothing else is accepted or written, also after Redis was flushed or has lost its last writes,
    /// until `markread admin move --undo` has changed `reopened`.
    pub(crate) async fn check(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
    ) -> RedisResult<Layout> {
        if let Some(before) = self.latched() {
            let (_, reopened) = reopened(connection, keys).await?;
            if reopened.is_none() || Reopened(reopened) == before {
                return Ok(Layout { was_absent: false, placement: Err(LayoutMismatch::Moved) });
            }
            self.latch(None);
        }
        let read = check(connection, keys, self.known().as_deref()).await?;
        if read.placement == Err(LayoutMismatch::Moved)
            && let (true, reopened) = reopened(connection, keys).await?
        {
            self.latch(Some(Reopened(reopened)));
        }
        Ok(read)
    }

    fn latched(&self) -> Option<Reopened> {
        self.moved.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn latch(&self, reopened: Option<Reopened>) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = reopened;
    }

    /// Returns the placement. Before the first connection, when nothing is called, it is plain.
    pub(crate) fn placement(&self) -> Arc<Placement> {
        self.placement.load_full().unwrap_or_else(|| Arc::new(Placement::Plain))
    }

    /// Returns the placement, if a layout was read.
    pub(crate) fn known(&self) -> Option<Arc<Placement>> {
        self.placement.load_full()
    }

    /// Sets what was read. Returns its version if it is new.
    pub(crate) fn set(&self, placement: Placement) -> Option<&'static str> {
        let known = self.placement.load();
        (known.as_deref() != Some(&placement)).then(|| {
            let version = placement.version();
            self.placement.store(Some(Arc::new(placement)));
            version
        })
    }

    /// Reads the layout again, after a script found another version than it was called with. Returns
    /// whether it was absent: then Redis was flushed.
    pub(crate) async fn reread(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &Keys,
    ) -> Result<bool, StoreError> {
        let Layout { was_absent, placement } =
            self.check(connection, keys).await.map_err(classify)?;
        let placement = placement.map_err(|other| StoreError::unavailable(other.to_string()))?;
        if let Some(version) = self.set(placement) {
            tracing::info!(version, "layout of keys in Redis");
        }
        Ok(was_absent)
    }
}
