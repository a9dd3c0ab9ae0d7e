//! Validates the settings of `markread admin`.

use super::redis::redis_mode;
use crate::cli::args::{
    AdminArgs, AdminRedisArgs, CursorsArgs, EraseArgs, ExportArgs, ImportArgs, SetArgs,
};
use crate::cli::commands::admin::{AdminCommand, EraseScope, ImportSource, LayoutCommand};
use crate::domain::{Conversation, CursorRecord, UserId};
use crate::store::redis::{PutRule, RedisMode};

impl AdminArgs {
    pub(in crate::cli) fn validate(self) -> Result<(RedisMode, AdminCommand), String> {
        let (AdminRedisArgs { redis_url, redis }, command) = match self {
            Self::UpgradeLayout(args) => (args, AdminCommand::Layout(LayoutCommand::Upgrade)),
            Self::DowngradeLayout(args) => (args, AdminCommand::Layout(LayoutCommand::Downgrade)),
            Self::Cursors(CursorsArgs { user, redis }) => {
                (redis, AdminCommand::Cursors(parse_user(&user)?))
            }
            Self::Set(args) => args.command()?,
            Self::Erase(EraseArgs { user, events, as_recipient, stream, redis }) => {
                let scope = EraseScope { events_in: events.then_some(stream), as_recipient };
                (redis, AdminCommand::Erase(parse_user(&user)?, scope))
            }
            Self::Export(ExportArgs { output, redis }) => (redis, AdminCommand::Export(output)),
            Self::Import(ImportArgs { file, skip_lines, redis }) => {
                let is_stdin = file.as_os_str() == "-";
                let source = if is_stdin { ImportSource::Stdin } else { ImportSource::File(file) };
                (redis, AdminCommand::Import { source, skip_lines })
            }
        };
        Ok((redis_mode(&redis_url, &redis)?, command))
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

fn parse_user(text: &str) -> Result<UserId, String> {
    text.parse().map_err(|problem| format!("--user {problem}"))
}
