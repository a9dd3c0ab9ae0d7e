//! Subscriptions: sets of user IDs, which other programs may write too.

use redis::{Cmd, cmd};

use crate::domain::{UserId, WebhookName};
use crate::store::StoreError;
use crate::store::redis::keys::Keys;
use crate::store::redis::store::RedisStore;

/// Members that one step of SSCAN looks at.
const SCAN_COUNT: usize = 1000;

impl RedisStore {
    pub(super) async fn look_up_subscribers(
        &self,
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<Vec<bool>, StoreError> {
        if users.is_empty() {
            return Ok(Vec::new());
        }
        let key = Keys::subscriptions(webhook);
        let mut look_up = cmd("SMISMEMBER");
        look_up.arg(&key);
        for user in users {
            look_up.arg(user.get());
        }
        let found: Vec<bool> = self.send_untagged("SMISMEMBER", &key, look_up).await?;
        if found.len() != users.len() {
            return Err(StoreError::corrupt("a reply to SMISMEMBER has another length"));
        }
        Ok(found)
    }

    /// Adds or removes users by a command, which has a name. Returns how many were.
    pub(super) async fn change_subscribers(
        &self,
        (name, mut change): (&'static str, Cmd),
        webhook: &WebhookName,
        users: &[UserId],
    ) -> Result<u64, StoreError> {
        if users.is_empty() {
            return Ok(0);
        }
        let key = Keys::subscriptions(webhook);
        change.arg(&key);
        for user in users {
            change.arg(user.get());
        }
        self.send_untagged(name, &key, change).await
    }

    pub(super) async fn scan_subscribers(
        &self,
        webhook: &WebhookName,
        from: u64,
    ) -> Result<(Vec<UserId>, u64), StoreError> {
        let key = Keys::subscriptions(webhook);
        let mut scan = cmd("SSCAN");
        scan.arg(&key).arg(from).arg("COUNT").arg(SCAN_COUNT);
        let (next, members): (u64, Vec<Vec<u8>>) = self.send_untagged("SSCAN", &key, scan).await?;
        // Whatever else is there names no user.
        let user = |member: &Vec<u8>| std::str::from_utf8(member).ok()?.parse().ok();
        Ok((members.iter().filter_map(user).collect(), next))
    }
}
