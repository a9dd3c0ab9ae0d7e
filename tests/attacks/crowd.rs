//! A crowd of users who mark, over connections of their own: at a pace that does not wait for answers, or so many
//! calls at once. Calls are encoded by hand and answers are told apart by their frames, since the crowd shares the
//! machine with the server that it overloads: an answer with DATA was served, one without was refused.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use markread_harness::raw::{MARK_READ, frame as message_frame, request};
use markread_harness::wire::PREFACE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::calls::token;
use crate::frames::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame,
    literals,
};
use crate::http2::connect_from;

/// The first of the users.
const FIRST_USER: u64 = 7_000_001;

/// The streams that a server allows on a connection.
const STREAMS: usize = 256;

/// What a connection's window is widened by at its start.
const WIDEN: u32 = 0x7fff_ffff - 65_535;

/// The time between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);

/// How the crowd calls.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// So many calls at once on each connection.
    AtOnce(usize),
    /// So many calls a second in all, whether or not earlier ones are answered. What finds all streams of a
    /// connection taken is held back: a client of gRPC would keep it.
    PerSecond(f64),
}

/// A call that was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    pub(crate) served: bool,
}

/// What the crowd met, of the calls that were sent in one phase.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    pub(crate) began: Instant,
    pub(crate) lasted: Duration,
    pub(crate) answered: Vec<Answered>,
    pub(crate) held_back: u64,
}

impl Figures {
    /// Calls that were answered in the phase itself, a second.
    pub(crate) fn per_second(&self, served: bool) -> f64 {
        let end = self.began + self.lasted;
        let calls = self.answered.iter().filter(|call| {
            let ended = call.sent + call.took;
            call.served == served && ended >= self.began && ended < end
        });
        calls.count() as f64 / self.lasted.as_secs_f64()
    }

    /// The time that this share of the served, or refused, calls did not exceed, in ms.
    pub(crate) fn quantile_ms(&self, served: bool, share: f64) -> f64 {
        let end = self.began + self.lasted;
        let calls = self.answered.iter();
        let calls = calls.filter(|call| call.served == served);
        let calls = calls.filter(|call| call.sent >= self.began && call.sent < end);
        let mut times: Vec<Duration> = calls.map(|call| call.took).collect();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        times.get((last as f64 * share) as usize).map_or(0.0, |time| 1000.0 * time.as_secs_f64())
    }
}

/// A connection.
struct Lane {
    write: OwnedWriteHalf,
    shared: Arc<Mutex<Shared>>,
    next: u32,
}

#[derive(Default)]
struct Shared {
    /// Since when a stream is open, and whether DATA of its answer has arrived.
    open: HashMap<u32, (Instant, bool)>,
    answered: Vec<Answered>,
}

/// How the crowd is to call, and who gets the figures.
type Order = (Pace, Duration, oneshot::Sender<Figures>);

/// The crowd, on a thread and a runtime of its own.
pub(crate) struct Crowd {
    orders: mpsc::UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Opens so many connections for so many users, each with a token.
    pub(crate) fn new(address: &str, connections: usize, users: u64) -> Self {
        let (orders, mut ordered) = mpsc::unbounded_channel::<Order>();
        let address = address.to_owned();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let blocks: Vec<Vec<u8>> = (0..users).map(|n| block(FIRST_USER + n)).collect();
                let mut lanes = Vec::new();
                for _ in 0..connections {
                    lanes.push(Lane::open(&address).await);
                }
                let numbers = AtomicU64::new(0);
                while let Some((pace, lasts, done)) = ordered.recv().await {
                    let figures = run(&mut lanes, &blocks, &numbers, pace, lasts).await;
                    let _ = done.send(figures);
                }
            });
        });
        Self { orders, thread: Some(thread) }
    }

    /// Calls for so long, and returns what was answered until then, also of earlier calls.
    pub(crate) async fn call(&self, pace: Pace, lasts: Duration) -> Figures {
        let (done, figures) = oneshot::channel();
        self.orders.send((pace, lasts, done)).expect("the crowd calls");
        figures.await.expect("the crowd can go on")
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // It ends when nobody can order anything any more.
        self.orders = mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The headers of a user's marks.
fn block(user: u64) -> Vec<u8> {
    literals(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", MARK_READ),
        (":authority", "markread"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("authorization", &token(user)),
    ])
}

impl Lane {
    async fn open(address: &str) -> Self {
        let stream = connect_from("127.0.0.1:0", address).await.unwrap();
        let (read, mut write) = stream.into_split();
        let settings = frame(SETTINGS, 0, 0, &[]);
        let widen = frame(WINDOW_UPDATE, 0, 0, &WIDEN.to_be_bytes());
        let ack = frame(SETTINGS, ACK, 0, &[]);
        write.write_all(&[PREFACE, &settings[..], &widen, &ack].concat()).await.unwrap();
        let shared = Arc::<Mutex<Shared>>::default();
        tokio::spawn(read_answers(read, Arc::clone(&shared)));
        Self { write, shared, next: 1 }
    }

    fn open_streams(&self) -> usize {
        self.shared.lock().unwrap().open.len()
    }

    /// Sends so many of the next marks.
    async fn send(&mut self, count: usize, blocks: &[Vec<u8>], numbers: &AtomicU64) {
        let mut bytes = Vec::with_capacity(count * 400);
        let now = Instant::now();
        {
            let mut shared = self.shared.lock().unwrap();
            for _ in 0..count {
                let number = numbers.fetch_add(1, Relaxed);
                let block = &blocks[number as usize % blocks.len()];
                bytes.extend(frame(HEADERS, END_HEADERS, self.next, block));
                // Each mark of a conversation advances its cursor.
                let body = message_frame(&request(42, 1 + number));
                bytes.extend(frame(DATA, END_STREAM, self.next, &body));
                shared.open.insert(self.next, (now, false));
                self.next += 2;
            }
        }
        self.write.write_all(&bytes).await.expect("the server keeps the connection");
    }
}

async fn read_answers(mut read: OwnedReadHalf, shared: Arc<Mutex<Shared>>) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    while read.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
        let now = Instant::now();
        let mut shared = shared.lock().unwrap();
        while let Some([a, b, c, kind, flags, stream @ ..]) = buffer.first_chunk::<9>().copied() {
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if buffer.len() < 9 + length {
                break;
            }
            buffer.advance(9 + length);
            let stream = u32::from_be_bytes(stream);
            let has_ended = kind == RST_STREAM || flags & END_STREAM != 0;
            match kind {
                DATA | HEADERS | RST_STREAM if has_ended => {
                    if let Some((sent, served)) = shared.open.remove(&stream) {
                        shared.answered.push(Answered { sent, took: now - sent, served });
                    }
                }
                DATA => {
                    if let Some((_, served)) = shared.open.get_mut(&stream) {
                        *served = true;
                    }
                }
                _ => {}
            }
        }
    }
}

async fn run(
    lanes: &mut [Lane],
    blocks: &[Vec<u8>],
    numbers: &AtomicU64,
    pace: Pace,
    lasts: Duration,
) -> Figures {
    let (began, mut due_before, mut held_back) = (Instant::now(), 0, 0);
    while began.elapsed() < lasts {
        match pace {
            Pace::AtOnce(at_once) => {
                for lane in lanes.iter_mut() {
                    let free = at_once.saturating_sub(lane.open_streams());
                    lane.send(free, blocks, numbers).await;
                }
            }
            Pace::PerSecond(rate) => {
                let due = (began.elapsed().as_secs_f64() * rate) as usize;
                let mut new = due - due_before;
                due_before = due;
                for nth in 0..lanes.len() {
                    let share = new.div_ceil(lanes.len() - nth);
                    new -= share;
                    let count = share.min(STREAMS - lanes[nth].open_streams().min(STREAMS));
                    held_back += (share - count) as u64;
                    lanes[nth].send(count, blocks, numbers).await;
                }
                // Where few are due, all connections take turns.
                lanes.rotate_left(1);
            }
        }
        sleep(TICK).await;
    }
    let lasted = began.elapsed();
    let answered =
        lanes.iter().flat_map(|lane| std::mem::take(&mut lane.shared.lock().unwrap().answered));
    Figures { began, lasted, answered: answered.collect(), held_back }
}
