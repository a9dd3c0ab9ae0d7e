//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, each within bounds.
//!
//! tonic's own server has no bound on connections, no handshake timeout and no jitter, and its graceful
//! shutdown waits without end for silent clients.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as HttpBody;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::first_bytes::FirstBytesTimeout;
use super::lifecycle::Lifecycle;
use super::peer::{ClientAuth, Peer};
use super::tls::Tls;
use crate::telemetry::LogThrottle;

/// Largest list of request headers, in bytes (`docs/contract.md`, "Answers").
pub const HEADER_LIST_MAX_BYTES: u32 = 16 * 1024;

/// HTTP/2 flow-control windows, in bytes. A request is at most 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes buffered per stream for a client that does not read.
const SEND_BUFFER_MAX_BYTES: usize = 64 * 1024;

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
    /// How long a connection may be without a call; `None` is for ever.
    pub idle: Option<Duration>,
    /// How long an answer may make no progress; `None` is for ever.
    pub send: Option<Duration>,
}

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    accept_log: LogThrottle,
    full_log: LogThrottle,
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
        let (accept_log, full_log) = Default::default();
        Ok(Self { socket, limits, tls: None, accept_log, full_log })
    }

    /// Terminates TLS on the connections, if `tls` is given.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
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
    pub async fn serve<F, S, B>(self, service_of: F, lifecycle: Lifecycle)
    where
        F: Fn(Peer) -> S + Clone + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let connections = TaskTracker::new();
        let open = Arc::new(Semaphore::new(self.limits.connections));
        let http = Arc::new(http_server(self.limits));
        let mut drain = pin!(lifecycle.draining());
        loop {
            let (stream, address) = tokio::select! {
                accepted = self.accept() => accepted,
                () = &mut drain => break,
            };
            let Ok(permit) = Arc::clone(&open).try_acquire_owned() else {
                if let Some(suppressed) = self.full_log.permit() {
                    tracing::warn!(suppressed, "connection closed: --max-connections are open");
                }
                continue;
            };
            let http = Arc::clone(&http);
            let connection = Connection { http, limits: self.limits, address, permit };
            let tls = self.tls.clone();
            let (service_of, lifecycle) = (service_of.clone(), lifecycle.clone());
            connections
                .spawn(async move { connection.accept(stream, tls, service_of, lifecycle).await });
        }
        drop(self.socket);
        connections.close();
        connections.wait().await;
    }

    async fn accept(&self) -> (TcpStream, SocketAddr) {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) => {
                    if let Some(suppressed) = self.accept_log.permit() {
                        tracing::warn!(%error, suppressed, "no connection could be accepted");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

fn http_server(limits: Limits) -> auto::Builder<TokioExecutor> {
    let mut http = auto::Builder::new(TokioExecutor::new());
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        .max_header_list_size(HEADER_LIST_MAX_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_MAX_BYTES)
        .keep_alive_interval(limits.keepalive_interval)
        .keep_alive_timeout(limits.keepalive_timeout);
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.handshake)
        .max_buf_size(usize::try_from(HEADER_LIST_MAX_BYTES).unwrap_or(usize::MAX));
    http
}

/// One connection, from its acceptance to its end.
struct Connection {
    http: Arc<auto::Builder<TokioExecutor>>,
    limits: Limits,
    address: SocketAddr,
    permit: OwnedSemaphorePermit,
}

impl Connection {
    async fn accept<F, S, B>(
        self,
        stream: TcpStream,
        tls: Option<Arc<Tls>>,
        service_of: F,
        lifecycle: Lifecycle,
    ) where
        F: Fn(Peer) -> S,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Otherwise the kernel delays small answers. A failure has no other effect.
        let _ = stream.set_nodelay(true);
        let address = self.address.ip();
        let Some(tls) = tls else {
            let service = service_of(Peer { address, client_auth: ClientAuth::Plaintext });
            return self.serve(stream, service, lifecycle).await;
        };
        let handshake = timeout(self.limits.handshake, tls.accept(stream));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            // The drain does not wait for a handshake.
            () = lifecycle.draining() => return,
        };
        match accepted {
            Ok(Ok((stream, client_auth))) => {
                self.serve(stream, service_of(Peer { address, client_auth }), lifecycle).await;
            }
            Ok(Err(error)) => tracing::debug!(error = ?error.to_string(), "TLS handshake failed"),
            Err(_) => tracing::debug!("TLS handshake timed out"),
        }
    }

    async fn serve<T, S, B>(self, stream: T, service: S, lifecycle: Lifecycle)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
        S::Future: Send + 'static,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = FirstBytesTimeout::new(stream, self.limits.handshake);
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let goaway = async {
            tokio::select! {
                () = expiry(self.limits.connection_age) => {}
                () = lifecycle.draining() => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = goaway => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Debug: a client can cause it with anything that it sends.
            tracing::debug!(error = ?error.to_string(), "connection ended");
        }
        drop(self.permit);
    }
}

async fn expiry(age: Option<Duration>) {
    match age {
        Some(age) => {
            sleep(age.mul_f64(rand::random_range(1.0 - AGE_JITTER..=1.0 + AGE_JITTER))).await;
        }
        None => pending().await,
    }
}
