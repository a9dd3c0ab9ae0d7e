//! Settings of Redis that may lose read cursors (`docs/contract.md`, "Redis").

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, cmd};

use super::Warnings;

/// What is said of a Redis that evicts keys.
pub(crate) const EVICTS: &str =
    "maxmemory-policy allows Redis to evict read cursors: set it to noeviction";
const FORGETS: &str =
    "Redis persists nothing, a restart loses every read cursor: set appendonly yes";

/// Returns a warning for each setting that may lose data. Managed services do not reveal their
/// configuration; for them snapshots are assumed.
pub(crate) async fn warnings(
    info: &HashMap<&str, &str>,
    connection: &mut MultiplexedConnection,
) -> Warnings {
    let mut warnings = Vec::new();
    if info.get("maxmemory_policy").is_some_and(|policy| policy.starts_with("allkeys-")) {
        warnings.push(EVICTS);
    }
    if info.get("aof_enabled") == Some(&"0") && !has_snapshots(connection).await {
        warnings.push(FORGETS);
    }
    warnings
}

async fn has_snapshots(connection: &mut MultiplexedConnection) -> bool {
    let mut ask = cmd("CONFIG");
    ask.arg("GET").arg("save");
    let settings: RedisResult<HashMap<String, String>> = ask.query_async(connection).await;
    settings
        .ok()
        .and_then(|settings| settings.get("save").map(|save| !save.is_empty()))
        .unwrap_or(true)
}
