//! Checks of the partitions that a node has: their layouts and their streams.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;

use super::failure::Failure;
use super::layout::{self, Layout};
use crate::store::redis::cluster::redirect::says_elsewhere;
use crate::store::redis::partitions::PartitionStore;
use crate::store::redis::parts::NodeParts;
use crate::store::redis::probe::stats::Streams;
use crate::store::redis::stream::Span;

/// How the streams are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Now, before a connection is put to use.
    AtOnce,
    /// Once a second, or less often if a check takes long.
    Paced,
}

/// Checks all partitions of a node. In a cluster one that is elsewhere, or has another layout, is not
/// served, and the others are.
pub(super) async fn run(
    parts: &NodeParts,
    connection: &MultiplexedConnection,
    pace: Pace,
) -> Result<Streams, Failure> {
    let served = parts.served.load_full();
    let checks = served.iter().map(|partition| check(parts, partition, connection.clone(), pace));
    let mut streams = Vec::with_capacity(served.len());
    for (partition, checked) in served.iter().zip(join_all(checks).await) {
        let (trouble, stream) = match checked {
            Ok(stream) => (None, stream),
            Err(failure) => (Some(tolerate(parts, failure)?), None),
        };
        if partition.trouble() != trouble {
            partition.set_trouble(trouble.clone());
            parts.shared.note_health_change();
        }
        if trouble.is_none() {
            streams.push((Arc::clone(partition), stream));
        }
    }
    Ok(streams)
}

/// Returns why one partition is not served, or the failure if it is the node's.
fn tolerate(parts: &NodeParts, failure: Failure) -> Result<String, Failure> {
    if parts.shared.changes.is_none() {
        return Err(failure);
    }
    match failure {
        Failure::Refused(cause) if says_elsewhere(&cause) => {
            parts.shared.note_node_change();
            Ok(cause)
        }
        Failure::Layout(mismatch) if parts.shared.has_served.load(Ordering::Relaxed) => {
            Ok(mismatch.to_string())
        }
        failure => Err(failure),
    }
}

async fn check(
    parts: &NodeParts,
    partition: &PartitionStore,
    mut connection: MultiplexedConnection,
    pace: Pace,
) -> Result<Option<Span>, Failure> {
    let PartitionStore { keys, layout, stream_history, .. } = partition;
    let known = layout.known();
    let Layout { was_absent, placement } =
        layout::check(&mut connection, keys, known.as_deref()).await?;
    if was_absent {
        parts.shared.note_absent_layout(partition);
    }
    layout.set(placement.map_err(Failure::Layout)?);
    Ok(match pace {
        Pace::AtOnce => stream_history.check(&mut connection, keys, layout).await?,
        Pace::Paced => stream_history.check_paced(&mut connection, keys, layout).await?,
    })
}
