//! DATA that h2 has taken and that has not left, by stream.
//!
//! An answer can end while its last bytes still wait in h2, and a client that then shrinks its windows would
//! hold them for as long as it likes. So what has not left is known until it has, and its stream can be
//! reset.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use tokio::time::Instant;

/// What a connection's streams have to send. Clones share it.
///
/// h2 holds its own lock while it writes, and takes it when a handle of a stream is used or dropped. So none
/// is used or dropped with this lock held, nor while h2 writes.
#[derive(Clone, Default)]
pub(super) struct Outbox(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    streams: BTreeMap<u32, Held>,
    /// Bytes of all streams.
    bytes: usize,
    /// Streams whose answers have ended.
    ended: usize,
    /// Handles of streams whose bytes have left, to be dropped.
    done: Vec<SendResponse<Bytes>>,
}

/// What has not left of a stream.
struct Held {
    bytes: usize,
    /// When some of it left, or came.
    since: Instant,
    /// To reset the stream once its answer has ended.
    reply: Option<SendResponse<Bytes>>,
}

impl Outbox {
    /// Adds bytes of a stream, before h2 takes them.
    pub(super) fn add(&self, stream: u32, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut state = self.lock();
        state.bytes += bytes;
        let held = state.streams.entry(stream).or_insert_with(|| Held {
            bytes: 0,
            since: Instant::now(),
            reply: None,
        });
        held.bytes += bytes;
    }

    /// Notes that a stream's answer has ended: no more bytes are added.
    pub(super) fn end(&self, reply: SendResponse<Bytes>) {
        let stream = reply.stream_id().into();
        let mut state = self.lock();
        let State { streams, ended, .. } = &mut *state;
        // If all has left, the handle is dropped, without the lock.
        let left = match streams.get_mut(&stream) {
            Some(held) => {
                *ended += 1;
                held.reply.replace(reply)
            }
            None => Some(reply),
        };
        drop(state);
        drop(left);
    }

    /// Removes bytes of a stream that have left.
    pub(super) fn remove(&self, stream: u32, bytes: usize) {
        let mut state = self.lock();
        let Some(held) = state.streams.get_mut(&stream) else { return };
        if held.bytes > bytes {
            held.bytes -= bytes;
            held.since = Instant::now();
            state.bytes -= bytes;
        } else {
            state.forget(stream);
        }
    }

    /// Forgets a stream that was reset: h2 drops its bytes.
    pub(super) fn forget(&self, stream: u32) {
        self.lock().forget(stream);
    }

    /// Drops handles of streams whose bytes have left, which may not be done while h2 writes. Returns the
    /// number of streams whose answers have ended and have not left.
    pub(super) fn drop_done(&self) -> usize {
        let mut state = self.lock();
        let (ended, done) = (state.ended, std::mem::take(&mut state.done));
        drop(state);
        drop(done);
        ended
    }

    /// Returns the bytes that have not left.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Returns the number of streams whose answers have ended and have not left.
    pub(super) fn ended(&self) -> usize {
        self.lock().ended
    }

    /// Resets streams whose answers have ended, and of which nothing has left for this long. Returns how
    /// many.
    pub(super) fn reset_stuck(&self, now: Instant, limit: Duration) -> usize {
        let mut stuck = Vec::new();
        {
            let mut state = self.lock();
            let late = |held: &Held| held.reply.is_some() && now - held.since >= limit;
            let late = state.streams.iter().filter(|(_, held)| late(held));
            let late: Vec<u32> = late.map(|(stream, _)| *stream).collect();
            for stream in late {
                state.forget(stream);
                stuck.extend(state.done.pop());
            }
        }
        for reply in &mut stuck {
            reply.send_reset(Reason::ENHANCE_YOUR_CALM);
        }
        stuck.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock is safe to use: nothing that holds it panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, stream: u32) {
        let Some(Held { bytes, reply, .. }) = self.streams.remove(&stream) else { return };
        self.bytes -= bytes;
        if let Some(reply) = reply {
            self.ended -= 1;
            self.done.push(reply);
        }
    }
}
