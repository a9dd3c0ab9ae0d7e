//! Comparison of the remembered denials with Redis.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};
use tokio::time::timeout;

use super::supervisor::PROBE_TIMEOUT;
use crate::store::redis::parts::StoreParts;

/// Clears the denials if Redis would not deny again. After a flush only the first server finds the layout
/// absent; the others notice it here.
pub(super) async fn run(parts: &StoreParts, connection: &mut MultiplexedConnection) {
    let StoreParts { keys, denials, rate_limit, read_denials, read_rate_limit, .. } = parts;
    let marks = denials.sample().into_iter().map(|of| (keys.quota(of), rate_limit.calls));
    let reads = read_denials.sample();
    let reads = reads.into_iter().map(|of| (keys.read_quota(of), read_rate_limit.calls));
    let (denied, limits): (Vec<_>, Vec<_>) = marks.chain(reads).unzip();
    if denied.is_empty() {
        return;
    }
    let mut quotas = pipe();
    for key in denied {
        quotas.cmd("GET").arg(key);
    }
    let check = quotas.ignore_errors().query_async(connection);
    let used: Vec<RedisResult<Option<u64>>> = match timeout(PROBE_TIMEOUT, check).await {
        Ok(Ok(used)) => used,
        // The next probe checks them again.
        _ => return,
    };
    // One that cannot be read is compared at the next probe.
    let has_calls_left = |(used, limit): (&RedisResult<Option<u64>>, u64)| {
        used.as_ref().is_ok_and(|used| used.is_none_or(|used| used < limit))
    };
    if used.iter().zip(limits).any(has_calls_left) {
        parts.clear_denials();
    }
}
