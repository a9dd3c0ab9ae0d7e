//! Whether Redis can confirm that marks are on its disk, as `--fsync-ack` demands.

use std::collections::HashMap;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd, pipe};

use super::permissions::refused;
use crate::store::redis::connection::failure::Failure;
use crate::store::redis::errors::server_text;

/// The first version with WAITAOF. Valkey, which began with it, says the same of itself.
const FIRST_VERSION: (u32, u32) = (7, 2);

/// How Redis refuses WAITAOF while it has no append-only file.
const WITHOUT_FILE: &str =
    "ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled";

/// Checks the version and the settings. Those that Redis does not reveal are taken as right: then marks are
/// refused as long as WAITAOF does not confirm them in time.
pub(super) async fn check(connection: &mut MultiplexedConnection) -> Result<(), Failure> {
    let mut ask = pipe();
    ask.cmd("WAITAOF").arg(1).arg(0).arg(1);
    ask.cmd("CONFIG").arg("GET").arg("appendonly").arg("appendfsync").ignore_errors();
    let (confirmed, settings): (RedisResult<Value>, RedisResult<HashMap<String, String>>) =
        ask.query_async(connection).await?;
    let refusal = confirmed.err().and_then(|error| server_text(&error)).unwrap_or_default();
    let settings = settings.unwrap_or_default();
    let setting = |name| settings.get(name).map(String::as_str);
    let cause = if refusal.starts_with("ERR unknown command") {
        too_old(version(connection).await.as_deref())
    } else if refusal.starts_with(WITHOUT_FILE) || setting("appendonly") == Some("no") {
        Some("--fsync-ack needs appendonly yes, Redis has no".to_owned())
    } else {
        setting("appendfsync").filter(|value| *value != "always").map(|value| {
            format!("--fsync-ack needs appendfsync always, Redis has {}", value.escape_debug())
        })
    };
    cause.map_or(Ok(()), |cause| Err(refused(&cause)))
}

/// Names the version of a Redis without WAITAOF, unless the command was renamed.
fn too_old(version: Option<&str>) -> Option<String> {
    let Some(version) = version else {
        return Some("--fsync-ack needs Redis 7.2 or later, which has WAITAOF".to_owned());
    };
    let mut numbers = version.split('.').map(|number| number.parse().unwrap_or_default());
    let number = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    let is_old = number < FIRST_VERSION;
    is_old.then(|| {
        format!("--fsync-ack needs Redis 7.2 or later, this is {}", version.escape_debug())
    })
}

/// Returns Redis's version, if it reveals it.
async fn version(connection: &mut MultiplexedConnection) -> Option<String> {
    let mut ask = cmd("INFO");
    ask.arg("server");
    let info: String = ask.query_async(connection).await.ok()?;
    let version = info.lines().find_map(|line| line.strip_prefix("redis_version:"))?;
    Some(version.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_without_waitaof_is_named() {
        for version in ["7.0.15", "6.2.14", "7.1.240", "x"] {
            let cause = too_old(Some(version)).unwrap();
            assert_eq!(cause, format!("--fsync-ack needs Redis 7.2 or later, this is {version}"));
        }
        assert!(too_old(None).unwrap().contains("7.2"));
        // The command was renamed, which the probe of permissions says.
        for version in ["7.2.4", "7.10.0", "8.0.2", "10.0"] {
            assert_eq!(too_old(Some(version)), None);
        }
    }
}
