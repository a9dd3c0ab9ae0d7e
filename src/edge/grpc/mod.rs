//! The gRPC edge: translates wire types into a command and its outcome back. It holds no rule.

use std::sync::Arc;
use std::time::SystemTime;

use tonic::{Request, Response, Status};

use crate::domain::{
    BATCH_MAX_ITEMS, BadField, FieldProblem, InvalidEntryId, Mark, MessageId, Outcome,
    PAGE_MAX_CURSORS, Quota, RECIPIENT_ID, ReadCursor, ReadState, UserId,
};
use crate::edge::answer::{Refusal, insert_rate_limit};
use crate::edge::deadline::Deadline;
use crate::proto;
use crate::proto::batch_mark_read_result;
use crate::proto::mark_read_service_server::{MarkReadService, MarkReadServiceServer};
use crate::service::Service;
use crate::telemetry::Traceparent;

pub mod one_message;
mod page_token;
mod updates;

/// The cursors of a page where the caller does not say: CONTRACT section 4.
const PAGE_DEFAULT_CURSORS: usize = 100;

use self::updates::Updates;

/// The largest request message, in bytes: CONTRACT section 4.
pub const MESSAGE_MAX_BYTES: usize = 64 * 1024;

/// The generated server around [`Grpc`].
pub type Server = MarkReadServiceServer<Grpc>;

/// What is known of a call before its message is read.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The authenticated caller.
    pub reader: UserId,
    /// Until when that is proven, where it ends.
    pub until: Option<SystemTime>,
    /// How long the call may take.
    pub deadline: Deadline,
    /// What its events tell of its trace.
    pub traceparent: Option<Traceparent>,
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
        let Call { reader, deadline, traceparent, .. } = call(&request)?;
        let command = command(request.get_ref(), reader);
        let outcome = self.service.mark_read(command, deadline, traceparent).await;
        let (response, quota) = outcome.and_then(answer).map_err(Refusal::into_grpc)?;
        Ok(with_quota(response, quota))
    }

    async fn batch_mark_read(
        &self,
        request: Request<proto::BatchMarkReadRequest>,
    ) -> Result<Response<proto::BatchMarkReadResponse>, Status> {
        let Call { reader, deadline, traceparent, .. } = call(&request)?;
        let requests = items("requests", &request.get_ref().requests).map_err(|bad| {
            self.service.count_refused_mark(bad.clone());
            bad.into_grpc()
        })?;
        let commands = requests.iter().map(|request| command(request, reader)).collect();
        let outcomes = self.service.mark_read_all(commands, deadline, traceparent).await;
        let outcomes = outcomes.map_err(Refusal::into_grpc)?;
        let quota = outcomes.iter().rev().flatten().map(Outcome::quota).next();
        let results = outcomes.into_iter().map(|outcome| {
            let result = match outcome.and_then(answer) {
                Ok((response, _)) => batch_mark_read_result::Result::Response(response),
                Err(refusal) => batch_mark_read_result::Result::Error(refusal.into_batch_error()),
            };
            proto::BatchMarkReadResult { result: Some(result) }
        });
        let response = proto::BatchMarkReadResponse { results: results.collect() };
        Ok(match quota {
            Some(quota) => with_quota(response, quota),
            None => Response::new(response),
        })
    }

    async fn get_read_state(
        &self,
        request: Request<proto::GetReadStateRequest>,
    ) -> Result<Response<proto::GetReadStateResponse>, Status> {
        let Call { reader, deadline, .. } = call(&request)?;
        let recipient = UserId::try_from(request.get_ref().recipient_id);
        let recipient = recipient.map_err(|problem| bad_field(RECIPIENT_ID, problem.into()))?;
        let read = self.service.read_states(reader, &[recipient], deadline).await;
        let (states, quota) = read.map_err(Refusal::into_grpc)?;
        let state = states.into_iter().next().map(Into::into);
        Ok(with_quota(proto::GetReadStateResponse { state }, quota))
    }

    async fn batch_get_read_states(
        &self,
        request: Request<proto::BatchGetReadStatesRequest>,
    ) -> Result<Response<proto::BatchGetReadStatesResponse>, Status> {
        const FIELD: &str = "recipient_ids";
        let Call { reader, deadline, .. } = call(&request)?;
        let recipients = items(FIELD, &request.get_ref().recipient_ids);
        let recipients = recipients.map_err(Refusal::into_grpc)?.iter();
        let recipients: Result<Vec<_>, _> = recipients.map(|id| UserId::try_from(*id)).collect();
        let recipients = recipients.map_err(|problem| bad_field(FIELD, problem.into()))?;
        let read = self.service.read_states(reader, &recipients, deadline).await;
        let (states, quota) = read.map_err(Refusal::into_grpc)?;
        let states = states.into_iter().map(Into::into).collect();
        Ok(with_quota(proto::BatchGetReadStatesResponse { states }, quota))
    }

    async fn list_read_cursors(
        &self,
        request: Request<proto::ListReadCursorsRequest>,
    ) -> Result<Response<proto::ListReadCursorsResponse>, Status> {
        let Call { reader, deadline, .. } = call(&request)?;
        let (after, limit) = page(request.get_ref(), reader).map_err(Refusal::into_grpc)?;
        let listed = self.service.list_cursors(reader, after, limit, deadline).await;
        let (page, quota) = listed.map_err(Refusal::into_grpc)?;
        let next = page.cursors.last().filter(|_| page.more);
        let next_page_token = next.map(|last| page_token::write(reader, last.recipient));
        let next_page_token = next_page_token.unwrap_or_default();
        let cursors = page.cursors.into_iter().map(Into::into).collect();
        Ok(with_quota(proto::ListReadCursorsResponse { cursors, next_page_token }, quota))
    }

    type WatchMarkReadEventsStream = Updates;

    async fn watch_mark_read_events(
        &self,
        request: Request<proto::WatchMarkReadEventsRequest>,
    ) -> Result<Response<Updates>, Status> {
        let Call { reader, until, deadline, .. } = call(&request)?;
        let after = match request.get_ref().after.as_str() {
            "" => None,
            after => Some(
                after
                    .parse()
                    .map_err(|problem: InvalidEntryId| bad_field("after", problem.into()))?,
            ),
        };
        let watched = self.service.watch(reader, after, deadline).await;
        let (watching, quota) = watched.map_err(Refusal::into_grpc)?;
        Ok(with_quota(Updates::new(watching, Arc::clone(&self.service), until), quota))
    }
}

/// What the edge has put into the request's extensions.
#[allow(clippy::result_large_err, reason = "tonic's status, as every method returns it")]
fn call<T>(request: &Request<T>) -> Result<Call, Status> {
    request.extensions().get().copied().ok_or_else(|| Refusal::Internal.into_grpc())
}

/// The command in a request, by this reader.
fn command(request: &proto::MarkReadRequest, reader: UserId) -> Result<Mark, Vec<BadField>> {
    let last_read_event_id = MessageId::try_from(request.last_read_event_id);
    let recipient = UserId::try_from(request.recipient_id);
    Mark::of(reader, last_read_event_id.map_err(Into::into), recipient.map_err(Into::into))
}

/// The items of a list, where it has as many as may be.
fn items<'a, T>(name: &'static str, items: &'a [T]) -> Result<&'a [T], Refusal> {
    if (1..=BATCH_MAX_ITEMS).contains(&items.len()) {
        return Ok(items);
    }
    Err(Refusal::BadFields(vec![BadField { name, problem: FieldProblem::ItemCount }]))
}

/// Behind whom a page begins, and how many cursors it holds.
fn page(
    request: &proto::ListReadCursorsRequest,
    reader: UserId,
) -> Result<(Option<UserId>, usize), Refusal> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => Some(PAGE_DEFAULT_CURSORS),
        size => size.ok().filter(|size| *size <= PAGE_MAX_CURSORS),
    };
    let after = match request.page_token.as_str() {
        "" => Some(None),
        token => page_token::read(reader, token).map(Some),
    };
    let (Some(after), Some(size)) = (after, size) else {
        let size = size.is_none().then_some(("page_size", FieldProblem::PageSize));
        let token = after.is_none().then_some(("page_token", FieldProblem::PageToken));
        let bad = size.into_iter().chain(token);
        return Err(Refusal::BadFields(
            bad.map(|(name, problem)| BadField { name, problem }).collect(),
        ));
    };
    Ok((after, size))
}

fn bad_field(name: &'static str, problem: FieldProblem) -> Status {
    Refusal::BadFields(vec![BadField { name, problem }]).into_grpc()
}

/// What a mark is answered, and the quota that goes with it.
fn answer(outcome: Outcome) -> Result<(proto::MarkReadResponse, Quota), Refusal> {
    let (cursor, advanced, quota) = match outcome {
        Outcome::Advanced { cursor, quota } => (cursor, true, quota),
        Outcome::Unchanged { cursor, quota } => (cursor, false, quota),
        Outcome::OverQuota { quota, retry_after } => {
            return Err(Refusal::OverQuota { quota, retry_after });
        }
    };
    Ok((proto::MarkReadResponse { cursor: Some(cursor.into()), advanced }, quota))
}

fn with_quota<T>(response: T, quota: Quota) -> Response<T> {
    let mut response = Response::new(response);
    insert_rate_limit(response.metadata_mut().as_mut(), quota);
    response
}

impl From<ReadState> for proto::ReadState {
    fn from(state: ReadState) -> Self {
        Self {
            recipient_id: state.recipient.get(),
            mine: state.mine.map(Into::into),
            theirs: state.theirs.map(Into::into),
        }
    }
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
