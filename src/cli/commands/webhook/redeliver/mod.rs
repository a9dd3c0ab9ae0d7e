//! `markread webhook redeliver`: sends dead letters again.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use self::run::Run;
use crate::cli::commands::interrupt::Interrupt;
use crate::domain::WebhookName;
use crate::relay::webhook::Webhook;
use crate::store::redis::AdminError;
use crate::store::relay::WebhookAdmin;

mod filter;
mod letters;
mod run;

pub(in crate::cli) use self::filter::LetterFilter;

/// How long the right to send a webhook's letters again lasts without a renewal, and the time between two.
const RIGHT_TTL: Duration = Duration::from_secs(10);
const RENEW_INTERVAL: Duration = Duration::from_secs(2);

/// Sends the letters, removes those that arrive, and returns what was done.
pub(super) async fn run(
    store: &dyn WebhookAdmin,
    webhook: &Webhook,
    filter: &LetterFilter,
) -> Result<String, AdminError> {
    let mut interrupt = Interrupt::new()?;
    let (name, token) = (&webhook.name, format!("{:032x}", rand::random::<u128>()));
    let begun = store.begin_redelivery(name, &token, RIGHT_TTL).await;
    if !begun.map_err(|error| AdminError::Failed(error.to_string()))? {
        return Err(AdminError::Failed(format!(
            "another redelivery of {name} is running, or was 10 s ago: its letters would be sent twice"
        )));
    }
    let run = Run::new(store, webhook, filter);
    let done = tokio::select! {
        biased;
        () = interrupt.wait() => Err("interrupted".to_owned()),
        () = keep_right(store, name, &token) => {
            Err("another redelivery may have begun: Redis did not answer in time".to_owned())
        }
        done = run.run() => done,
    };
    // Where this fails, it expires.
    let _ = store.end_redelivery(name, &token).await;
    let counts = run.counts();
    match done {
        Err(problem) => Err(AdminError::Failed(format!("{problem}: {}", counts.describe()))),
        Ok(()) if counts.failed > 0 => Err(AdminError::Failed(counts.describe())),
        Ok(()) => Ok(counts.describe()),
    }
}

/// Renews the right, until it is lost.
async fn keep_right(store: &dyn WebhookAdmin, name: &WebhookName, token: &str) {
    let mut renewed = Instant::now();
    while renewed.elapsed() + RENEW_INTERVAL < RIGHT_TTL {
        sleep(RENEW_INTERVAL).await;
        let sent = Instant::now();
        match store.renew_redelivery(name, token, RIGHT_TTL).await {
            Ok(true) => renewed = sent,
            Ok(false) => return,
            Err(_) => {}
        }
    }
}
