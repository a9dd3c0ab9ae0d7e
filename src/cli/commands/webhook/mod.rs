//! `markread webhook`: subscriptions, checks and dead letters, straight to Redis; and a receiver for
//! development.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::lines::InputSource;
use super::{counted, say};
use crate::domain::{UserId, WebhookName};
use crate::net::workers::Workers;
use crate::relay::webhook::Webhook;
use crate::store::StoreHealth;
use crate::store::redis::{AdminError, RedisConfig, RedisStore};

mod check;
mod receive;
mod redeliver;
mod subscriptions;
mod user_lines;

pub(crate) use self::receive::ReceiveConfig;
pub(in crate::cli) use self::receive::receive;
pub(in crate::cli) use self::redeliver::LetterFilter;
pub(in crate::cli) use self::subscriptions::Change;

/// Longest time until Redis can be used.
const READY_TIMEOUT: Duration = Duration::from_secs(5);

/// A command on Redis.
#[derive(Debug)]
pub enum WebhookCommand {
    /// Subscribe or unsubscribe users.
    Change {
        /// The webhook.
        webhook: WebhookName,
        /// What to do.
        change: Change,
        /// The users.
        users: Users,
    },
    /// Print the subscribed users.
    List(WebhookName),
    /// Check the webhook.
    Check(Arc<Webhook>),
    /// Send dead letters again.
    Redeliver(Arc<Webhook>, LetterFilter),
}

/// Users that a command names.
#[derive(Debug)]
pub struct Users {
    /// Those of the command line.
    pub ids: Vec<UserId>,
    /// A file with more of them.
    pub file: Option<InputSource>,
}

/// Runs a command, and passes it each line of its result.
///
/// # Errors
///
/// [`AdminError`].
pub(crate) async fn run(
    redis: RedisConfig,
    command: WebhookCommand,
    mut print: impl FnMut(String) -> io::Result<()>,
) -> Result<(), AdminError> {
    let store = open(redis).await?;
    let mut print = |line: String| {
        print(line).map_err(|error| AdminError::Failed(format!("standard output: {error}")))
    };
    match command {
        WebhookCommand::Change { webhook, change, users } => {
            print(subscriptions::change(&*store, &webhook, change, users).await?)
        }
        WebhookCommand::List(webhook) => subscriptions::list(&*store, &webhook).await,
        WebhookCommand::Check(webhook) => check::run(&*store, &webhook, &mut print).await,
        WebhookCommand::Redeliver(webhook, filter) => {
            print(redeliver::run(&*store, &webhook, &filter).await?)
        }
    }
}

/// Starts a store, and waits until it can be used.
async fn open(config: RedisConfig) -> Result<Arc<RedisStore>, AdminError> {
    let (store, supervisor) = RedisStore::start(config, Workers::here());
    let mut health = store.health();
    let ready = async {
        // The sender lives as long as the store.
        let _ = health.wait_for(|health| matches!(health, StoreHealth::Ready { .. })).await;
    };
    tokio::select! {
        ended = supervisor => match ended {
            Ok(mismatch) => Err(AdminError::Layout(mismatch)),
            Err(error) => Err(AdminError::Failed(format!("Redis: {error}"))),
        },
        ready = timeout(READY_TIMEOUT, ready) => match (ready, &*store.health().borrow()) {
            (Err(_), StoreHealth::Away(cause)) => Err(AdminError::Failed(cause.clone())),
            _ => Ok(Arc::clone(&store)),
        },
    }
}
