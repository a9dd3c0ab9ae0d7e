//! The number of partitions of a cluster's store. Other numbers have other tags, so the layouts of the
//! partitions would not show that a store has another one: a key that belongs to no partition has it.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd, pipe};

use super::tags::slot;
use crate::store::redis::connection::layout::LayoutMismatch;
use crate::store::redis::keys::Keys;

/// The key: a hash of `version` and `partitions`, as one Redis has it.
const KEY: &str = "markread:layout";

/// The version of new layouts.
const VERSION: &str = "2";

/// Returns the slot of the key.
pub(crate) fn slot_of_count() -> u16 {
    slot(KEY.as_bytes())
}

/// Compares the number with what is in the cluster, and writes it if there is none.
pub(crate) async fn check(
    connection: &mut MultiplexedConnection,
    expected: u16,
) -> RedisResult<Result<(), LayoutMismatch>> {
    let mut write = pipe();
    write.cmd("HSETNX").arg(KEY).arg("partitions").arg(expected).ignore();
    write.cmd("HSETNX").arg(KEY).arg("version").arg(VERSION).ignore();
    write.query_async::<()>(connection).await?;
    compare(connection, expected).await
}

/// Compares the number with what is in the cluster, if there is one.
pub(crate) async fn compare(
    connection: &mut MultiplexedConnection,
    expected: u16,
) -> RedisResult<Result<(), LayoutMismatch>> {
    let mut read = cmd("HMGET");
    read.arg(KEY).arg("version").arg("partitions");
    let (version, partitions): (Option<String>, Option<String>) =
        read.query_async(connection).await?;
    let Some(partitions) = partitions.filter(|count| *count != expected.to_string()) else {
        return Ok(Ok(()));
    };
    let version = version.unwrap_or_default();
    Ok(Err(LayoutMismatch::Other { version, partitions, expected }))
}

/// Returns whether a partition has a layout.
pub(super) async fn has_layout(
    connection: &mut MultiplexedConnection,
    keys: &Keys,
) -> RedisResult<bool> {
    let mut read = cmd("HGET");
    read.arg(keys.layout()).arg("partitions");
    let partitions: Option<String> = read.query_async(connection).await?;
    Ok(partitions == Some(keys.partition().count().to_string()))
}
