//! One connection to Redis: which process it reaches, and whether it is lost.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, PushInfo, PushKind, RedisResult, cmd};
use tokio::runtime::Handle;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use super::tail_signal;
use crate::net::workers::Workers;
use crate::store::redis::parts::Shared;
use crate::store::redis::settings::Ack;

/// Opens connections to one Redis.
pub(crate) trait Connect: Send + Sync + 'static {
    /// The settings and their files, as they were read for one attempt.
    type Client: Send + Sync;

    /// Reads settings and files.
    fn client(&self) -> Result<Self::Client, String>;

    /// Opens a connection.
    fn connect(
        client: &Self::Client,
        config: &AsyncConnectionConfig,
    ) -> impl Future<Output = Result<MultiplexedConnection, Failure>> + Send;

    /// Completes when new connections would reach another Redis, with the cause.
    fn moved(&self) -> impl Future<Output = String> + Send {
        std::future::pending()
    }
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// Calls of the worker with this index.
    Calls(usize),
    /// Calls of a worker that wait for an acknowledgement, which blocks the connection.
    Acks {
        worker: usize,
        /// The number of the connection among the worker's.
        number: usize,
    },
    /// Probes, which must not queue after a call that waits for replicas.
    Probes,
    /// Blocks until the stream has entries.
    Tail,
}

impl Role {
    /// Returns the name in log lines.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Calls(_) => "calls",
            Self::Acks { .. } => "acks",
            Self::Probes => "probes",
            Self::Tail => "tail",
        }
    }

    /// Returns whether calls of a worker go over it.
    pub(super) fn serves_calls(self) -> bool {
        matches!(self, Self::Calls(_) | Self::Acks { .. })
    }
}

/// Returns the roles of all connections that so many workers need for marks with this acknowledgement.
pub(crate) fn roles(workers: usize, ack: Option<Ack>) -> impl Iterator<Item = Role> {
    let each = ack_connections(ack);
    let acks = (0..workers)
        .flat_map(move |worker| (0..each).map(move |number| Role::Acks { worker, number }));
    (0..workers).map(Role::Calls).chain([Role::Probes, Role::Tail]).chain(acks)
}

/// Returns how many connections of each worker are for calls that wait for this acknowledgement.
pub(super) fn ack_connections(ack: Option<Ack>) -> usize {
    ack.map_or(0, |ack| ack.connections)
}

/// Returns the runtime that a connection is opened on, which then drives it: its worker's, so that no call
/// is handed to another thread.
pub(super) fn runtime_of(role: Role, workers: &Workers) -> Handle {
    let worker = match role {
        Role::Calls(worker) | Role::Acks { worker, .. } => workers.runtime(worker).cloned(),
        Role::Probes | Role::Tail => None,
    };
    worker.unwrap_or_else(Handle::current)
}

/// One connection.
pub(crate) struct Link {
    connection: MultiplexedConnection,
    run_id: Option<String>,
    loss: Arc<Loss>,
    /// The right to block the connection.
    blocking: Arc<Semaphore>,
}

/// Whether a connection is lost.
struct Loss {
    is_lost: AtomicBool,
    /// Notified of each loss of a connection to this Redis.
    losses: Arc<Notify>,
}

impl Loss {
    fn note(&self) {
        self.is_lost.store(true, Ordering::Release);
        self.losses.notify_one();
    }
}

impl Link {
    /// Opens a connection, whose loss is notified to `losses`.
    ///
    /// One that is for the tail of a cluster's streams is told of their changes.
    pub(super) async fn open<C: Connect>(
        client: &C::Client,
        losses: &Arc<Notify>,
        tracked: Option<Arc<Shared>>,
    ) -> Result<Self, Failure> {
        let loss = Arc::new(Loss { is_lost: AtomicBool::new(false), losses: Arc::clone(losses) });
        let noted = Arc::clone(&loss);
        let is_tracking = tracked.is_some();
        let config = AsyncConnectionConfig::new()
            // Calls and probes have their own timeouts.
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_push_sender(move |push: PushInfo| -> Result<(), ()> {
                match push.kind {
                    PushKind::Disconnection => noted.note(),
                    PushKind::Invalidate => {
                        if let Some(shared) = &tracked {
                            tail_signal::notify(&shared.partitions, &push.data);
                        }
                    }
                    _ => {}
                }
                Ok(())
            });
        let mut connection = C::connect(client, &config).await?;
        let run_id = run_id(&mut connection).await?;
        if is_tracking {
            tail_signal::track(&mut connection).await?;
        }
        Ok(Self { connection, run_id, loss, blocking: Arc::new(Semaphore::new(1)) })
    }

    /// Returns the connection.
    pub(crate) fn connection(&self) -> MultiplexedConnection {
        self.connection.clone()
    }

    /// Acquires the right to block the connection until what it returns is dropped.
    pub(super) async fn block(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.blocking).acquire_owned().await.ok()
    }

    /// The same, if nobody else has it.
    pub(super) fn try_block(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.blocking).try_acquire_owned().ok()
    }

    pub(super) fn is_lost(&self) -> bool {
        self.loss.is_lost.load(Ordering::Acquire)
    }

    /// Notes that the connection is of no use any more.
    pub(super) fn note_loss(&self) {
        self.loss.note();
    }

    /// Returns the ID that the Redis process at the other end gave itself when it started, if it reveals
    /// it. A connection ends with its process, so it reaches the same one for ever.
    pub(super) fn run_id(&self) -> Option<&str> {
        self.run_id.as_deref()
    }
}

async fn run_id(connection: &mut MultiplexedConnection) -> Result<Option<String>, Failure> {
    let mut ask = cmd("INFO");
    ask.arg("server");
    let info: RedisResult<String> = ask.query_async(connection).await;
    match info {
        Ok(info) => {
            let run_id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
            Ok(run_id.map(|id| id.trim_end().to_owned()))
        }
        // An ACL forbids it, or it is renamed.
        Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("is_lost", &self.is_lost()).finish_non_exhaustive()
    }
}

#[cfg(test)]
impl Link {
    /// Creates a link of a connection whose loss is not noticed.
    pub(super) fn unwatched(connection: MultiplexedConnection) -> Self {
        let loss = Loss { is_lost: AtomicBool::new(false), losses: Arc::default() };
        let blocking = Arc::new(Semaphore::new(1));
        Self { connection, run_id: None, loss: Arc::new(loss), blocking }
    }
}
