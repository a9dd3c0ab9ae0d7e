//! What is called: each workload's calls, encoded beforehand as far as they can be.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderValue;
use markread::proto::{BatchMarkReadRequest, GetReadStateRequest, MarkReadRequest};
use prost::Message;

use crate::harness::caller::Credentials;
use crate::load::Calls;

/// Readers who take turns, each with so many conversations, which take turns too.
pub(crate) const READERS: u64 = 500;
const CONVERSATIONS: u64 = 50;
const FIRST_READER: u64 = 2_000_000_000;
const FIRST_RECIPIENT: u64 = 1_234_567_890_123_456_789;
const FIRST_MESSAGE: u64 = 1_000_000_000_000_000_000;

/// Marks of one batch.
pub(crate) const BATCH_MARKS: u64 = 100;

const SERVICE: &str = "/markread.v1.MarkReadService";

/// The parts of a call to this method of the service.
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

    /// Calls of readers in turn, each with its token; `body` is given the call's number.
    fn calls(self, body: impl Fn(u64) -> Bytes + Send + Sync + 'static) -> Arc<Calls> {
        self.calls_of(FIRST_READER, body)
    }

    /// The same, of readers from this one on.
    fn calls_of(
        self,
        first_reader: u64,
        body: impl Fn(u64) -> Bytes + Send + Sync + 'static,
    ) -> Arc<Calls> {
        let Self { name, path, content_type, status } = self;
        let tokens = tokens(first_reader);
        let make = move |number| {
            let token = &tokens[(number % READERS) as usize];
            (Some(token.clone()), body(number))
        };
        let next = AtomicU64::new(0);
        Arc::new(Calls { name, path, content_type, make: Arc::new(make), status, next })
    }
}

fn frame(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.encoded_len());
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

fn tokens(first_reader: u64) -> Vec<HeaderValue> {
    let token = |reader| match Credentials::token_of(reader) {
        Credentials::Authorization(value) => HeaderValue::from_str(&value).unwrap(),
        _ => unreachable!(),
    };
    (first_reader..first_reader + READERS).map(token).collect()
}

/// The `authorization` of one reader.
pub(crate) fn token() -> HeaderValue {
    tokens(FIRST_READER).swap_remove(0)
}

/// A reader's conversations in turn, and messages that rise.
fn rising(number: u64) -> MarkReadRequest {
    let recipient_id = FIRST_RECIPIENT + number / READERS % CONVERSATIONS;
    MarkReadRequest { last_read_event_id: FIRST_MESSAGE + number, recipient_id }
}

/// The wire's limit: a call that the same server answers at once, Health's. It passes neither the edge
/// guard nor identity, and carries no token.
pub(crate) fn noop() -> Arc<Calls> {
    let body = Bytes::from_static(&[0; 5]);
    let make = move |_| (None, body.clone());
    Arc::new(Calls {
        name: "noop",
        path: "/grpc.health.v1.Health/Check".to_owned(),
        content_type: "application/grpc",
        make: Arc::new(make),
        status: "0",
        next: AtomicU64::new(0),
    })
}

/// Marks that all advance a cursor.
pub(crate) fn advancing() -> Arc<Calls> {
    Method::of_grpc("mark_read, advancing", "MarkRead").calls(|number| frame(&rising(number)))
}

/// Marks of what was read already.
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
    // Readers of their own: the others have few conversations.
    let first_reader = FIRST_READER + READERS;
    Method::of_grpc("batch of 100", "BatchMarkRead").calls_of(first_reader, |number| {
        let mark = |at| MarkReadRequest {
            recipient_id: FIRST_RECIPIENT + at,
            last_read_event_id: 2 * FIRST_MESSAGE + number,
        };
        frame(&BatchMarkReadRequest { requests: (0..BATCH_MARKS).map(mark).collect() })
    })
}

/// Reads of what was read in a conversation.
pub(crate) fn state() -> Arc<Calls> {
    Method::of_grpc("get_read_state", "GetReadState")
        .calls(|number| frame(&GetReadStateRequest { recipient_id: rising(number).recipient_id }))
}

/// The seed's endpoint, with marks that all advance a cursor.
pub(crate) fn http() -> Arc<Calls> {
    let method = Method {
        name: "HTTP edge, advancing",
        path: "/1.1/direct_messages/mark_read.json".to_owned(),
        content_type: "application/x-www-form-urlencoded",
        status: "204",
    };
    method.calls(|number| {
        let MarkReadRequest { last_read_event_id, recipient_id } = rising(number);
        let message = 3 * FIRST_MESSAGE + last_read_event_id;
        format!("last_read_event_id={message}&recipient_id={recipient_id}").into()
    })
}
