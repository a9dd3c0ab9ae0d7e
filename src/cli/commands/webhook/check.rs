//! `markread webhook check`: the check of a webhook, now.

use std::time::{Duration, UNIX_EPOCH};

use super::now_ms;
use crate::cli::commands::interrupt::Interrupt;
use crate::domain::TIME_MAX_MS;
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
    let after = next_state(before.clone(), &result, &webhook.settings, now_ms());
    store.set_state(&webhook.name, &after).await.map_err(failed)?;
    Ok(Checked { result, before, after })
}

/// Returns the state after a check that someone asked for.
fn next_state(before: WebhookState, check: &Check, settings: &str, now_ms: u64) -> WebhookState {
    let failing_since_ms = before.failing_since_ms.or(Some(now_ms));
    match check {
        Check::Passed => WebhookState {
            verified: Some(Verification { at_ms: now_ms, settings: settings.to_owned() }),
            ..WebhookState::default()
        },
        Check::Refused(problem) => {
            let pause = Pause {
                at_ms: now_ms,
                reason: format!("the check was refused: {problem}"),
                is_passing: false,
                settings: settings.to_owned(),
            };
            let failure = Some(problem.clone());
            WebhookState { failing_since_ms, failure, paused: Some(pause), ..before }
        }
        Check::Failed(problem) => {
            WebhookState { failing_since_ms, failure: Some(problem.clone()), ..before }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn paused(reason: &str, at_ms: u64) -> Option<Pause> {
        let reason = reason.to_owned();
        Some(Pause { at_ms, reason, is_passing: false, settings: "new".to_owned() })
    }

    #[test]
    fn a_check_that_passes_ends_everything_before_it() {
        let before = WebhookState {
            verified: None,
            failing_since_ms: Some(5),
            failure: Some("timeout".to_owned()),
            paused: paused("410", 6),
        };
        let verified = Some(Verification { at_ms: 9, settings: "new".to_owned() });
        let expected = WebhookState { verified, ..WebhookState::default() };
        assert_eq!(next_state(before, &Check::Passed, "new", 9), expected);
    }

    #[test]
    fn a_refused_check_pauses_and_a_failed_one_does_not() {
        let verified = Some(Verification { at_ms: 1, settings: "new".to_owned() });
        let before = WebhookState { verified, ..WebhookState::default() };
        let wrong = "wrong token".to_owned();
        let refused = next_state(before.clone(), &Check::Refused(wrong.clone()), "new", 9);
        let expected = WebhookState {
            failing_since_ms: Some(9),
            failure: Some(wrong),
            paused: paused("the check was refused: wrong token", 9),
            ..before.clone()
        };
        assert_eq!(refused, expected);
        // It fails since the first failure, and stays paused.
        let failed = next_state(refused.clone(), &Check::Failed("timeout".to_owned()), "new", 12);
        let expected = WebhookState { failure: Some("timeout".to_owned()), ..refused };
        assert_eq!(failed, expected);
        let failed = next_state(before, &Check::Failed("timeout".to_owned()), "new", 12);
        assert_eq!((failed.failing_since_ms, failed.paused), (Some(12), None));
    }
}
