//! The load generator: HTTP/2 calls that are encoded beforehand, with as few instructions as the
//! `h2` crate allows, since it shares the machine with what it measures.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The interval at which evenly paced calls are sent, plus about 50 µs. The runtime's own timer has
/// whole milliseconds only, which is more than most calls take.
const TICK: Duration = Duration::from_micros(50);

/// The calls of a workload.
pub(crate) struct Calls {
    pub(crate) name: &'static str,
    pub(crate) path: String,
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

/// The pace of calls.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// This many at once on each connection, each followed by the next.
    Saturate { connections: usize, at_once: usize },
    /// This many a second, whether or not earlier calls have been answered.
    Even { connections: usize, per_second: f64 },
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

    /// The latency in µs that this many of a thousand calls do not exceed.
    pub(crate) fn permille_us(&self, permille: usize) -> f64 {
        f64::from(self.latencies_us[(self.latencies_us.len() - 1) * permille / 1000])
    }
}

/// Connections to one server, closed when this is dropped.
pub(crate) struct Connections {
    address: String,
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
        Self { address: address.to_owned(), open, _driven: driven }
    }

    /// Makes `count` of these calls, one after another, on each connection in turn.
    pub(crate) async fn call_each(&mut self, calls: &Calls, count: usize) {
        for turn in 0..count {
            check(&mut self.begin(calls, turn).await, calls).await;
        }
    }

    /// Begins the next of these calls on a connection.
    pub(crate) async fn begin(&mut self, calls: &Calls, turn: usize) -> Response<RecvStream> {
        let number = calls.next.fetch_add(1, Ordering::Relaxed);
        let turn = turn % self.open.len();
        let uri = uri(&self.address, calls);
        begin(&mut self.open[turn], calls, uri, number).await
    }
}

/// Makes calls at this pace until then.
pub(crate) async fn run(address: &str, calls: &Arc<Calls>, pace: Pace, until: Until) -> Round {
    let (Pace::Saturate { connections, .. } | Pace::Even { connections, .. }) = pace;
    let connections = Connections::open(address, connections).await;
    let uri = uri(address, calls);
    let mut working = JoinSet::new();
    let mut latencies_us = Vec::new();
    let began = Instant::now();
    match pace {
        Pace::Saturate { at_once, .. } => {
            for sender in &connections.open {
                for _ in 0..at_once {
                    let (sender, calls, uri) = (sender.clone(), Arc::clone(calls), uri.clone());
                    working.spawn(one_after_another(sender, calls, uri, began, until));
                }
            }
        }
        Pace::Even { per_second, .. } => {
            let Until::Elapsed(lasts) = until else { panic!("an even pace is kept for a time") };
            let tick = ticks();
            let mut number = 0_u32;
            while began.elapsed() < lasts {
                tick.notified().await;
                // Finished tasks would take memory, and the time to allocate it.
                while let Some(done) = working.try_join_next() {
                    latencies_us.append(&mut done.unwrap());
                }
                loop {
                    let due = began + Duration::from_secs_f64(f64::from(number) / per_second);
                    if due > Instant::now() {
                        break;
                    }
                    let mut sender =
                        connections.open[number as usize % connections.open.len()].clone();
                    let (calls, uri) = (Arc::clone(calls), uri.clone());
                    working.spawn(async move {
                        let number = calls.next.fetch_add(1, Ordering::Relaxed);
                        call(&mut sender, &calls, uri, number).await;
                        // Counted from when the call was due, so that waiting behind a slow one
                        // counts.
                        vec![micros(due.elapsed())]
                    });
                    number += 1;
                }
            }
        }
    }
    latencies_us.append(&mut working.join_all().await.concat());
    let took = began.elapsed();
    latencies_us.sort_unstable();
    calls.answered.fetch_add(latencies_us.len() as u64, Ordering::Relaxed);
    Round { calls: latencies_us.len() as u64, took, latencies_us }
}

async fn one_after_another(
    mut sender: SendRequest<Bytes>,
    calls: Arc<Calls>,
    uri: Uri,
    began: Instant,
    until: Until,
) -> Vec<u32> {
    let mut latencies = Vec::with_capacity(16 * 1024);
    let mut sent = Instant::now();
    loop {
        let number = calls.next.fetch_add(1, Ordering::Relaxed);
        let goes_on = match until {
            Until::Elapsed(lasts) => sent.duration_since(began) < lasts,
            Until::Number(end) => number < end,
        };
        if !goes_on {
            return latencies;
        }
        call(&mut sender, &calls, uri.clone(), number).await;
        let answered = Instant::now();
        latencies.push(micros(answered.duration_since(sent)));
        sent = answered;
    }
}

fn uri(address: &str, calls: &Calls) -> Uri {
    format!("http://{address}{}", calls.path).parse().unwrap()
}

async fn begin(
    sender: &mut SendRequest<Bytes>,
    calls: &Calls,
    uri: Uri,
    number: u64,
) -> Response<RecvStream> {
    let (authorization, body) = (calls.make)(number);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(calls.content_type));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    headers.insert(http::header::AUTHORIZATION, authorization);
    poll_fn(|cx| sender.poll_ready(cx)).await.unwrap();
    let (answer, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(body, true).unwrap();
    answer.await.unwrap()
}

/// Makes a call and checks its answer.
async fn call(sender: &mut SendRequest<Bytes>, calls: &Calls, uri: Uri, number: u64) {
    let mut answer = begin(sender, calls, uri, number).await;
    check(&mut answer, calls).await;
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

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Starts a thread that notifies every [`TICK`].
fn ticks() -> Arc<Notify> {
    let tick = Arc::new(Notify::new());
    let ticking = Arc::downgrade(&tick);
    std::thread::spawn(move || {
        while let Some(tick) = ticking.upgrade() {
            tick.notify_one();
            drop(tick);
            std::thread::sleep(TICK);
        }
    });
    tick
}
