//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, each within bounds.
//!
//! tonic's own server has no bound on connections, no handshake timeout and no jitter, and its graceful
//! shutdown waits without end for silent clients.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::TaskTracker;

use super::first_bytes::{FirstBytes, Version};
use super::lifecycle::Lifecycle;
use super::peer::{ClientAuth, Peer};
use super::peers::{PeerSlot, Peers};
use super::pressure::{MemoryPressure, Pressure};
use super::send_timeout::SendTimeout;
use super::service::HttpService;
use super::tls::Tls;
use super::workers::Workers;
use super::{http1, http2};
use crate::telemetry::LogThrottle;
use crate::telemetry::metrics::{Bound, count_refused};

/// Largest list of request headers, in bytes (`docs/contract.md`, "Answers").
pub const HEADER_LIST_MAX_BYTES: u32 = 16 * 1024;

/// Connections that the kernel queues until they are accepted.
const BACKLOG: i32 = 1024;

/// Pause after a connection could not be accepted, mostly for lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Jitter of a connection's age, as a share of it (gRFC A9: 10 %).
const AGE_JITTER: f64 = 0.1;

/// Bounds of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections. One more is closed at once.
    pub connections: usize,
    /// Open connections of one peer; `None` is any number.
    pub connections_per_peer: Option<usize>,
    /// Concurrent streams of an HTTP/2 connection.
    pub streams: u32,
    /// Time for the TLS handshake, then for the first request line or HTTP/2 preface, and for the
    /// whole head of each HTTP/1.1 request.
    pub handshake: Duration,
    /// Silence after which an HTTP/2 client is pinged.
    pub keepalive_interval: Duration,
    /// Time for the answer to a ping.
    pub keepalive_timeout: Duration,
    /// Age at which a connection gets GOAWAY, give or take a tenth.
    pub connection_age: Option<Duration>,
    /// How long after that GOAWAY the connection is closed.
    pub connection_age_grace: Duration,
    /// How long an HTTP/2 connection may be without a call; `None` is for ever.
    pub idle: Option<Duration>,
    /// How long an HTTP/1.1 connection may be without a request; `None` is for ever.
    pub http1_idle: Option<Duration>,
    /// How long an answer may make no progress; `None` is for ever.
    pub send: Option<Duration>,
}

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    pressure: MemoryPressure,
    workers: Workers,
    logs: Logs,
}

/// Throttles of lines that clients can cause.
#[derive(Debug, Default)]
struct Logs {
    accept: LogThrottle,
    full: LogThrottle,
    peer_full: LogThrottle,
}

/// What open connections are told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notice {
    /// The drain has begun.
    pub(super) draining: bool,
    /// Memory is short: idle connections end.
    pub(super) memory_critical: bool,
}

/// What the connections of a listener have in common.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) limits: Arc<Limits>,
    pub(super) pressure: MemoryPressure,
    pub(super) http1: hyper::server::conn::http1::Builder,
    pub(super) http2: h2::server::Builder,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    ///
    /// The system's, such as that the port is in use.
    pub fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart finds its port free while old connections linger.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        let (pressure, logs) = Default::default();
        Ok(Self { socket, limits, tls: None, pressure, workers: Workers::here(), logs })
    }

    /// Hands the connections to these workers. Without them, the runtime that accepts serves them too.
    #[must_use]
    pub fn with_workers(self, workers: Workers) -> Self {
        Self { workers, ..self }
    }

    /// Terminates TLS on the connections, if `tls` is given.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// Accepts no connection while memory is short, and ends idle ones while it is very short.
    #[must_use]
    pub fn with_pressure(self, pressure: MemoryPressure) -> Self {
        Self { pressure, ..self }
    }

    /// Returns the address, with the port that the system chose for port 0.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until the drain. Then it accepts no more connections, sends GOAWAY on the open ones, and
    /// returns when the last is closed. The caller bounds that wait.
    pub async fn serve<F, S>(self, service_of: F, lifecycle: Lifecycle)
    where
        F: Fn(Peer) -> S + Clone + Send + 'static,
        S: HttpService,
    {
        let connections = TaskTracker::new();
        let open = Arc::new(Semaphore::new(self.limits.connections));
        let peers = Peers::new(self.limits.connections_per_peer);
        let settings = Arc::new(Settings::new(self.limits, self.pressure.clone()));
        let notices = watch::Sender::new(Notice::default());
        let mut pressure = self.pressure.watch();
        let mut drain = pin!(lifecycle.draining());
        loop {
            let (stream, address) = tokio::select! {
                accepted = self.accept() => accepted,
                () = &mut drain => break,
                _ = pressure.changed() => {
                    let memory_critical = *pressure.borrow_and_update() == Pressure::Critical;
                    notices.send_modify(|notice| notice.memory_critical = memory_critical);
                    continue;
                }
            };
            let Some(permits) = self.admit(&open, &peers, address) else { continue };
            // The worker's runtime has to register it.
            let Ok(stream) = stream.into_std() else { continue };
            let (settings, notices) = (Arc::clone(&settings), notices.subscribe());
            let connection = Connection { settings, address, notices };
            let (tls, service_of) = (self.tls.clone(), service_of.clone());
            let worker = self.workers.assign();
            let Some(runtime) = worker.runtime().cloned() else { continue };
            let serve = async move {
                if let Ok(stream) = TcpStream::from_std(stream) {
                    // A statement of its own, which frees the first stage.
                    let serving = connection.begin(stream, tls, service_of).await;
                    if let Some(serving) = serving {
                        serving.await;
                    }
                }
                drop((permits, worker));
            };
            connections.spawn_on(serve, &runtime);
        }
        drop(self.socket);
        notices.send_modify(|notice| notice.draining = true);
        connections.close();
        connections.wait().await;
    }

    /// Counts a connection, or refuses it.
    fn admit(
        &self,
        open: &Arc<Semaphore>,
        peers: &Peers,
        address: SocketAddr,
    ) -> Option<(OwnedSemaphorePermit, PeerSlot)> {
        if self.pressure.now() >= Pressure::High {
            count_refused(Bound::Memory);
            return None;
        }
        let Ok(permit) = Arc::clone(open).try_acquire_owned() else {
            count_refused(Bound::Connections);
            if let Some(suppressed) = self.logs.full.permit() {
                tracing::warn!(suppressed, "connection closed: --max-connections are open");
            }
            return None;
        };
        let Some(counted) = peers.enter(address.ip()) else {
            count_refused(Bound::ConnectionsPerPeer);
            if let Some(suppressed) = self.logs.peer_full.permit() {
                tracing::warn!(
                    suppressed,
                    "connection closed: its peer has --max-connections-per-peer"
                );
            }
            return None;
        };
        Some((permit, counted))
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    if let Some(suppressed) = self.logs.accept.permit() {
                        tracing::warn!(%error, suppressed, "no connection could be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

impl Settings {
    pub(super) fn new(limits: Limits, pressure: MemoryPressure) -> Self {
        let (http1, http2) = (http1::builder(&limits), http2::builder(&limits));
        Self { limits: Arc::new(limits), pressure, http1, http2 }
    }
}

/// One connection, from its acceptance to its end.
struct Connection {
    settings: Arc<Settings>,
    address: SocketAddr,
    notices: watch::Receiver<Notice>,
}

/// A stage in the life of a connection. A box of its own, which is freed when the next stage begins:
/// otherwise each connection is as large as the largest stage, 11 KB.
type Stage<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Connection {
    /// Begins a connection, up to the first bytes of its protocol. Returns the stage that serves it.
    fn begin<F, S>(
        self,
        stream: TcpStream,
        tls: Option<Arc<Tls>>,
        service_of: F,
    ) -> Stage<Option<Stage<()>>>
    where
        F: Fn(Peer) -> S + Send + 'static,
        S: HttpService,
    {
        // Otherwise the kernel delays small answers. A failure has no other effect.
        let _ = stream.set_nodelay(true);
        let stream = SendTimeout::new(stream, self.settings.limits.send);
        if let Some(tls) = tls {
            return Box::pin(self.accept_tls(stream, tls, service_of));
        }
        let address = self.address.ip();
        let service = service_of(Peer { address, client_auth: ClientAuth::Plaintext });
        Box::pin(self.read_first_bytes(stream, service))
    }

    async fn accept_tls<F, S>(
        mut self,
        stream: SendTimeout<TcpStream>,
        tls: Arc<Tls>,
        service_of: F,
    ) -> Option<Stage<()>>
    where
        F: Fn(Peer) -> S,
        S: HttpService,
    {
        let handshake = timeout(self.settings.limits.handshake, tls.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            () = draining(&mut self.notices) => return None,
        };
        match accepted {
            Ok(Ok((stream, client_auth))) => {
                let address = self.address.ip();
                let service = service_of(Peer { address, client_auth });
                self.read_first_bytes(stream, service).await
            }
            Ok(Err(error)) => {
                tracing::debug!(error = ?error.to_string(), "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("TLS handshake timed out");
                None
            }
        }
    }

    async fn read_first_bytes<T, S>(mut self, stream: T, service: S) -> Option<Stage<()>>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
        S: HttpService,
    {
        let begun_by = Instant::now() + self.settings.limits.handshake;
        let first = tokio::select! {
            first = timeout_at(begun_by, FirstBytes::read(stream)) => first,
            () = draining(&mut self.notices) => return None,
        };
        let Self { settings, notices, .. } = self;
        match first {
            Ok(Ok((Version::Http2, stream))) => {
                let beginning = http2::begin(stream, service, settings, notices, begun_by);
                match Box::pin(beginning).await {
                    Ok(serving) => Some(Box::pin(async move { log_end(serving.await) })),
                    Err(error) => {
                        log_end(Err(error));
                        None
                    }
                }
            }
            Ok(Ok((Version::Http1, stream))) => Some(Box::pin(async move {
                log_end(http1::serve(stream, service, &settings, notices).await);
            })),
            Ok(Err(error)) => {
                log_end(Err(error));
                None
            }
            Err(late) => {
                log_end(Err(late));
                None
            }
        }
    }
}

fn log_end(ended: Result<(), impl std::error::Error>) {
    if let Err(error) = ended {
        // Debug: a client can cause it with anything that it sends.
        tracing::debug!(error = ?error.to_string(), "connection ended");
    }
}

/// Serves one connection that is not accepted from a port, for measurements.
pub async fn serve_stream<T, S>(stream: T, service: S, limits: Limits)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let settings = Arc::new(Settings::new(limits, MemoryPressure::default()));
    let notices = watch::Sender::new(Notice::default());
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let connection = Connection { settings, address, notices: notices.subscribe() };
    if let Some(serving) = connection.read_first_bytes(stream, service).await {
        serving.await;
    }
}

/// Waits for the drain, which does not wait for a handshake.
async fn draining(notices: &mut watch::Receiver<Notice>) {
    // Without a listener there is nothing to wait for either.
    let _ = notices.wait_for(|notice| notice.draining).await;
}

/// Waits for a connection's age.
pub(super) async fn expiry(age: Option<Duration>) {
    match age {
        Some(age) => sleep(jittered(age)).await,
        None => pending().await,
    }
}

/// Returns an age with jitter.
pub(super) fn jittered(age: Duration) -> Duration {
    age.mul_f64(rand::random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER))
}
