//! The load generator: HTTP/2 calls that are encoded beforehand, with as few instructions as the
//! `h2` crate allows, since it shares the machine with what it measures.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// The calls of a workload.
pub(crate) struct Calls {
    pub(crate) name: &'static str,
    pub(crate) path: PathAndQuery,
    pub(crate) content_type: &'static str,
    /// Returns `authorization` and body of the call with this number.
    pub(crate) make: Box<dyn Fn(u64) -> (HeaderValue, Bytes) + Send + Sync>,
    /// The expected `grpc-status`, or HTTP status where there is none.
    pub(crate) status: &'static str,
    /// The next number; it goes on from round to round, so that messages keep rising.
    pub(crate) next: AtomicU64,
    /// The number of answers in all rounds.
    pub(crate) answered: AtomicU64,
}

impl Calls {
    /// Takes the next number.
    pub(crate) fn next_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of answers in all rounds.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// Calls at once on each of these connections, each followed by the next.
#[derive(Clone, Copy)]
pub(crate) struct Concurrency {
    pub(crate) connections: usize,
    pub(crate) at_once: usize,
}

/// When to stop.
#[derive(Clone, Copy)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// The number of calls since the beginning of all rounds.
    Number(u64),
}

/// The figures of a round.
pub(crate) struct Round {
    pub(crate) calls: u64,
    pub(crate) took: Duration,
    /// The latency of each call in µs, sorted.
    pub(crate) latencies_us: Vec<u32>,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }

    /// The median latency in µs.
    pub(crate) fn median_us(&self) -> f64 {
        permille(&self.latencies_us, 500)
    }
}

/// Connections to one server, closed when this is dropped.
pub(crate) struct Connections {
    host: Authority,
    open: Vec<SendRequest<Bytes>>,
    _driven: JoinSet<Result<(), h2::Error>>,
}

impl Connections {
    pub(crate) async fn open(address: &str, connections: usize) -> Self {
        let mut open = Vec::with_capacity(connections);
        let mut driven = JoinSet::new();
        for _ in 0..connections {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            // While the machine was busy, many small frames may have arrived.
            let mut http = h2::client::Builder::new();
            let handshake = http.enable_push(false).data_frame_budget(usize::MAX).handshake(stream);
            let (sender, connection) = handshake.await.unwrap();
            driven.spawn(connection);
            open.push(sender);
        }
        Self { host: address.parse().unwrap(), open, _driven: driven }
    }

    /// Makes `count` of these calls, one after another, on each connection in turn.
    pub(crate) async fn call_each(&self, calls: &Calls, count: usize) {
        for turn in 0..count {
            self.sender(turn).call(calls, calls.next_number()).await;
        }
    }

    /// Begins the next of these calls on a connection.
    pub(crate) async fn begin(&self, calls: &Calls, turn: usize) -> Response<RecvStream> {
        self.sender(turn).begin(calls, calls.next_number()).await
    }

    /// Returns what sends on the connection whose turn it is.
    pub(crate) fn sender(&self, turn: usize) -> Sender {
        Sender { http: self.open[turn % self.open.len()].clone(), host: self.host.clone() }
    }
}

/// Makes as many calls at once as it says, until then.
pub(crate) async fn run(
    address: &str,
    calls: &Arc<Calls>,
    concurrency: Concurrency,
    until: Until,
) -> Round {
    let Concurrency { connections, at_once } = concurrency;
    let connections = Connections::open(address, connections).await;
    let mut working = JoinSet::new();
    let began = Instant::now();
    for turn in 0..connections.open.len() * at_once {
        let sender = connections.sender(turn);
        working.spawn(one_after_another(sender, Arc::clone(calls), began, until));
    }
    let mut latencies_us = working.join_all().await.concat();
    let took = began.elapsed();
    latencies_us.sort_unstable();
    calls.answered.fetch_add(latencies_us.len() as u64, Ordering::Relaxed);
    Round { calls: latencies_us.len() as u64, took, latencies_us }
}

async fn one_after_another(
    mut sender: Sender,
    calls: Arc<Calls>,
    began: Instant,
    until: Until,
) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(16 * 1024);
    let mut sent = Instant::now();
    loop {
        let number = calls.next_number();
        let goes_on = match until {
            Until::Elapsed(lasts) => sent.duration_since(began) < lasts,
            Until::Number(end) => number < end,
        };
        if !goes_on {
            return latencies;
        }
        sender.call(&calls, number).await;
        let answered = Instant::now();
        latencies.push(micros(answered.duration_since(sent)));
        sent = answered;
    }
}

/// Sends calls on one connection.
pub(crate) struct Sender {
    http: SendRequest<Bytes>,
    host: Authority,
}

impl Sender {
    /// Makes a call and checks its answer.
    pub(crate) async fn call(&mut self, calls: &Calls, number: u64) {
        check(&mut self.begin(calls, number).await, calls).await;
    }

    async fn begin(&mut self, calls: &Calls, number: u64) -> Response<RecvStream> {
        let (authorization, body) = (calls.make)(number);
        let mut request = Request::new(());
        let mut uri = Parts::default();
        uri.scheme = Some(Scheme::HTTP);
        uri.authority = Some(self.host.clone());
        uri.path_and_query = Some(calls.path.clone());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_parts(uri).unwrap();
        let headers = request.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(calls.content_type));
        headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
        headers.insert(http::header::AUTHORIZATION, authorization);
        poll_fn(|cx| self.http.poll_ready(cx)).await.unwrap();
        let (answer, mut stream) = self.http.send_request(request, false).unwrap();
        stream.send_data(body, true).unwrap();
        answer.await.unwrap()
    }
}

/// Reads an answer to its end and checks its status.
async fn check(answer: &mut Response<RecvStream>, calls: &Calls) {
    let body = answer.body_mut();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.unwrap();
    let headers = answer.headers();
    let http_status = answer.status();
    let status = headers.get("grpc-status");
    let status = status.or_else(|| trailers.as_ref()?.get("grpc-status"));
    let status = status.map_or(http_status.as_str(), |status| status.to_str().unwrap());
    assert_eq!(status, calls.status, "{}: {headers:?} {trailers:?}", calls.name);
}

pub(crate) fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Returns the value that this many of a thousand sorted ones do not exceed.
pub(crate) fn permille(sorted: &[u32], permille: usize) -> f64 {
    f64::from(sorted[(sorted.len() - 1) * permille / 1000])
}
