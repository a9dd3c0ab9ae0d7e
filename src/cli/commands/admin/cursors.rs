//! `markread admin cursors` and `set`: the cursors of one reader.

use super::say;
use crate::cli::commands::output::Output;
use crate::domain::{Conversation, CursorRecord, UserId};
use crate::store::redis::{AdminError, PutOutcome, PutReply, PutRule, RedisMode, StoreAdmin};

/// Prints a reader's cursors.
pub(super) async fn run(mode: &RedisMode, user: UserId) -> Result<(), AdminError> {
    let mut admin = StoreAdmin::connect(mode, "").await?;
    let mut output = Output::open(None)?;
    let mut cursors = 0;
    let problems = admin
        .of(user)?
        .read_all(&[user], async |records: &[CursorRecord]| {
            cursors += records.len();
            output.write(records).await
        })
        .await?;
    output.finish().await?;
    if let Some(problem) = problems.first() {
        return Err(AdminError::Failed(problem.problem.clone()));
    }
    if cursors == 0 {
        say(&format!("user {user} has no cursors"));
    }
    Ok(())
}

/// Sets a cursor, and returns what was done.
pub(super) async fn set(
    mode: &RedisMode,
    record: CursorRecord,
    rule: PutRule,
) -> Result<String, AdminError> {
    let mut admin = StoreAdmin::connect(mode, "").await?;
    let PutReply { outcomes, unmoved } = admin.put(&[record], rule).await?;
    if let Some(problem) = unmoved {
        say(&format!("the reader's other cursors were not moved: {problem}"));
    }
    let CursorRecord {
        conversation: Conversation { reader, recipient }, last_read_event_id, ..
    } = record;
    let cursor = format!("the cursor of {reader} in the conversation with {recipient}");
    match outcomes.first() {
        Some(Ok(PutOutcome::Advanced { before })) => {
            let before = before
                .map_or("there was none before".to_owned(), |before| format!("it was {before}"));
            Ok(format!("{cursor} is set to {last_read_event_id}; {before}"))
        }
        Some(Ok(PutOutcome::Unchanged)) => {
            Ok(format!("{cursor} is {last_read_event_id} already: nothing was changed"))
        }
        Some(Ok(PutOutcome::Behind { known })) => Err(AdminError::Failed(format!(
            "{cursor} is {known}, ahead of {last_read_event_id}, and was not changed: --force sets it \
             back"
        ))),
        Some(Err(problem)) => Err(AdminError::Failed(format!("{cursor} was not set: {problem}"))),
        None => Err(AdminError::Failed(format!("{cursor} was not set"))),
    }
}
