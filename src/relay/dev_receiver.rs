//! A receiver for development and tests: answers checks, verifies signatures, prints each event.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::signature::Secrets;
use crate::domain::DeliveryId;

/// Largest body of an event, in bytes: two user objects of 1 MiB at most.
const BODY_MAX_BYTES: usize = 2 * 1024 * 1024;

/// Longest token of a check, in bytes.
const TOKEN_MAX_BYTES: usize = 256;

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
#[derive(Debug)]
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
        if token.is_empty() || token.len() > TOKEN_MAX_BYTES {
            return Err((StatusCode::BAD_REQUEST, "crc_token is empty or too long"));
        }
        let body = format!(r#"{{"response_token":"{}"}}"#, self.secrets.twitter(token.as_bytes()));
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    async fn receive(&self, request: Request) -> Result<Response, Refused> {
        let (head, body) = request.into_parts();
        let body = timeout(REQUEST_TIMEOUT, to_bytes(body, BODY_MAX_BYTES)).await;
        let body = body.map_err(|_| (StatusCode::REQUEST_TIMEOUT, "the body is too slow"))?;
        let body = body.map_err(|_| (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large"))?;
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
