//! Checks that receivers know the secret (CRC), and pauses the webhooks of those that do not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Context;
use super::endpoint::Endpoint;
use super::receiver::Check;
use crate::store::StoreError;
use crate::store::relay::{Pause, Verification, WebhookState};
use crate::telemetry::metrics::relay::CheckOutcome;

/// Time between two looks at the state of a webhook.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Age of a passed check at which the next one is made.
const CHECK_INTERVAL_MS: u64 = 24 * 60 * 60 * 1000;

/// Pauses between checks that fail: as long as they have failed, within these bounds. Meanwhile no process checks.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Longest time of a check, whatever the receiver is.
const CHECK_TIMEOUT: Duration = Duration::from_secs(20);

/// What a state means for a webhook with certain settings.
#[derive(Debug, PartialEq, Eq)]
struct Judgement {
    /// Whether it may be delivered to.
    is_open: bool,
    /// Whether it is to be checked, and for how long no other process may.
    check: Option<Duration>,
}

/// Judges a state. `own` is the last check that this process made: while two processes have different files,
/// each remembers its own.
fn judge(
    state: &WebhookState,
    own: Option<&Verification>,
    settings: &str,
    now_ms: u64,
) -> Judgement {
    let is_of_these = |checked: &&Verification| checked.settings == settings;
    let verified = state.verified.as_ref().filter(is_of_these).or(own.filter(is_of_these));
    let pause = state.paused.as_ref().filter(|pause| pause.settings == settings);
    let is_old =
        |verified: &Verification| now_ms.saturating_sub(verified.at_ms) >= CHECK_INTERVAL_MS;
    let is_due = match pause {
        Some(pause) => pause.is_passing,
        None => verified.is_none_or(is_old),
    };
    let ttl = state.failing_since_ms.map_or(RETRY_MIN, |since_ms| {
        Duration::from_millis(now_ms.saturating_sub(since_ms)).clamp(RETRY_MIN, RETRY_MAX)
    });
    Judgement { is_open: verified.is_some() && pause.is_none(), check: is_due.then_some(ttl) }
}

/// Returns the state after a check of a webhook with these settings. Checks may fail for the time of `grace`
/// before it is paused.
pub fn after_check(
    mut state: WebhookState,
    check: &Check,
    settings: &str,
    now_ms: u64,
    grace: Duration,
) -> WebhookState {
    let failing_since_ms = state.failing_since_ms.unwrap_or(now_ms);
    match check {
        Check::Passed => {
            let verified = Some(Verification { at_ms: now_ms, settings: settings.to_owned() });
            return WebhookState { verified, ..WebhookState::default() };
        }
        Check::Refused(reason) => {
            state.paused =
                Some(pause(format!("the check was refused: {reason}"), false, settings, now_ms));
            state.failure = Some(reason.clone());
        }
        Check::Failed(reason) => {
            let failing = Duration::from_millis(now_ms.saturating_sub(failing_since_ms));
            let is_paused = state.paused.as_ref().is_some_and(|pause| pause.settings == settings);
            if failing >= grace && !is_paused {
                let since = humantime::format_duration(Duration::from_secs(failing.as_secs()));
                let reason = format!("checks have failed for {since}: {reason}");
                state.paused = Some(pause(reason, true, settings, now_ms));
            }
            state.failure = Some(reason.clone());
        }
    }
    state.failing_since_ms = Some(failing_since_ms);
    state
}

fn pause(reason: String, is_passing: bool, settings: &str, at_ms: u64) -> Pause {
    Pause { at_ms, reason, is_passing, settings: settings.to_owned() }
}

/// The checks of a webhook in this process.
pub(super) struct Checks {
    context: Arc<Context>,
    endpoint: Arc<Endpoint>,
    /// The last check that this process made and that passed.
    own: Option<Verification>,
    /// The settings that were judged last.
    settings: String,
    /// Whether failures of earlier settings are in the state.
    is_failing_anew: bool,
    /// The reason of the pause that was logged.
    logged_pause: Option<String>,
    is_verified_logged: bool,
}

impl Checks {
    pub(super) fn new(context: Arc<Context>, endpoint: Arc<Endpoint>) -> Self {
        Self {
            context,
            endpoint,
            own: None,
            settings: String::new(),
            is_failing_anew: false,
            logged_pause: None,
            is_verified_logged: false,
        }
    }

    /// Watches the state of the webhook and checks it, for ever.
    pub(super) async fn run(mut self) {
        loop {
            if let Err(error) = self.step().await {
                self.endpoint.log_store_failure("cannot read the state of a webhook", &error);
            }
            tokio::select! {
                () = sleep(POLL_INTERVAL) => {}
                () = self.endpoint.check_now.notified() => {}
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let webhook = self.endpoint.webhook();
        if self.settings != webhook.settings {
            self.is_failing_anew = !self.settings.is_empty();
            self.settings.clone_from(&webhook.settings);
            self.is_verified_logged = false;
        }
        let mut state = self.context.store.state(&webhook.name).await?;
        if self.endpoint.is_gone() {
            state.paused = Some(pause(
                "the receiver answered 410 Gone".to_owned(),
                false,
                &webhook.settings,
                self.now_ms(),
            ));
            self.context.store.set_state(&webhook.name, &state).await?;
            self.apply(&state);
            self.endpoint.forget_gone();
            return Ok(());
        }
        if self.is_failing_anew {
            state.failing_since_ms = None;
        }
        let Some(ttl) = self.apply(&state) else { return Ok(()) };
        if !self.context.store.begin_check(&webhook.name, ttl).await? {
            return Ok(());
        }
        let check = timeout(CHECK_TIMEOUT, webhook.receiver.check()).await;
        let check = check.unwrap_or_else(|_| Check::Failed("no result in time".to_owned()));
        self.endpoint.metrics.count_check(match check {
            Check::Passed => CheckOutcome::Passed,
            Check::Refused(_) => CheckOutcome::Refused,
            Check::Failed(_) => CheckOutcome::Failed,
        });
        // Another process may have written meanwhile.
        let mut before = self.context.store.state(&webhook.name).await?;
        if self.is_failing_anew {
            before.failing_since_ms = None;
        }
        let grace = self.context.config.check_grace;
        let state = after_check(before, &check, &webhook.settings, self.now_ms(), grace);
        self.context.store.set_state(&webhook.name, &state).await?;
        self.is_failing_anew = false;
        if check == Check::Passed {
            self.own.clone_from(&state.verified);
        }
        if self.endpoint.webhook().settings == webhook.settings {
            self.apply(&state);
        }
        Ok(())
    }

    /// Opens or closes the endpoint by the state. Returns whether it is to be checked, as [`Judgement::check`].
    fn apply(&mut self, state: &WebhookState) -> Option<Duration> {
        let settings = self.settings.as_str();
        if state.verified.as_ref().is_some_and(|verified| verified.settings == settings) {
            self.own.clone_from(&state.verified);
        }
        let judgement = judge(state, self.own.as_ref(), settings, self.now_ms());
        let pause = state.paused.as_ref().filter(|pause| pause.settings == settings);
        // The file may have changed meanwhile.
        let is_open = judgement.is_open && self.endpoint.webhook().settings == settings;
        self.endpoint.set_open(is_open);
        self.endpoint.metrics.set_paused(pause.is_some());
        if let Some(verified) = &state.verified {
            self.endpoint.metrics.set_verified(verified.at_ms);
        }
        self.endpoint.set_warning(self.warning(state, pause, is_open));
        let reason = pause.map(|pause| pause.reason.clone());
        self.log(reason, is_open);
        judgement.check
    }

    fn warning(
        &self,
        state: &WebhookState,
        pause: Option<&Pause>,
        is_open: bool,
    ) -> Option<String> {
        let name = &self.endpoint.name;
        match (pause, &state.failure) {
            (Some(pause), _) => Some(format!("webhook {name} is paused: {}", pause.reason)),
            (None, Some(failure)) if state.failing_since_ms.is_some() => {
                Some(format!("webhook {name}: the check fails: {failure}"))
            }
            (None, _) if !is_open => Some(format!("webhook {name} is not checked yet")),
            (None, _) => None,
        }
    }

    /// Logs what has changed.
    fn log(&mut self, pause: Option<String>, is_open: bool) {
        let webhook = self.endpoint.name.as_str();
        if pause != self.logged_pause {
            if let Some(reason) = &pause {
                tracing::warn!(webhook, ?reason, "webhook paused");
            } else {
                tracing::info!(webhook, "webhook resumed");
            }
            self.logged_pause = pause;
        }
        if is_open && !self.is_verified_logged {
            self.is_verified_logged = true;
            tracing::info!(webhook, "webhook verified");
        }
    }

    fn now_ms(&self) -> u64 {
        (self.context.clock)()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = CHECK_INTERVAL_MS;
    const NOW: u64 = 100 * DAY_MS;
    const GRACE: Duration = Duration::from_secs(4 * 3600);

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn verified(at_ms: u64, settings: &str) -> Option<Verification> {
        Some(Verification { at_ms, settings: settings.to_owned() })
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the state has it")]
    fn paused(is_passing: bool, settings: &str) -> Option<Pause> {
        Some(pause("why".to_owned(), is_passing, settings, 5))
    }

    #[test]
    fn a_webhook_is_open_if_its_settings_are_verified_and_not_paused() {
        let none = None;
        let secs = Duration::from_secs;
        let table = [
            // verified, failing since, paused; open, next check
            (none.clone(), None, None, false, Some(RETRY_MIN)),
            (verified(NOW, "new"), None, None, true, None),
            (verified(NOW, "old"), None, None, false, Some(RETRY_MIN)),
            (verified(NOW - DAY_MS + 1, "new"), None, None, true, None),
            (verified(NOW - DAY_MS, "new"), None, None, true, Some(RETRY_MIN)),
            (verified(NOW + 99, "new"), None, None, true, None),
            // It stays open while a later check fails, each after a longer pause.
            (verified(NOW - DAY_MS, "new"), Some(NOW), None, true, Some(secs(1))),
            (verified(NOW - DAY_MS, "new"), Some(NOW - 8000), None, true, Some(secs(8))),
            (verified(NOW - DAY_MS, "new"), Some(5), None, true, Some(secs(60))),
            // A pause is of its settings.
            (verified(NOW, "new"), None, paused(false, "new"), false, None),
            (verified(NOW, "new"), None, paused(false, "old"), true, None),
            (none, Some(NOW - 9000), paused(false, "old"), false, Some(secs(9))),
            (verified(NOW, "new"), Some(5), paused(true, "new"), false, Some(secs(60))),
        ];
        for (verified, failing_since_ms, paused, is_open, check) in table {
            let state = WebhookState { verified, failing_since_ms, failure: None, paused };
            let judgement = judge(&state, None, "new", NOW);
            assert_eq!(judgement, Judgement { is_open, check }, "{state:?}");
        }
    }

    #[test]
    fn two_files_of_one_webhook_do_not_check_in_turns() {
        let state = WebhookState { verified: verified(NOW, "other"), ..Default::default() };
        let own = verified(NOW - 5, "new");
        let judgement = judge(&state, own.as_ref(), "new", NOW);
        assert_eq!(judgement, Judgement { is_open: true, check: None });
    }

    #[test]
    fn a_check_that_passes_ends_every_pause() {
        let before = WebhookState {
            verified: None,
            failing_since_ms: Some(5),
            failure: Some("why".to_owned()),
            paused: paused(true, "new"),
        };
        let after = after_check(before, &Check::Passed, "new", NOW, GRACE);
        let expected = WebhookState { verified: verified(NOW, "new"), ..Default::default() };
        assert_eq!(after, expected);
    }

    #[test]
    fn a_refused_check_pauses_at_once_and_a_failed_one_after_the_grace() {
        let refused = Check::Refused("a wrong token".to_owned());
        let failed = Check::Failed("no answer".to_owned());
        let grace = u64::try_from(GRACE.as_millis()).unwrap();
        let table = [
            (&refused, None, GRACE, Some(false)),
            (&failed, None, GRACE, None),
            (&failed, Some(NOW - grace + 1), GRACE, None),
            (&failed, Some(NOW - grace), GRACE, Some(true)),
            (&failed, None, Duration::ZERO, Some(true)),
        ];
        for (check, failing_since_ms, grace, pause) in table {
            let before = WebhookState {
                failing_since_ms,
                verified: verified(5, "new"),
                ..WebhookState::default()
            };
            let after = after_check(before, check, "new", NOW, grace);
            assert_eq!(after.paused.as_ref().map(|pause| pause.is_passing), pause, "{check:?}");
            assert_eq!(after.failing_since_ms, Some(failing_since_ms.unwrap_or(NOW)));
            assert!(after.failure.is_some() && after.verified.is_some());
        }
    }

    #[test]
    fn a_pause_says_how_long_checks_have_failed() {
        let failed = Check::Failed("no answer".to_owned());
        let before =
            WebhookState { failing_since_ms: Some(NOW - 14_400_999), ..Default::default() };
        let after = after_check(before, &failed, "new", NOW, GRACE);
        assert_eq!(after.paused.unwrap().reason, "checks have failed for 4h: no answer");
    }
}
