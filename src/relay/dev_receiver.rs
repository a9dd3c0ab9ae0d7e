//! A receiver for development and tests: answers checks, verifies signatures, prints each event.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::signature::{Secrets, is_check_token};
use crate::domain::DeliveryId;

/// Largest body of an event, in bytes: two user objects of 1 MiB at most.
const BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

/// How far `webhook-timestamp` may be from now, as the Standard Webhooks libraries have it.
const TIMESTAMP_TOLERANCE: Duration = Duration::from_secs(300);

/// Open connections, and how long a request's head and body may take.
const CONNECTIONS_MAX: usize = 256;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time for the answer to the last event that was expected to be sent.
const LAST_ANSWER_TIME: Duration = Duration::from_millis(200);

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Settings of the receiver.
pub struct ReceiverSettings {
    /// Where it listens.
    pub listener: TcpListener,
    /// The consumer secret, its raw bytes.
    pub secret: Vec<u8>,
    /// It ends after so many events, each with a `webhook-id` of its own.
    pub expect: Option<u64>,
    /// With `expect`, it fails after this time.
    pub timeout: Option<Duration>,
}

impl fmt::Debug for ReceiverSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiverSettings")
            .field("listener", &self.listener)
            .field("expect", &self.expect)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A line of the receiver.
#[derive(Clone, Copy, Debug)]
pub enum Line<'a> {
    /// An event, in JSON: `webhook_id`, `for_user_id`, `body`. A repeated one is printed again.
    Event(&'a str),
    /// A request that was refused, and why.
    Refused(&'a str),
}

/// Receives events until `expect` came, or for ever, and prints each.
///
/// # Errors
///
/// If not all came in time.
pub async fn run(
    settings: ReceiverSettings,
    print: impl Fn(Line<'_>) + Send + Sync + 'static,
) -> Result<(), String> {
    let ReceiverSettings { listener, secret, expect, timeout: limit } = settings;
    let receiver = Arc::new(DevReceiver {
        secrets: Secrets::new(&secret, None, &[]),
        expect,
        seen: Mutex::default(),
        complete: Notify::new(),
        print: Box::new(print),
    });
    let pages = Router::new().fallback(answer).with_state(Arc::clone(&receiver));
    let limit = async {
        match limit.filter(|_| expect.is_some()) {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    let complete = async {
        receiver.complete.notified().await;
        sleep(LAST_ANSWER_TIME).await;
    };
    tokio::select! {
        () = complete => Ok(()),
        () = limit => {
            let seen = receiver.count();
            Err(format!("only {seen} of {} events came in time", expect.unwrap_or_default()))
        }
        () = accept(listener, pages) => Ok(()),
    }
}

/// Accepts connections, for ever. They end with it.
async fn accept(listener: TcpListener, pages: Router) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let pages = pages.clone();
        connections.spawn(async move {
            serve(stream, pages).await;
            drop(permit);
        });
    }
}

async fn serve(stream: TcpStream, pages: Router) {
    let _ = stream.set_nodelay(true);
    let service = TowerToHyperService::new(pages);
    // A sender that breaks off concerns nobody else.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct DevReceiver {
    secrets: Secrets,
    expect: Option<u64>,
    /// The events that came, if they are counted.
    seen: Mutex<HashSet<DeliveryId>>,
    complete: Notify,
    print: Box<dyn Fn(Line<'_>) + Send + Sync>,
}

#[derive(Serialize)]
struct PrintedEvent<'a> {
    webhook_id: &'a str,
    for_user_id: &'a str,
    body: &'a RawValue,
}

#[derive(serde::Deserialize)]
struct EventHead<'a> {
    for_user_id: &'a str,
}

async fn answer(State(receiver): State<Arc<DevReceiver>>, request: Request) -> Response {
    let result = match *request.method() {
        Method::GET => receiver.check(request.uri().query().unwrap_or_default()),
        Method::POST => receiver.receive(request).await,
        _ => Err((StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are answered")),
    };
    result.unwrap_or_else(|(status, problem)| {
        (receiver.print)(Line::Refused(problem));
        (status, format!("{problem}\n")).into_response()
    })
}

/// Why a request is refused.
type Refused = (StatusCode, &'static str);

impl DevReceiver {
    fn check(&self, query: &str) -> Result<Response, Refused> {
        let token = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "crc_token");
        let (_, token) = token.ok_or((StatusCode::BAD_REQUEST, "crc_token is missing"))?;
        if !is_check_token(&token) {
            return Err((StatusCode::BAD_REQUEST, "crc_token is not one of markread"));
        }
        let body = format!(r#"{{"response_token":"{}"}}"#, self.secrets.twitter(token.as_bytes()));
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    async fn receive(&self, request: Request) -> Result<Response, Refused> {
        let (head, body) = request.into_parts();
        let too_large = (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large");
        if body.size_hint().lower() > u64::try_from(BODY_MAX_BYTES).unwrap_or(u64::MAX) {
            return Err(too_large);
        }
        let body = timeout(REQUEST_TIMEOUT, to_bytes(body, BODY_MAX_BYTES)).await;
        let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body is too slow"))?;
        let body = body.map_err(|_| too_large)?;
        let id = self.verify(&head.headers, &body)?;
        let invalid = |_| (StatusCode::BAD_REQUEST, "the body is not an event");
        let EventHead { for_user_id } = serde_json::from_slice(&body).map_err(invalid)?;
        let raw = serde_json::from_slice(&body).map_err(invalid)?;
        let webhook_id = id.to_string();
        let line = PrintedEvent { webhook_id: &webhook_id, for_user_id, body: raw };
        let line = serde_json::to_string(&line).map_err(invalid)?;
        // A body may have line breaks between its members, and nowhere else.
        (self.print)(Line::Event(&line.replace(['\n', '\r'], " ")));
        self.note(id);
        Ok(StatusCode::OK.into_response())
    }

    /// Verifies both signatures. Returns the event's `webhook-id`.
    fn verify(&self, headers: &HeaderMap, body: &Bytes) -> Result<DeliveryId, Refused> {
        let unauthorized = |problem| (StatusCode::UNAUTHORIZED, problem);
        let get = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let twitter = get("x-twitter-webhooks-signature");
        if !twitter.is_some_and(|value| self.secrets.verify_twitter(body, value)) {
            return Err(unauthorized("x-twitter-webhooks-signature is missing or wrong"));
        }
        let id = get("webhook-id").ok_or(unauthorized("webhook-id is missing"))?;
        let timestamp = get("webhook-timestamp").and_then(|value| value.parse::<u64>().ok());
        let timestamp = timestamp.ok_or(unauthorized("webhook-timestamp is missing or wrong"))?;
        let standard = get("webhook-signature");
        let verify = |value| self.secrets.verify_standard(id, timestamp, body, value);
        if !standard.is_some_and(verify) {
            return Err(unauthorized("webhook-signature is missing or wrong"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        if now.abs_diff(timestamp) > TIMESTAMP_TOLERANCE.as_secs() {
            return Err(unauthorized("webhook-timestamp is more than 5 min from now"));
        }
        id.parse().map_err(|_| (StatusCode::BAD_REQUEST, "webhook-id is not one of markread"))
    }

    fn note(&self, id: DeliveryId) {
        let Some(expect) = self.expect else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.insert(id);
        if u64::try_from(seen.len()).unwrap_or(u64::MAX) >= expect {
            self.complete.notify_one();
        }
    }

    fn count(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes as Body;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::relay::http::{HttpReceiver, HttpSettings};
    use crate::relay::receiver::{Attempt, Check, Delivery, Receiver};
    use crate::relay::webhook::Targets;

    const SECRET: &[u8] = b"a consumer secret of the tests";

    struct Running {
        url: String,
        lines: mpsc::Receiver<String>,
        task: JoinHandle<Result<(), String>>,
    }

    async fn start(expect: Option<u64>, timeout: Option<Duration>) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (sender, lines) = mpsc::channel();
        let print = move |line: Line<'_>| {
            let line = match line {
                Line::Event(line) => line.to_owned(),
                Line::Refused(problem) => format!("refused: {problem}"),
            };
            let _ = sender.send(line);
        };
        let settings = ReceiverSettings { listener, secret: SECRET.to_vec(), expect, timeout };
        Running { url, lines, task: tokio::spawn(run(settings, print)) }
    }

    fn sender(url: &str, secret: &[u8]) -> HttpReceiver {
        let settings = HttpSettings { url, ..HttpSettings::default() };
        let targets = Targets { allow_http: true, allow_private: true };
        HttpReceiver::new(settings, Secrets::new(secret, None, &[]), targets).unwrap()
    }

    fn delivery(id: &str, body: &'static str) -> Delivery {
        Delivery { id: id.parse().unwrap(), body: Body::from_static(body.as_bytes()) }
    }

    #[tokio::test]
    async fn events_are_verified_printed_and_counted() {
        let Running { url, lines, task } = start(Some(2), Some(Duration::from_secs(30))).await;
        let sender_ = sender(&url, SECRET);
        assert_eq!(sender_.check().await, Check::Passed);
        let body = "{\"for_user_id\":\"42\",\n\"users\":{\"7\":{\"name\":\"é\"}}}";
        let first = delivery("0-5-0-42", body);
        for _ in 0..2 {
            assert_eq!(sender_.deliver(&first).await, Attempt::Delivered(200));
            let expected = r#"{"webhook_id":"0-5-0-42","for_user_id":"42","body":{"for_user_id":"42", "users":{"7":{"name":"é"}}}}"#;
            assert_eq!(lines.try_recv().unwrap(), expected);
        }
        let other = sender(&url, b"another consumer secret");
        assert!(matches!(other.check().await, Check::Refused(_)));
        assert!(matches!(other.deliver(&first).await, Attempt::Failed(failure)
            if failure.status == Some(401)));
        assert!(lines.try_recv().unwrap().starts_with("refused: x-twitter-webhooks-signature"));
        assert!(!task.is_finished(), "a repeated event counts once");
        assert_eq!(sender_.deliver(&delivery("0-5-1-42", body)).await, Attempt::Delivered(200));
        assert_eq!(task.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn debug_output_has_no_secret() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let secret = SECRET.to_vec();
        let text =
            format!("{:?}", ReceiverSettings { listener, secret, expect: None, timeout: None });
        assert!(text.contains("127.0.0.1") && !text.contains("secret"), "{text}");
    }

    #[tokio::test]
    async fn too_few_events_in_time_are_an_error() {
        let running = start(Some(2), Some(Duration::from_millis(300))).await;
        let first = delivery("0-5-0-42", r#"{"for_user_id":"42"}"#);
        sender(&running.url, SECRET).deliver(&first).await;
        let problem = running.task.await.unwrap().unwrap_err();
        assert!(problem.contains("only 1 of 2 events"), "{problem}");
    }

    #[tokio::test]
    async fn other_requests_are_refused() {
        let running = start(None, None).await;
        let address = running.url.trim_start_matches("http://").trim_end_matches('/').to_owned();
        let large = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", 3 << 20);
        for (request, status) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            ("GET /?crc_token= HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            // It would be the signature of a delivery.
            ("GET /?crc_token={%22for_user_id%22:%2242%22} HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            ("GET /?crc_token=0-5-0-42.1518127184.{} HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
            ("PUT / HTTP/1.1\r\nhost: a\r\n\r\n", "405"),
            ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}", "401"),
            (&large, "413"),
        ] {
            let mut stream = TcpStream::connect(&address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer[9..], status.as_bytes(), "{request}");
        }
        assert_eq!(running.lines.try_iter().filter(|line| line.starts_with("refused")).count(), 7);
        running.task.abort();
    }
}
