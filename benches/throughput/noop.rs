//! Servers that answer at once. Each is this program, started again, and serves on the service's
//! own listener with the default settings, the runtime and the allocator of `markread serve`. The
//! bare server shows the limit of gRPC: the generated service without guard, identity and store.
//! The whole server is the service with guard and tokens, on a store that does nothing.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::service::TowerToHyperService;
use markread::cli::config::ServeConfig;
use markread::cli::{self, Command};
use markread::domain::{
    self, Conversation, CursorPage, ListPosition, Mark, Nonce, Outcome, Position, Quota,
    ReadOutcome, UserId,
};
use markread::edge::answer::insert_rate_limit;
use markread::edge::grpc::MESSAGE_MAX_BYTES;
use markread::edge::{Edge, EdgeConfig};
use markread::files::Reread;
use markread::net::cpus::WorkerCount;
use markread::net::lifecycle::Lifecycle;
use markread::net::listener::Listener;
use markread::net::workers::WorkerThreads;
use markread::ops::health::{self, Sources};
use markread::proto::mark_read_service_server::{MarkReadService, MarkReadServiceServer};
use markread::proto::{
    BatchGetReadStatesRequest, BatchGetReadStatesResponse, BatchMarkReadRequest,
    BatchMarkReadResponse, GetReadStateRequest, GetReadStateResponse, ListReadCursorsRequest,
    ListReadCursorsResponse, MarkReadRequest, MarkReadResponse, ReadCursor,
    WatchMarkReadEventsRequest, WatchMarkReadEventsResponse,
};
use markread::service::Service;
use markread::service::watch::Hub;
use markread::store::{
    Cursors, Entries, EventLog, EventLogs, LogBounds, MarkResult, Marks, NonceUse, Nonces,
    ReadQuotas, Store, StoreError, StoreHealth,
};
use markread::telemetry::Traceparent;
use markread::telemetry::metrics::{self, Metrics};
use markread_harness::server::SECRET;
use prost_types::Timestamp;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::runtime::Builder;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// The kind of server, given as this program's first argument.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Bare,
    Whole,
}

impl Role {
    pub(crate) fn parse(argument: &str) -> Option<Self> {
        [Self::Bare, Self::Whole].into_iter().find(|role| role.name() == argument)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bare => "noop",
            Self::Whole => "storeless",
        }
    }
}

/// A process of such a server.
pub(crate) struct Noop {
    process: Child,
    pub(crate) address: String,
    _dir: TempDir,
}

impl Noop {
    /// Starts a server with these flags of `serve`.
    pub(crate) async fn start(role: Role, flags: &[&str]) -> Self {
        Self::start_named(role.name(), flags).await
    }

    /// Starts this program with a name as its first argument.
    pub(crate) async fn start_named(name: &str, flags: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let mut process = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--jwt-secret-file"])
            .arg(secret)
            .args(flags)
            .env_clear()
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("it says where it listens");
        Self { process, address, _dir: dir }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }
}

/// Runs such a server with these flags of `serve` until the process is killed.
pub(crate) fn serve(role: Role, flags: impl Iterator<Item = String>) {
    let own = ["markread", "serve", "--listen", "127.0.0.1:0", "--redis-url", "redis://127.0.0.1"];
    let parsed = cli::parse(own.map(str::to_owned).into_iter().chain(flags).map(Into::into));
    let Ok(Command::Serve(config)) = parsed else { panic!("flags of serve: {parsed:?}") };
    let ServeConfig { listen, limits, worker_threads, edge, .. } = *config;
    // As src/cli/mod.rs does.
    let threads = WorkerThreads::start(WorkerCount::find(worker_threads).threads).unwrap();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Listener::bind(listen, limits).unwrap().with_workers(threads.workers());
        println!("{}", listener.local_addr().unwrap());
        let lifecycle = Lifecycle::default();
        match role {
            Role::Bare => {
                let service =
                    MarkReadServiceServer::new(AtOnce).max_decoding_message_size(MESSAGE_MAX_BYTES);
                let service_of = move |_| TowerToHyperService::new(service.clone());
                listener.serve(service_of, lifecycle).await;
            }
            Role::Whole => {
                let edge = Arc::new(storeless(edge, &lifecycle).await);
                listener.serve(move |peer| edge.for_peer(peer), lifecycle).await;
            }
        }
    });
}

/// Builds the service as `markread serve` does, on a store that does nothing.
async fn storeless(config: EdgeConfig, lifecycle: &Lifecycle) -> Edge {
    let page = metrics::install().unwrap();
    tokio::spawn(metrics::run_upkeep(page));
    let metrics = Arc::new(Metrics::default());
    let store: Arc<dyn Store> = Arc::new(AtOnce);
    let keys = config.identity.start(&Reread::default());
    let (_, health) = watch::channel(StoreHealth::Ready { warnings: Vec::new() });
    let sources = Sources { phase: lifecycle.watch(), store: health, keys };
    let (health, _) = health::service(sources).await;
    let hub = Arc::new(Hub::new(&store));
    let service = Arc::new(Service::new(store, hub));
    Edge::new(config, service, health, lifecycle.clone(), metrics).unwrap()
}

/// A quota that no reader uses up.
const QUOTA: Quota =
    Quota { limit: 999_999_999_999, remaining: 999_999_000_000, reset_at_ms: 1_518_127_183_443 };

/// The generated service alone.
pub(crate) fn generated() -> MarkReadServiceServer<AtOnce> {
    MarkReadServiceServer::new(AtOnce).max_decoding_message_size(MESSAGE_MAX_BYTES)
}

pub(crate) struct AtOnce;

#[tonic::async_trait]
impl MarkReadService for AtOnce {
    /// An answer as long as that of a mark that advances.
    async fn mark_read(
        &self,
        request: Request<MarkReadRequest>,
    ) -> Result<Response<MarkReadResponse>, Status> {
        let MarkReadRequest { last_read_event_id, recipient_id } = request.into_inner();
        let read_at = Some(Timestamp { seconds: 1_518_127_183, nanos: 443_000_000 });
        let cursor = Some(ReadCursor { recipient_id, last_read_event_id, read_at });
        let mut response = Response::new(MarkReadResponse { cursor, advanced: true });
        insert_rate_limit(response.metadata_mut().as_mut(), QUOTA);
        Ok(response)
    }

    async fn batch_mark_read(
        &self,
        _: Request<BatchMarkReadRequest>,
    ) -> Result<Response<BatchMarkReadResponse>, Status> {
        Err(not_this_one())
    }

    async fn get_read_state(
        &self,
        _: Request<GetReadStateRequest>,
    ) -> Result<Response<GetReadStateResponse>, Status> {
        Err(not_this_one())
    }

    async fn batch_get_read_states(
        &self,
        _: Request<BatchGetReadStatesRequest>,
    ) -> Result<Response<BatchGetReadStatesResponse>, Status> {
        Err(not_this_one())
    }

    async fn list_read_cursors(
        &self,
        _: Request<ListReadCursorsRequest>,
    ) -> Result<Response<ListReadCursorsResponse>, Status> {
        Err(not_this_one())
    }

    type WatchMarkReadEventsStream =
        tokio_stream::Empty<Result<WatchMarkReadEventsResponse, Status>>;

    async fn watch_mark_read_events(
        &self,
        _: Request<WatchMarkReadEventsRequest>,
    ) -> Result<Response<Self::WatchMarkReadEventsStream>, Status> {
        Err(not_this_one())
    }
}

#[tonic::async_trait]
impl Marks for AtOnce {
    async fn mark_read(&self, mark: Mark, _: Option<Traceparent>) -> MarkResult {
        let Mark { recipient, last_read_event_id, .. } = mark;
        let read_at_ms = QUOTA.reset_at_ms;
        let cursor = domain::ReadCursor { recipient, last_read_event_id, read_at_ms };
        Ok(Outcome::Advanced { cursor, quota: QUOTA })
    }

    async fn mark_read_all(
        &self,
        _: &[Mark],
        _: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        Err(not_of_this_store())
    }
}

impl EventLogs for AtOnce {
    fn logs(self: Arc<Self>) -> Vec<Arc<dyn EventLog>> {
        vec![self]
    }
}

#[tonic::async_trait]
impl EventLog for AtOnce {
    async fn wait_for_entries(
        &self,
        _: Position,
        _: usize,
        _: Duration,
    ) -> Result<Entries, StoreError> {
        Err(not_of_this_store())
    }

    async fn entries(&self, _: Position, _: usize) -> Result<Entries, StoreError> {
        Err(not_of_this_store())
    }

    async fn newest_entries(&self, _: usize) -> Result<Entries, StoreError> {
        Err(not_of_this_store())
    }

    async fn bounds(&self) -> Result<LogBounds, StoreError> {
        Err(not_of_this_store())
    }
}

#[tonic::async_trait]
impl ReadQuotas for AtOnce {
    async fn take_reads(&self, _: UserId, _: u64) -> Result<ReadOutcome<()>, StoreError> {
        Err(not_of_this_store())
    }
}

#[tonic::async_trait]
impl Cursors for AtOnce {
    async fn read_states(
        &self,
        _: UserId,
        _: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<domain::ReadCursor>>>, StoreError> {
        Err(not_of_this_store())
    }

    async fn list_cursors(
        &self,
        _: UserId,
        _: Option<ListPosition>,
        _: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        Err(not_of_this_store())
    }
}

#[tonic::async_trait]
impl Nonces for AtOnce {
    async fn use_nonce(&self, _: UserId, _: Nonce) -> Result<NonceUse, StoreError> {
        Err(not_of_this_store())
    }

    async fn forget_nonce(&self, _: UserId, _: Nonce) -> Result<(), StoreError> {
        Err(not_of_this_store())
    }
}

fn not_of_this_store() -> StoreError {
    StoreError::corrupt("only marks are answered at once")
}

fn not_this_one() -> Status {
    Status::unimplemented("only marks are answered at once")
}
