//! Dead letters: a stream of each webhook, which other programs may read.

use std::collections::HashMap;

use bytes::Bytes;
use redis::{Cmd, Value, cmd};

use super::entries::{ENTRY_MAX_BYTES, READ_MAX_BYTES};
use crate::domain::{DeliveryId, EntryId, WebhookName};
use crate::store::StoreError;
use crate::store::redis::errors::unexpected;
use crate::store::redis::keys::Keys;
use crate::store::redis::scripts::text;
use crate::store::redis::store::RedisStore;
use crate::store::relay::{DeadLetter, LetterId, StoredLetter};

const WEBHOOK_ID: &str = "webhook_id";
const PARTITION: &str = "partition";
const ENTRY_ID: &str = "entry_id";
const FOR_USER_ID: &str = "for_user_id";
const PAYLOAD: &str = "payload";
const REASON: &str = "reason";
const ATTEMPTS: &str = "attempts";
const LAST_STATUS: &str = "last_status";
const LAST_ERROR: &str = "last_error";

/// Most bytes of one letter that is read: those of an entry, and of the other fields.
const LETTER_MAX_BYTES: usize = ENTRY_MAX_BYTES + 16 * 1024;

impl RedisStore {
    pub(super) async fn add_letter(
        &self,
        webhook: &WebhookName,
        letter: &DeadLetter,
        maxlen: u64,
    ) -> Result<(), StoreError> {
        let key = Keys::dead_letters(webhook);
        let mut add = cmd("XADD");
        add.arg(&key);
        if maxlen > 0 {
            add.arg("MAXLEN").arg("~").arg(maxlen);
        }
        add.arg("*");
        fill_fields(&mut add, letter);
        let _id: String = self.send_untagged("XADD", &key, add).await?;
        Ok(())
    }

    pub(super) async fn count_letters(&self, webhook: &WebhookName) -> Result<u64, StoreError> {
        let key = Keys::dead_letters(webhook);
        let mut count = cmd("XLEN");
        count.arg(&key);
        self.send_untagged("XLEN", &key, count).await
    }

    pub(super) async fn read_letters(
        &self,
        webhook: &WebhookName,
        after: EntryId,
        limit: usize,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        let key = Keys::dead_letters(webhook);
        let read = fill_letters(self.relay.dead_letters.by_source(), &key, after, limit);
        let reply: Value = self.send_untagged("EVAL", &key, read).await?;
        parse_letters(&reply)
    }

    pub(super) async fn remove_letters(
        &self,
        webhook: &WebhookName,
        letters: &[EntryId],
    ) -> Result<(), StoreError> {
        if letters.is_empty() {
            return Ok(());
        }
        let key = Keys::dead_letters(webhook);
        let mut remove = cmd("XDEL");
        remove.arg(&key);
        for letter in letters {
            remove.arg(letter.to_string());
        }
        let _removed: u64 = self.send_untagged("XDEL", &key, remove).await?;
        Ok(())
    }
}

fn fill_fields(add: &mut Cmd, letter: &DeadLetter) {
    let DeadLetter { id, payload, reason, attempts, last_status, last_error } = letter;
    let (partition, entry) = match id {
        LetterId::Delivery(delivery) => {
            add.arg(WEBHOOK_ID).arg(delivery.to_string());
            add.arg(FOR_USER_ID).arg(delivery.for_user.get());
            (delivery.partition, delivery.entry)
        }
        LetterId::Entry(partition, entry) => (*partition, *entry),
    };
    add.arg(PARTITION).arg(partition).arg(ENTRY_ID).arg(entry.to_string());
    if let Some(payload) = payload {
        add.arg(PAYLOAD).arg(&payload[..]);
    }
    add.arg(REASON).arg(reason).arg(ATTEMPTS).arg(*attempts);
    if let Some(status) = last_status {
        add.arg(LAST_STATUS).arg(*status);
    }
    if let Some(error) = last_error {
        add.arg(LAST_ERROR).arg(error);
    }
}

/// Adds the key and arguments to a call of `dead_letters.lua`.
pub(crate) fn fill_letters(mut call: Cmd, key: &str, after: EntryId, limit: usize) -> Cmd {
    call.arg(1).arg(key).arg(after.after().to_string()).arg(limit);
    call.arg(LETTER_MAX_BYTES).arg(READ_MAX_BYTES);
    call
}

/// Parses its reply.
pub(crate) fn parse_letters(reply: &Value) -> Result<Vec<StoredLetter>, StoreError> {
    let Value::Array(letters) = reply else { return Err(unexpected(reply)) };
    let stored = letters.iter().map(|stored| {
        let Value::Array(parts) = stored else { return Err(unexpected(stored)) };
        let [at, Value::Array(fields)] = &parts[..] else { return Err(unexpected(stored)) };
        let at = text(at)?.parse().map_err(StoreError::corrupt)?;
        Ok(StoredLetter { at, letter: parse(fields) })
    });
    stored.collect()
}

/// Parses a letter. Another program may have put anything there.
fn parse(fields: &[Value]) -> Option<DeadLetter> {
    let mut found: HashMap<&[u8], &[u8]> = HashMap::new();
    for pair in fields.chunks_exact(2) {
        let [Value::BulkString(name), Value::BulkString(value)] = pair else { return None };
        found.insert(name, value);
    }
    let bytes = |name: &str| found.get(name.as_bytes()).copied();
    let text = |name| bytes(name).and_then(|value| std::str::from_utf8(value).ok());
    let id = match bytes(WEBHOOK_ID) {
        Some(_) => LetterId::Delivery(text(WEBHOOK_ID)?.parse::<DeliveryId>().ok()?),
        None => LetterId::Entry(text(PARTITION)?.parse().ok()?, text(ENTRY_ID)?.parse().ok()?),
    };
    Some(DeadLetter {
        id,
        payload: bytes(PAYLOAD).map(Bytes::copy_from_slice),
        reason: text(REASON)?.to_owned(),
        attempts: text(ATTEMPTS)?.parse().ok()?,
        last_status: text(LAST_STATUS).and_then(|status| status.parse().ok()),
        last_error: text(LAST_ERROR).map(str::to_owned),
    })
}
