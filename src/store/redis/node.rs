//! One Redis: a master of a cluster, or the only one there is.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use redis::Pipeline;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::cluster::topology::Address;
use super::connection::Connections;
use super::connection::layout::LayoutMismatch;
use super::connection::link::Connect;
use super::connection::supervisor::Supervisor;
use super::gate::{Gate, Passed, Weight};
use super::marks::group_commit::GroupCommit;
use super::marks::script_call::MarkReadScript;
use super::partitions::PartitionStore;
use super::parts::{NodeParts, Shared};
use crate::net::workers::{self, Workers};
use crate::store::StoreError;

/// Most calls that wait for a node. One more is refused. At a millisecond a call that is four million
/// calls a second, which only a hanging Redis reaches.
const IN_FLIGHT_MAX: usize = 4096;

/// What is sent to one Redis, and over which connections.
pub(crate) struct Node {
    pub(crate) parts: NodeParts,
    /// Shares script calls among marks: one for each worker, whose marks share them without another
    /// thread.
    group_commits: Box<[Arc<GroupCommit>]>,
    /// Bounds what else is under way, of each worker.
    gates: Gates,
    /// Bounds the batches under way that wait for an acknowledgement, which reads do not wait behind.
    ack_gates: Gates,
    in_flight: Semaphore,
}

/// One for each worker.
type Gates = Box<[Arc<Gate>]>;

/// Makes nodes.
pub(crate) struct NodeMaker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) marks: Arc<MarkReadScript>,
    /// Loads the scripts.
    pub(crate) load: Pipeline,
    pub(crate) workers: Workers,
}

/// The right to send a read or a batch, until it is dropped.
pub(crate) struct CallPermit<'a> {
    _passed: Passed,
    _permit: SemaphorePermit<'a>,
}

/// Keeps a node connected, until it has another layout.
pub(crate) type Supervision = Pin<Box<dyn Future<Output = LayoutMismatch> + Send>>;

impl NodeMaker {
    /// Makes the only node there is, which has all partitions.
    pub(crate) fn only(&self, connect: impl Connect) -> (Arc<Node>, Supervision) {
        self.make("", connect, self.shared.partitions.all().to_vec())
    }

    /// Makes a node of a cluster, which has no partition yet.
    pub(crate) fn of_cluster(
        &self,
        connect: impl Connect,
        address: &Address,
    ) -> (Arc<Node>, Supervision) {
        self.make(&address.to_string(), connect, Vec::new())
    }

    fn make(
        &self,
        name: &str,
        connect: impl Connect,
        served: Vec<Arc<PartitionStore>>,
    ) -> (Arc<Node>, Supervision) {
        let workers = self.workers.count();
        let shared = Arc::clone(&self.shared);
        let parts = NodeParts::new(name, Connections::new(workers, shared.ack), served, shared);
        let node = Node::new(parts.clone(), &self.marks, workers);
        let supervisor = Supervisor::new(connect, parts, self.load.clone(), self.workers.clone());
        (Arc::new(node), Box::pin(supervisor.run()))
    }
}

impl Node {
    pub(crate) fn new(parts: NodeParts, marks: &Arc<MarkReadScript>, workers: usize) -> Self {
        let group_commit = |_| Arc::new(GroupCommit::new(parts.clone(), Arc::clone(marks)));
        let group_commits = (0..workers).map(group_commit).collect();
        let gates = || (0..workers).map(|_| Arc::default()).collect();
        let (gates, ack_gates) = (gates(), gates());
        Self { parts, group_commits, gates, ack_gates, in_flight: Semaphore::new(IN_FLIGHT_MAX) }
    }

    /// Returns the connections.
    pub(crate) fn connections(&self) -> &Connections {
        &self.parts.connections
    }

    /// Acquires the right to call it.
    pub(crate) fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let permit = self.in_flight.try_acquire();
        permit.map_err(|_| StoreError::unavailable("too many calls wait for Redis"))
    }

    /// Acquires the right to send a read, or waits for it.
    pub(crate) async fn pass(&self, weight: Weight) -> Result<CallPermit<'_>, StoreError> {
        self.pass_one_of(&self.gates, weight).await
    }

    /// Acquires the right to send a batch of so many marks, or waits for it.
    pub(crate) async fn pass_batch(&self, marks: usize) -> Result<CallPermit<'_>, StoreError> {
        let (gates, weight) = match self.parts.shared.ack {
            Some(ack) => (&self.ack_gates, Weight::one_of(ack.connections)),
            None => (&self.gates, Weight::of_marks(marks)),
        };
        self.pass_one_of(gates, weight).await
    }

    async fn pass_one_of(
        &self,
        gates: &Gates,
        weight: Weight,
    ) -> Result<CallPermit<'_>, StoreError> {
        let permit = self.permit()?;
        let gate = gates.get(workers::current()).or_else(|| gates.first());
        let gate = gate.ok_or_else(|| StoreError::unavailable("there is no worker"))?;
        Ok(CallPermit { _passed: gate.pass(weight).await?, _permit: permit })
    }

    /// Returns the group commit of this thread's worker.
    pub(crate) fn group_commit(&self) -> Result<&Arc<GroupCommit>, StoreError> {
        let own = self.group_commits.get(workers::current()).or_else(|| self.group_commits.first());
        own.ok_or_else(|| StoreError::unavailable("there is no worker"))
    }

    /// Makes all marks go by the full script.
    pub(crate) fn use_full_script_only(&self) {
        self.group_commits.iter().for_each(|group_commit| group_commit.use_full_script_only());
    }

    /// Makes each call have marks of one partition.
    pub(crate) fn use_declared_keys_only(&self) {
        self.group_commits.iter().for_each(|group_commit| group_commit.use_declared_keys_only());
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").finish_non_exhaustive()
    }
}
