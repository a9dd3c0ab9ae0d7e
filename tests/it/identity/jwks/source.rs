//! An issuer's HTTP server, which may misbehave.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use markread_harness::free_port;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

/// The answer to a fetch.
#[derive(Clone)]
pub(crate) struct Reply {
    /// Status line and headers.
    head: String,
    body: Vec<u8>,
    /// The delay before the answer.
    delay: Duration,
    /// A chunk that follows the body over and over, and the pause before each.
    rest: Option<(Vec<u8>, Duration)>,
}

impl Reply {
    pub(crate) fn set(keys: &Value) -> Self {
        Self::json(keys.to_string())
    }

    /// A 200 with this body, which should be JSON.
    pub(crate) fn json(body: impl Into<Vec<u8>>) -> Self {
        Self::new("200 OK\r\ncontent-type: application/json", body)
    }

    /// A status line with any headers, and a body.
    pub(crate) fn new(head: &str, body: impl Into<Vec<u8>>) -> Self {
        Self { head: head.to_owned(), body: body.into(), delay: Duration::ZERO, rest: None }
    }

    pub(crate) fn after(self, delay: Duration) -> Self {
        Self { delay, ..self }
    }

    /// A 200 with a body that repeats this chunk and never ends.
    pub(crate) fn endless(chunk: &[u8], pause: Duration) -> Self {
        Self { rest: Some((chunk.to_vec(), pause)), ..Self::json("") }
    }

    async fn write(self, mut stream: impl AsyncWrite + Unpin) -> std::io::Result<()> {
        sleep(self.delay).await;
        let length = match self.rest {
            None => format!("content-length: {}\r\n", self.body.len()),
            Some(_) => String::new(),
        };
        let head = format!("HTTP/1.1 {}\r\n{length}connection: close\r\n\r\n", self.head);
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&self.body).await?;
        while let Some((chunk, pause)) = &self.rest {
            stream.write_all(chunk).await?;
            sleep(*pause).await;
        }
        stream.shutdown().await
    }
}

pub(crate) struct Source {
    port: u16,
    shared: Arc<Shared>,
    tls: Option<TlsAcceptor>,
    /// The task that serves, which ends with the test.
    listening: Option<JoinSet<()>>,
}

struct Shared {
    reply: Mutex<Reply>,
    fetches: AtomicUsize,
    /// The number of requests for another path.
    strays: AtomicUsize,
}

impl Source {
    /// Starts a source with these keys.
    pub(crate) async fn of(keys: &Value) -> Self {
        let mut source = Self::down(Reply::set(keys));
        source.start().await;
        source
    }

    /// A source that has not been started.
    pub(crate) fn down(reply: Reply) -> Self {
        let counters = || AtomicUsize::new(0);
        let reply = Mutex::new(reply);
        let shared = Arc::new(Shared { reply, fetches: counters(), strays: counters() });
        Self { port: free_port(), shared, tls: None, listening: None }
    }

    /// Makes it serve over TLS.
    pub(crate) fn over(self, tls: TlsAcceptor) -> Self {
        Self { tls: Some(tls), ..self }
    }

    /// Starts it on its port.
    pub(crate) async fn start(&mut self) {
        assert!(self.listening.is_none(), "it runs already");
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.unwrap();
        let mut listening = JoinSet::new();
        listening.spawn(listen(listener, self.tls.clone(), Arc::clone(&self.shared)));
        self.listening = Some(listening);
    }

    /// Stops it, and drops its connections.
    pub(crate) async fn stop(&mut self) {
        self.listening.take().expect("it runs").shutdown().await;
    }

    pub(crate) fn url(&self) -> String {
        match self.tls {
            None => format!("http://127.0.0.1:{}/keys", self.port),
            Some(_) => format!("https://localhost:{}/keys", self.port),
        }
    }

    /// Sets the answer from now on.
    pub(crate) fn replies(&self, reply: Reply) {
        *self.shared.reply.lock().unwrap() = reply;
    }

    /// Sets the keys from now on.
    pub(crate) fn publishes(&self, keys: &Value) {
        self.replies(Reply::set(keys));
    }

    /// How often its keys were fetched so far.
    pub(crate) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// How often another path was requested.
    pub(crate) fn strays(&self) -> usize {
        self.shared.strays.load(Ordering::SeqCst)
    }
}

async fn listen(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with the task, which ends the connections.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // A client that hangs up is not an error of the source.
            let _ = match tls {
                None => answer(stream, &shared).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => answer(stream, &shared).await,
                    Err(error) => Err(error),
                },
            };
        });
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: &Shared,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let counter = if head.starts_with(b"GET /keys ") { &shared.fetches } else { &shared.strays };
    counter.fetch_add(1, Ordering::SeqCst);
    let reply = shared.reply.lock().unwrap().clone();
    reply.write(stream).await
}
