//! `markread webhook check`: the check of a webhook, now.

use std::time::{Duration, UNIX_EPOCH};

use crate::cli::commands::interrupt::Interrupt;
use crate::domain::TIME_MAX_MS;
use crate::relay::receiver::Check;
use crate::relay::webhook::Webhook;
use crate::relay::{CheckBy, MadeCheck, record_check};
use crate::store::now_ms;
use crate::store::redis::{AdminError, printable};
use crate::store::relay::{Failing, Pause, RelayStore, Verification, WebhookState};

/// Checks a webhook, writes what holds of it everywhere, and prints the result with the state of the webhook.
pub(super) async fn run(
    store: &dyn RelayStore,
    webhook: &Webhook,
    print: &mut impl FnMut(String) -> Result<(), AdminError>,
) -> Result<(), AdminError> {
    let mut interrupt = Interrupt::new()?;
    let checked = tokio::select! {
        biased;
        () = interrupt.wait() => return Err(AdminError::Failed("interrupted".to_owned())),
        checked = check(store, webhook) => checked?,
    };
    if checked.result == Check::Passed {
        print(checked.passed(webhook))?;
    }
    for line in describe(&checked.after, webhook) {
        print(line)?;
    }
    checked
        .failure(webhook)
        .map_or(Ok(()), |problem| Err(AdminError::Failed(format!("{} {problem}", webhook.name))))
}

/// A check, and the webhook's state before and after it.
pub(super) struct Checked {
    pub(super) result: Check,
    before: WebhookState,
    after: WebhookState,
}

/// Checks a webhook, and writes the result if it is the receiver's own: what another machine or other flags
/// may find otherwise is not written.
pub(super) async fn check(
    store: &dyn RelayStore,
    webhook: &Webhook,
) -> Result<Checked, AdminError> {
    let failed = |error| AdminError::Failed(format!("{error}"));
    let before = store.state(&webhook.name).await.map_err(failed)?;
    let result = webhook.receiver.check().await;
    let made = MadeCheck {
        result: &result,
        settings: &webhook.settings,
        by: CheckBy::Operator,
        at_ms: now_ms(),
        pause: before.paused.as_ref(),
    };
    let after = record_check(store, &webhook.name, &made).await.map_err(failed)?;
    Ok(Checked { result, before, after })
}

impl Checked {
    /// Says that it passed, and what it ended.
    pub(super) fn passed(&self, webhook: &Webhook) -> String {
        let is_ended = is_paused(&self.before, webhook) && !is_paused(&self.after, webhook);
        let ended = if is_ended { ": it is no longer paused" } else { "" };
        format!("{} passed the check{ended}", webhook.name)
    }

    /// Returns what is wrong if it did not pass.
    pub(super) fn failure(&self, webhook: &Webhook) -> Option<String> {
        let paused = if is_paused(&self.after, webhook) { ", and is paused" } else { "" };
        match &self.result {
            Check::Passed => None,
            Check::Refused(problem) => Some(format!("was refused{paused}: {problem}")),
            Check::RefusedHere(problem) => Some(format!(
                "was refused: {problem} (this is not written down: a relay may find it otherwise)"
            )),
            Check::Failed(problem) => Some(format!("could not be checked: {problem}")),
        }
    }
}

fn is_paused(state: &WebhookState, webhook: &Webhook) -> bool {
    state.paused.as_ref().is_some_and(|pause| pause.settings == webhook.settings)
}

/// Returns a line for each thing that is known of a webhook. Texts may be of another version.
fn describe(state: &WebhookState, webhook: &Webhook) -> Vec<String> {
    let WebhookState { verified, failing, paused } = state;
    let other = |settings: &str| {
        if settings == webhook.settings { "" } else { ", with other settings" }
    };
    let mut lines = vec![match verified {
        None => "verified: never".to_owned(),
        Some(Verification { at_ms, settings }) => {
            format!("verified: {}{}", time(*at_ms), other(settings))
        }
    }];
    if let Some(Failing { since_ms, settings, cause }) = failing {
        let (since, other) = (time(*since_ms), other(settings));
        lines.push(format!("failing since: {since}{other}: {}", printable(cause)));
    }
    lines.push(match paused {
        None => "paused: no".to_owned(),
        Some(Pause { at_ms, reason, settings, .. }) => {
            format!("paused since: {}{}: {}", time(*at_ms), other(settings), printable(reason))
        }
    });
    lines
}

/// Formats a time by RFC 3339.
pub(super) fn time(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms.min(TIME_MAX_MS)));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).to_string()
}
