//! The operators' port: on a thread of its own, so that it answers while calls keep the others busy, and
//! with few connections, each for a short time.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use crate::telemetry::{LogThrottle, metrics};

/// Open connections. For one more, the oldest is closed: those who answer quickly are never in the way.
const CONNECTIONS_MAX: usize = 64;

/// Time for a request's head, and for a whole connection, which serves one request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// File descriptors that are kept for when the process has no more.
const SPARE_DESCRIPTORS: usize = 4;

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The operators' port, bound but silent.
#[derive(Debug)]
pub struct OpsPort {
    /// Its address, with the port that the system chose for port 0.
    pub address: SocketAddr,
    pages: oneshot::Sender<(Router, PrometheusHandle)>,
}

impl OpsPort {
    /// Binds the port on a thread of its own.
    ///
    /// # Errors
    ///
    /// The system's, such as that the port is in use.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let address = socket.local_addr()?;
        let (pages, receiver) = oneshot::channel();
        // Built last: a runtime may not be dropped in another one, as it would be if something else failed.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("ops".to_owned()).spawn(move || {
            runtime.block_on(async {
                // Without pages the process exits.
                let Ok((pages, metrics)) = receiver.await else { return };
                tokio::spawn(metrics::run_upkeep(metrics));
                match TcpListener::from_std(socket) {
                    Ok(socket) => Acceptor::new(socket).serve(pages).await,
                    Err(error) => tracing::error!(%error, "--ops-listen is not served"),
                }
            });
        })?;
        Ok(Self { address, pages })
    }

    /// Serves pages until the process exits, while draining too.
    pub fn serve(self, pages: Router, metrics: PrometheusHandle) {
        // The thread waits for them.
        let _ = self.pages.send((pages, metrics));
    }
}

/// Accepts connections, also when the process has no file descriptors left.
struct Acceptor {
    socket: TcpListener,
    spare: Vec<File>,
    open: JoinSet<()>,
    /// The open connections, the oldest first.
    by_age: VecDeque<AbortHandle>,
    log: LogThrottle,
}

impl Acceptor {
    fn new(socket: TcpListener) -> Self {
        let (spare, open, by_age, log) = Default::default();
        let mut acceptor = Self { socket, spare, open, by_age, log };
        acceptor.refill();
        acceptor
    }

    async fn serve(mut self, pages: Router) {
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => self.open(stream, pages.clone()),
                    // A spare descriptor makes room for one more connection.
                    Err(error) => if self.spare.pop().is_none() {
                        self.pause(&error).await;
                    },
                },
                Some(_) = self.open.join_next() => {
                    self.by_age.retain(|connection| !connection.is_finished());
                    // At once, before another thread takes the descriptor.
                    self.refill();
                }
            }
        }
    }

    /// Serves a connection. If too many are open, the oldest is closed.
    fn open(&mut self, stream: TcpStream, pages: Router) {
        if self.by_age.len() >= CONNECTIONS_MAX
            && let Some(oldest) = self.by_age.pop_front()
        {
            oldest.abort();
        }
        self.by_age.push_back(self.open.spawn(serve_connection(stream, pages)));
        self.refill();
    }

    async fn pause(&self, error: &io::Error) {
        if let Some(suppressed) = self.log.permit() {
            tracing::warn!(%error, suppressed, "--ops-listen: no connection could be accepted");
        }
        sleep(ACCEPT_PAUSE).await;
    }

    /// Takes spare descriptors again, as far as there are any.
    fn refill(&mut self) {
        while self.spare.len() < SPARE_DESCRIPTORS
            && let Ok(spare) = File::open("/dev/null")
        {
            self.spare.push(spare);
        }
    }
}

async fn serve_connection(stream: TcpStream, pages: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(pages));
    // Whatever ends it was the client's doing.
    let _ = timeout(CONNECTION_TIMEOUT, connection).await;
}
