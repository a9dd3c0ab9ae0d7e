//! `markread webhook subscribe`, `unsubscribe` and `list`.

use super::user_lines::{self, USERS_PER_PIECE};
use super::{Users, counted, say};
use crate::cli::commands::interrupt::Interrupt;
use crate::cli::commands::output::Output;
use crate::domain::{UserId, WebhookName};
use crate::store::redis::AdminError;
use crate::store::relay::WebhookAdmin;

/// A change of subscriptions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Subscribe users.
    Subscribe,
    /// Unsubscribe users.
    Unsubscribe,
}

/// Counts of a change.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    changed: u64,
    unchanged: u64,
}

impl Counts {
    fn describe(self, change: Change) -> String {
        let Self { changed, unchanged } = self;
        let (done, before) = match (change, unchanged) {
            (Change::Subscribe, 1) => ("subscribed", "1 was subscribed before".to_owned()),
            (Change::Subscribe, _) => ("subscribed", format!("{unchanged} were subscribed before")),
            (Change::Unsubscribe, 1) => ("unsubscribed", "1 was not subscribed".to_owned()),
            (Change::Unsubscribe, _) => {
                ("unsubscribed", format!("{unchanged} were not subscribed"))
            }
        };
        let done = format!("{} {done}", counted(changed, "user"));
        if unchanged == 0 { done } else { format!("{done}, {before}") }
    }
}

/// Changes subscriptions, and returns what was done.
pub(super) async fn change(
    store: &dyn WebhookAdmin,
    webhook: &WebhookName,
    change: Change,
    users: Users,
) -> Result<String, AdminError> {
    let mut counts = Counts::default();
    let mut interrupt = Interrupt::new()?;
    let done = tokio::select! {
        biased;
        () = interrupt.wait() => Err("interrupted".to_owned()),
        done = change_all(store, webhook, change, users, &mut counts) => done,
    };
    match done {
        Ok(()) => Ok(counts.describe(change)),
        Err(problem) => Err(AdminError::Failed(format!(
            "{problem} (so far {}; the command may be run again)",
            counts.describe(change)
        ))),
    }
}

async fn change_all(
    store: &dyn WebhookAdmin,
    webhook: &WebhookName,
    change: Change,
    users: Users,
    counts: &mut Counts,
) -> Result<(), String> {
    let Users { ids, file } = users;
    // Opened first: nothing is changed if it cannot be read.
    let pieces = file.as_ref().map(user_lines::read).transpose()?;
    let mut apply = async |users: &[UserId]| {
        let changed = match change {
            Change::Subscribe => store.subscribe(webhook, users).await,
            Change::Unsubscribe => store.unsubscribe(webhook, users).await,
        };
        let changed = changed.map_err(|error| error.to_string())?;
        let all = u64::try_from(users.len()).unwrap_or(u64::MAX);
        counts.changed += changed;
        counts.unchanged += all.saturating_sub(changed);
        Ok::<_, String>(())
    };
    for users in ids.chunks(USERS_PER_PIECE) {
        apply(users).await?;
    }
    let Some(mut pieces) = pieces else { return Ok(()) };
    while let Some(users) = pieces.recv().await {
        apply(&users?).await?;
    }
    Ok(())
}

/// Prints the subscribed users.
pub(super) async fn list(
    store: &dyn WebhookAdmin,
    webhook: &WebhookName,
) -> Result<(), AdminError> {
    let mut interrupt = Interrupt::new()?;
    let mut output = Output::open(None)?;
    let mut users = 0;
    let list = async {
        let mut from = 0;
        loop {
            let read = store.subscribers(webhook, from).await;
            let (some, next) = read.map_err(|error| AdminError::Failed(error.to_string()))?;
            users += some.len();
            output.write(&some).await?;
            from = next;
            if from == 0 {
                return output.finish().await;
            }
        }
    };
    tokio::select! {
        biased;
        () = interrupt.wait() => return Err(AdminError::Failed("interrupted".to_owned())),
        listed = list => match listed {
            // As of `list NAME | head`: it has what it wanted.
            Err(_) if output.is_unread() => return Ok(()),
            listed => listed?,
        },
    }
    if users == 0 {
        say(&format!("no user is subscribed to {webhook}"));
    }
    Ok(())
}
