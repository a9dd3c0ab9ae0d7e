//! A receiver in a process of its own: it accepts everything, counts, and notes the delay of events whose
//! message is the time in µs when they were marked.

use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use markread_harness::receiver::{CONSUMER_SECRET, twitter_signature};
use markread_harness::server::http1 as get;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::runtime::Builder;
use tokio::task::LocalSet;
use tokio::time::sleep;

/// This program's first argument that starts it.
pub(crate) const NAME: &str = "receiver";

/// A message that is a time: not before this one, in µs since 1970.
const FIRST_TIME_US: u64 = 1_500_000_000_000_000;

/// What it has received.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Stats {
    pub(crate) count: u64,
    pub(crate) first_us: u64,
    pub(crate) last_us: u64,
    /// In µs.
    pub(crate) delays: Vec<u64>,
}

pub(crate) fn now_us() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64
}

/// Receives until the process is killed.
pub(crate) fn serve() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let stats: Rc<RefCell<Stats>> = Rc::default();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            let stats = Rc::clone(&stats);
            let service = service_fn(move |request| answer(request, Rc::clone(&stats)));
            tokio::task::spawn_local(
                http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    });
}

async fn answer(
    request: Request<Incoming>,
    stats: Rc<RefCell<Stats>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let token = request.uri().query().and_then(|query| query.strip_prefix("crc_token="));
        let body = match token {
            Some(token) => {
                let signature = twitter_signature(CONSUMER_SECRET.as_bytes(), token.as_bytes());
                serde_json::json!({ "response_token": signature }).to_string()
            }
            None => serde_json::to_string(&*stats.borrow()).unwrap(),
        };
        return Ok(Response::new(Full::from(body)));
    }
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let now = now_us();
    let mut stats = stats.borrow_mut();
    stats.count += 1;
    stats.last_us = now;
    if stats.first_us == 0 {
        stats.first_us = now;
    }
    let text = std::str::from_utf8(&body).unwrap();
    let (_, rest) = text.split_once(r#""last_read_event_id":""#).unwrap();
    let marked: u64 = rest.split('"').next().unwrap().parse().unwrap();
    if marked >= FIRST_TIME_US {
        stats.delays.push(now.saturating_sub(marked));
    }
    Ok(Response::new(Full::default()))
}

/// The process of a receiver. It ends with this value.
pub(crate) struct Process {
    address: String,
    _process: Child,
}

impl Process {
    pub(crate) async fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg(NAME)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = lines.next_line().await.unwrap().unwrap();
        Self { address, _process: process }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    async fn stats(&self) -> Stats {
        let request = "GET /stats HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let (_, body) = get(&self.address, request).await.unwrap();
        serde_json::from_str(&body).unwrap()
    }

    /// Waits until it has received so many.
    pub(crate) async fn wait_for(&self, count: u64, limit: Duration) -> Stats {
        let began = Instant::now();
        loop {
            let stats = self.stats().await;
            if stats.count >= count {
                return stats;
            }
            assert!(began.elapsed() < limit, "{} of {count} in {limit:?}", stats.count);
            sleep(Duration::from_millis(20)).await;
        }
    }
}
