//! Checks of the partitions that a node has: their layouts and their streams.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;

use super::failure::Failure;
use super::layout::Layout;
use crate::store::redis::cluster::redirect::{says_on_its_way, says_unserved};
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

/// What a check found.
struct Checked {
    /// The layout's version, if it was not known before.
    new_layout: Option<&'static str>,
    stream: Option<Span>,
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
    let mut layouts = BTreeMap::new();
    for (partition, checked) in served.iter().zip(join_all(checks).await) {
        let (is_open, trouble, stream) = match checked {
            Ok(Checked { new_layout, stream }) => {
                if let Some(version) = new_layout {
                    *layouts.entry(version).or_insert(0) += 1;
                }
                parts.shared.has_served.store(true, Ordering::Relaxed);
                (true, None, stream)
            }
            // Its slot is on its way: calls find it, and what was known of it still holds.
            Err(Failure::Refused(cause)) if parts.is_of_cluster() && says_on_its_way(&cause) => {
                parts.shared.note_node_change();
                continue;
            }
            Err(failure) => {
                let is_closed = matches!(failure, Failure::Layout(_));
                (!is_closed, Some(tolerate(parts, failure)?), None)
            }
        };
        let is_served = trouble.is_none();
        if partition.note_check(&parts.connections, is_open, trouble) {
            parts.shared.note_health_change();
        }
        if is_served {
            streams.push((Arc::clone(partition), stream));
        }
    }
    for (version, partitions) in layouts {
        let of_many = parts.is_of_cluster().then_some(partitions);
        tracing::info!(version, partitions = of_many, "layout of keys in Redis");
    }
    Ok(streams)
}

/// Returns why one partition is not served, or the failure if it is the node's.
fn tolerate(parts: &NodeParts, failure: Failure) -> Result<String, Failure> {
    if !parts.is_of_cluster() {
        return Err(failure);
    }
    match failure {
        Failure::Refused(cause) if says_unserved(&cause) => {
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
) -> Result<Checked, Failure> {
    let PartitionStore { keys, layout, stream_history, .. } = partition;
    let Layout { was_absent, placement } = layout.check(&mut connection, keys).await?;
    if was_absent {
        parts.shared.note_absent_layout(partition);
    }
    let new_layout = layout.set(placement.map_err(Failure::Layout)?);
    let stream = match pace {
        Pace::AtOnce => stream_history.check(&mut connection, keys, layout).await?,
        Pace::Paced => stream_history.check_paced(&mut connection, keys, layout).await?,
    };
    Ok(Checked { new_layout, stream })
}
