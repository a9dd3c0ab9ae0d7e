//! Comparison of the remembered denials with Redis.

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};
use tokio::time::timeout;

use super::supervisor::PROBE_TIMEOUT;
use crate::domain::UserId;
use crate::store::redis::parts::NodeParts;

/// Clears the denials if Redis would not deny again. After a flush only the first server finds the layout
/// absent; the others notice it here.
pub(super) async fn run(parts: &NodeParts, connection: &mut MultiplexedConnection) {
    let (shared, served) = (&parts.shared, parts.served.load_full());
    let is_of = |reader| served.iter().any(|one| one.number == shared.partitions.number_of(reader));
    let keys = |reader: UserId| &shared.partitions.of(reader).keys;
    let (marks, reads) = (shared.denials.sample(is_of), shared.read_denials.sample(is_of));
    let marks = marks.into_iter().map(|of| (keys(of).quota(of), shared.rate_limit.calls));
    let reads = reads.into_iter().map(|of| (keys(of).read_quota(of), shared.read_rate_limit.calls));
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
        shared.clear_denials();
    }
}
