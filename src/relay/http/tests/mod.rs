//! Receivers on loopback: real sockets, and whatever a receiver may answer.

mod checks;
mod deliveries;
mod pool;
mod proxies;
mod tls;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::*;
use crate::domain::DeliveryId;

pub(super) const SECRET: &[u8] = b"a consumer secret of the tests";
pub(super) const ANY: Targets = Targets { allow_http: true, allow_private: true };

/// A server that runs a function for each connection.
pub(super) struct TestServer {
    pub address: SocketAddr,
    /// Connections so far.
    pub connections: Arc<AtomicUsize>,
    /// Requests so far.
    pub requests: Arc<Mutex<Vec<TestRequest>>>,
    _task: AbortOnDropHandle<()>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct TestRequest {
    pub line: String,
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
}

impl TestServer {
    /// Starts a server for which `serve` speaks.
    pub(super) async fn new<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream));
            }
        });
        let requests = Arc::default();
        Self { address, connections, requests, _task: AbortOnDropHandle::new(accepting) }
    }

    /// Starts a server that answers each request with these bytes.
    pub(super) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = answer.into();
        Self::answering_with(move |_| answer.clone()).await
    }

    /// Starts a server that answers each request with what `answer` returns.
    pub(super) async fn answering_with(
        answer: impl Fn(&TestRequest) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let requests: Arc<Mutex<Vec<TestRequest>>> = Arc::default();
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let server = Self::new(move |stream| {
            let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
            answer_all(stream, move |request| {
                seen.lock().unwrap().push(request.clone());
                answer(request)
            })
        })
        .await;
        Self { requests, ..server }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub(super) fn receiver(&self) -> HttpReceiver {
        receiver(&self.url())
    }
}

/// Answers the requests on a connection, until one is answered with nothing: then it is closed.
pub(super) async fn answer_all(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: impl Fn(&TestRequest) -> Vec<u8>,
) {
    while let Some(request) = read_request(&mut stream).await {
        let answer = answer(&request);
        if answer.is_empty() || stream.write_all(&answer).await.is_err() {
            break;
        }
    }
}

/// Reads a request. Returns `None` if the connection was closed instead.
pub(super) async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<TestRequest> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|part| part == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut body = bytes.split_off(head_end + 4);
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap().to_owned();
    let headers: HashMap<_, _> = lines
        .map(|line| line.split_once(": ").unwrap())
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    Some(TestRequest { line, headers, body })
}

pub(super) fn receiver(url: &str) -> HttpReceiver {
    of_settings(HttpSettings { url, ..HttpSettings::default() })
}

pub(super) fn of_settings(settings: HttpSettings<'_>) -> HttpReceiver {
    HttpReceiver::new(settings, secrets(), ANY).unwrap()
}

pub(super) fn secrets() -> Secrets {
    Secrets::new(SECRET, None, &[])
}

/// Returns a connector to where a receiver sends.
pub(super) fn connector(receiver: &HttpReceiver, allow_private: bool) -> Connector {
    let tls = crate::relay::http::tls::client_config(None, None).unwrap();
    Connector::new(&receiver.target, tls, None, allow_private)
}

pub(super) fn with_connector(receiver: HttpReceiver, connector: Connector) -> HttpReceiver {
    let client = Client::builder(TokioExecutor::new()).build(connector);
    HttpReceiver { client, ..receiver }
}

pub(super) fn delivery() -> Delivery {
    let id: DeliveryId = "3-1518127183443-7-42".parse().unwrap();
    Delivery { id, body: Bytes::from_static(br#"{"for_user_id":"42","users":{}}"#) }
}

/// Returns the failure of an attempt.
pub(super) fn failed(attempt: Attempt) -> Failure {
    let Attempt::Failed(failure) = attempt else { panic!("{attempt:?}") };
    failure
}

/// Returns the kind and the text of an attempt's failure.
pub(super) async fn failure_at(receiver: &HttpReceiver) -> (FailureKind, String) {
    let Failure { kind, detail, .. } = failed(receiver.deliver(&delivery()).await);
    (kind, detail)
}
