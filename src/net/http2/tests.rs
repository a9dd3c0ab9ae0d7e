//! A connection in memory, on a paused clock.

use std::convert::Infallible;
use std::task::ready;

use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, Response};
use http_body::{Body as _, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::*;
use crate::net::body::BodyError;
use crate::net::first_bytes::PREFACE;
use crate::net::pressure::MemoryPressure;
use crate::net::stream_control::StreamControl;

type Body = UnsyncBoxBody<Bytes, BodyError>;

const SEND_TIMEOUT: Duration = Duration::from_secs(30);
const AGE: Duration = Duration::from_secs(1000);
const GRACE: Duration = Duration::from_secs(20);

/// What a client's windows hold.
const WINDOW_BYTES: u32 = 64;

const LIMITS: Limits = Limits {
    connections: 1,
    connections_per_peer: None,
    streams: 16,
    handshake: Duration::from_secs(10),
    keepalive_interval: Duration::from_secs(60),
    keepalive_timeout: Duration::from_secs(20),
    connection_age: None,
    connection_age_grace: GRACE,
    idle: None,
    http1_idle: None,
    send: Some(SEND_TIMEOUT),
};

/// A connection's two ends, and what it is told.
struct Setup {
    stream: DuplexStream,
    pressure: MemoryPressure,
    notices: watch::Sender<Notice>,
    /// The data of a streaming answer, and its end.
    updates: mpsc::Sender<Bytes>,
}

impl Setup {
    fn new(limits: Limits) -> Self {
        let (stream, theirs) = tokio::io::duplex(64 * 1024);
        let pressure = MemoryPressure::default();
        let settings = Arc::new(Settings::new(limits, pressure.clone()));
        let (notices, receiver) = watch::channel(Notice::default());
        let (updates, to_send) = mpsc::channel(100);
        let begun_by = Instant::now() + limits.handshake;
        let to_send = std::sync::Mutex::new(Some(to_send));
        let service = service_fn(move |request: Request<RequestBody>| {
            let is_stream = request.uri().path() == "/stream";
            let updates = is_stream.then(|| to_send.lock().unwrap().take()).flatten();
            answer(request, updates)
        });
        let beginning = begin(theirs, service, settings, receiver, begun_by);
        tokio::spawn(async move { beginning.await?.await });
        Self { stream, pressure, notices, updates }
    }

    async fn client(self) -> Client {
        let Self { stream, pressure, notices, updates } = self;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(WINDOW_BYTES);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        let ended = tokio::spawn(connection);
        Client { requests, pressure, notices, updates, ended }
    }
}

struct Client {
    requests: SendRequest<Bytes>,
    pressure: MemoryPressure,
    notices: watch::Sender<Notice>,
    updates: mpsc::Sender<Bytes>,
    ended: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Client {
    async fn send(&self, path: &str) -> ResponseFuture {
        let mut requests = self.requests.clone().ready().await.unwrap();
        let request = Request::post(format!("http://localhost{path}")).body(()).unwrap();
        requests.send_request(request, true).unwrap().0
    }

    async fn get(&self, path: &str) -> RecvStream {
        self.send(path).await.await.unwrap().into_body()
    }
}

/// A streaming answer that obeys its control.
struct Updates {
    queue: mpsc::Receiver<Bytes>,
    control: StreamControl,
    ended: bool,
}

impl http_body::Body for Updates {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if self.control.is_ending() {
            self.ended = true;
            return Poll::Ready(Some(Ok(Frame::trailers(status("14")))));
        }
        let update = ready!(self.queue.poll_recv(cx));
        // The end comes also while the client does not read.
        assert!(update.is_none() || !self.control.is_stalled());
        self.ended = update.is_none();
        let end = || Frame::trailers(status("8"));
        Poll::Ready(Some(Ok(update.map_or_else(end, Frame::data))))
    }
}

fn status(code: &'static str) -> HeaderMap {
    [("grpc-status".parse().unwrap(), code.parse().unwrap())].into_iter().collect()
}

/// Answers with as many bytes as the path says, with the length of the request, or never.
async fn answer(
    request: Request<RequestBody>,
    updates: Option<mpsc::Receiver<Bytes>>,
) -> Result<Response<Body>, Infallible> {
    if let Some(queue) = updates {
        let control = StreamControl::default();
        let body = Updates { queue, control: control.clone(), ended: false };
        let mut response = Response::new(body.boxed_unsync());
        response.extensions_mut().insert(control);
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let announced = body.size_hint().exact();
    let bytes = match head.uri.path() {
        "/never" => std::future::pending().await,
        "/length" => {
            let read = body.collect().await.unwrap().to_bytes().len();
            format!("{announced:?} {read}").into_bytes()
        }
        path => vec![b'x'; path[1..].parse().unwrap()],
    };
    let body = Full::from(bytes).map_err(|never| match never {}).boxed_unsync();
    Ok(Response::new(body))
}

/// Reads an answer as far as there is data, and gives no window back.
async fn read_all(stream: &mut RecvStream) -> Result<usize, Option<Reason>> {
    let mut read = 0;
    while let Some(data) = stream.data().await {
        read += data.map_err(|error| error.reason())?.len();
    }
    Ok(read)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_not_read_is_reset_and_no_other() {
    let client = Setup::new(LIMITS).client().await;
    let began = Instant::now();
    let mut stalled = client.get("/65").await;
    assert_eq!(read_all(&mut stalled).await, Err(Some(Reason::ENHANCE_YOUR_CALM)));
    assert_eq!(began.elapsed().as_secs(), SEND_TIMEOUT.as_secs());
    // The same connection serves on, also during the wait, and what fits the window is no stall.
    let stalled = client.get("/65").await;
    assert_eq!(read_all(&mut client.get("/64").await).await, Ok(64));
    drop(stalled);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_read_slowly_is_waited_for() {
    let client = Setup::new(LIMITS).client().await;
    let mut slow = client.get("/6400").await;
    let mut read = 0;
    while let Some(data) = slow.data().await {
        let count = data.unwrap().len();
        read += count;
        sleep(SEND_TIMEOUT.mul_f64(0.9)).await;
        slow.flow_control().release_capacity(count).unwrap();
    }
    assert_eq!(read, 6400);
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_an_answer_is_waited_for() {
    let client = Setup::new(Limits { send: None, ..LIMITS }).client().await;
    let mut stalled = client.get("/65").await;
    assert!(timeout(SEND_TIMEOUT * 100, read_all(&mut stalled)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_ends_while_its_client_does_not_read_is_reset_at_once() {
    for stalled in [true, false] {
        let client = Setup::new(LIMITS).client().await;
        let mut stream = client.get("/stream").await;
        let bytes = if stalled { 65 } else { 64 };
        client.updates.send(Bytes::from(vec![0; bytes])).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let ended = Instant::now();
        drop(client.updates);
        let read = read_all(&mut stream).await;
        assert!(ended.elapsed() < Duration::from_secs(1));
        if stalled {
            assert_eq!(read, Err(Some(Reason::ENHANCE_YOUR_CALM)));
        } else {
            // Trailers need no window.
            assert_eq!(read, Ok(64));
            assert_eq!(stream.trailers().await.unwrap().unwrap()["grpc-status"], "8");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn while_memory_is_short_an_answer_is_waited_for_a_second() {
    for (pressure, seconds) in [(Pressure::Critical, 1), (Pressure::High, 30)] {
        let client = Setup::new(LIMITS).client().await;
        client.pressure.set(pressure);
        let mut stalled = client.get("/65").await;
        let began = Instant::now();
        assert_eq!(read_all(&mut stalled).await, Err(Some(Reason::ENHANCE_YOUR_CALM)));
        assert_eq!(began.elapsed().as_secs(), seconds);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_holds_a_bounded_number_of_bytes_that_are_not_read() {
    for (answers, seconds) in [(11, 1), (10, 30)] {
        let client = Setup::new(LIMITS).client().await;
        let began = Instant::now();
        let mut stalled = Vec::new();
        for _ in 0..answers {
            stalled.push(client.get("/100000").await);
        }
        assert!(read_all(&mut stalled[0]).await.is_err());
        assert_eq!(began.elapsed().as_secs(), seconds, "{answers}");
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_end_of_its_age_a_connection_ends_its_streams() {
    let limits = Limits { connection_age: Some(AGE), ..LIMITS };
    let client = Setup::new(limits).client().await;
    let began = Instant::now();
    let mut stream = client.get("/stream").await;
    let unary = client.send("/never").await;
    assert_eq!(read_all(&mut stream).await, Ok(0));
    assert_eq!(stream.trailers().await.unwrap().unwrap()["grpc-status"], "14");
    let least = AGE.mul_f64(0.9) + GRACE;
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    assert!(unary.await.is_err());
    assert!(began.elapsed() <= AGE.mul_f64(1.1) + GRACE + Duration::from_secs(2));
    // It was told to go away first, and is closed without an error.
    client.ended.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_told_to_go_away_and_closed() {
    let limits = Limits { idle: Some(Duration::from_secs(300)), ..LIMITS };
    let client = Setup::new(limits).client().await;
    read_all(&mut client.get("/1").await).await.unwrap();
    let began = Instant::now();
    client.ended.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 300);
    // One with a stream is kept.
    let busy = Setup::new(limits).client().await;
    let _stream = busy.send("/never").await;
    assert!(timeout(Duration::from_secs(3000), busy.ended).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn idle_connections_go_while_memory_is_critical_and_others_stay() {
    let idle = Setup::new(LIMITS).client().await;
    let busy = Setup::new(LIMITS).client().await;
    let _stream = busy.send("/never").await;
    let normal = Setup::new(LIMITS).client().await;
    sleep(Duration::from_secs(1)).await;
    for client in [&idle, &busy] {
        client.notices.send_modify(|notice| notice.memory_critical = true);
    }
    timeout(Duration::from_secs(1), idle.ended).await.unwrap().unwrap().unwrap();
    assert!(timeout(Duration::from_secs(60), busy.ended).await.is_err());
    assert!(timeout(Duration::from_secs(60), normal.ended).await.is_err());
}

/// Sends the beginning of a connection and frames. Returns type and payload of each frame that was
/// received until the connection was closed, or for a second.
async fn exchange(frames: &[u8]) -> (Vec<(u8, Vec<u8>)>, bool) {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let stream = Setup::new(LIMITS).stream;
    let (mut read, mut write) = tokio::io::split(stream);
    let bytes = [&PREFACE[..], &SETTINGS, frames].concat();
    let send = async { drop(write.write_all(&bytes).await) };
    let mut received = Vec::new();
    let receive = timeout(Duration::from_secs(1), read.read_to_end(&mut received));
    let ((), closed) = tokio::join!(send, receive);
    let (mut rest, mut kinds) = (&received[..], Vec::new());
    while let [a, b, c, kind, _, _, _, _, _, payload @ ..] = rest {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        kinds.push((*kind, payload[..length].to_vec()));
        rest = &payload[length..];
    }
    (kinds, closed.is_ok())
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_control_frames_ends_in_enhance_your_calm() {
    const GOAWAY: u8 = 7;
    const ENHANCE_YOUR_CALM: u8 = 0xb;
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    };
    for (what, flood) in [
        ("PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 0])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PING", frame(6, 0, 0, &[0; 8])),
        ("PING, answers", frame(6, 1, 0, &[0; 8])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("a type that nobody knows", frame(0xfa, 0, 0, &[])),
    ] {
        // SETTINGS of the greeting are one.
        let (frames, closed) = exchange(&flood.repeat(999)).await;
        assert!(!closed && !frames.iter().any(|(kind, _)| *kind == GOAWAY), "{what}");
        let (frames, closed) = exchange(&flood.repeat(1001)).await;
        assert!(closed, "{what}");
        let (kind, payload) = frames.last().unwrap();
        assert_eq!((*kind, payload[7]), (GOAWAY, ENHANCE_YOUR_CALM), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sent_only_the_preface_is_closed() {
    let mut setup = Setup::new(LIMITS);
    setup.stream.write_all(&PREFACE).await.unwrap();
    let began = Instant::now();
    let mut received = Vec::new();
    setup.stream.read_to_end(&mut received).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test(start_paused = true)]
async fn what_is_due_before_the_handshake_timeout_is_done_in_time() {
    let limits = Limits { idle: Some(Duration::from_secs(2)), ..LIMITS };
    let client = Setup::new(limits).client().await;
    let began = Instant::now();
    client.ended.await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_of_any_length_is_read() {
    let client = Setup::new(LIMITS).client().await;
    for (length, announced) in [(None, "None"), (Some("200000"), "Some(200000)")] {
        let mut requests = client.requests.clone().ready().await.unwrap();
        let mut request = Request::post("http://localhost/length");
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from(vec![0; 200_000]), true).unwrap();
        let response = answer.await.unwrap();
        assert!(response.headers().contains_key("date"));
        let text = response.into_body().data().await.unwrap().unwrap();
        assert_eq!(text, format!("{announced} 200000"));
    }
}

/// Answers end while h2 holds their last bytes. A client that then shrinks its windows, with another call
/// under way, would hold them for ever.
#[tokio::test(start_paused = true)]
async fn answers_that_have_ended_and_cannot_leave_are_reset() {
    const RST_STREAM: u8 = 3;
    const ENHANCE_YOUR_CALM: u8 = 0xb;
    let head = |stream: u8, path: &str| {
        let length = u8::try_from(path.len()).unwrap();
        // POST, http, the path and "h" as the authority (RFC 7541 section 6).
        let block = [&[0x83, 0x86, 0x04, length], path.as_bytes(), &[0x01, 1, b'h']].concat();
        let length = u8::try_from(block.len()).unwrap();
        [&[0, 0, length, 1, 5, 0, 0, 0, stream], &block[..]].concat()
    };
    let mut setup = Setup::new(LIMITS);
    let mut sent = [&PREFACE[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat();
    // A window of 16 MiB for the connection.
    sent.extend([0, 0, 4, 8, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    sent.extend(head(1, "/never"));
    (3..=15).step_by(2).for_each(|stream| sent.extend(head(stream, "/30000")));
    setup.stream.write_all(&sent).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    // INITIAL_WINDOW_SIZE becomes 0.
    let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    setup.stream.write_all(&settings).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    let began = Instant::now();
    let mut reset = Vec::new();
    let read = timeout(2 * SEND_TIMEOUT, async {
        loop {
            let mut head = [0; 9];
            setup.stream.read_exact(&mut head).await.unwrap();
            let [a, b, c, kind, .., stream] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]).try_into().unwrap()];
            setup.stream.read_exact(&mut payload).await.unwrap();
            if kind == RST_STREAM {
                assert_eq!(payload[3], ENHANCE_YOUR_CALM);
                reset.push((stream, began.elapsed().as_secs()));
            }
        }
    });
    assert!(read.await.is_err(), "the connection stays, with its call");
    assert!(reset.len() >= 2, "{reset:?}");
    assert!(
        reset.iter().all(|(stream, after)| *stream != 1 && (29..=32).contains(after)),
        "{reset:?}"
    );
}
