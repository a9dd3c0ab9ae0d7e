//! Times of the parts of a call in the server, and of a whole call: `cargo bench --bench micro`, or
//! some of them: `cargo bench --bench micro -- whole`.
//!
//! Times differ between machines; use them to compare before and after a change:
//! `-- --save-baseline before`, then `-- --baseline before`. The bench `instructions` counts
//! instead, and has limits.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench ends where something fails"
)]

use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use criterion::{Criterion, criterion_group, criterion_main};
use h2::client::SendRequest;
use http::header::{AUTHORIZATION, CONTENT_TYPE, TE};
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use markread::domain::{
    Mark, MessageId, Outcome, RateLimit, USER_OBJECT_MAX_BYTES, UserId, UserObject, Users,
    event_payload,
};
use markread::edge::deadline::Deadline;
use markread::edge::guard::EdgeRate;
use markread::edge::routing::{Protocol, Route};
use markread::edge::{Edge, EdgeConfig, ReflectionAccess};
use markread::files::Reread;
use markread::identity::jwt::{self, ExpectedClaims, Secret};
use markread::identity::key_file::{KeyFile, KeyKind};
use markread::identity::{Bearer, Credentials, Identity};
use markread::net::lifecycle::Lifecycle;
use markread::net::listener::{Limits, serve_stream};
use markread::net::peer::{ClientAuth, Peer};
use markread::ops::health::{self, Sources};
use markread::proto::MarkReadRequest;
use markread::proto::Rpc;
use markread::service::Service;
use markread::service::watch::Hub;
use markread::store::Store;
use markread::store::memory::MemoryStore;
use markread::telemetry::Traceparent;
use markread::telemetry::metrics::{self, MarkOutcome, Metrics};
use mimalloc::MiMalloc;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::Code;

/// The same allocator as the server's.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const SECRET: &str = "a secret of the benches, long enough for HS256";
const MARK_READ: &str = "http://localhost/markread.v1.MarkReadService/MarkRead";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const READER: u64 = 2_000_000_000;
const RECIPIENT: u64 = 1_234_567_890_123_456_789;
const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;
const CALL_TIMEOUT: Duration = Duration::from_secs(3600);
/// More than the bench marks.
const NO_LIMIT: RateLimit = RateLimit { calls: 999_999_999_999_999, window_ms: 900_000 };
const STREAM_MAX_ENTRIES: usize = 1000;
const LIMITS: Limits = Limits {
    connections: 1,
    connections_per_peer: None,
    streams: 256,
    handshake: CALL_TIMEOUT,
    keepalive_interval: CALL_TIMEOUT,
    keepalive_timeout: CALL_TIMEOUT,
    connection_age: None,
    connection_age_grace: CALL_TIMEOUT,
    idle: None,
    http1_idle: None,
    send: None,
};

criterion_group!(benches, authentication, heads, messages, payloads, recording, marks, whole_call);
criterion_main!(benches);

fn authentication(criterion: &mut Criterion) {
    let runtime = runtime();
    let (identity, mut headers) = (identity(), HeaderMap::new());
    headers.insert(AUTHORIZATION, token());
    let (client_auth, deadline) = (ClientAuth::Plaintext, deadline());
    let credentials = Credentials { headers: &headers, client_auth, signed: None, deadline };
    criterion.bench_function("authenticate a token seen before", |bencher| {
        bencher
            .to_async(&runtime)
            .iter(async || identity.authenticate(&credentials).await.unwrap());
    });
}

fn heads(criterion: &mut Criterion) {
    let request = head().version(Version::HTTP_2).header("traceparent", TRACEPARENT);
    let request = request.body(()).unwrap();
    assert_eq!(Route::new(&request, ReflectionAccess::On).protocol, Protocol::Grpc);
    criterion.bench_function("routing", |bencher| {
        bencher.iter(|| Route::new(black_box(&request), ReflectionAccess::On));
    });
    criterion.bench_function("a traceparent", |bencher| {
        bencher.iter(|| Traceparent::from_headers(black_box(request.headers())).unwrap());
    });
    criterion.bench_function("a deadline", |bencher| {
        bencher.iter(|| {
            Deadline::new(Instant::now().into(), Protocol::Grpc, request.headers(), CALL_TIMEOUT)
        });
    });
}

fn messages(criterion: &mut Criterion) {
    let message = Bytes::from(request(FIRST_MESSAGE).encode_to_vec());
    criterion.bench_function("a message into a mark", |bencher| {
        bencher.iter(|| {
            let request = MarkReadRequest::decode(black_box(message.clone())).unwrap();
            Mark::new(
                user(READER),
                MessageId::try_from(request.last_read_event_id).map_err(Into::into),
                UserId::try_from(request.recipient_id).map_err(Into::into),
            )
            .unwrap()
        });
    });
}

fn payloads(criterion: &mut Criterion) {
    let mark = mark(FIRST_MESSAGE);
    let object = |id: UserId| {
        let json = format!(r#"{{"id":"{id}","name":"{}"}}"#, "x".repeat(3000));
        (id, UserObject::parse(json.as_bytes(), USER_OBJECT_MAX_BYTES).unwrap())
    };
    let tables = [
        ("an event's payload", Users::default()),
        (
            "an event's payload, users of 3 KB",
            Users::within_bounds([object(mark.reader), object(mark.recipient)]),
        ),
    ];
    for (name, users) in tables {
        criterion.bench_function(name, |bencher| {
            bencher.iter(|| event_payload(black_box(&mark), 1_518_127_183_443, &users));
        });
    }
}

fn recording(criterion: &mut Criterion) {
    let metrics = metrics_of_process();
    criterion.bench_function("count and time a mark", |bencher| {
        let began = Instant::now();
        bencher.iter(|| {
            metrics.count_mark(black_box(MarkOutcome::Advanced));
            metrics.record_call(Some(Rpc::MarkRead), Code::Ok, began.elapsed());
        });
    });
}

fn marks(criterion: &mut Criterion) {
    let runtime = runtime();
    let service = service(&store());
    let deadline = deadline();
    let message = Cell::new(FIRST_MESSAGE);
    criterion.bench_function("a mark by the service, embedded store", |bencher| {
        bencher.to_async(&runtime).iter(async || {
            let outcome = service.mark_read(mark(next(&message)), deadline, None).await;
            assert!(matches!(outcome, Ok(Outcome::Advanced { .. })));
        });
    });
}

/// From the bytes of the request to those of the answer. The HTTP/2 client is the only part that is
/// not the server's. A call that the guard stops must not cost more than one without credentials.
fn whole_call(criterion: &mut Criterion) {
    let runtime = runtime();
    let token = token();
    let all = EdgeRate { rate: 1_000_000_000, burst: 1_000_000_000 };
    let one = EdgeRate { rate: 1, burst: 1 };
    let calls = [
        ("a whole call, embedded store", all, Some(&token), "0"),
        ("a whole call without credentials", all, None, "16"),
        ("a whole call that the guard stops", one, Some(&token), "8"),
    ];
    for (name, edge_rate, token, status) in calls {
        let client = runtime.block_on(connection(edge_rate));
        let message = Cell::new(FIRST_MESSAGE);
        if status == "8" {
            runtime.block_on(call(&client, token, next(&message)));
        }
        criterion.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(async || {
                let answered = call(&client, token, next(&message)).await;
                // A call a second is served by the guard of one.
                assert!(answered == status || status == "8" && answered == "0", "{answered:?}");
            });
        });
    }
}

/// Marks, and returns the status.
async fn call(
    client: &SendRequest<Bytes>,
    token: Option<&HeaderValue>,
    message: u64,
) -> HeaderValue {
    let mut request = head().header(TE, "trailers");
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, token);
    }
    let mut client = client.clone().ready().await.unwrap();
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(frame(&self::request(message)), true).unwrap();
    let (head, mut answer) = answer.await.unwrap().into_parts();
    if let Some(status) = head.headers.get("grpc-status") {
        return status.clone();
    }
    while let Some(data) = answer.data().await {
        answer.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    answer.trailers().await.unwrap().unwrap()["grpc-status"].clone()
}

/// Connects a client to an edge in memory.
async fn connection(edge_rate: EdgeRate) -> SendRequest<Bytes> {
    let lifecycle = Lifecycle::default();
    let identity = identity();
    let store = store();
    let sources = Sources {
        phase: lifecycle.watch(),
        store: store.health(),
        keys: identity.start(&Reread::default()),
    };
    let (health, _) = health::service(sources).await;
    let config = EdgeConfig {
        call_timeout: CALL_TIMEOUT,
        edge_rate: Some(edge_rate),
        identity,
        reflection: ReflectionAccess::On,
        reader_concurrency: Some(32),
    };
    let edge =
        Edge::new(config, Arc::new(service(&store)), health, lifecycle, metrics_of_process())
            .unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let service = Arc::new(edge).for_peer(Peer { address, client_auth: ClientAuth::Plaintext });
    tokio::spawn(serve_stream(theirs, service, LIMITS));
    let (client, connection) = h2::client::handshake(ours).await.unwrap();
    tokio::spawn(connection);
    client
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(NO_LIMIT, NO_LIMIT, STREAM_MAX_ENTRIES))
}

fn service(store: &Arc<MemoryStore>) -> Service {
    let store: Arc<dyn Store> = Arc::<MemoryStore>::clone(store);
    let hub = Arc::new(Hub::new(&store));
    Service::new(store, hub)
}

/// Metrics with a server's recorder.
fn metrics_of_process() -> Arc<Metrics> {
    // The first call installs the recorder.
    if let Ok(page) = metrics::install() {
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_secs(5));
                page.run_upkeep();
            }
        });
    }
    Arc::default()
}

fn identity() -> Identity {
    let (file, expected) = (Path::new("secret"), ExpectedClaims::default());
    let key = KeyFile::new(file, SECRET.into(), KeyKind::Secret, expected).unwrap();
    Identity::Required { bearer: Some(Bearer::Configured(Arc::new(key))), oauth1: None }
}

fn secret() -> Secret {
    Secret::from_file_contents(SECRET.into()).unwrap()
}

fn token() -> HeaderValue {
    let token =
        jwt::issue(user(READER), &secret(), CALL_TIMEOUT, ExpectedClaims::default()).unwrap();
    format!("Bearer {token}").try_into().unwrap()
}

fn head() -> http::request::Builder {
    Request::builder().method(Method::POST).uri(MARK_READ).header(CONTENT_TYPE, "application/grpc")
}

fn request(message: u64) -> MarkReadRequest {
    MarkReadRequest { last_read_event_id: message, recipient_id: RECIPIENT }
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(64);
    frame.put_u8(0);
    frame.put_u32(message.encoded_len().try_into().unwrap());
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn mark(message: u64) -> Mark {
    let (reader, recipient) = (user(READER), user(RECIPIENT));
    Mark { reader, recipient, last_read_event_id: message.try_into().unwrap() }
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

fn next(message: &Cell<u64>) -> u64 {
    message.replace(message.get() + 1)
}

fn deadline() -> tokio::time::Instant {
    tokio::time::Instant::now() + CALL_TIMEOUT
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
