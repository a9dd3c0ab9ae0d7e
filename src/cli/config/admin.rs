//! Validates the settings of `markread admin`.

use super::validate::redis_address;
use crate::cli::args::{AdminArgs, LayoutArgs};
use crate::cli::commands::admin::AdminCommand;
use crate::store::redis::RedisAddress;

impl AdminArgs {
    pub(in crate::cli) fn validate(self) -> Result<(RedisAddress, AdminCommand), String> {
        let (LayoutArgs { redis_url, redis }, command) = match self {
            Self::UpgradeLayout(args) => (args, AdminCommand::UpgradeLayout),
            Self::DowngradeLayout(args) => (args, AdminCommand::DowngradeLayout),
        };
        Ok((redis_address(redis_url.as_deref(), &redis)?, command))
    }
}
