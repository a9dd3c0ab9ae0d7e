//! Connections to a receiver: to an address that was checked, or through a proxy.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::failure::ConnectError;
use super::metered::Metered;
use super::proxy::Proxy;
use super::resolver::Resolver;
use super::socket::Socket;
use super::target::{Endpoint, Target};
use crate::relay::receiver::FailureKind;

/// Time to connect, TLS and proxy included. An attempt that waits for it has as long in all.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time after which the next address of a name is tried too (RFC 8305 section 5).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

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

#[cfg(test)]
impl Connector {
    /// Connects to these addresses, as if the host's name had been looked up.
    pub(super) fn resolve_to(&self, addresses: Vec<SocketAddr>) {
        self.0.resolver.resolve_to(addresses);
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
            match timeout(CONNECT_TIMEOUT, route.connect()).await {
                Ok(link) => link.map(TokioIo::new),
                Err(_) => Err(ConnectError::new(FailureKind::Timeout, "could not connect in time")),
            }
        })
    }
}

impl Route {
    async fn connect(&self) -> Result<Link, ConnectError> {
        let Some(proxy) = &self.proxy else {
            let (socket, in_use) = connect(&self.resolver).await?;
            return Ok(Link::new(self.secure(socket).await?, in_use, false));
        };
        let (socket, in_use) = connect(&proxy.resolver).await.map_err(|error| of_proxy(&error))?;
        let stream: Box<dyn Stream> = match &proxy.tls {
            Some(tls) => {
                handshake(tls, &proxy.endpoint, socket).await.map_err(|error| of_proxy(&error))?
            }
            None => Box::new(socket),
        };
        if self.tls.is_none() {
            // An http:// request goes to the proxy itself, with the whole URL.
            return Ok(Link::new(stream, in_use, true));
        }
        let tunnel = proxy.tunnel(stream, &self.endpoint).await?;
        Ok(Link::new(self.secure(tunnel).await?, in_use, false))
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

/// Connects to the address that answers first.
async fn connect(resolver: &Resolver) -> Result<(Socket, Arc<AtomicBool>), ConnectError> {
    let addresses = resolver.addresses().await?;
    let stream = first_of(addresses, TcpStream::connect).await?;
    // A request is written at once, and waits for nothing to follow.
    let _ = stream.set_nodelay(true);
    Ok(Socket::new(stream))
}

/// Dials addresses in their order, each when the one before has failed or has not answered for a while: an
/// address that is dead delays the others only by that. Returns the first that answers, and drops the others.
async fn first_of<T, F>(
    addresses: Vec<SocketAddr>,
    dial: impl Fn(SocketAddr) -> F,
) -> Result<T, ConnectError>
where
    F: Future<Output = io::Result<T>>,
{
    let mut problem = ConnectError::new(FailureKind::Connection, "the host has no address");
    let mut waiting = addresses.into_iter();
    let mut dialing = FuturesUnordered::new();
    loop {
        dialing.extend(waiting.next().map(&dial));
        if dialing.is_empty() {
            return Err(problem);
        }
        let has_next = waiting.len() > 0;
        tokio::select! {
            Some(dialed) = dialing.next() => match dialed {
                Ok(connected) => return Ok(connected),
                Err(error) => problem = ConnectError::io("could not connect", &error),
            },
            () = sleep(NEXT_ADDRESS_AFTER), if has_next => {}
        }
    }
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
    stream: Metered<Box<dyn Stream>>,
    /// Set with the first request.
    in_use: Arc<AtomicBool>,
    /// Whether requests have the whole URL in them, for the proxy.
    is_proxied: bool,
}

impl Link {
    fn new(stream: Box<dyn Stream>, in_use: Arc<AtomicBool>, is_proxied: bool) -> Self {
        Self { stream: Metered::new(stream), in_use, is_proxied }
    }
}

impl Connection for Link {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied).extra(self.stream.budget())
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
