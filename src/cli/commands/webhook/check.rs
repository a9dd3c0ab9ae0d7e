//! `markread webhook check`: the check of a webhook, now.

use std::time::{Duration, UNIX_EPOCH};

use super::now_ms;
use crate::cli::commands::interrupt::Interrupt;
use crate::domain::TIME_MAX_MS;
use crate::relay::after_check;
use crate::relay::receiver::Check;
use crate::relay::webhook::Webhook;
use crate::store::redis::{AdminError, printable};
use crate::store::relay::{Pause, RelayStore, Verification, WebhookState};

/// Checks a webhook, writes the result, and prints it with the state of the webhook.
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
    let Checked { result, before, after } = checked;
    if result == Check::Passed {
        print(passed(webhook, before.paused.as_ref()))?;
    }
    for line in describe(&after, webhook) {
        print(line)?;
    }
    failure(&result)
        .map_or(Ok(()), |problem| Err(AdminError::Failed(format!("{} {problem}", webhook.name))))
}

/// A check, and the webhook's state before and after it.
pub(super) struct Checked {
    pub(super) result: Check,
    pub(super) before: WebhookState,
    pub(super) after: WebhookState,
}

/// Checks a webhook, and writes the result.
pub(super) async fn check(
    store: &dyn RelayStore,
    webhook: &Webhook,
) -> Result<Checked, AdminError> {
    let failed = |error| AdminError::Failed(format!("{error}"));
    let before = store.state(&webhook.name).await.map_err(failed)?;
    let result = webhook.receiver.check().await;
    // It pauses nothing because it fails: how long that may last is a setting of the relay.
    let grace = Duration::MAX;
    let after = after_check(before.clone(), &result, &webhook.settings, now_ms(), grace);
    store.set_state(&webhook.name, &after).await.map_err(failed)?;
    Ok(Checked { result, before, after })
}

/// Says that a check passed, and what it ended.
pub(super) fn passed(webhook: &Webhook, pause: Option<&Pause>) -> String {
    let ended = if pause.is_some() { ": it is no longer paused" } else { "" };
    format!("{} passed the check{ended}", webhook.name)
}

/// Returns what is wrong if a check did not pass.
pub(super) fn failure(check: &Check) -> Option<String> {
    match check {
        Check::Passed => None,
        Check::Refused(problem) => Some(format!("was refused, and is paused: {problem}")),
        Check::Failed(problem) => Some(format!("could not be checked: {problem}")),
    }
}

/// Returns a line for each thing that is known of a webhook. Texts may be of another version.
fn describe(state: &WebhookState, webhook: &Webhook) -> Vec<String> {
    let WebhookState { verified, failing_since_ms, failure, paused } = state;
    let mut lines = vec![match verified {
        None => "verified: never".to_owned(),
        Some(Verification { at_ms, settings }) if *settings != webhook.settings => {
            format!("verified: {}, with other settings", time(*at_ms))
        }
        Some(Verification { at_ms, .. }) => format!("verified: {}", time(*at_ms)),
    }];
    if let Some(since_ms) = failing_since_ms {
        let failure = failure.as_deref().map(|failure| format!(": {}", printable(failure)));
        lines.push(format!("failing since: {}{}", time(*since_ms), failure.unwrap_or_default()));
    }
    lines.push(match paused {
        None => "paused: no".to_owned(),
        Some(Pause { at_ms, reason, .. }) => {
            format!("paused since: {}: {}", time(*at_ms), printable(reason))
        }
    });
    lines
}

/// Formats a time by RFC 3339.
fn time(ms: u64) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(ms.min(TIME_MAX_MS)));
    humantime::format_rfc3339_seconds(time.unwrap_or(UNIX_EPOCH)).to_string()
}
