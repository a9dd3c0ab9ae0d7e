//! The number of partitions of a cluster's store. Other numbers have other tags, so the layouts of the
//! partitions would not show that a store has another one: a key that belongs to no partition has it.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};

use super::tags::slot;
use crate::store::redis::connection::layout::LayoutMismatch;

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
    let mut check = pipe();
    check.cmd("HSETNX").arg(KEY).arg("partitions").arg(expected).ignore();
    check.cmd("HSETNX").arg(KEY).arg("version").arg(VERSION).ignore();
    check.cmd("HMGET").arg(KEY).arg("version").arg("partitions");
    let ((version, partitions),): ((String, String),) = check.query_async(connection).await?;
    if partitions == expected.to_string() {
        return Ok(Ok(()));
    }
    Ok(Err(LayoutMismatch::Other { version, partitions, expected }))
}
