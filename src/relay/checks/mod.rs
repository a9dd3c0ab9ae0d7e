//! Checks that receivers know the secret (CRC), and pauses the webhooks of those that do not.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use self::state::{current_failing, judge, pause};
use super::Context;
use super::endpoint::Endpoint;
use super::receiver::Check;
use super::webhook::Webhook;
use crate::store::StoreError;
use crate::store::relay::{Pause, Verification, WebhookState};
use crate::telemetry::metrics::relay::CheckOutcome;

mod state;

pub use self::state::{CheckBy, MadeCheck, record_check};

/// Time between two looks at the state of a webhook.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Longest time of a check, whatever the receiver is.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// How long no other process may check while one does: a check, and the time to write its result. After it no
/// process may for as long as [`judge`] says.
const CHECK_TTL: Duration = Duration::from_secs(10);

/// The checks of a webhook in this process.
pub(super) struct Checks {
    context: Arc<Context>,
    endpoint: Arc<Endpoint>,
    /// The last check that this process made and that passed.
    own: Option<Verification>,
    /// The settings that were judged last.
    settings: String,
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
                biased;
                () = sleep(POLL_INTERVAL) => {}
                () = self.endpoint.check_now.notified() => {}
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let webhook = self.endpoint.webhook();
        if self.settings != webhook.settings {
            self.settings.clone_from(&webhook.settings);
            self.is_verified_logged = false;
        }
        let mut state = self.context.store.state(&webhook.name).await?;
        if self.endpoint.is_gone() {
            let reason = "the receiver answered 410 Gone".to_owned();
            state.paused = Some(pause(reason, false, &webhook.settings, self.now_ms()));
            self.context.store.set_state(&webhook.name, &state).await?;
            self.apply(&state);
            self.endpoint.forget_gone();
            return Ok(());
        }
        if !self.apply(&state) || !self.context.store.begin_check(&webhook.name, CHECK_TTL).await? {
            return Ok(());
        }
        let state = self.check(&webhook, &state).await?;
        if self.endpoint.webhook().settings == webhook.settings {
            self.apply(&state);
        }
        Ok(())
    }

    /// Checks the webhook, and returns its state afterwards.
    async fn check(
        &mut self,
        webhook: &Webhook,
        before: &WebhookState,
    ) -> Result<WebhookState, StoreError> {
        let check = timeout(CHECK_TIMEOUT, webhook.receiver.check()).await;
        let check = check.unwrap_or_else(|_| Check::Failed("no result in time".to_owned()));
        self.endpoint.metrics.count_check(match check {
            Check::Passed => CheckOutcome::Passed,
            Check::Refused(_) | Check::RefusedHere(_) => CheckOutcome::Refused,
            Check::Failed(_) => CheckOutcome::Failed,
        });
        if let Check::Refused(cause) | Check::RefusedHere(cause) | Check::Failed(cause) = &check
            && let Some(suppressed) = self.endpoint.lines.checks.permit()
        {
            let (webhook, cause) = (webhook.name.as_str(), cause.as_str());
            tracing::warn!(webhook, cause, suppressed, "a check failed");
        }
        let made = MadeCheck {
            result: &check,
            settings: &webhook.settings,
            by: CheckBy::Relay { grace: self.context.config.check_grace },
            at_ms: self.now_ms(),
            pause: before.paused.as_ref(),
        };
        let state = record_check(&*self.context.store, &webhook.name, &made).await?;
        if check == Check::Passed {
            self.own.clone_from(&state.verified);
        }
        let pause = judge(&state, self.own.as_ref(), &webhook.settings, self.now_ms()).pause;
        self.context.store.end_check(&webhook.name, pause).await?;
        Ok(state)
    }

    /// Opens or closes the endpoint by the state. Returns whether it is to be checked.
    fn apply(&mut self, state: &WebhookState) -> bool {
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
        if let Some(verified) = self.own.as_ref().filter(|own| own.settings == settings) {
            self.endpoint.set_verified(verified.at_ms);
        }
        self.endpoint.set_warning(self.warning(state, pause, is_open));
        let reason = pause.map(|pause| pause.reason.clone());
        self.log(reason, is_open);
        judgement.is_due
    }

    fn warning(
        &self,
        state: &WebhookState,
        pause: Option<&Pause>,
        is_open: bool,
    ) -> Option<String> {
        let name = &self.endpoint.name;
        match (pause, current_failing(state, &self.settings)) {
            (Some(pause), _) => Some(format!("webhook {name} is paused: {}", pause.reason)),
            (None, Some(failing)) => {
                Some(format!("webhook {name}: the check fails: {}", failing.cause))
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
