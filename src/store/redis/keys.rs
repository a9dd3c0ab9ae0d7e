//! Every key in Redis (`docs/contract.md`, "Redis"), except those of buckets, which `scripts/buckets.lua` and
//! its twin `Placement::append_bucket` build from the cursors' key.

use std::fmt::Write;

use crate::domain::{Nonce, UserId, WebhookName};
use crate::store::relay::FeedId;

/// Names a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partition {
    /// The one partition of one Redis. Its keys carry no hash tag.
    Only,
    /// One of a cluster's partitions.
    Tagged {
        /// The hash tag, which all of its keys carry.
        tag: u32,
        /// How many partitions there are.
        count: u16,
    },
}

impl Partition {
    /// Returns how many partitions there are.
    pub(crate) fn count(self) -> u16 {
        match self {
            Self::Only => 1,
            Self::Tagged { count, .. } => count,
        }
    }
}

/// The keys of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    partition: Partition,
    /// What all keys begin with, except the stream's and those of users.
    start: String,
    stream: String,
    user_prefix: String,
}

impl Keys {
    /// Creates them with the names that settings choose: the stream's, and the prefix of user objects.
    pub(crate) fn new(partition: Partition, stream: &str, user_prefix: &str) -> Self {
        let (start, stream) = match partition {
            Partition::Only => ("markread:".to_owned(), stream.to_owned()),
            Partition::Tagged { tag, .. } => {
                (format!("markread:{{{tag}}}:"), format!("{stream}:{{{tag}}}"))
            }
        };
        Self { partition, start, stream, user_prefix: user_prefix.to_owned() }
    }

    /// Returns the partition.
    pub(crate) fn partition(&self) -> Partition {
        self.partition
    }

    /// The layout of all other keys: a hash of `version`, `partitions` and `key`, a secret.
    pub(crate) fn layout(&self) -> String {
        format!("{}layout", self.start)
    }

    /// The stream of mark-read events.
    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// What the stream is renamed to once the cursors were moved to another Redis, so that no server adds
    /// an event, and with it a cursor, any more.
    pub(crate) fn moved_events(&self) -> String {
        format!("{}moved_events", self.start)
    }

    /// How far `markread admin move` to this Redis has come: a hash.
    pub(crate) fn migration(&self) -> String {
        format!("{}move", self.start)
    }

    /// Returns the keys with the stream as it is named once the cursors were moved.
    pub(crate) fn with_moved_events(&self) -> Self {
        Self { stream: self.moved_events(), ..self.clone() }
    }

    /// Calls that a reader has used in the open window: a string with an expiry.
    pub(crate) fn quota(&self, reader: UserId) -> String {
        format!("{}{reader}", self.quota_prefix())
    }

    /// Appends the key of a reader's quota of marks.
    pub(crate) fn write_quota(&self, key: &mut String, reader: UserId) {
        self.write(key, "quota", reader);
    }

    /// Appends the key of a reader's cursors.
    pub(crate) fn write_cursors(&self, key: &mut String, reader: UserId) {
        self.write(key, "cursors", reader);
    }

    /// Reads that a reader has used in the open window: a string with an expiry.
    pub(crate) fn read_quota(&self, reader: UserId) -> String {
        format!("{}{reader}", self.read_quota_prefix())
    }

    /// A reader's cursors: a hash. Past 64 conversations it has the number of buckets instead, whose keys are
    /// this one and a suffix, which `scripts/buckets.lua` and `Placement::append_bucket` append.
    pub(crate) fn cursors(&self, reader: UserId) -> String {
        format!("{}{reader}", self.cursors_prefix())
    }

    /// What the keys of all quotas of marks begin with.
    pub(crate) fn quota_prefix(&self) -> String {
        self.prefix("quota")
    }

    /// What the keys of all read quotas begin with.
    pub(crate) fn read_quota_prefix(&self) -> String {
        self.prefix("read_quota")
    }

    /// What the keys of all cursors begin with.
    pub(crate) fn cursors_prefix(&self) -> String {
        self.prefix("cursors")
    }

    /// What the keys of all nonces begin with.
    pub(crate) fn nonces_prefix(&self) -> String {
        self.prefix("oauth1")
    }

    /// What the keys of all user objects begin with.
    pub(crate) fn user_prefix(&self) -> &str {
        &self.user_prefix
    }

    /// What the keys of webhooks' subscriptions begin with: sets of user IDs. They belong to no partition.
    pub(crate) const SUBSCRIPTIONS_PREFIX: &str = "markread:subscriptions:";

    /// What the keys of webhooks' dead letters begin with: streams. They belong to no partition.
    pub(crate) const DEAD_LETTERS_PREFIX: &str = "markread:dead_letters:";

    /// The relay's processes that are alive: a hash. It belongs to no partition.
    pub(crate) const RELAY_PROCESSES: &str = "markread:relay:processes";

    /// What the keys of webhooks' states begin with.
    pub(crate) const RELAY_STATE_PREFIX: &str = "markread:relay:state:";

    /// What the keys of the rights to check webhooks begin with.
    pub(crate) const RELAY_CHECK_PREFIX: &str = "markread:relay:check:";

    /// The right to send a webhook's dead letters again: a string with an expiry. It belongs to no partition.
    pub(crate) fn relay_redelivery(webhook: &WebhookName) -> String {
        format!("markread:relay:redeliver:{webhook}")
    }

    /// The users who are subscribed to a webhook: a set. It belongs to no partition.
    pub(crate) fn subscriptions(webhook: &WebhookName) -> String {
        format!("{}{webhook}", Self::SUBSCRIPTIONS_PREFIX)
    }

    /// A webhook's dead letters: a stream. It belongs to no partition.
    pub(crate) fn dead_letters(webhook: &WebhookName) -> String {
        format!("{}{webhook}", Self::DEAD_LETTERS_PREFIX)
    }

    /// Whether a webhook is verified and paused: a hash. It belongs to no partition.
    pub(crate) fn relay_state(webhook: &WebhookName) -> String {
        format!("{}{webhook}", Self::RELAY_STATE_PREFIX)
    }

    /// The right to check a webhook: a string with an expiry. It belongs to no partition.
    pub(crate) fn relay_check(webhook: &WebhookName) -> String {
        format!("{}{webhook}", Self::RELAY_CHECK_PREFIX)
    }

    /// The right to deliver this partition's events to a webhook: a string with an expiry.
    pub(crate) fn relay_lease(&self, feed: &FeedId) -> String {
        format!("{}{}:{}", self.relay_lease_prefix(), feed.webhook, feed.partition)
    }

    /// What the keys of all leases begin with.
    pub(crate) fn relay_lease_prefix(&self) -> String {
        self.prefix("relay:lease")
    }

    /// The name of a webhook's consumer group, which is part of the stream.
    pub(crate) fn relay_group(webhook: &WebhookName) -> String {
        format!("markread-relay:{webhook}")
    }

    /// A used nonce: a string with an expiry.
    pub(crate) fn nonce(&self, nonce: &Nonce) -> String {
        let mut key = format!("{}{}:", self.nonces_prefix(), nonce.timestamp);
        for byte in nonce.digest {
            // Writing to a String cannot fail.
            let _ = write!(key, "{byte:02x}");
        }
        key
    }

    /// A user object, which other programs write.
    pub(crate) fn user(&self, user: UserId) -> String {
        format!("{}{user}", self.user_prefix)
    }

    fn write(&self, key: &mut String, kind: &str, user: UserId) {
        self.write_prefix(key, kind);
        // Writing to a String cannot fail.
        let _ = write!(key, "{user}");
    }

    fn prefix(&self, kind: &str) -> String {
        let mut prefix = String::new();
        self.write_prefix(&mut prefix, kind);
        prefix
    }

    fn write_prefix(&self, key: &mut String, kind: &str) {
        key.extend([&self.start, kind, ":"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_redis_carry_no_hash_tag() {
        let keys = Keys::new(Partition::Only, "events", "user:");
        let reader = 7.try_into().unwrap();
        assert_eq!(keys.layout(), "markread:layout");
        assert_eq!(keys.stream(), "events");
        assert_eq!(keys.with_moved_events().stream(), "markread:moved_events");
        assert_eq!(keys.migration(), "markread:move");
        assert_eq!(keys.quota(reader), "markread:quota:7");
        assert_eq!(keys.read_quota(reader), "markread:read_quota:7");
        assert_eq!(keys.cursors(reader), "markread:cursors:7");
        assert_eq!(keys.user(reader), "user:7");
        let nonce = Nonce { timestamp: 5, digest: [0xab; 32] };
        assert_eq!(keys.nonce(&nonce), format!("markread:oauth1:5:{}", "ab".repeat(32)));
        assert_eq!(keys.relay_lease(&feed(0)), "markread:relay:lease:one:0");
    }

    fn feed(partition: usize) -> FeedId {
        FeedId { webhook: "one".parse().unwrap(), partition }
    }

    #[test]
    fn keys_of_a_webhook_are_in_no_partition() {
        let webhook = "one".parse().unwrap();
        assert_eq!(Keys::subscriptions(&webhook), "markread:subscriptions:one");
        assert_eq!(Keys::dead_letters(&webhook), "markread:dead_letters:one");
        assert_eq!(Keys::relay_state(&webhook), "markread:relay:state:one");
        assert_eq!(Keys::relay_check(&webhook), "markread:relay:check:one");
        assert_eq!(Keys::relay_redelivery(&webhook), "markread:relay:redeliver:one");
        assert_eq!(Keys::relay_group(&webhook), "markread-relay:one");
    }

    #[test]
    fn all_keys_of_a_partition_carry_its_tag() {
        let partition = Partition::Tagged { tag: 40_821, count: 64 };
        let keys = Keys::new(partition, "events", "user:");
        let reader = 7.try_into().unwrap();
        assert_eq!(keys.layout(), "markread:{40821}:layout");
        assert_eq!(keys.stream(), "events:{40821}");
        assert_eq!(keys.quota(reader), "markread:{40821}:quota:7");
        assert_eq!(keys.cursors(reader), "markread:{40821}:cursors:7");
        assert_eq!(keys.relay_lease(&feed(9)), "markread:{40821}:relay:lease:one:9");
        assert_eq!(keys.user(reader), "user:7");
        let nonce = Nonce { timestamp: 5, digest: [0xab; 32] };
        assert_eq!(keys.nonce(&nonce), format!("markread:{{40821}}:oauth1:5:{}", "ab".repeat(32)));
    }
}
