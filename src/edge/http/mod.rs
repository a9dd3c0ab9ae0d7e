//! The HTTP edge: the seed's endpoint, `POST /1.1/direct_messages/mark_read.json` (CONTRACT section
//! 8). Translates form parameters into a command and its outcome into a status. It holds no rule.

use http::{Response, StatusCode};

use crate::domain::{LAST_READ_EVENT_ID, Mark, Outcome, Quota, RECIPIENT_ID, UserId};
use crate::edge::answer::{Body, Refusal, insert_rate_limit};
use crate::edge::deadline::Deadline;
use crate::service::Service;
use crate::telemetry::Traceparent;

pub mod form;

use self::form::Form;

/// Marks as this reader what the form says, and answers.
pub async fn mark_read(
    service: &Service,
    reader: UserId,
    form: &Form,
    deadline: Deadline,
    traceparent: Option<Traceparent>,
) -> Response<Body> {
    let command = Mark::of(reader, form.parse(LAST_READ_EVENT_ID), form.parse(RECIPIENT_ID));
    match service.mark_read(command, deadline, traceparent).await {
        Ok(Outcome::Advanced { quota, .. } | Outcome::Unchanged { quota, .. }) => no_content(quota),
        Ok(Outcome::OverQuota { quota, retry_after }) => {
            Refusal::OverQuota { quota, retry_after }.into_http()
        }
        Err(refusal) => refusal.into_http(),
    }
}

fn no_content(quota: Quota) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    insert_rate_limit(response.headers_mut(), quota);
    response
}
