//! `MarkRead` and `BatchMarkRead`.

use tonic::{Response, Status};

use super::{items, with_quota};
use crate::domain::{BadField, Mark, MessageId, Outcome, Quota, Refusal, ServedMark, UserId};
use crate::edge::answer::grpc::{batch_error, status};
use crate::edge::answer::{MarkOutcomes, mark_outcome};
use crate::edge::arrival::{Arrival, Caller};
use crate::proto;
use crate::proto::batch_mark_read_result;
use crate::service::Service;
use crate::telemetry::metrics::MarkOutcome;

pub(in crate::edge) async fn mark_read(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::MarkReadRequest,
    counted: &mut MarkOutcomes,
) -> Result<Response<proto::MarkReadResponse>, Status> {
    let result = match command(message, caller.reader) {
        Ok(mark) => service.mark_read(mark, arrival.deadline.server, arrival.traceparent).await,
        Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
    };
    *counted = MarkOutcomes::One(mark_outcome(&result));
    let (response, quota) = result.and_then(reply).map_err(status)?;
    Ok(with_quota(response, quota))
}

pub(in crate::edge) async fn batch_mark_read(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::BatchMarkReadRequest,
    counted: &mut MarkOutcomes,
) -> Result<Response<proto::BatchMarkReadResponse>, Status> {
    *counted = MarkOutcomes::One(MarkOutcome::Invalid);
    let requests = items("requests", message.requests).map_err(status)?;
    let commands: Vec<_> =
        requests.into_iter().map(|request| command(request, caller.reader)).collect();
    let valid: Vec<bool> = commands.iter().map(Result::is_ok).collect();
    let done = service.mark_read_all(commands, arrival.deadline.server, arrival.traceparent).await;
    let results = match done {
        Ok(results) => results,
        Err(refusal) => {
            *counted = refused_whole(&valid, &refusal);
            return Err(status(refusal));
        }
    };
    *counted = MarkOutcomes::Each(results.iter().map(mark_outcome).collect());
    let quota = results.iter().rev().flatten().map(Outcome::quota).next();
    let results = results.into_iter().map(|result| {
        let result = match result.and_then(reply) {
            Ok((response, _)) => batch_mark_read_result::Result::Response(response),
            Err(refusal) => batch_mark_read_result::Result::Error(batch_error(&refusal)),
        };
        proto::BatchMarkReadResult { result: Some(result) }
    });
    let response = proto::BatchMarkReadResponse { results: results.collect() };
    Ok(match quota {
        Some(quota) => with_quota(response, quota),
        None => Response::new(response),
    })
}

/// Returns the outcomes of a batch that failed whole. Invalid items still count as invalid.
fn refused_whole(valid: &[bool], refusal: &Refusal) -> MarkOutcomes {
    let whole = mark_outcome(&Err(refusal.clone()));
    let outcome = |valid: &bool| if *valid { whole } else { MarkOutcome::Invalid };
    MarkOutcomes::Each(valid.iter().map(outcome).collect())
}

/// Validates a request of this reader.
fn command(request: proto::MarkReadRequest, reader: UserId) -> Result<Mark, Vec<BadField>> {
    let last_read_event_id = MessageId::try_from(request.last_read_event_id);
    let recipient = UserId::try_from(request.recipient_id);
    Mark::new(reader, last_read_event_id.map_err(Into::into), recipient.map_err(Into::into))
}

/// Translates an outcome into the reply and its quota.
fn reply(outcome: Outcome) -> Result<(proto::MarkReadResponse, Quota), Refusal> {
    let ServedMark { cursor, advanced, quota } = outcome.served()?;
    Ok((proto::MarkReadResponse { cursor: Some(cursor.into()), advanced }, quota))
}
