//! `GetReadState`, `BatchGetReadStates` and `ListReadCursors`.

use super::{Reply, bad_field, items, page_token, timestamp, with_quota};
use crate::domain::{
    BAD_ITEMS_MAX_NAMED, BadField, FieldProblem, ListPosition, PAGE_MAX_CURSORS, RECIPIENT_ID,
    ReadCursor, ReadState, Refusal, UserId,
};
use crate::edge::arrival::{Arrival, Caller};
use crate::proto;
use crate::service::Service;

/// Cursors of a page if the caller does not choose (`docs/contract.md`, "gRPC").
const PAGE_DEFAULT_CURSORS: usize = 100;

/// The field of `BatchGetReadStates`.
const RECIPIENT_IDS: &str = "recipient_ids";

pub(in crate::edge) async fn get_read_state(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::GetReadStateRequest,
) -> Result<Reply<proto::GetReadStateResponse>, Refusal> {
    let recipient = UserId::try_from(message.recipient_id)
        .map_err(|problem| bad_field(RECIPIENT_ID, problem))?;
    let read = service.read_states(caller.reader, &[recipient], arrival.deadline.server).await;
    let (states, quota) = read?;
    let state = states.into_iter().next().map(Into::into);
    Ok(with_quota(proto::GetReadStateResponse { state }, quota))
}

pub(in crate::edge) async fn batch_get_read_states(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::BatchGetReadStatesRequest,
) -> Result<Reply<proto::BatchGetReadStatesResponse>, Refusal> {
    let ids = items(RECIPIENT_IDS, message.recipient_ids)?;
    let recipients = user_ids(RECIPIENT_IDS, ids)?;
    let read = service.read_states(caller.reader, &recipients, arrival.deadline.server).await;
    let (states, quota) = read?;
    let states = states.into_iter().map(Into::into).collect();
    Ok(with_quota(proto::BatchGetReadStatesResponse { states }, quota))
}

/// Validates a list of user IDs. Invalid ones are named as far as an answer goes.
fn user_ids(list: &str, ids: Vec<u64>) -> Result<Vec<UserId>, Refusal> {
    let (mut valid, mut bad) = (Vec::with_capacity(ids.len()), Vec::new());
    for (index, id) in ids.into_iter().enumerate() {
        match UserId::try_from(id) {
            Ok(user) => valid.push(user),
            Err(problem) => bad.push(BadField::item(list, index, problem)),
        }
        if bad.len() == BAD_ITEMS_MAX_NAMED {
            break;
        }
    }
    if bad.is_empty() { Ok(valid) } else { Err(Refusal::BadFields(bad)) }
}

pub(in crate::edge) async fn list_read_cursors(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::ListReadCursorsRequest,
) -> Result<Reply<proto::ListReadCursorsResponse>, Refusal> {
    let reader = caller.reader;
    let (after, limit) = page(&message, reader)?;
    let listed = service.list_cursors(reader, after, limit, arrival.deadline.server).await;
    let (page, quota) = listed?;
    let next_page_token = page.next.map(|next| page_token::write(reader, next));
    let next_page_token = next_page_token.unwrap_or_default();
    let cursors = page.cursors.into_iter().map(Into::into).collect();
    Ok(with_quota(proto::ListReadCursorsResponse { cursors, next_page_token }, quota))
}

/// Validates a request for a page. Returns the position that it follows, and its size.
fn page(
    request: &proto::ListReadCursorsRequest,
    reader: UserId,
) -> Result<(Option<ListPosition>, usize), Refusal> {
    let size = match usize::try_from(request.page_size) {
        Ok(0) => Some(PAGE_DEFAULT_CURSORS),
        size => size.ok().filter(|size| *size <= PAGE_MAX_CURSORS),
    };
    let after = match request.page_token.as_str() {
        "" => Some(None),
        token => page_token::parse(reader, token).map(Some),
    };
    let (Some(after), Some(size)) = (after, size) else {
        let size = size.is_none().then(|| BadField::new("page_size", FieldProblem::PageSize));
        let token = after.is_none().then(|| BadField::new("page_token", FieldProblem::PageToken));
        return Err(Refusal::BadFields(size.into_iter().chain(token).collect()));
    };
    Ok((after, size))
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
