//! The wire's limit: a server that answers at once. It is this very program, started once more, and
//! serves the service's own methods on the service's own listener, with the settings that `markread
//! serve` has by default, its runtime and its allocator. It has no guard, no identity and no store.

use std::process::Stdio;

use hyper_util::service::TowerToHyperService;
use markread::config::{self, Command, ServeConfig};
use markread::grpc::MESSAGE_MAX_BYTES;
use markread::lifecycle::Lifecycle;
use markread::listener::Listener;
use markread::mark_read::Quota;
use markread::proto::mark_read_service_server::{MarkReadService, MarkReadServiceServer};
use markread::proto::{
    BatchGetReadStatesRequest, BatchGetReadStatesResponse, BatchMarkReadRequest,
    BatchMarkReadResponse, GetReadStateRequest, GetReadStateResponse, ListReadCursorsRequest,
    ListReadCursorsResponse, MarkReadRequest, MarkReadResponse, ReadCursor,
    WatchMarkReadEventsRequest, WatchMarkReadEventsResponse,
};
use markread::status::insert_rate_limit;
use prost_types::Timestamp;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;
use tokio::runtime::Builder;
use tonic::{Request, Response, Status};

/// The first argument that makes this program that server.
pub(crate) const ROLE: &str = "noop";

/// That server.
pub(crate) struct Noop {
    process: Child,
    pub(crate) address: String,
}

impl Noop {
    /// With so many threads.
    pub(crate) async fn start(worker_threads: &str) -> Self {
        let mut process = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([ROLE, "--worker-threads", worker_threads])
            .env_clear()
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().expect("it says where it listens");
        Self { process, address }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }
}

/// Is that server, with these flags of `serve`, until it is ended.
pub(crate) fn serve(flags: impl Iterator<Item = String>) {
    let own = ["markread", "serve", "--dev", "--listen", "127.0.0.1:0"].map(str::to_owned);
    let parsed = config::parse(own.into_iter().chain(flags).map(Into::into));
    let Ok(Command::Serve(config)) = parsed else { panic!("flags of serve: {parsed:?}") };
    let ServeConfig { listen, limits, worker_threads, .. } = *config;
    // As src/main.rs does.
    let mut runtime = if worker_threads == 1 {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    let runtime = runtime.worker_threads(worker_threads).enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = Listener::bind(listen, limits).unwrap();
        println!("{}", listener.local_addr().unwrap());
        let service =
            MarkReadServiceServer::new(AtOnce).max_decoding_message_size(MESSAGE_MAX_BYTES);
        let service_of = move |_| TowerToHyperService::new(service.clone());
        listener.serve(service_of, Lifecycle::default()).await;
    });
}

struct AtOnce;

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
        let quota = Quota {
            limit: 999_999_999_999,
            remaining: 999_999_000_000,
            reset_at_ms: 1_518_127_183_443,
        };
        insert_rate_limit(response.metadata_mut().as_mut(), quota);
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

fn not_this_one() -> Status {
    Status::unimplemented("only marks are answered at once")
}
