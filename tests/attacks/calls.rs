//! The calls that attacks are made of.

use markread::proto::{
    BatchGetReadStatesRequest, BatchMarkReadRequest, ListReadCursorsRequest, MarkReadRequest,
    WatchMarkReadEventsRequest,
};
use markread_harness::caller::Credentials;
use markread_harness::raw::{MARK_READ, frame};
use prost::Message;
use tonic_health::pb::HealthCheckRequest;

use crate::http2::Call;

/// A reader who attacks.
pub(crate) const ATTACKER: u64 = 6_660_000_001;

pub(crate) const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
pub(crate) const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
pub(crate) const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";

const BATCH: &str = "/markread.v1.MarkReadService/BatchMarkRead";
const STATES: &str = "/markread.v1.MarkReadService/BatchGetReadStates";
const PAGE: &str = "/markread.v1.MarkReadService/ListReadCursors";
const WATCH: &str = "/markread.v1.MarkReadService/WatchMarkReadEvents";

/// The head of a gRPC message of 64 KiB, without the message.
pub(crate) const LARGEST_FRAME_HEAD: [u8; 5] = [0, 0, 1, 0, 0];

/// The value of `authorization` for a user.
pub(crate) fn token(user: u64) -> String {
    let Credentials::Authorization(value) = Credentials::token_of(user) else {
        unreachable!("a token is one")
    };
    value
}

fn call(path: &str, user: u64, message: &impl Message) -> Call {
    Call::new(path, Some(&token(user)), &frame(&message.encode_to_vec()))
}

/// A mark by this user, or by nobody.
pub(crate) fn mark(user: Option<u64>, recipient_id: u64, last_read_event_id: u64) -> Call {
    let message = MarkReadRequest { last_read_event_id, recipient_id };
    Call::new(MARK_READ, user.map(token).as_deref(), &frame(&message.encode_to_vec()))
}

/// A batch of marks that are all invalid.
pub(crate) fn invalid_batch(user: u64) -> Call {
    call(BATCH, user, &BatchMarkReadRequest { requests: vec![MarkReadRequest::default(); 500] })
}

/// The states of 500 conversations.
pub(crate) fn states(user: u64) -> Call {
    call(STATES, user, &BatchGetReadStatesRequest { recipient_ids: (1..=500).collect() })
}

/// A page of cursors.
pub(crate) fn page(user: u64, page_size: i32) -> Call {
    call(PAGE, user, &ListReadCursorsRequest { page_size, page_token: String::new() })
}

/// A watch from this ID on.
pub(crate) fn watch(user: u64, after: &str) -> Call {
    call(WATCH, user, &WatchMarkReadEventsRequest { after: after.to_owned() })
}

/// Asks for the health of a service, once or for as long as it may.
pub(crate) fn health(path: &str, service: &str) -> Call {
    let message = HealthCheckRequest { service: service.to_owned() };
    Call::new(path, None, &frame(&message.encode_to_vec()))
}
