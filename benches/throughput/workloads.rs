//! The calls of each workload, encoded beforehand as far as possible.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use markread::proto::{
    BatchMarkReadRequest, GetReadStateRequest, MarkReadRequest, WatchMarkReadEventsRequest,
};
use markread_harness::caller::Credentials;
use prost::Message;

use crate::load::Calls;

/// Readers take turns, and so do the conversations of each. The numbers are such that
/// `redis-benchmark` can do the same with its one range of random numbers.
pub(crate) const SIDE: u64 = 30;
pub(crate) const READERS: u64 = SIDE * SIDE;
pub(crate) const CONVERSATIONS: u64 = SIDE;
pub(crate) const CURSORS: u64 = READERS * CONVERSATIONS;
pub(crate) const FIRST_READER: u64 = 2_000_000_000;
pub(crate) const FIRST_RECIPIENT: u64 = 1_234_567_890_123_456_789;
const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;

/// Marks of one batch.
pub(crate) const BATCH_MARKS: u64 = 100;

/// Marks of a batch that fills a store: as many as a batch may have.
const SEED_MARKS: u64 = 500;

/// Conversations that are marked of a reader who has many.
const ACTIVE: u64 = 10;

const SERVICE: &str = "/markread.v1.MarkReadService";

/// The constant parts of the calls to a method.
struct Method {
    name: &'static str,
    path: String,
    content_type: &'static str,
    status: &'static str,
}

impl Method {
    fn of_grpc(name: &'static str, method: &str) -> Self {
        let path = format!("{SERVICE}/{method}");
        Self { name, path, content_type: "application/grpc", status: "0" }
    }

    /// Calls of all readers in turn, each with its token; `body` takes the call's number.
    fn calls(self, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Arc<Calls> {
        self.calls_in_turn(FIRST_READER.., READERS, body)
    }

    /// Calls of the first `count` of these readers in turn.
    fn calls_in_turn(
        self,
        readers: impl IntoIterator<Item = u64>,
        count: u64,
        body: impl Fn(u64) -> Bytes + Send + Sync + 'static,
    ) -> Arc<Calls> {
        let readers = readers.into_iter().take(count as usize);
        self.calls_of(readers, move |number| (number % count, body(number)))
    }

    /// Calls of these readers: `call` takes the call's number, and returns the reader's index and
    /// the body.
    fn calls_of(
        self,
        readers: impl Iterator<Item = u64>,
        call: impl Fn(u64) -> (u64, Bytes) + Send + Sync + 'static,
    ) -> Arc<Calls> {
        let Self { name, path, content_type, status } = self;
        let tokens: Vec<HeaderValue> = readers.map(token).collect();
        let make = move |number| {
            let (reader, body) = call(number);
            (tokens[reader as usize].clone(), body)
        };
        let (make, next, answered) = (Box::new(make), AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Calls { name, path, content_type, make, status, next, answered })
    }
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn token(reader: u64) -> HeaderValue {
    match Credentials::token_of(reader) {
        Credentials::Authorization(value) => HeaderValue::from_str(&value).unwrap(),
        _ => unreachable!(),
    }
}

/// The `authorization` of each reader.
pub(crate) fn tokens() -> impl Iterator<Item = HeaderValue> {
    (FIRST_READER..).take(READERS as usize).map(token)
}

/// Marks of a reader's conversations in turn, with rising messages.
fn rising(number: u64) -> MarkReadRequest {
    let recipient_id = FIRST_RECIPIENT + number / READERS % CONVERSATIONS;
    MarkReadRequest { last_read_event_id: FIRST_MESSAGE + number, recipient_id }
}

/// The same calls as [`advancing`], for the bare server that answers at once.
pub(crate) fn noop() -> Arc<Calls> {
    marks("noop")
}

/// The same calls, for the whole server that answers at once.
pub(crate) fn noop_of_the_whole() -> Arc<Calls> {
    marks("noop of the whole server")
}

/// Marks that all advance a cursor.
pub(crate) fn advancing() -> Arc<Calls> {
    marks("mark_read, advancing")
}

fn marks(name: &'static str) -> Arc<Calls> {
    Method::of_grpc(name, "MarkRead").calls(|number| frame(&rising(number)))
}

/// Marks that change nothing.
pub(crate) fn unchanged() -> Arc<Calls> {
    Method::of_grpc("mark_read, no-op", "MarkRead")
        .calls(|number| frame(&MarkReadRequest { last_read_event_id: 1, ..rising(number) }))
}

/// Marks of readers who have used up their quota.
pub(crate) fn limited() -> Arc<Calls> {
    Method { status: "8", ..Method::of_grpc("mark_read, limited", "MarkRead") }
        .calls(|number| frame(&rising(number)))
}

/// Batches of marks that all advance a cursor.
pub(crate) fn batch() -> Arc<Calls> {
    // Other readers, since those of the other workloads have few conversations.
    let readers = FIRST_READER + READERS..;
    Method::of_grpc("batch of 100", "BatchMarkRead").calls_in_turn(readers, READERS, |number| {
        let mark = |at| MarkReadRequest {
            recipient_id: FIRST_RECIPIENT + at,
            last_read_event_id: 2 * FIRST_MESSAGE + number,
        };
        frame(&BatchMarkReadRequest { requests: (0..BATCH_MARKS).map(mark).collect() })
    })
}

/// Reads of a conversation's state.
pub(crate) fn state() -> Arc<Calls> {
    Method::of_grpc("get_read_state", "GetReadState")
        .calls(|number| frame(&GetReadStateRequest { recipient_id: rising(number).recipient_id }))
}

/// Marks over HTTP that all advance a cursor.
pub(crate) fn http() -> Arc<Calls> {
    let method = Method {
        name: "HTTP edge, advancing",
        path: "/1.1/direct_messages/mark_read.json".to_owned(),
        content_type: "application/x-www-form-urlencoded",
        status: "204",
    };
    // Other readers, since the messages of the other workloads may be ahead.
    method.calls_in_turn(FIRST_READER + 2 * READERS.., READERS, |number| {
        let MarkReadRequest { last_read_event_id, recipient_id } = rising(number);
        format!("last_read_event_id={last_read_event_id}&recipient_id={recipient_id}").into()
    })
}

/// The stored data: consecutive readers, each with the same number of conversations.
#[derive(Clone, Copy)]
pub(crate) struct Population {
    pub(crate) first_reader: u64,
    pub(crate) readers: u64,
    pub(crate) conversations: u64,
}

impl Population {
    pub(crate) fn cursors(self) -> u64 {
        self.readers * self.conversations
    }

    /// Batches that set every cursor, and their number.
    pub(crate) fn seed(self) -> (Arc<Calls>, u64) {
        let Self { first_reader, readers, conversations } = self;
        let batches = conversations.div_ceil(SEED_MARKS);
        let method = Method::of_grpc("seed", "BatchMarkRead");
        let calls = method.calls_of((first_reader..).take(readers as usize), move |number| {
            let first = number % batches * SEED_MARKS;
            let mark = |at| MarkReadRequest {
                recipient_id: FIRST_RECIPIENT + at,
                last_read_event_id: FIRST_MESSAGE,
            };
            let requests = (first..conversations.min(first + SEED_MARKS)).map(mark).collect();
            (number / batches, frame(&BatchMarkReadRequest { requests }))
        });
        (calls, readers * batches)
    }

    /// Marks of this many readers in up to [`ACTIVE`] conversations of each, so that the server
    /// caches all users, however large the population is. All advance.
    pub(crate) fn advancing(self, active_readers: u64) -> Arc<Calls> {
        let Self { first_reader, readers, conversations } = self;
        let active = conversations.min(ACTIVE);
        let readers = (first_reader..).step_by((readers / active_readers) as usize);
        let method = Method::of_grpc("growth", "MarkRead");
        method.calls_in_turn(readers, active_readers, move |number| {
            let conversation = number / active_readers % active * (conversations / active);
            frame(&MarkReadRequest {
                recipient_id: FIRST_RECIPIENT + conversation,
                last_read_event_id: FIRST_MESSAGE + 1 + number,
            })
        })
    }
}

/// Watches of different readers.
pub(crate) fn watches(count: u64) -> Arc<Calls> {
    let after_now = frame(&WatchMarkReadEventsRequest { after: String::new() });
    Method::of_grpc("watch", "WatchMarkReadEvents").calls_in_turn(
        FIRST_READER..,
        count,
        move |_| after_now.clone(),
    )
}
