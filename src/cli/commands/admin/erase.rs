//! `markread admin erase`: what Redis holds of a user.

use super::counted;
use super::progress::{Progress, SCAN_LENGTH, scans_position};
use crate::domain::UserId;
use crate::store::redis::{
    AdminError, CursorErasure, Erasure, EventErasure, KeyProgress, RecipientErasure, RedisMode,
    StoreAdmin,
};

/// The scope of an erasure, beside the user's own cursors, quotas and subscriptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EraseScope {
    /// The stream whose events that name the user are erased.
    pub events_in: Option<String>,
    /// True to erase other readers' cursors in conversations with the user.
    pub as_recipient: bool,
}

/// Erases what Redis holds of a user, and returns what was erased.
pub(super) async fn run(
    mode: &RedisMode,
    user: UserId,
    scope: &EraseScope,
) -> Result<String, AdminError> {
    let stream = scope.events_in.as_deref().unwrap_or_default();
    let mut admin = StoreAdmin::connect(mode, stream).await?;
    let mut erased = Erasure::default();
    match erase(&mut admin, user, scope, &mut erased).await {
        Ok(()) if erased == Erasure::default() => {
            Ok(format!("user {user} is not there: nothing was erased{}", not_searched(scope)))
        }
        Ok(()) => Ok(format!("user {user}: {} erased", describe(erased, scope))),
        Err(AdminError::Failed(problem)) => Err(AdminError::Failed(format!(
            "{problem}: run the command again (so far {} erased)",
            describe(erased, scope)
        ))),
        Err(error) => Err(error),
    }
}

async fn erase(
    admin: &mut StoreAdmin,
    user: UserId,
    scope: &EraseScope,
    erased: &mut Erasure,
) -> Result<(), AdminError> {
    let partition = admin.of(user)?;
    erased.own = partition.erase_cursors(user).await?;
    erased.quotas = partition.erase_quotas(user).await?;
    let progress = Progress::new(Some(SCAN_LENGTH));
    let show = |what: &'static str| {
        let progress = &progress;
        move |KeyProgress { scans, erased }| {
            progress.set(scans_position(&scans), || counted(erased, what));
        }
    };
    erased.subscriptions = admin.erase_subscriptions(user, show("subscription")).await?;
    let mut towards = RecipientErasure::default();
    if scope.as_recipient {
        towards = admin.erase_as_recipient(user, show("cursor")).await?;
        erased.as_recipient = towards.cursors;
    }
    drop(progress);
    if scope.events_in.is_some() {
        let mut progress = None;
        let report = |EventErasure { events, entries, length }| {
            let progress: &Progress = progress.get_or_insert_with(|| Progress::new(Some(length)));
            progress.set(entries, || counted(events, "event"));
        };
        erased.events = admin.erase_events(user, report).await?.events;
        drop(progress);
        let progress = Progress::new(Some(SCAN_LENGTH));
        let report = |KeyProgress { scans, erased }| {
            progress.set(scans_position(&scans), || counted(erased, "dead letter"));
        };
        erased.dead_letters = admin.erase_dead_letters(user, report).await?;
    }
    let RecipientErasure { unread, problems, .. } = towards;
    if unread == 0 {
        return Ok(());
    }
    Err(AdminError::Failed(format!(
        "the cursors of {} cannot be read: {}",
        counted(unread, "other reader"),
        problems.join("; ")
    )))
}

/// Says where the user may still be.
fn not_searched(scope: &EraseScope) -> &'static str {
    match (scope.as_recipient, scope.events_in.is_some()) {
        (true, true) => "",
        (true, false) => " (without --events, which searches the stream)",
        (false, true) => " (without --as-recipient, which searches other readers' cursors)",
        (false, false) => {
            " (without --events and --as-recipient, which search the stream and other readers' cursors)"
        }
    }
}

fn describe(erased: Erasure, scope: &EraseScope) -> String {
    let CursorErasure { cursors, damaged_keys } = erased.own;
    let mut parts = vec![counted(cursors, "cursor")];
    if damaged_keys > 0 {
        parts.push(counted(damaged_keys, "damaged key"));
    }
    parts.push(counted(erased.quotas, "quota"));
    parts.push(counted(erased.subscriptions, "subscription"));
    if scope.as_recipient {
        parts.push(format!("{} of other readers", counted(erased.as_recipient, "cursor")));
    }
    if scope.events_in.is_some() {
        parts.push(counted(erased.events, "event"));
        if erased.dead_letters > 0 {
            parts.push(counted(erased.dead_letters, "dead letter"));
        }
    }
    parts.join(", ")
}
