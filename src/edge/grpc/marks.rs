//! `MarkRead` and `BatchMarkRead`.

use super::{Reply, items, with_quota};
use crate::domain::{
    BAD_ITEMS_MAX_NAMED, BadField, Mark, MessageId, Outcome, Quota, Refusal, ServedMark, UserId,
};
use crate::edge::answer::grpc::batch_error;
use crate::edge::answer::{MarkOutcomes, mark_outcome};
use crate::edge::arrival::{Arrival, Caller};
use crate::proto;
use crate::proto::batch_mark_read_result;
use crate::service::Service;
use crate::telemetry::metrics::MarkOutcome;

/// The field of `BatchMarkRead`.
const REQUESTS: &str = "requests";

/// Errors of a batch that explain themselves in full. What is wrong with later ones is as short as it
/// can be, since an invalid item is two bytes of the request.
const FULL_ERRORS_MAX: usize = 20;

pub(in crate::edge) async fn mark_read(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::MarkReadRequest,
    counted: &mut MarkOutcomes,
) -> Result<Reply<proto::MarkReadResponse>, Refusal> {
    let result = match command(message, caller.reader) {
        Ok(mark) => service.mark_read(mark, arrival.deadline.server, arrival.traceparent).await,
        Err(bad_fields) => Err(Refusal::BadFields(bad_fields)),
    };
    *counted = MarkOutcomes::One(mark_outcome(&result));
    let (response, quota) = result.and_then(reply)?;
    Ok(with_quota(response, quota))
}

pub(in crate::edge) async fn batch_mark_read(
    service: &Service,
    arrival: &Arrival,
    caller: Caller,
    message: proto::BatchMarkReadRequest,
    counted: &mut MarkOutcomes,
) -> Result<Reply<proto::BatchMarkReadResponse>, Refusal> {
    *counted = MarkOutcomes::One(MarkOutcome::Invalid);
    let requests = items(REQUESTS, message.requests)?;
    let commands: Vec<_> =
        requests.into_iter().map(|request| command(request, caller.reader)).collect();
    let valid: Vec<bool> = commands.iter().map(Result::is_ok).collect();
    if !valid.contains(&true) {
        *counted = MarkOutcomes::Each(vec![MarkOutcome::Invalid; valid.len()]);
        return Err(all_invalid(commands));
    }
    let done = service.mark_read_all(commands, arrival.deadline.server, arrival.traceparent).await;
    let results = match done {
        Ok(results) => results,
        Err(refusal) => {
            *counted = refused_whole(&valid, &refusal);
            return Err(refusal);
        }
    };
    *counted = MarkOutcomes::Each(results.iter().map(mark_outcome).collect());
    let quota = results.iter().rev().flatten().map(Outcome::quota).next();
    let mut errors = 0;
    let results = results.into_iter().map(|result| {
        let result = match result.and_then(reply) {
            Ok((response, _)) => batch_mark_read_result::Result::Response(response),
            Err(refusal) => {
                errors += 1;
                let error = batch_error(&refusal, errors <= FULL_ERRORS_MAX);
                batch_mark_read_result::Result::Error(error)
            }
        };
        proto::BatchMarkReadResult { result: Some(result) }
    });
    let response = proto::BatchMarkReadResponse { results: results.collect() };
    Ok(Reply { message: response, quota })
}

/// Returns the refusal of a batch without a valid item. Bad fields are named as far as an answer goes.
fn all_invalid(commands: Vec<Result<Mark, Vec<BadField>>>) -> Refusal {
    let items = commands.into_iter().filter_map(Result::err).enumerate();
    let fields = items
        .flat_map(|(index, bad)| bad.into_iter().map(move |field| field.of_item(REQUESTS, index)));
    Refusal::BadFields(fields.take(BAD_ITEMS_MAX_NAMED).collect())
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
