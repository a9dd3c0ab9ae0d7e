//! Reads of user objects in a cluster: their keys are in any slots, so each node is asked once.
//!
//! A node that is away does not keep marks of other nodes' partitions from being served: its users appear
//! with the ID alone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{sleep, timeout};

use super::acks::Way;
use super::users::UserRead;
use crate::domain::{UserId, UserObject};
use crate::store::redis::cluster::Cluster;
use crate::store::redis::cluster::redirect::NotRun;
use crate::store::redis::cluster::tags::slot;
use crate::store::redis::node::Node;
use crate::store::redis::store::RedisStore;
use crate::store::{StoreError, StoreHealth};

/// Longest time for the answer of one node.
const NODE_TIMEOUT: Duration = Duration::from_millis(250);

/// How often users are read whose slots are on their way, and the pause in between.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Users to be read from one node.
struct NodeUsers {
    node: Arc<Node>,
    way: Way,
    users: Vec<UserId>,
}

impl RedisStore {
    /// Reads the objects of users, in their order.
    pub(super) async fn read_users_of_cluster(
        &self,
        cluster: &Cluster,
        users: &[UserId],
    ) -> Vec<Option<UserObject>> {
        let mut objects = HashMap::with_capacity(users.len());
        let mut open: Vec<(UserId, Option<Arc<Node>>)> =
            users.iter().map(|user| (*user, None)).collect();
        for _ in 0..ATTEMPTS {
            let reads = self.by_node(cluster, &open);
            let reads = reads.into_iter().map(|of_node| self.read_from_node(of_node));
            let mut later = Vec::new();
            for (node, user, read) in join_all(reads).await.into_iter().flatten() {
                match read.map_err(|error| NotRun::of(&error).ok_or(error)) {
                    Ok(object) => drop(objects.insert(user, object)),
                    Err(Ok(NotRun::Ask(address))) => {
                        later.push((user, cluster.node(&address, &node.parts.name)));
                    }
                    Err(Ok(NotRun::Moved | NotRun::Later)) => later.push((user, None)),
                    Err(Err(error)) => self.users.warn_unreadable(&error),
                }
            }
            if later.is_empty() {
                open.clear();
                break;
            }
            if later.iter().any(|(_, asked)| asked.is_none()) {
                self.shared.note_node_change();
                sleep(PAUSE).await;
            }
            open = later;
        }
        if !open.is_empty() && objects.len() < users.len() {
            self.users.warn_unreadable(&StoreError::unavailable("their slots are on the way"));
        }
        users.iter().map(|user| objects.remove(user).flatten()).collect()
    }

    /// Groups users by the nodes that have their keys. Those of no node are left out.
    fn by_node(&self, cluster: &Cluster, users: &[(UserId, Option<Arc<Node>>)]) -> Vec<NodeUsers> {
        let mut groups: Vec<NodeUsers> = Vec::new();
        for (user, asked) in users {
            let (node, way) = if let Some(node) = asked {
                (Some(Arc::clone(node)), Way::Asking)
            } else {
                let key = self.partition(*user).keys.user(*user);
                (cluster.node_of_slot(slot(key.as_bytes())), Way::Plain)
            };
            let Some(node) = node else { continue };
            let is_same =
                |group: &&mut NodeUsers| group.way == way && Arc::ptr_eq(&group.node, &node);
            match groups.iter_mut().find(is_same) {
                Some(group) => group.users.push(*user),
                None => groups.push(NodeUsers { node, way, users: vec![*user] }),
            }
        }
        groups
    }

    async fn read_from_node(&self, of_node: NodeUsers) -> Vec<(Arc<Node>, UserId, UserRead)> {
        let NodeUsers { node, way, users } = of_node;
        let read = async {
            if let StoreHealth::Away(cause) = &*node.connections().health().borrow() {
                return Err(StoreError::unavailable(cause.clone()));
            }
            let _permit = node.permit()?;
            let mut connection = node.connections().calls()?;
            let keys = &self.partition(*users.first().ok_or_else(StoreError::missing_result)?).keys;
            self.users.read(&users, keys, way, &mut connection).await
        };
        let read = timeout(NODE_TIMEOUT, read).await;
        let reads = match read.unwrap_or_else(|late| Err(StoreError::unavailable(late))) {
            Ok(objects) => objects,
            Err(error) => vec![Err(error); users.len()],
        };
        let of_user = |(user, read)| (Arc::clone(&node), user, read);
        users.into_iter().zip(reads).map(of_user).collect()
    }
}
