//! The gRPC edge: translates wire types into a command and its outcome back. It holds no rule.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::deadline::Deadline;
use crate::ids::{EventId, UserId};
use crate::mark_read::{BadField, Mark, Outcome, Quota, ReadCursor};
use crate::proto;
use crate::proto::mark_read_service_server::{MarkReadService, MarkReadServiceServer};
use crate::service::Service;
use crate::status::{Refusal, insert_rate_limit};

pub mod one_message;

/// The largest request message, in bytes: CONTRACT section 4.
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// The generated server around [`Grpc`].
pub type Server = MarkReadServiceServer<Grpc>;

/// What is known of a call before its message is read.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The authenticated caller.
    pub reader: UserId,
    /// How long the call may take.
    pub deadline: Deadline,
}

/// `markread.v1.MarkReadService`, on the service that every edge shares.
#[derive(Clone, Debug)]
pub struct Grpc {
    service: Arc<Service>,
}

impl Grpc {
    /// The tonic server. Whoever calls it puts a [`Call`] into the request's extensions.
    pub fn server(service: Arc<Service>) -> Server {
        MarkReadServiceServer::new(Self { service }).max_decoding_message_size(MESSAGE_MAX_BYTES)
    }
}

#[tonic::async_trait]
impl MarkReadService for Grpc {
    async fn mark_read(
        &self,
        request: Request<proto::MarkReadRequest>,
    ) -> Result<Response<proto::MarkReadResponse>, Status> {
        let Some(&Call { reader, deadline }) = request.extensions().get() else {
            return Err(Refusal::Internal.into_grpc());
        };
        let command = command(request.get_ref(), reader);
        let outcome = self.service.mark_read(command, deadline).await;
        match outcome.map_err(Refusal::into_grpc)? {
            Outcome::Advanced { cursor, quota } => Ok(answer(cursor, true, quota)),
            Outcome::Unchanged { cursor, quota } => Ok(answer(cursor, false, quota)),
            Outcome::OverQuota { quota, retry_after } => {
                Err(Refusal::OverQuota { quota, retry_after }.into_grpc())
            }
        }
    }
}

/// The command in a request, by this reader.
fn command(request: &proto::MarkReadRequest, reader: UserId) -> Result<Mark, Vec<BadField>> {
    let last_read_event_id = EventId::try_from(request.last_read_event_id);
    let recipient = UserId::try_from(request.recipient_id);
    Mark::of(reader, last_read_event_id.map_err(Into::into), recipient.map_err(Into::into))
}

fn answer(cursor: ReadCursor, advanced: bool, quota: Quota) -> Response<proto::MarkReadResponse> {
    let cursor = Some(cursor.into());
    let mut response = Response::new(proto::MarkReadResponse { cursor, advanced });
    insert_rate_limit(response.metadata_mut().as_mut(), quota);
    response
}

impl From<ReadCursor> for proto::ReadCursor {
    fn from(cursor: ReadCursor) -> Self {
        Self {
            recipient_id: cursor.recipient.get(),
            last_read_event_id: cursor.last_read_event_id.get(),
            read_at: Some(timestamp(cursor.read_at_ms)),
        }
    }
}

fn timestamp(ms_since_1970: u64) -> prost_types::Timestamp {
    let seconds = i64::try_from(ms_since_1970 / 1000).unwrap_or(i64::MAX);
    let nanos = i32::try_from(ms_since_1970 % 1000 * 1_000_000).unwrap_or_default();
    prost_types::Timestamp { seconds, nanos }
}
