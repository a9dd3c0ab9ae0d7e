//! Validates the settings of `markread webhook`.

use std::path::Path;
use std::sync::Arc;

use crate::cli::args::{
    AdminRedisArgs, CheckArgs, ListArgs, ReceiveArgs, RedeliverArgs, SubscribeArgs, TargetArgs,
    WebhookArgs,
};
use crate::cli::commands::lines::InputSource;
use crate::cli::commands::webhook::{Change, LetterFilter, ReceiveConfig, Users, WebhookCommand};
use crate::domain::{UserId, WebhookName};
use crate::files::{problem, read, without_newline};
use crate::relay::WebhooksFile;
use crate::relay::webhook::Webhook;
use crate::store::redis::RedisConfig;

/// What `markread webhook` does.
#[derive(Debug)]
pub enum WebhookRun {
    /// A command on Redis.
    Command(Box<RedisConfig>, WebhookCommand),
    /// Receives events.
    Receive(ReceiveConfig),
}

impl WebhookArgs {
    pub(in crate::cli) fn validate(self) -> Result<WebhookRun, String> {
        let (redis, command) = match self {
            Self::Subscribe(args) => args.command(Change::Subscribe)?,
            Self::Unsubscribe(args) => args.command(Change::Unsubscribe)?,
            Self::List(ListArgs { name, redis }) => {
                (redis, WebhookCommand::List(parse_name(&name)?))
            }
            Self::Check(CheckArgs { name, webhooks, targets, redis }) => {
                let webhook = find(&name, &webhooks, &targets)?;
                (redis, WebhookCommand::Check(webhook))
            }
            Self::Redeliver(args) => args.command()?,
            Self::Receive(args) => return args.validate().map(WebhookRun::Receive),
        };
        Ok(WebhookRun::Command(Box::new(redis.config()?), command))
    }
}

impl SubscribeArgs {
    fn command(self, change: Change) -> Result<(AdminRedisArgs, WebhookCommand), String> {
        let Self { name, users, more_users, users_file, redis } = self;
        let webhook = parse_name(&name)?;
        let positional = users.iter().map(|id| ("ID", id));
        let all = positional.chain(more_users.iter().map(|id| ("--user", id)));
        let parse = |(flag, id): (&str, &String)| -> Result<UserId, String> {
            id.parse().map_err(|problem| format!("{flag} {problem}"))
        };
        let ids: Vec<_> = all.map(parse).collect::<Result<_, _>>()?;
        if ids.is_empty() && users_file.is_none() {
            return Err("no user is named: there must be an ID, --user or --users-file".to_owned());
        }
        let users = Users { ids, file: users_file.map(InputSource::new) };
        Ok((redis, WebhookCommand::Change { webhook, change, users }))
    }
}

impl RedeliverArgs {
    fn command(self) -> Result<(AdminRedisArgs, WebhookCommand), String> {
        let Self { name, since, user, id, webhooks, targets, redis } = self;
        let user = user.map(|user| user.parse().map_err(|problem| format!("--user {problem}")));
        let id = id.map(|id| id.parse().map_err(|problem| format!("--id {problem}")));
        let which = LetterFilter { since, user: user.transpose()?, id: id.transpose()? };
        let webhook = find(&name, &webhooks, &targets)?;
        Ok((redis, WebhookCommand::Redeliver(webhook, which)))
    }
}

fn parse_name(text: &str) -> Result<WebhookName, String> {
    text.parse().map_err(|problem| format!("NAME {problem}"))
}

/// Returns the webhook of a name from the file.
fn find(name: &str, file: &Path, targets: &TargetArgs) -> Result<Arc<Webhook>, String> {
    let name = parse_name(name)?;
    let webhooks = WebhooksFile::read(file, targets.targets())?;
    let webhooks = webhooks.watch().borrow().clone();
    let found = webhooks.iter().find(|webhook| webhook.name == name);
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = webhooks.iter().map(|webhook| webhook.name.as_str()).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        let file = file.display();
        format!("NAME {name} must be a webhook of --webhooks {file}, which has {names}")
    })
}

impl ReceiveArgs {
    fn validate(self) -> Result<ReceiveConfig, String> {
        let Self { listen, secret_file, expect, timeout } = self;
        if timeout.is_some() && expect.is_none() {
            return Err("--timeout needs --expect: it ends the wait for those events".to_owned());
        }
        let secret = without_newline(read("--secret-file", &secret_file)?);
        if secret.is_empty() {
            return Err(problem("--secret-file", &secret_file, "contains a newline alone"));
        }
        Ok(ReceiveConfig { listen, secret, expect, timeout })
    }
}
