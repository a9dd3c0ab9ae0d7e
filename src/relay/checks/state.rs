//! What the state of a webhook means, and what a check changes in it.

use std::time::Duration;

use crate::domain::WebhookName;
use crate::relay::receiver::Check;
use crate::store::StoreError;
use crate::store::relay::{Failing, Pause, RelayStore, Verification, WebhookState};

/// Age of a passed check at which the next one is made.
const CHECK_INTERVAL_MS: u64 = 24 * 60 * 60 * 1000;

/// Pauses between checks that fail: as long as they have failed, within these bounds. Meanwhile no process checks.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Consequences of a state for a webhook with certain settings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Whether it may be delivered to.
    pub(super) is_open: bool,
    /// Whether it is to be checked.
    pub(super) is_due: bool,
    /// How long no process may check after a check.
    pub(super) pause: Duration,
}

/// Judges a state. `own` is the last check that this process made: while two processes have different files,
/// each remembers its own.
pub(super) fn judge(
    state: &WebhookState,
    own: Option<&Verification>,
    settings: &str,
    now_ms: u64,
) -> Judgement {
    let is_of_these = |checked: &&Verification| checked.settings == settings;
    let verified = state.verified.as_ref().filter(is_of_these).or(own.filter(is_of_these));
    let paused = state.paused.as_ref().filter(|pause| pause.settings == settings);
    let is_old =
        |verified: &Verification| now_ms.saturating_sub(verified.at_ms) >= CHECK_INTERVAL_MS;
    let is_due = match paused {
        Some(pause) => pause.is_passing,
        None => verified.is_none_or(is_old),
    };
    let pause = current_failing(state, settings).map_or(RETRY_MIN, |failing| {
        let failed_for = Duration::from_millis(now_ms.saturating_sub(failing.since_ms));
        failed_for.clamp(RETRY_MIN, RETRY_MAX)
    });
    Judgement { is_open: verified.is_some() && paused.is_none(), is_due, pause }
}

/// Returns the checks of these settings that fail. A check that passed later, of any settings, has ended that:
/// those that failed before it may be of a file that has not been used since.
pub(super) fn current_failing<'a>(state: &'a WebhookState, settings: &str) -> Option<&'a Failing> {
    let failing = state.failing.as_ref().filter(|failing| failing.settings == settings)?;
    let is_ended = state.verified.as_ref().is_some_and(|passed| passed.at_ms > failing.since_ms);
    (!is_ended).then_some(failing)
}

/// A check that was made.
#[derive(Clone, Copy, Debug)]
pub struct MadeCheck<'a> {
    /// Its result.
    pub result: &'a Check,
    /// The settings of the webhook that it was of.
    pub settings: &'a str,
    /// Who made it.
    pub by: CheckBy,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// The pause that there was when it began. One that began later it does not end.
    pub pause: Option<&'a Pause>,
}

/// Who made a check.
#[derive(Clone, Copy, Debug)]
pub enum CheckBy {
    /// A relay. Its checks may fail for the time of `grace` before the webhook is paused.
    Relay {
        /// This time.
        grace: Duration,
    },
    /// `markread webhook`: on a machine, with flags and with a file that may be others than the relay's.
    Operator,
}

/// Writes the result of a check to what the store has now, and returns the state.
///
/// # Errors
///
/// [`StoreError`].
pub async fn record_check(
    store: &dyn RelayStore,
    webhook: &WebhookName,
    check: &MadeCheck<'_>,
) -> Result<WebhookState, StoreError> {
    // Others may have written while it was made.
    let before = store.state(webhook).await?;
    let after = after_check(before.clone(), check);
    if after != before {
        store.set_state(webhook, &after).await?;
    }
    Ok(after)
}

fn after_check(state: WebhookState, check: &MadeCheck<'_>) -> WebhookState {
    match (check.result, check.by) {
        (Check::Passed, _) => after_pass(state, check),
        (Check::Refused(reason) | Check::RefusedHere(reason), CheckBy::Relay { .. }) => {
            let paused = Some(pause(refused(reason), false, check.settings, check.at_ms));
            WebhookState { paused, ..after_failure(state, check, reason) }
        }
        (Check::Failed(reason), CheckBy::Relay { grace }) => {
            let mut state = after_failure(state, check, reason);
            let since_ms = state.failing.as_ref().map_or(check.at_ms, |failing| failing.since_ms);
            let failing = Duration::from_millis(check.at_ms.saturating_sub(since_ms));
            let is_paused =
                state.paused.as_ref().is_some_and(|pause| pause.settings == check.settings);
            if failing >= grace && !is_paused {
                let since = humantime::format_duration(Duration::from_secs(failing.as_secs()));
                let reason = format!("checks have failed for {since}: {reason}");
                state.paused = Some(pause(reason, true, check.settings, check.at_ms));
            }
            state
        }
        // The pause of other settings may be the one that the relays keep to.
        (Check::Refused(reason), CheckBy::Operator)
            if state.paused.as_ref().is_none_or(|pause| pause.settings == check.settings) =>
        {
            let paused = Some(pause(refused(reason), false, check.settings, check.at_ms));
            WebhookState { paused, ..state }
        }
        // This may be so here only.
        (_, CheckBy::Operator) => state,
    }
}

fn after_pass(mut state: WebhookState, check: &MadeCheck<'_>) -> WebhookState {
    let settings = check.settings;
    state.verified = Some(Verification { at_ms: check.at_ms, settings: settings.to_owned() });
    state.failing = state.failing.filter(|failing| failing.settings != settings);
    state.paused =
        state.paused.filter(|pause| pause.settings != settings || Some(pause) != check.pause);
    state
}

fn after_failure(mut state: WebhookState, check: &MadeCheck<'_>, cause: &str) -> WebhookState {
    let settings = check.settings;
    let since_ms =
        current_failing(&state, settings).map_or(check.at_ms, |failing| failing.since_ms);
    let (settings, cause) = (settings.to_owned(), cause.to_owned());
    state.failing = Some(Failing { since_ms, settings, cause });
    state
}

fn refused(reason: &str) -> String {
    format!("the check was refused: {reason}")
}

pub(super) fn pause(reason: String, is_passing: bool, settings: &str, at_ms: u64) -> Pause {
    Pause { at_ms, reason, is_passing, settings: settings.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = CHECK_INTERVAL_MS;
    const NOW: u64 = 100 * DAY_MS;
    const GRACE: Duration = Duration::from_secs(4 * 3600);
    const RELAY: CheckBy = CheckBy::Relay { grace: GRACE };

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn verified(at_ms: u64, settings: &str) -> Option<Verification> {
        Some(Verification { at_ms, settings: settings.to_owned() })
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn failing(since_ms: u64, settings: &str) -> Option<Failing> {
        Some(Failing { since_ms, settings: settings.to_owned(), cause: "why".to_owned() })
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn paused(is_passing: bool, settings: &str) -> Option<Pause> {
        Some(pause("why".to_owned(), is_passing, settings, 5))
    }

    /// The state after a check of the settings "new", which began in this state.
    fn after(state: &WebhookState, result: &Check, by: CheckBy) -> WebhookState {
        let pause = state.paused.as_ref();
        let check = MadeCheck { result, settings: "new", by, at_ms: NOW, pause };
        after_check(state.clone(), &check)
    }

    #[test]
    fn a_webhook_is_open_if_its_settings_are_verified_and_not_paused() {
        let none = None;
        let secs = Duration::from_secs;
        let table = [
            // verified, failing, paused; open, next check
            (none.clone(), None, None, false, Some(RETRY_MIN)),
            (verified(NOW, "new"), None, None, true, None),
            (verified(NOW, "old"), None, None, false, Some(RETRY_MIN)),
            (verified(NOW - DAY_MS + 1, "new"), None, None, true, None),
            (verified(NOW - DAY_MS, "new"), None, None, true, Some(RETRY_MIN)),
            (verified(NOW + 99, "new"), None, None, true, None),
            // It stays open while a later check fails, each after a longer pause.
            (verified(NOW - DAY_MS, "new"), failing(NOW, "new"), None, true, Some(secs(1))),
            (verified(NOW - DAY_MS, "new"), failing(NOW - 8000, "new"), None, true, Some(secs(8))),
            (verified(1, "new"), failing(5, "new"), None, true, Some(secs(60))),
            // Failures of others do not count, nor those before a check that passed.
            (verified(1, "new"), failing(5, "old"), None, true, Some(secs(1))),
            (verified(6, "new"), failing(5, "new"), None, true, Some(secs(1))),
            (verified(6, "old"), failing(5, "new"), None, false, Some(secs(1))),
            // A pause is of its settings.
            (verified(NOW, "new"), None, paused(false, "new"), false, None),
            (verified(NOW, "new"), None, paused(false, "old"), true, None),
            (none, failing(NOW - 9000, "new"), paused(false, "old"), false, Some(secs(9))),
            (verified(1, "new"), failing(5, "new"), paused(true, "new"), false, Some(secs(60))),
        ];
        for (verified, failing, paused, is_open, check) in table {
            let state = WebhookState { verified, failing, paused };
            let Judgement { is_open: found, is_due, pause } = judge(&state, None, "new", NOW);
            assert_eq!((found, is_due.then_some(pause)), (is_open, check), "{state:?}");
        }
    }

    #[test]
    fn two_files_of_one_webhook_do_not_check_in_turns() {
        let state = WebhookState { verified: verified(NOW, "other"), ..Default::default() };
        let own = verified(NOW - 5, "new");
        let Judgement { is_open, is_due, .. } = judge(&state, own.as_ref(), "new", NOW);
        assert!(is_open && !is_due);
    }

    #[test]
    fn a_check_that_passes_ends_what_is_of_its_settings() {
        for by in [RELAY, CheckBy::Operator] {
            let before = WebhookState {
                verified: None,
                failing: failing(5, "new"),
                paused: paused(true, "new"),
            };
            let expected = WebhookState { verified: verified(NOW, "new"), ..Default::default() };
            assert_eq!(after(&before, &Check::Passed, by), expected);
            let before = WebhookState {
                verified: verified(5, "other"),
                failing: failing(6, "other"),
                paused: paused(false, "other"),
            };
            let expected = WebhookState { verified: verified(NOW, "new"), ..before.clone() };
            assert_eq!(after(&before, &Check::Passed, by), expected);
        }
    }

    #[test]
    fn a_pause_that_began_during_a_check_stays() {
        let before = WebhookState { paused: paused(false, "new"), ..Default::default() };
        for known in [None, paused(true, "new")] {
            let check = MadeCheck {
                result: &Check::Passed,
                settings: "new",
                by: CheckBy::Operator,
                at_ms: NOW,
                pause: known.as_ref(),
            };
            let after = after_check(before.clone(), &check);
            assert_eq!(
                (after.paused, after.verified),
                (before.paused.clone(), verified(NOW, "new"))
            );
        }
    }

    #[test]
    fn of_an_operators_checks_only_what_the_receiver_refuses_pauses() {
        let refused = Check::Refused("a wrong token".to_owned());
        let here = Check::RefusedHere("loopback".to_owned());
        let failed = Check::Failed("no answer".to_owned());
        let before = WebhookState { failing: failing(5, "old"), ..Default::default() };
        for result in [&here, &failed] {
            assert_eq!(after(&before, result, CheckBy::Operator), before, "{result:?}");
        }
        let now = after(&before, &refused, CheckBy::Operator);
        assert!(now.paused.is_some_and(|pause| !pause.is_passing && pause.settings == "new"));
        assert_eq!(now.failing, before.failing);
        // The pause of others is not replaced.
        let before = WebhookState { paused: paused(false, "old"), ..Default::default() };
        assert_eq!(after(&before, &refused, CheckBy::Operator), before);
        let now = after(&before, &refused, RELAY);
        assert_eq!(now.paused.unwrap().settings, "new");
    }

    #[test]
    fn a_refused_check_pauses_at_once_and_a_failed_one_after_the_grace() {
        let refused = Check::Refused("a wrong token".to_owned());
        let here = Check::RefusedHere("loopback".to_owned());
        let failed = Check::Failed("no answer".to_owned());
        let grace = u64::try_from(GRACE.as_millis()).unwrap();
        let table = [
            (&refused, None, GRACE, Some(false)),
            (&here, None, GRACE, Some(false)),
            (&failed, None, GRACE, None),
            (&failed, failing(NOW - grace + 1, "new"), GRACE, None),
            (&failed, failing(NOW - grace, "new"), GRACE, Some(true)),
            // The grace of these settings begins with them.
            (&failed, failing(NOW - grace, "old"), GRACE, None),
            (&failed, failing(4, "new"), GRACE, None),
            (&failed, None, Duration::ZERO, Some(true)),
        ];
        for (check, failing, grace, pause) in table {
            let before =
                WebhookState { verified: verified(5, "new"), failing, ..WebhookState::default() };
            let after = after(&before, check, CheckBy::Relay { grace });
            assert_eq!(after.paused.as_ref().map(|pause| pause.is_passing), pause, "{check:?}");
            let since = current_failing(&before, "new").map_or(NOW, |failing| failing.since_ms);
            let failing = after.failing.as_ref().unwrap();
            assert_eq!((failing.since_ms, &*failing.settings), (since, "new"));
            assert_eq!(after.verified, before.verified);
        }
    }

    #[test]
    fn a_pause_says_how_long_checks_have_failed() {
        let failed = Check::Failed("no answer".to_owned());
        let before =
            WebhookState { failing: failing(NOW - 14_400_999, "new"), ..Default::default() };
        let after = after(&before, &failed, RELAY);
        assert_eq!(after.paused.unwrap().reason, "checks have failed for 4h: no answer");
    }
}
