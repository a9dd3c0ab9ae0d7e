//! Plain HTTP: the endpoint of Twitter's v1.1 API, `POST /1.1/direct_messages/mark_read.json`. Translates
//! parameters into a command and its outcome into a status. It decides nothing about marks.

use http::{Response, StatusCode};

use super::answer::{self, Answer, Body, MarkOutcomes, insert_rate_limit, mark_outcome};
use super::arrival::{Arrival, Caller};
use crate::domain::{
    LAST_READ_EVENT_ID, Mark, Nonce, Outcome, Quota, RECIPIENT_ID, Refusal, ServedMark,
};
use crate::service::Service;

mod form;

pub use self::form::{BODY_MAX_BYTES, Form};

/// Marks a message as read, as the parameters say, and answers.
pub async fn mark_read(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    nonce: Option<Nonce>,
    form: &Form,
) -> Answer {
    let (last_read_event_id, recipient) =
        (form.parse(LAST_READ_EVENT_ID), form.parse(RECIPIENT_ID));
    let result = match Mark::new(caller.reader, last_read_event_id, recipient) {
        Ok(mark) => mark_signed(service, arrival, mark, nonce).await,
        Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
    };
    let marks = MarkOutcomes::One(mark_outcome(&result));
    let response = match result.and_then(Outcome::served) {
        Ok(ServedMark { quota, .. }) => no_content(quota),
        Err(refusal) => answer::http::response(&refusal),
    };
    Answer { response, marks }
}

/// Marks, where a signature authenticates the caller with its nonce: it is used up last, and only by a
/// call that is served, so that a reader over quota leaves no keys in the store.
async fn mark_signed(
    service: &Service,
    arrival: &Arrival,
    mark: Mark,
    nonce: Option<Nonce>,
) -> Result<Outcome, Refusal> {
    let deadline = arrival.deadline.server;
    if let Some(nonce) = nonce {
        service.use_nonce(mark.reader, nonce, deadline).await?;
    }
    let outcome = service.mark_read(mark, deadline, arrival.traceparent).await;
    if let (Some(nonce), Ok(Outcome::OverQuota { .. })) = (nonce, &outcome) {
        // Others took the rest of the quota since it was looked at.
        service.forget_nonce(mark.reader, nonce, deadline).await;
    }
    outcome
}

fn no_content(quota: Quota) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    insert_rate_limit(response.headers_mut(), quota);
    response
}
