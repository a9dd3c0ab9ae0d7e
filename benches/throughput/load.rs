//! The generator: HTTP/2 calls that were encoded beforehand, on as few instructions as the `h2` crate
//! allows, since it shares the machine with what it measures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderValue, Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

/// What is sent, call by call.
pub(crate) struct Calls {
    pub(crate) name: &'static str,
    pub(crate) path: String,
    pub(crate) content_type: &'static str,
    /// The `authorization` and the body of the call with this number.
    pub(crate) make: Arc<dyn Fn(u64) -> (Option<HeaderValue>, Bytes) + Send + Sync>,
    /// What `grpc-status`, or without it the HTTP status, has to be.
    pub(crate) status: &'static str,
    /// Numbers go on from round to round, so that what rises keeps rising.
    pub(crate) next: AtomicU64,
}

/// How calls are made.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// So many at once on each connection, each followed by the next.
    Saturate { connections: usize, at_once: usize },
    /// So many a second, whether or not those before were answered.
    Even { connections: usize, per_second: f64 },
}

/// What a round came to.
pub(crate) struct Round {
    pub(crate) calls: u64,
    pub(crate) took: Duration,
    /// Of each call, in µs, in order of size.
    pub(crate) latencies_us: Vec<u32>,
}

impl Round {
    pub(crate) fn per_second(&self) -> f64 {
        self.calls as f64 / self.took.as_secs_f64()
    }

    /// The latency, in µs, that so many in a thousand calls do not exceed.
    pub(crate) fn permille_us(&self, permille: usize) -> f64 {
        f64::from(self.latencies_us[(self.latencies_us.len() - 1) * permille / 1000])
    }
}

/// Makes calls for so long.
pub(crate) async fn run(address: &str, calls: &Arc<Calls>, pace: Pace, lasts: Duration) -> Round {
    let (connections, at_once) = match pace {
        Pace::Saturate { connections, at_once } => (connections, at_once),
        Pace::Even { connections, .. } => (connections, 0),
    };
    let mut open = Vec::new();
    let mut driving = JoinSet::new();
    for _ in 0..connections {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        driving.spawn(connection);
        open.push(sender);
    }
    let uri: Uri = format!("http://{address}{}", calls.path).parse().unwrap();
    let began = Instant::now();
    let ends = began + lasts;
    let mut working: JoinSet<Vec<u32>> = JoinSet::new();
    match pace {
        Pace::Saturate { .. } => {
            for sender in &open {
                for _ in 0..at_once {
                    let (sender, calls, uri) = (sender.clone(), Arc::clone(calls), uri.clone());
                    working.spawn(async move {
                        let mut sender = sender;
                        let mut latencies = Vec::with_capacity(16 * 1024);
                        while Instant::now() < ends {
                            let sent = Instant::now();
                            sender = call(sender, &calls, uri.clone()).await;
                            latencies.push(micros(sent.elapsed()));
                        }
                        latencies
                    });
                }
            }
        }
        Pace::Even { per_second, .. } => {
            let mut number = 0_u32;
            loop {
                let due = began + Duration::from_secs_f64(f64::from(number) / per_second);
                if due >= ends {
                    break;
                }
                if due > Instant::now() {
                    sleep_until(due.into()).await;
                }
                let sender = open[number as usize % open.len()].clone();
                let (calls, uri) = (Arc::clone(calls), uri.clone());
                working.spawn(async move {
                    call(sender, &calls, uri).await;
                    // From when it was due: what waits behind a slow one counts.
                    vec![micros(due.elapsed())]
                });
                number += 1;
            }
        }
    }
    let mut latencies_us = working.join_all().await.concat();
    let took = began.elapsed();
    latencies_us.sort_unstable();
    Round { calls: latencies_us.len() as u64, took, latencies_us }
}

/// One call, whose answer has to be right.
async fn call(sender: SendRequest<Bytes>, calls: &Calls, uri: Uri) -> SendRequest<Bytes> {
    let (authorization, body) = (calls.make)(calls.next.fetch_add(1, Ordering::Relaxed));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(calls.content_type));
    headers.insert(http::header::TE, HeaderValue::from_static("trailers"));
    if let Some(authorization) = authorization {
        headers.insert(http::header::AUTHORIZATION, authorization);
    }
    let mut sender = sender.ready().await.unwrap();
    let (answer, mut stream) = sender.send_request(request, false).unwrap();
    stream.send_data(body, true).unwrap();
    let (head, mut body) = answer.await.unwrap().into_parts();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        let _ = body.flow_control().release_capacity(data.len());
    }
    let trailers = body.trailers().await.unwrap();
    let status = head.headers.get("grpc-status");
    let status = status.or_else(|| trailers.as_ref()?.get("grpc-status"));
    let status = status.map_or(head.status.as_str(), |status| status.to_str().unwrap());
    assert_eq!(status, calls.status, "{}: {:?} {trailers:?}", calls.name, head.headers);
    sender
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}
