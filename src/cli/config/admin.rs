//! Validates the settings of `markread admin`.

use super::redis::{check_stream, redis_mode};
use crate::cli::args::{
    AdminArgs, AdminRedisArgs, CursorsArgs, DestinationArgs, EraseArgs, ExportArgs, ImportArgs,
    MoveArgs, RedisArgs, SetArgs,
};
use crate::cli::commands::admin::{AdminCommand, EraseScope, LayoutCommand, MoveCommand};
use crate::cli::commands::lines::InputSource;
use crate::domain::{Conversation, CursorRecord, UserId};
use crate::store::redis::{MoveGoal, PutRule, RedisMode, name_destination_flags};

impl AdminArgs {
    pub(in crate::cli) fn validate(self) -> Result<(RedisMode, AdminCommand), String> {
        let stream = match &self {
            Self::Move(MoveArgs { stream, .. })
            | Self::Erase(EraseArgs { events: true, stream, .. }) => Some(stream.clone()),
            _ => None,
        };
        let (AdminRedisArgs { redis_url, redis }, command) = match self {
            Self::UpgradeLayout(args) => (args, AdminCommand::Layout(LayoutCommand::Upgrade)),
            Self::DowngradeLayout(args) => (args, AdminCommand::Layout(LayoutCommand::Downgrade)),
            Self::Cursors(CursorsArgs { user, redis }) => {
                (redis, AdminCommand::Cursors(parse_user(&user)?))
            }
            Self::Set(args) => args.command()?,
            Self::Move(args) => args.command()?,
            Self::Erase(EraseArgs { user, events, as_recipient, stream, redis }) => {
                let scope = EraseScope { events_in: events.then_some(stream), as_recipient };
                (redis, AdminCommand::Erase(parse_user(&user)?, scope))
            }
            Self::Export(ExportArgs { output, redis }) => (redis, AdminCommand::Export(output)),
            Self::Import(ImportArgs { file, skip_lines, redis }) => {
                (redis, AdminCommand::Import { source: InputSource::new(file), skip_lines })
            }
        };
        let mode = redis_mode(&redis_url, &redis)?;
        stream.map_or(Ok(()), |stream| check_stream(&mode, &stream))?;
        Ok((mode, command))
    }
}

impl SetArgs {
    fn command(self) -> Result<(AdminRedisArgs, AdminCommand), String> {
        let recipient = self.recipient.parse();
        let message = self.last_read_event_id.parse();
        let record = CursorRecord {
            conversation: Conversation {
                reader: parse_user(&self.user)?,
                recipient: recipient.map_err(|problem| format!("--recipient {problem}"))?,
            },
            last_read_event_id: message
                .map_err(|problem| format!("--last-read-event-id {problem}"))?,
            read_at_ms: None,
        };
        let rule = if self.force { PutRule::Force } else { PutRule::Forward };
        Ok((self.redis, AdminCommand::Set(record, rule)))
    }
}

impl MoveArgs {
    fn command(self) -> Result<(AdminRedisArgs, AdminCommand), String> {
        let Self { to, destination, follow, finish, undo, stream, redis } = self;
        if undo {
            if !to.is_empty() {
                return Err(
                    "--undo takes no --to: it lets servers use the Redis of --redis-url again"
                        .to_owned(),
                );
            }
            return Ok((redis, AdminCommand::Move(MoveCommand::Undo { stream })));
        }
        if to.is_empty() {
            return Err("--to is missing: it must be the URL of the Redis to move to".to_owned());
        }
        let goal = match (follow, finish) {
            (_, true) => MoveGoal::Finish,
            (true, false) => MoveGoal::Follow,
            (false, false) => MoveGoal::Copy,
        };
        let to = destination.mode(&to)?;
        Ok((redis, AdminCommand::Move(MoveCommand::Run { stream, to: Box::new(to), goal })))
    }
}

impl DestinationArgs {
    fn mode(self, urls: &[String]) -> Result<RedisMode, String> {
        let redis = RedisArgs {
            mode: self.mode,
            partitions: self.partitions,
            username: self.username,
            password_file: self.password_file,
            ca: self.ca,
            cert: self.cert,
            key: self.key,
            sentinel_master: self.sentinel_master,
            sentinel_username: None,
            sentinel_password_file: None,
            sentinel_ca: None,
            sentinel_cert: None,
            sentinel_key: None,
        };
        redis_mode(urls, &redis).map_err(|problem| name_destination_flags(&problem))
    }
}

fn parse_user(text: &str) -> Result<UserId, String> {
    text.parse().map_err(|problem| format!("--user {problem}"))
}
