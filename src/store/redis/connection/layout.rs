//! The layout key: the version of the keys in a Redis, and the number of partitions.

use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};

use crate::store::redis::keys::{Keys, Partition};

/// The version of keys that this server reads and writes.
const VERSION: &str = "1";

/// Redis has cursors in another layout, where this server would not find them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayoutMismatch {
    version: String,
    partitions: String,
}

impl fmt::Display for LayoutMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, partitions } = self;
        write!(
            f,
            "Redis has layout version {version:?} in {partitions:?} partitions, this server needs \
             version {VERSION:?} in {:?}",
            Partition::COUNT
        )
    }
}

/// The layout of a Redis.
pub(super) struct Layout {
    /// Whether the key was absent, in whole or in part, and has been written: Redis is new, or was
    /// flushed.
    pub(super) was_absent: bool,
    /// Whether the layout is this server's.
    pub(super) fits: Result<(), LayoutMismatch>,
}

/// Reads the layout key, and writes it if it is absent. Since the check would write, it fails where a
/// call would: on a replica, out of memory, with too few replicas.
pub(super) async fn check(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> RedisResult<Layout> {
    let key = keys.layout();
    let mut layout = pipe();
    layout.cmd("HSETNX").arg(&key).arg("version").arg(VERSION);
    layout.cmd("HSETNX").arg(&key).arg("partitions").arg(Partition::COUNT);
    layout.cmd("HMGET").arg(&key).arg("version").arg("partitions");
    let (wrote_version, wrote_partitions, (version, partitions)): (bool, bool, (String, String)) =
        layout.query_async(connection).await?;
    let fits = if version == VERSION && partitions == Partition::COUNT {
        Ok(())
    } else {
        Err(LayoutMismatch { version, partitions })
    };
    Ok(Layout { was_absent: wrote_version || wrote_partitions, fits })
}
