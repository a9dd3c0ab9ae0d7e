//! Counts the frames that a client sends. h2 acts on each frame at once and most of them cost the client
//! nothing, so a connection has a budget of control frames, and a poll of it has a bound.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};
use tokio::time::Instant;

use super::outbox::Outbox;
use crate::net::first_bytes::PREFACE;

/// Control frames at once, and the time in which one more is allowed. A long one counts as several.
const BUDGET_FRAMES: u32 = 1000;
const REFILL_INTERVAL: Duration = Duration::from_millis(100);

/// Frames that come with a call: HEADERS, DATA with a message's head of its own, empty DATA, PING and two
/// `WINDOW_UPDATE` for it, `RST_STREAM`, and one CONTINUATION.
const FRAMES_PER_CALL: u32 = 8;

/// Frames that answer a frame of DATA: two `WINDOW_UPDATE`, PING and SETTINGS to estimate the bandwidth.
const FRAMES_PER_DATA: u32 = 4;

/// Bytes of a piece of DATA for which it allows a frame. A window of 64 bytes, with `WINDOW_UPDATE` for
/// stream and connection, sustains itself; one of a few bytes does not.
const BYTES_PER_FRAME: usize = 32;

/// Bytes of a control frame that count as another frame. A long header list costs more to decode, also one
/// that is refused; a call pays for its own.
const COUNTED_BYTES: u32 = 512;

/// DATA from this size on is no control frame: flow control bounds it.
const SMALL_DATA_BYTES: u32 = 256;

/// Bounds of a poll. Past either it yields, and up to [`READ_MAX_BYTES`] of frames are still handled.
const POLL_MAX_FRAMES: u32 = 512;
const POLL_MAX_BYTES: u32 = 64 * 1024;

/// Largest read. As many frames of 9 bytes as fit into it are read together.
const READ_MAX_BYTES: u32 = 4 * 1024;

const FRAME_HEAD_BYTES: usize = 9;
const DATA: u8 = 0;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;

/// What a connection has read, and what it may still read. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Meter(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Control frames that are allowed, as of `refilled`.
    budget: u32,
    refilled: Instant,
    /// What this poll may still read.
    poll_frames: u32,
    poll_bytes: u32,
    /// Whether the budget is exceeded.
    exceeded: bool,
    told: Option<News>,
    progress: Progress,
}

/// What a connection has to look at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The client's SETTINGS, which every connection begins with, are complete.
    Begun,
    /// The budget is exceeded.
    Exceeded,
}

/// What a connection has read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// When it has read something.
    pub(super) last_read: Instant,
    /// Whether the client's SETTINGS are complete.
    pub(super) begun: bool,
}

impl Meter {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self(Arc::new(Mutex::new(State {
            budget: BUDGET_FRAMES,
            refilled: now,
            poll_frames: POLL_MAX_FRAMES,
            poll_bytes: POLL_MAX_BYTES,
            exceeded: false,
            told: None,
            progress: Progress { last_read: now, begun: false },
        })))
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress
    }

    /// Returns what was not told yet: each once.
    pub(super) fn take_news(&self) -> Option<News> {
        let mut state = self.lock();
        let State { exceeded, progress: Progress { begun, .. }, told, .. } = &mut *state;
        let news = if *exceeded {
            News::Exceeded
        } else if *begun {
            News::Begun
        } else {
            return None;
        };
        (told.replace(news) != Some(news)).then_some(news)
    }

    /// Begins a poll of the connection.
    pub(super) fn begin_poll(&self) {
        let mut state = self.lock();
        (state.poll_frames, state.poll_bytes) = (POLL_MAX_FRAMES, POLL_MAX_BYTES);
    }

    /// Adds to the budget what a call of the service allows, whose header list has this size.
    pub(super) fn count_call(&self, header_bytes: usize) {
        let header_bytes = u32::try_from(header_bytes).unwrap_or(u32::MAX);
        self.lock().allow(FRAMES_PER_CALL + header_bytes.div_ceil(COUNTED_BYTES));
    }

    /// Adds to the budget what DATA that is sent allows. A piece that a small window cut counts by its
    /// size, so that windows of a byte do not pay for themselves.
    pub(super) fn count_sent(&self, bytes: usize, whole: bool) {
        let by_size = u32::try_from(bytes / BYTES_PER_FRAME).unwrap_or(FRAMES_PER_DATA);
        self.lock().allow(if whole { FRAMES_PER_DATA } else { by_size.min(FRAMES_PER_DATA) });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn allow(&mut self, frames: u32) {
        self.budget = (self.budget + frames).min(BUDGET_FRAMES);
    }

    fn count_read(&mut self, bytes: usize, found: &Found, now: Instant) {
        self.progress.last_read = now;
        self.progress.begun |= found.settings;
        self.poll_bytes = self.poll_bytes.saturating_sub(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.poll_frames = self.poll_frames.saturating_sub(found.frames);
        let intervals = (now - self.refilled).as_millis() / REFILL_INTERVAL.as_millis();
        let intervals = u32::try_from(intervals).unwrap_or(u32::MAX).min(BUDGET_FRAMES);
        if intervals == BUDGET_FRAMES {
            (self.budget, self.refilled) = (BUDGET_FRAMES, now);
        } else {
            self.allow(intervals);
            self.refilled += REFILL_INTERVAL * intervals;
        }
        self.exceeded |= found.control > self.budget;
        self.budget = self.budget.saturating_sub(found.control);
    }
}

/// Frames in bytes that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::net) struct Found {
    pub(in crate::net) frames: u32,
    /// Those of `frames` that the budget is for.
    pub(in crate::net) control: u32,
    /// Whether the client's SETTINGS are complete.
    pub(in crate::net) settings: bool,
    /// Streams that the client resets.
    pub(in crate::net) reset: Vec<u32>,
}

/// Follows the frames in a connection's bytes, however they are cut.
#[derive(Debug)]
pub(in crate::net) struct FrameCursor {
    /// The head of the current frame, or as much of the next one's as has arrived.
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: usize,
    /// What is missing of the frame, or of the preface.
    missing_bytes: usize,
}

/// What follows in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// The head of a frame is complete.
    Head,
    /// So many bytes of the frame.
    Payload(usize),
}

impl FrameCursor {
    /// Begins before a frame, or so many bytes earlier.
    pub(in crate::net) fn new(missing_bytes: usize) -> Self {
        Self { head: [0; FRAME_HEAD_BYTES], head_bytes: 0, missing_bytes }
    }

    /// Takes the next piece off the bytes; `None` when they are used up.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Piece> {
        if bytes.is_empty() {
            return None;
        }
        if self.missing_bytes > 0 {
            let count = self.missing_bytes.min(bytes.len());
            self.missing_bytes -= count;
            *bytes = &bytes[count..];
            return Some(Piece::Payload(count));
        }
        let count = (FRAME_HEAD_BYTES - self.head_bytes).min(bytes.len());
        self.head[self.head_bytes..][..count].copy_from_slice(&bytes[..count]);
        self.head_bytes += count;
        *bytes = &bytes[count..];
        if self.head_bytes < FRAME_HEAD_BYTES {
            return None;
        }
        self.head_bytes = 0;
        self.missing_bytes = usize::try_from(self.length()).unwrap_or(usize::MAX);
        Some(Piece::Head)
    }

    fn length(&self) -> u32 {
        let [a, b, c, ..] = self.head;
        u32::from_be_bytes([0, a, b, c])
    }

    fn kind(&self) -> u8 {
        self.head[3]
    }

    fn has_flag(&self, flag: u8) -> bool {
        self.head[4] & flag > 0
    }

    fn stream(&self) -> u32 {
        let [.., a, b, c, d] = self.head;
        u32::from_be_bytes([a & 0x7f, b, c, d])
    }

    /// Returns whether the frame is complete and has settings. An acknowledgement of the server's has none.
    fn has_settings(&self) -> bool {
        self.missing_bytes == 0 && self.kind() == SETTINGS && !self.has_flag(ACK)
    }

    /// Counts the frames in bytes that were read.
    pub(in crate::net) fn count(&mut self, mut bytes: &[u8]) -> Found {
        let mut found = Found::default();
        while let Some(piece) = self.next(&mut bytes) {
            if piece == Piece::Head {
                let (kind, length) = (self.kind(), self.length());
                let is_free =
                    kind == DATA && (self.has_flag(END_STREAM) || length >= SMALL_DATA_BYTES);
                found.frames += 1;
                found.control += if is_free { 0 } else { 1 + length / COUNTED_BYTES };
                if kind == RST_STREAM {
                    found.reset.push(self.stream());
                }
            }
            found.settings |= self.has_settings();
        }
        found
    }
}

/// A connection whose reads are metered, and whose outbox follows what is written.
pub(super) struct MeteredIo<T> {
    stream: Take<T>,
    read: FrameCursor,
    written: FrameCursor,
    meter: Meter,
    outbox: Outbox,
}

impl<T: AsyncRead> MeteredIo<T> {
    /// Wraps a connection that begins with the preface.
    pub(super) fn new(stream: T, meter: Meter, outbox: Outbox) -> Self {
        let (read, written) = (FrameCursor::new(PREFACE.len()), FrameCursor::new(0));
        Self { stream: stream.take(0), read, written, meter, outbox }
    }
}

impl<T> MeteredIo<T> {
    /// Follows bytes that were written.
    fn count_written(&mut self, mut bytes: &[u8]) {
        while let Some(piece) = self.written.next(&mut bytes) {
            if let Piece::Payload(count) = piece
                && self.written.kind() == DATA
            {
                self.outbox.remove(self.written.stream(), count);
            }
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for MeteredIo<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        {
            let state = this.meter.lock();
            if state.exceeded {
                // The connection ends, and reads no more.
                return Poll::Pending;
            }
            if state.poll_frames == 0 || state.poll_bytes == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
        this.stream.set_limit(READ_MAX_BYTES.into());
        let filled = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        let bytes = &buf.filled()[filled..];
        if !bytes.is_empty() {
            let found = this.read.count(bytes);
            this.meter.lock().count_read(bytes.len(), &found, Instant::now());
            for stream in found.reset {
                this.outbox.forget(stream);
            }
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MeteredIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(self.stream.get_mut()).poll_write(cx, buf))?;
        self.count_written(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(self.stream.get_mut()).poll_write_vectored(cx, bufs))?;
        let mut left = written;
        for buf in bufs {
            let count = left.min(buf.len());
            self.count_written(&buf[..count]);
            left -= count;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let head = [0, 0, length, kind, flags, 0, 0, 0, 1];
        [&head[..], &vec![0; length.into()]].concat()
    }

    /// HEADERS of this length.
    fn head(length: u16) -> Vec<u8> {
        let [a, b] = length.to_be_bytes();
        [&[0, a, b, 1, 4, 0, 0, 0, 1][..], &vec![0; length.into()]].concat()
    }

    fn frames(bytes: &[u8]) -> (u32, u32) {
        let found = cursor_after_preface().count(bytes);
        (found.frames, found.control)
    }

    fn cursor_after_preface() -> FrameCursor {
        let mut cursor = FrameCursor::new(PREFACE.len());
        assert_eq!(cursor.count(&PREFACE), Found::default());
        cursor
    }

    /// A meter that counts frames without a connection.
    struct Client {
        meter: Meter,
        cursor: FrameCursor,
    }

    impl Client {
        fn new() -> Self {
            Self { meter: Meter::new(), cursor: cursor_after_preface() }
        }

        /// Sends a frame. Returns whether the connection goes on.
        fn send(&mut self, frame: &[u8]) -> bool {
            let found = self.cursor.count(frame);
            self.meter.lock().count_read(frame.len(), &found, Instant::now());
            !self.meter.lock().exceeded
        }
    }

    #[test]
    fn frames_are_found_however_they_are_cut() {
        let sent = [&PREFACE[..], &frame(4, 0, 6), &frame(DATA, 0, 20), &frame(4, 1, 0)].concat();
        let whole = FrameCursor::new(PREFACE.len()).count(&sent);
        assert_eq!(whole, Found { frames: 3, control: 3, settings: true, reset: Vec::new() });
        for size in 1..sent.len() {
            let mut cursor = FrameCursor::new(PREFACE.len());
            let found = sent.chunks(size).map(|chunk| cursor.count(chunk));
            let (frames, control) =
                found.fold((0, 0), |sum, found| (sum.0 + found.frames, sum.1 + found.control));
            assert_eq!((frames, control), (3, 3), "{size}");
        }
    }

    #[test]
    fn a_connection_has_begun_with_the_end_of_its_settings() {
        let settings = frame(4, 0, 6);
        let mut cursor = cursor_after_preface();
        for byte in &settings[..settings.len() - 1] {
            assert!(!cursor.count(&[*byte]).settings);
        }
        assert!(cursor.count(&settings[settings.len() - 1..]).settings);
        assert!(cursor_after_preface().count(&frame(SETTINGS, 0, 0)).settings);
        for other in [frame(SETTINGS, ACK, 0), frame(PING, 0, 8)] {
            assert!(!cursor_after_preface().count(&other).settings);
        }
    }

    #[test]
    fn data_that_is_large_or_the_last_is_no_control_frame() {
        assert_eq!(frames(&frame(DATA, 0, 255)), (1, 1));
        assert_eq!(frames(&frame(DATA, END_STREAM, 255)), (1, 0));
        assert_eq!(frames(&[&[0, 1, 0, DATA, 0, 0, 0, 0, 1][..], &[0; 256]].concat()), (1, 0));
        // HEADERS with END_STREAM are one.
        assert_eq!(frames(&frame(1, END_STREAM, 20)), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_budget_is_1000_frames_and_10_a_second() {
        let mut client = Client::new();
        let ping = frame(PING, 0, 8);
        assert!((0..1000).all(|_| client.send(&ping)));
        advance(Duration::from_secs(1)).await;
        assert!((0..10).all(|_| client.send(&ping)));
        assert!(!client.send(&ping));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watcher_that_pings_every_5_seconds_is_kept_for_hours() {
        let mut client = Client::new();
        for _ in 0..4 * 3600 / 5 {
            assert!(client.send(&frame(PING, 0, 8)));
            advance(Duration::from_secs(5)).await;
        }
        // What it did not use is not saved up.
        assert!((0..1000).all(|_| client.send(&frame(PING, 0, 8))));
        assert!(!client.send(&frame(PING, 0, 8)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_window_of_64_bytes_sustains_itself_and_one_of_a_byte_does_not() {
        let update = frame(WINDOW_UPDATE, 0, 4);
        let mut small = Client::new();
        for _ in 0..10_000 {
            small.meter.count_sent(64, false);
            // For the stream, and for the connection.
            assert!(small.send(&update) && small.send(&update));
        }
        let mut tiny = Client::new();
        let sustained = (0..10_000).take_while(|_| {
            tiny.meter.count_sent(1, false);
            tiny.send(&update)
        });
        assert_eq!(sustained.count(), 1000);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_pay_for_their_frames() {
        let mut client = Client::new();
        for _ in 0..10_000 {
            client.meter.count_call(1200);
            assert!(client.send(&head(1000)));
            // The head of the message alone, the message, the end.
            assert!(client.send(&frame(DATA, 0, 5)) && client.send(&frame(DATA, 0, 30)));
            assert!(client.send(&frame(DATA, END_STREAM, 0)));
            client.meter.count_sent(40, true);
            for kind in [PING, WINDOW_UPDATE, WINDOW_UPDATE, 3] {
                assert!(client.send(&frame(kind, 0, 8)));
            }
        }
        // Long header lists too.
        for _ in 0..1000 {
            client.meter.count_call(16_000);
            assert!(client.send(&head(15_900)));
        }
        // Header lists that are refused do not reach the service.
        let mut long = Client::new();
        let sustained = (0..10_000).take_while(|_| long.send(&head(16_000))).count();
        assert_eq!(sustained, 31);
        let mut refused = Client::new();
        let sustained = (0..10_000).take_while(|_| refused.send(&frame(1, 5, 20))).count();
        assert_eq!(sustained, 1000);
    }

    #[tokio::test]
    async fn a_poll_reads_a_bounded_number_of_frames_and_bytes() {
        for (frame, at_most) in [
            // As many as fit into a read may follow the last that is counted.
            (frame(DATA, END_STREAM, 0), POLL_MAX_FRAMES + READ_MAX_BYTES / 9 + 1),
            (frame(DATA, END_STREAM, 255), POLL_MAX_BYTES / 264 + 1),
        ] {
            let sent = [&PREFACE[..], &frame.repeat(4000)].concat();
            let meter = Meter::new();
            let mut stream = MeteredIo::new(&sent[..], meter.clone(), Outbox::default());
            let mut polls = Vec::new();
            let mut cursor = FrameCursor::new(PREFACE.len());
            let mut left = sent.len();
            while left > 0 {
                meter.begin_poll();
                let mut buffer = vec![0; 1 << 20];
                let mut buf = ReadBuf::new(&mut buffer);
                let mut cx = Context::from_waker(std::task::Waker::noop());
                while left > buf.filled().len()
                    && Pin::new(&mut stream).poll_read(&mut cx, &mut buf).is_ready()
                {
                }
                left -= buf.filled().len();
                polls.push(cursor.count(buf.filled()).frames);
            }
            assert!(polls.iter().all(|frames| *frames <= at_most), "{polls:?} {at_most}");
            assert_eq!(polls.iter().sum::<u32>(), 4000);
        }
    }
}
