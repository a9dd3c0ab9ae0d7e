//! Accepts connections and serves HTTP/1.1 and HTTP/2 on them, each within bounds.
//!
//! Not tonic's own server: that one knows no bound on connections, no handshake timeout and no
//! jitter, and its graceful shutdown waits for silent clients without end (DESIGN section 7).

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

use crate::net::first_bytes::Handshake;
use crate::net::lifecycle::Lifecycle;
use crate::net::peer::{Peer, Security};
use crate::net::tls::Tls;
use crate::telemetry::Throttle;

/// The largest list of request headers, in bytes: CONTRACT section 4.
pub const HEADER_LIST_MAX_BYTES: u32 = 16 * 1024;

/// What a client may send ahead on a stream and on a connection, in bytes. A request is at most
/// 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 64 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// What is buffered for a client that does not read, in bytes a stream.
const SEND_BUFFER_MAX_BYTES: usize = 64 * 1024;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 1024;

/// How long no connection is accepted after one could not be, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How much longer or shorter a connection's life is than the configured age: gRFC A9's 10 %.
const AGE_JITTER: f64 = 0.1;

/// What a listener's connections may do.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open connections; one more is closed at once.
    pub connections: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub streams: u32,
    /// From the connection to its end of TLS's handshake, and from there to its first request line
    /// or HTTP/2 preface; and for the whole head of an HTTP/1.1 request.
    pub handshake: Duration,
    /// Silence after which an HTTP/2 client is pinged.
    pub keepalive_interval: Duration,
    /// How long a ping may stay unanswered.
    pub keepalive_timeout: Duration,
    /// After which a connection is told to go (GOAWAY), give or take a tenth. It is never cut.
    pub connection_age: Option<Duration>,
}

/// A bound port.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    limits: Limits,
    tls: Option<Arc<Tls>>,
    failing: Throttle,
    crowded: Throttle,
}

impl Listener {
    /// Binds an address.
    ///
    /// # Errors
    ///
    /// What the system says, such as that the port is in use.
    pub fn bind(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // A restart finds its port free while old connections linger.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from_std(socket.into())?;
        let (failing, crowded) = Default::default();
        Ok(Self { socket, limits, tls: None, failing, crowded })
    }

    /// The same behind TLS, where there is any.
    #[must_use]
    pub fn behind(self, tls: Option<Arc<Tls>>) -> Self {
        Self { tls, ..self }
    }

    /// The address, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until the drain: then no connection is accepted any more, those that are open are
    /// told to go, and this returns when the last has gone. Whoever waits for that sets the limit.
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
                if let Some(silenced) = self.crowded.ask() {
                    tracing::warn!(silenced, "connection closed: --max-connections are open");
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
                    if let Some(silenced) = self.failing.ask() {
                        tracing::warn!(%error, silenced, "no connection accepted");
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
        // Without it small answers wait for their neighbours; where it fails they do no more.
        let _ = stream.set_nodelay(true);
        let address = self.address.ip();
        let Some(tls) = tls else {
            let service = service_of(Peer { address, security: Security::Plain });
            return self.serve(stream, service, lifecycle).await;
        };
        let handshake = timeout(self.limits.handshake, tls.accept(stream));
        let shaken = tokio::select! {
            shaken = handshake => shaken,
            // Nobody is kept waiting by a client that has not even said who it is.
            () = lifecycle.draining() => return,
        };
        match shaken {
            Ok(Ok((stream, security))) => {
                self.serve(stream, service_of(Peer { address, security }), lifecycle).await;
            }
            Ok(Err(error)) => tracing::debug!(error = ?error.to_string(), "no handshake"),
            Err(_) => tracing::debug!("no handshake in time"),
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
        let stream = Handshake::new(stream, self.limits.handshake);
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let told_to_go = async {
            tokio::select! {
                () = expiry(self.limits.connection_age) => {}
                () = lifecycle.draining() => {}
            }
        };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = told_to_go => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Whatever a client sends, or does not send: its fault, and not worth a line above.
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
