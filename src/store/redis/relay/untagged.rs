//! Keys that belong to no partition: in a cluster they are at whatever node has their slot.

use std::time::Duration;

use redis::{Cmd, FromRedisValue, Value};
use tokio::time::sleep;

use crate::store::StoreError;
use crate::store::redis::cluster::Cluster;
use crate::store::redis::cluster::redirect::NotRun;
use crate::store::redis::cluster::tags::slot;
use crate::store::redis::errors::classify;
use crate::store::redis::marks::acks::Way;
use crate::store::redis::node::Node;
use crate::store::redis::store::{RedisStore, send};

/// How often a command is sent in a cluster whose slots are on their way, and the pause in between. The
/// call's own time ends it before.
const ATTEMPTS: usize = 50;
const PAUSE: Duration = Duration::from_millis(50);

impl RedisStore {
    /// Sends a command with one key that belongs to no partition, and again where it provably was not run.
    ///
    /// `name` is that of the command, or of the script, in spans.
    pub(super) async fn send_untagged<T: FromRedisValue>(
        &self,
        name: &'static str,
        key: &str,
        command: Cmd,
    ) -> Result<T, StoreError> {
        let sent = async {
            match &self.cluster {
                Some(cluster) => self.send_by_slot(cluster, slot(key.as_bytes()), &command).await,
                None => self.send_to_only(&command).await,
            }
        };
        let reply = self.spans.command(name, 1).record(sent).await?;
        // The error would quote the reply.
        T::from_redis_value(reply)
            .map_err(|_| StoreError::corrupt(format!("unexpected reply to {name}")))
    }

    async fn send_to_only(&self, command: &Cmd) -> Result<Value, StoreError> {
        let only = self.shared.partitions.all().first().ok_or_else(StoreError::missing_result)?;
        let mut route = self.route(only).await?;
        loop {
            let sent = send_to(&route.node, route.way, command).await;
            if !route.is_to_be_sent_again(&sent).await {
                return sent;
            }
        }
    }

    async fn send_by_slot(
        &self,
        cluster: &Cluster,
        slot: u16,
        command: &Cmd,
    ) -> Result<Value, StoreError> {
        let mut asked = None;
        let mut attempts = 1..ATTEMPTS;
        loop {
            let (node, way) = match asked.take() {
                Some(node) => (node, Way::Asking),
                None => (node_of(cluster, slot)?, Way::Plain),
            };
            let error = match send_to(&node, way, command).await {
                Err(error) => error,
                sent => return sent,
            };
            match self.retries_at(&error) {
                Some(NotRun::Ask(address)) => asked = cluster.node(&address, &node.parts.name),
                Some(NotRun::Moved | NotRun::Later) => {}
                None => return Err(error),
            }
            if attempts.next().is_none() {
                return Err(error);
            }
            if asked.is_none() {
                self.shared.note_node_change();
                sleep(PAUSE).await;
            }
        }
    }
}

fn node_of(cluster: &Cluster, slot: u16) -> Result<std::sync::Arc<Node>, StoreError> {
    let node = cluster.node_of_slot(slot);
    node.ok_or_else(|| StoreError::unavailable(format!("no node of the cluster has slot {slot}")))
}

async fn send_to(node: &Node, way: Way, command: &Cmd) -> Result<Value, StoreError> {
    let _permit = node.permit()?;
    let mut connection = node.connections().calls()?;
    send(way, command.clone(), &mut connection).await.map_err(classify)
}
