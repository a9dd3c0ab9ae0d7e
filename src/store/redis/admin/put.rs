//! Puts cursors: calls of `put_cursors.lua` and their replies.

use std::fmt;
use std::sync::Arc;

use redis::{Cmd, Value};

use super::AdminError;
use super::connection::Tries;
use super::cursors::{CursorAdmin, Shared};
use crate::domain::{CursorRecord, MessageId};
use crate::store::redis::errors::{classify_text, unexpected};
use crate::store::redis::scripts::text;
use crate::store::{StoreError, StoreErrorKind};

/// Whether cursors may move back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutRule {
    /// A cursor only moves forward.
    Forward,
    /// A cursor is written whatever is there.
    Force,
}

impl PutRule {
    fn word(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Force => "force",
        }
    }
}

/// What became of a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was written. `before` is what was there, if it was an ID.
    Advanced {
        /// The message before.
        before: Option<MessageId>,
    },
    /// It was there already.
    Unchanged,
    /// What is there is ahead of it, and stays.
    Behind {
        /// The message that is there.
        known: MessageId,
    },
}

/// A cursor that cannot be written: what is in Redis in its place is invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutError(String);

impl fmt::Display for PutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The outcomes of one call.
#[derive(Debug)]
pub struct PutReply {
    /// What became of each cursor, in order.
    pub outcomes: Vec<Result<PutOutcome, PutError>>,
    /// Why readers could not be moved to the current placement.
    pub unmoved: Option<String>,
}

impl CursorAdmin {
    /// Puts cursors, in order, each for itself.
    ///
    /// # Errors
    ///
    /// [`AdminError`]: Redis is away or refuses, and some of the cursors may have been put.
    pub async fn put(
        &mut self,
        records: &[CursorRecord],
        rule: PutRule,
    ) -> Result<PutReply, AdminError> {
        let shared = Arc::clone(&self.shared);
        let Shared { keys, scripts } = &*shared;
        let put = &scripts.put;
        let fill = |mut call: Cmd, version: &str| {
            call.arg(1 + records.len()).arg(keys.layout());
            for record in records {
                call.arg(keys.cursors(record.conversation.reader));
            }
            call.arg(version).arg(rule.word());
            for CursorRecord { conversation, last_read_event_id, read_at_ms } in records {
                call.arg(conversation.recipient.get()).arg(last_read_event_id.get());
                match read_at_ms {
                    Some(time) => call.arg(*time),
                    None => call.arg(""),
                };
            }
            call
        };
        let tries = Tries::begin();
        let reply = loop {
            let reply = self.run(put, fill).await?;
            match parse(&reply, records.len()) {
                Ok(reply) => break reply,
                Err(error) if self.connection.finds_again(&error, tries).await => {}
                Err(error) => return Err(put.locate(error).into()),
            }
        };
        Ok(PutReply { unmoved: reply.unmoved.map(|text| put.locate_lines(&text)), ..reply })
    }
}

pub(in crate::store::redis) fn parse(
    reply: &Value,
    expected: usize,
) -> Result<PutReply, StoreError> {
    let Value::Array(values) = reply else { return Err(unexpected(reply)) };
    let [unmoved, values @ ..] = &values[..] else { return Err(unexpected(reply)) };
    if values.len() != 2 * expected {
        return Err(unexpected(reply));
    }
    let unmoved = Some(text(unmoved)?.to_owned()).filter(|text| !text.is_empty());
    let outcomes =
        values.chunks_exact(2).map(|pair| parse_outcome(text(&pair[0])?, text(&pair[1])?));
    Ok(PutReply { outcomes: outcomes.collect::<Result<_, _>>()?, unmoved })
}

/// An error that concerns all cursors, such as a full Redis, is one of the call.
fn parse_outcome(outcome: &str, known: &str) -> Result<Result<PutOutcome, PutError>, StoreError> {
    Ok(Ok(match outcome {
        "advanced" => PutOutcome::Advanced { before: known.parse().ok() },
        "unchanged" => PutOutcome::Unchanged,
        "behind" => PutOutcome::Behind { known: known.parse().map_err(StoreError::corrupt)? },
        "error" => {
            let error = classify_text(known);
            if error.kind == StoreErrorKind::Unavailable {
                return Err(error);
            }
            return Ok(Err(PutError(error.to_string())));
        }
        _ => return Err(StoreError::corrupt("an outcome in the reply is malformed")),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(values: &[&str]) -> Value {
        Value::Array(values.iter().map(|text| Value::BulkString(text.as_bytes().into())).collect())
    }

    #[test]
    fn each_outcome_is_parsed() {
        let values = [
            "",
            "advanced",
            "",
            "advanced",
            "5",
            "unchanged",
            "7",
            "behind",
            "9",
            "error",
            "WRONGTYPE x",
        ];
        let PutReply { outcomes, unmoved } = parse(&reply(&values), 5).unwrap();
        let id = |id: u64| MessageId::try_from(id).unwrap();
        assert_eq!(outcomes[0], Ok(PutOutcome::Advanced { before: None }));
        assert_eq!(outcomes[1], Ok(PutOutcome::Advanced { before: Some(id(5)) }));
        assert_eq!(outcomes[2], Ok(PutOutcome::Unchanged));
        assert_eq!(outcomes[3], Ok(PutOutcome::Behind { known: id(9) }));
        assert!(outcomes[4].as_ref().unwrap_err().0.ends_with("WRONGTYPE x"));
        assert_eq!(unmoved, None);
        assert_eq!(parse(&reply(&["NOPERM x"]), 0).unwrap().unmoved.unwrap(), "NOPERM x");
    }

    #[test]
    fn an_error_that_concerns_all_is_one_of_the_call() {
        assert!(parse(&reply(&["", "error", "OOM command not allowed"]), 1).is_err());
        for values in [&["", "advanced"][..], &["", "x", ""], &["", "behind", "x"], &[]] {
            assert!(parse(&reply(values), 1).is_err(), "{values:?}");
        }
    }
}
