//! The calls of each workload, encoded beforehand as far as possible.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use http::uri::PathAndQuery;
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

/// The workloads that others are compared with.
pub(crate) const NOOP: &str = "noop";
pub(crate) const WHOLE_NOOP: &str = "noop of the whole server";
pub(crate) const ADVANCING: &str = "mark_read, advancing";
pub(crate) const UNCHANGED: &str = "mark_read, no-op";
pub(crate) const BATCH: &str = "batch of 100";
pub(crate) const STATE: &str = "get_read_state";
pub(crate) const HTTP: &str = "HTTP edge, advancing";
pub(crate) const OBJECTS: &str = "mark_read, two user objects of 3 KB";
pub(crate) const TWO_THREADS: &str = "mark_read, 2 worker threads";
pub(crate) const OTHER: &str = "mark_read of the other binary";
pub(crate) const PEER: &str = "envoyproxy/ratelimit, ShouldRateLimit";

/// Bytes of each user object.
pub(crate) const USER_OBJECT_BYTES: usize = 3000;

/// The constant parts of the calls to a method.
pub(crate) struct Method {
    pub(crate) name: &'static str,
    pub(crate) path: PathAndQuery,
    pub(crate) content_type: &'static str,
    pub(crate) status: &'static str,
}

impl Method {
    fn of_grpc(name: &'static str, method: &str) -> Self {
        let path = format!("{SERVICE}/{method}").parse().unwrap();
        Self { name, path, content_type: "application/grpc", status: "0" }
    }

    /// Calls of all readers in turn, each with its token; `body` takes the call's number.
    pub(crate) fn calls(self, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Arc<Calls> {
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

pub(crate) fn frame(message: &impl Message) -> Bytes {
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

/// The number of the call that marked up to this message.
pub(crate) fn number_of_message(message: u64) -> u64 {
    message - FIRST_MESSAGE
}

/// Marks that all advance a cursor. `noop` gets the same.
pub(crate) fn marks(name: &'static str) -> Arc<Calls> {
    Method::of_grpc(name, "MarkRead").calls(|number| frame(&rising(number)))
}

/// The same marks of readers of their own: the messages of those of other marks may be ahead.
pub(crate) fn marks_of_group(name: &'static str, group: Group) -> Arc<Calls> {
    let readers = group.readers();
    let recipients = group.first_recipient() - FIRST_RECIPIENT;
    Method::of_grpc(name, "MarkRead").calls_in_turn(readers, READERS, move |number| {
        let mark = rising(number);
        frame(&MarkReadRequest { recipient_id: mark.recipient_id + recipients, ..mark })
    })
}

/// Whose calls a workload has, besides the readers of most.
#[derive(Clone, Copy)]
pub(crate) enum Group {
    Batches = 1,
    Http,
    Objects,
    TwoThreads,
    Other,
}

impl Group {
    pub(crate) fn readers(self) -> impl Iterator<Item = u64> {
        let first = FIRST_READER + self as u64 * READERS;
        first..first + READERS
    }

    /// Whom those who have a user object mark, besides whom others mark.
    fn first_recipient(self) -> u64 {
        match self {
            Self::Objects => FIRST_RECIPIENT + 1000,
            _ => FIRST_RECIPIENT,
        }
    }

    pub(crate) fn recipients(self) -> impl Iterator<Item = u64> {
        (self.first_recipient()..).take(CONVERSATIONS as usize)
    }
}

/// A user object of [`USER_OBJECT_BYTES`].
pub(crate) fn user_object(user: u64) -> String {
    let object = format!("{{\"id\":\"{user}\",\"bio\":\"");
    format!("{object:a<width$}\"}}", width = USER_OBJECT_BYTES - 2)
}

/// Marks that change nothing.
pub(crate) fn unchanged() -> Arc<Calls> {
    Method::of_grpc(UNCHANGED, "MarkRead")
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
    let readers = Group::Batches.readers();
    Method::of_grpc(BATCH, "BatchMarkRead").calls_in_turn(readers, READERS, |number| {
        let mark = |at| MarkReadRequest {
            recipient_id: FIRST_RECIPIENT + at,
            last_read_event_id: 2 * FIRST_MESSAGE + number,
        };
        frame(&BatchMarkReadRequest { requests: (0..BATCH_MARKS).map(mark).collect() })
    })
}

/// Reads of a conversation's state.
pub(crate) fn state() -> Arc<Calls> {
    Method::of_grpc(STATE, "GetReadState")
        .calls(|number| frame(&GetReadStateRequest { recipient_id: rising(number).recipient_id }))
}

/// Marks over HTTP that all advance a cursor.
pub(crate) fn http() -> Arc<Calls> {
    let method = Method {
        name: HTTP,
        path: PathAndQuery::from_static("/1.1/direct_messages/mark_read.json"),
        content_type: "application/x-www-form-urlencoded",
        status: "204",
    };
    method.calls_in_turn(Group::Http.readers(), READERS, |number| {
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
    watches_of(FIRST_READER.., count)
}

/// Watches of all whom [`marks`] mark.
pub(crate) fn recipients_watching() -> Arc<Calls> {
    watches_of(FIRST_RECIPIENT.., CONVERSATIONS)
}

fn watches_of(users: impl Iterator<Item = u64>, count: u64) -> Arc<Calls> {
    let after_now = frame(&WatchMarkReadEventsRequest { after: String::new() });
    let method = Method::of_grpc("watch", "WatchMarkReadEvents");
    method.calls_in_turn(users, count, move |_| after_now.clone())
}
