//! HTTP/2 by hand, for an attacker who sends what no library sends and reads only what it likes.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use markread_harness::wire::PREFACE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio::time::sleep;

pub(crate) use crate::frames::*;

/// The setting of a stream's first window.
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What a connection's window is widened by at its start, to its maximum.
const WIDEN: u32 = 0x7fff_ffff - 65_535;

/// The longest wait for a server's settings.
const GREETING_MAX: Duration = Duration::from_millis(300);

/// How long a server may take to notice what it has been sent.
const CUT_MAX: Duration = Duration::from_millis(500);

/// The address that attacks come from, so that a bound per peer tells them from the neighbour.
const ATTACKER: &str = "127.0.0.2:0";

/// Opens connections whose streams have this window, then begins so many calls on each, as `encode`
/// returns their frames.
pub(crate) async fn hold(
    address: &str,
    [connections, calls]: [usize; 2],
    window: u32,
    encode: impl Fn(u32) -> Vec<u8>,
) -> Vec<Connection> {
    let mut held = Vec::new();
    for _ in 0..connections {
        held.extend(Connection::open(address, window, Reading::All).await);
    }
    for one in &mut held {
        let _ = one.begin(calls, &encode).await;
    }
    held
}

/// What the server has sent on a connection so far.
#[derive(Default)]
pub(crate) struct Seen {
    frames: [AtomicUsize; 10],
    /// Streams that were answered to their end.
    ended: AtomicUsize,
    /// Streams that were reset before that.
    reset: AtomicUsize,
    data_bytes: AtomicU64,
    /// The code of its GOAWAY, plus one.
    goaway: AtomicU32,
    closed: AtomicBool,
}

impl Seen {
    /// Frames of a kind.
    pub(crate) fn count(&self, kind: u8) -> usize {
        self.frames[usize::from(kind)].load(Relaxed)
    }

    /// Bytes in DATA frames.
    pub(crate) fn data_bytes(&self) -> u64 {
        self.data_bytes.load(Relaxed)
    }

    /// Streams that were answered to their end.
    pub(crate) fn ended(&self) -> usize {
        self.ended.load(Relaxed)
    }

    /// Streams that were answered or reset.
    pub(crate) fn done(&self) -> usize {
        self.ended() + self.reset.load(Relaxed)
    }

    /// The code of its GOAWAY.
    pub(crate) fn goaway(&self) -> Option<u32> {
        self.goaway.load(Relaxed).checked_sub(1)
    }

    /// Whether the connection has ended.
    pub(crate) fn closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Whether the server has ended the connection, or said that it does.
    pub(crate) fn is_cut(&self) -> bool {
        self.closed() || self.goaway().is_some_and(|code| code != 0)
    }

    /// Counts a frame. `answered` are the streams that have ended; a server may reset one of them yet,
    /// to say that it wants no more of the request.
    fn note(&self, head: [u8; 9], payload: &[u8], answered: &mut HashSet<[u8; 4]>) {
        let [_, _, _, kind, flags, stream @ ..] = head;
        if let Some(count) = self.frames.get(usize::from(kind)) {
            count.fetch_add(1, Relaxed);
        }
        match kind {
            DATA => {
                self.data_bytes.fetch_add(payload.len() as u64, Relaxed);
            }
            GOAWAY => {
                let code = payload[4..8].try_into().unwrap();
                self.goaway.store(u32::from_be_bytes(code).wrapping_add(1), Relaxed);
            }
            RST_STREAM if !answered.contains(&stream) => {
                self.reset.fetch_add(1, Relaxed);
            }
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            answered.insert(stream);
            self.ended.fetch_add(1, Relaxed);
        }
    }
}

/// How an attacker reads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Everything, and answers PING and SETTINGS.
    All,
    /// The same, and widens the stream's window by what it received, frame by frame.
    ByDrops,
}

/// A connection of an attacker, closed when it is dropped.
pub(crate) struct Connection {
    write: Arc<Mutex<OwnedWriteHalf>>,
    pub(crate) seen: Arc<Seen>,
    reader: AbortHandle,
    next: u32,
}

/// Opens a TCP connection from the attackers' address.
pub(crate) async fn connect(address: &str) -> io::Result<TcpStream> {
    connect_from(ATTACKER, address).await
}

/// Opens a TCP connection from an address.
pub(crate) async fn connect_from(own: &str, address: &str) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(own.parse().unwrap())?;
    let stream = socket.connect(address.parse().unwrap()).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl Connection {
    /// Opens a connection whose streams have this window.
    pub(crate) async fn open(address: &str, window: u32, reading: Reading) -> io::Result<Self> {
        Self::open_on(connect(address).await?, window, reading).await
    }

    /// The same as [`Connection::open`], on a TCP connection.
    pub(crate) async fn open_on(
        stream: TcpStream,
        window: u32,
        reading: Reading,
    ) -> io::Result<Self> {
        let mut setting = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        setting.extend_from_slice(&window.to_be_bytes());
        let (settings, widen) =
            (frame(SETTINGS, 0, 0, &setting), frame(WINDOW_UPDATE, 0, 0, &WIDEN.to_be_bytes()));
        let one = Self::over(stream, &[PREFACE, &settings, &widen].concat(), reading).await?;
        // More than 64 KiB of requests need the window that comes with the server's settings.
        let began = Instant::now();
        while one.seen.count(SETTINGS) == 0 && began.elapsed() < GREETING_MAX {
            sleep(Duration::from_millis(1)).await;
        }
        Ok(one)
    }

    /// Starts on a TCP connection with these bytes.
    pub(crate) async fn over(
        stream: TcpStream,
        start: &[u8],
        reading: Reading,
    ) -> io::Result<Self> {
        let (read, mut write) = stream.into_split();
        write.write_all(start).await?;
        let (write, seen) = (Arc::new(Mutex::new(write)), Arc::<Seen>::default());
        let reading = run(read, Arc::clone(&write), Arc::clone(&seen), reading);
        let reader = tokio::spawn(reading).abort_handle();
        Ok(Self { write, seen, reader, next: 1 })
    }

    /// The number of the next stream.
    pub(crate) fn stream(&mut self) -> u32 {
        self.next += 2;
        self.next - 2
    }

    /// Sends bytes.
    pub(crate) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.write.lock().await.write_all(bytes).await
    }

    /// Begins calls; `encode` returns the frames of one.
    pub(crate) async fn begin(
        &mut self,
        count: usize,
        encode: impl Fn(u32) -> Vec<u8>,
    ) -> io::Result<()> {
        let calls: Vec<Vec<u8>> = (0..count).map(|_| encode(self.stream())).collect();
        self.send(&calls.concat()).await
    }

    /// Sends the same bytes again and again, until then or until it is cut. Returns how often.
    pub(crate) async fn repeat(&self, bytes: &[u8], until: Instant) -> usize {
        let mut times = 0;
        while Instant::now() < until && !self.seen.is_cut() {
            if self.send(bytes).await.is_err() {
                self.seen.closed.store(true, Relaxed);
                break;
            }
            times += 1;
        }
        times
    }

    /// Waits for the server to cut it, and returns whether it has.
    pub(crate) async fn is_cut_soon(&self) -> bool {
        let began = Instant::now();
        while !self.seen.is_cut() && began.elapsed() < CUT_MAX {
            sleep(Duration::from_millis(5)).await;
        }
        self.seen.is_cut()
    }

    /// Makes calls until then, so many at once.
    pub(crate) async fn flood(&mut self, call: &Call, at_once: usize, until: Instant) {
        self.flood_up_to(usize::MAX, call, at_once, until).await;
    }

    /// The same as [`Connection::flood`], with no more calls than these.
    pub(crate) async fn flood_up_to(
        &mut self,
        most: usize,
        call: &Call,
        at_once: usize,
        until: Instant,
    ) {
        let (mut begun, before) = (0, self.seen.done());
        while Instant::now() < until && !self.seen.is_cut() {
            let done = self.seen.done() - before;
            if done >= most {
                break;
            }
            let free = at_once.saturating_sub(begun - done.min(begun)).min(most - begun);
            if free == 0 {
                sleep(Duration::from_millis(1)).await;
                continue;
            }
            if self.begin(free, |stream| call.complete(stream)).await.is_err() {
                break;
            }
            begun += free;
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Its half of the socket would keep the connection open.
        self.reader.abort();
    }
}

async fn run(
    mut read: OwnedReadHalf,
    write: Arc<Mutex<OwnedWriteHalf>>,
    seen: Arc<Seen>,
    reading: Reading,
) {
    let mut buffer = BytesMut::with_capacity(64 * 1024);
    let mut answered = HashSet::new();
    while read.read_buf(&mut buffer).await.unwrap_or(0) > 0 {
        let mut answers = Vec::new();
        while let Some(head) = buffer.first_chunk::<9>().copied() {
            let [a, b, c, kind, flags, stream @ ..] = head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            if buffer.len() < 9 + length {
                break;
            }
            let whole = buffer.split_to(9 + length);
            let payload = &whole[9..];
            seen.note(head, payload, &mut answered);
            answers.extend(match kind {
                SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[]),
                PING if flags & ACK == 0 => frame(PING, ACK, 0, payload),
                DATA if reading == Reading::ByDrops && length > 0 && flags & END_STREAM == 0 => {
                    let more = u32::try_from(length).unwrap().to_be_bytes();
                    frame(WINDOW_UPDATE, 0, u32::from_be_bytes(stream), &more)
                }
                _ => continue,
            });
        }
        if !answers.is_empty() && write.lock().await.write_all(&answers).await.is_err() {
            break;
        }
    }
    seen.closed.store(true, Relaxed);
}
