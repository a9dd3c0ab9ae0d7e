//! Connections to a receiver: to an address that was checked, or through a proxy.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::failure::ConnectError;
use super::proxy::Proxy;
use super::resolver::Resolver;
use super::socket::Socket;
use super::target::{Endpoint, Target};
use crate::relay::receiver::FailureKind;

/// Time to connect, TLS and proxy included. An attempt that waits for it has as long in all.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to the receiver of one webhook, whatever URI is asked for.
#[derive(Clone)]
pub(super) struct Connector(Arc<Route>);

struct Route {
    endpoint: Endpoint,
    resolver: Resolver,
    tls: Option<Arc<ClientConfig>>,
    proxy: Option<Proxy>,
}

impl Connector {
    /// Creates it. Nothing is connected to yet.
    pub(super) fn new(
        target: &Target,
        tls: ClientConfig,
        proxy: Option<Proxy>,
        allow_private: bool,
    ) -> Self {
        let endpoint = target.endpoint.clone();
        Self(Arc::new(Route {
            resolver: Resolver::new(endpoint.clone(), allow_private),
            endpoint,
            tls: target.is_https.then(|| Arc::new(tls)),
            proxy,
        }))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = TokioIo<Link>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<TokioIo<Link>, ConnectError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let route = Arc::clone(&self.0);
        Box::pin(async move {
            // The client goes on with connecting for later requests when an attempt has found another
            // connection.
            let deadline = Instant::now() + CONNECT_TIMEOUT;
            let connecting = timeout_at(deadline, route.connect(deadline)).await;
            match connecting {
                Ok(link) => link.map(TokioIo::new),
                Err(_) => Err(ConnectError::new(FailureKind::Timeout, "could not connect in time")),
            }
        })
    }
}

impl Route {
    async fn connect(&self, deadline: Instant) -> Result<Link, ConnectError> {
        let Some(proxy) = &self.proxy else {
            let (socket, in_use) = connect(&self.resolver, deadline).await?;
            return Ok(Link { stream: self.secure(socket).await?, in_use, is_proxied: false });
        };
        let (socket, in_use) =
            connect(&proxy.resolver, deadline).await.map_err(|error| of_proxy(&error))?;
        let stream: Box<dyn Stream> = match &proxy.tls {
            Some(tls) => {
                handshake(tls, &proxy.endpoint, socket).await.map_err(|error| of_proxy(&error))?
            }
            None => Box::new(socket),
        };
        if self.tls.is_none() {
            // An http:// request goes to the proxy itself, with the whole URL.
            return Ok(Link { stream, in_use, is_proxied: true });
        }
        let tunnel = proxy.tunnel(stream, &self.endpoint).await?;
        Ok(Link { stream: self.secure(tunnel).await?, in_use, is_proxied: false })
    }

    async fn secure(&self, stream: impl Stream) -> Result<Box<dyn Stream>, ConnectError> {
        match &self.tls {
            Some(tls) => handshake(tls, &self.endpoint, stream).await,
            None => Ok(Box::new(stream)),
        }
    }
}

fn of_proxy(error: &ConnectError) -> ConnectError {
    ConnectError::new(error.kind, format!("the proxy: {}", error.detail))
}

/// Connects to the first address that answers. Each has its share of the time that is left.
async fn connect(
    resolver: &Resolver,
    deadline: Instant,
) -> Result<(Socket, Arc<AtomicBool>), ConnectError> {
    let addresses = resolver.addresses().await?;
    let mut problem = ConnectError::new(FailureKind::Connection, "the host has no address");
    let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    for address in addresses {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now) / left.max(1);
        left = left.saturating_sub(1);
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A request is written at once, and waits for nothing to follow.
                let _ = stream.set_nodelay(true);
                return Ok(Socket::new(stream));
            }
            Ok(Err(error)) => problem = ConnectError::io("could not connect", &error),
            Err(_) => {
                problem = ConnectError::new(FailureKind::Timeout, "could not connect in time");
            }
        }
    }
    Err(problem)
}

async fn handshake(
    tls: &Arc<ClientConfig>,
    endpoint: &Endpoint,
    stream: impl Stream,
) -> Result<Box<dyn Stream>, ConnectError> {
    let name = endpoint.server_name().ok_or_else(|| {
        ConnectError::new(FailureKind::Tls, "the host is not a name of certificates")
    })?;
    match TlsConnector::from(Arc::clone(tls)).connect(name, stream).await {
        Ok(stream) => Ok(Box::new(stream)),
        Err(error) => Err(ConnectError::io("the TLS handshake failed", &error)),
    }
}

/// A stream of bytes in both directions.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for T {}

/// A connection to a receiver, or to a proxy for it.
pub(super) struct Link {
    stream: Box<dyn Stream>,
    /// Set with the first request.
    in_use: Arc<AtomicBool>,
    /// Whether requests have the whole URL in them, for the proxy.
    is_proxied: bool,
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.in_use.store(true, Ordering::Relaxed);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.in_use.store(true, Ordering::Relaxed);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
