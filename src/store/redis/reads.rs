//! Reads of cursors: calls of `read_states.lua`, `list_cursors.lua` and `take_reads.lua`, and their replies.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Cmd, Value};

use super::errors::{classify_text, unexpected};
use super::keys::Keys;
use super::scripts::{Script, integer, text};
use crate::domain::{Conversation, CursorPage, Quota, RateLimit, ReadCursor, ReadOutcome, UserId};
use crate::store::StoreError;

/// The scripts, and the quota that every call of them has.
#[derive(Debug)]
pub(crate) struct ReadScripts {
    pub(crate) states: Script,
    pub(crate) list: Script,
    pub(crate) take: Script,
    rate_limit: RateLimit,
}

impl ReadScripts {
    pub(crate) fn new(rate_limit: RateLimit) -> Self {
        let (states, list) = (Script::read_states(), Script::list_cursors());
        Self { states, list, take: Script::take_reads(), rate_limit }
    }

    /// Adds keys and arguments to a call of `states`.
    pub(crate) fn fill_states(
        &self,
        mut call: Cmd,
        keys: &Keys,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Cmd {
        call.arg(1 + conversations.len()).arg(keys.read_quota(caller));
        for conversation in conversations {
            call.arg(keys.cursors(conversation.reader));
        }
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms);
        for conversation in conversations {
            call.arg(conversation.recipient.get());
        }
        call
    }

    /// Parses the reply of `states`.
    pub(crate) fn parse_states(
        &self,
        conversations: &[Conversation],
        reply: &Value,
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        let Value::Array(fields) = reply else { return Err(unexpected(reply)) };
        let [Value::BulkString(outcome), used, reset_at_ms, Value::Array(cursors)] = &fields[..]
        else {
            return self.over_quota(fields);
        };
        if outcome != b"read" || cursors.len() != conversations.len() {
            return Err(unexpected(reply));
        }
        let read = conversations.iter().zip(cursors).map(|(conversation, cursor)| {
            let Value::Array(cursor) = cursor else { return Err(unexpected(cursor)) };
            match &cursor[..] {
                [] => Ok(None),
                [message, read_at_ms] => Ok(Some(ReadCursor {
                    recipient: conversation.recipient,
                    last_read_event_id: text(message)?.parse().map_err(StoreError::corrupt)?,
                    read_at_ms: integer(read_at_ms)?,
                })),
                _ => Err(StoreError::corrupt("a cursor in the reply is malformed")),
            }
        });
        let quota = self.rate_limit.quota(integer(used)?, integer(reset_at_ms)?);
        Ok(ReadOutcome::Served { read: read.collect::<Result<_, _>>()?, quota })
    }

    /// Adds keys and arguments to a call of `list`.
    pub(crate) fn fill_list(
        &self,
        mut call: Cmd,
        keys: &Keys,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Cmd {
        call.arg(2).arg(keys.read_quota(caller)).arg(keys.cursors(caller));
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms);
        call.arg(after.map(|after| after.to_string()).unwrap_or_default()).arg(limit);
        call
    }

    /// Parses the reply of `list`, and cuts the page out of the hashes in it.
    pub(crate) fn parse_page(
        &self,
        after: Option<UserId>,
        limit: usize,
        reply: &Value,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        let Value::Array(fields) = reply else { return Err(unexpected(reply)) };
        let [Value::BulkString(outcome), used, reset_at_ms, more, hashes @ ..] = &fields[..] else {
            return self.over_quota(fields);
        };
        if outcome != b"read" {
            return Err(unexpected(reply));
        }
        let mut cursors = Vec::new();
        for hash in hashes {
            cursors.extend(parse_cursors(hash)?);
        }
        cursors.sort_unstable_by_key(|cursor| place(cursor.recipient));
        if let Some(after) = after {
            let place_after = place(after);
            cursors.retain(|cursor| place(cursor.recipient) > place_after);
        }
        let more = integer(more)? == 1 || cursors.len() > limit;
        cursors.truncate(limit);
        let quota = self.rate_limit.quota(integer(used)?, integer(reset_at_ms)?);
        Ok(ReadOutcome::Served { read: CursorPage { cursors, more }, quota })
    }

    /// Adds keys and arguments to a call of `take`. Its reply is that of `states` without conversations.
    pub(crate) fn fill_take(&self, mut call: Cmd, keys: &Keys, watcher: UserId, reads: u64) -> Cmd {
        call.arg(1).arg(keys.read_quota(watcher));
        call.arg(self.rate_limit.calls).arg(self.rate_limit.window_ms).arg(reads);
        call
    }

    fn over_quota<T>(&self, fields: &[Value]) -> Result<ReadOutcome<T>, StoreError> {
        let (quota, retry_after) = parse_refusal(fields, self.rate_limit)?;
        Ok(ReadOutcome::OverQuota { quota, retry_after })
    }
}

/// Returns a conversation's place in the reader's list: its hash with the bits reversed, as in
/// `list_cursors.lua`, then the recipient. The hash is `hash_of` in `buckets.lua`.
fn place(recipient: UserId) -> (u32, UserId) {
    const MODULUS: u64 = 2_147_483_647;
    let last_15_digits = recipient.get() % 1_000_000_000_000_000;
    let hash = last_15_digits % MODULUS * 48_271 % MODULUS;
    (u32::try_from(hash).unwrap_or_default().reverse_bits(), recipient)
}

/// Parses the cursors of one hash: fields `<recipient>` and `-<recipient>`, in any order.
fn parse_cursors(hash: &Value) -> Result<Vec<ReadCursor>, StoreError> {
    let Value::Array(fields) = hash else { return Err(unexpected(hash)) };
    let mut messages = Vec::with_capacity(fields.len() / 4);
    let mut times = HashMap::with_capacity(fields.len() / 4);
    for pair in fields.chunks_exact(2) {
        let (name, value) = (text(&pair[0])?, text(&pair[1])?);
        match name.strip_prefix('-') {
            Some(recipient) => drop(times.insert(recipient, value)),
            None => messages.push((name, value)),
        }
    }
    let cursor = |(recipient, message): (&str, &str)| {
        let time = times.get(recipient).ok_or_else(|| StoreError::corrupt("a cursor has no time"));
        Ok(ReadCursor {
            recipient: recipient.parse().map_err(StoreError::corrupt)?,
            last_read_event_id: message.parse().map_err(StoreError::corrupt)?,
            read_at_ms: time?.parse().map_err(StoreError::corrupt)?,
        })
    };
    messages.into_iter().map(cursor).collect()
}

/// Parses the reply of a read script that did not read.
fn parse_refusal(fields: &[Value], rate_limit: RateLimit) -> Result<(Quota, Duration), StoreError> {
    match fields {
        [Value::BulkString(outcome), reset_at_ms, ttl_ms] if outcome == b"over_quota" => {
            let quota = rate_limit.quota(rate_limit.calls, integer(reset_at_ms)?);
            Ok((quota, Duration::from_millis(integer(ttl_ms)?)))
        }
        [Value::BulkString(outcome), problem] if outcome == b"error" => {
            Err(classify_text(text(problem)?))
        }
        _ => Err(StoreError::corrupt(format!("unexpected reply of {} fields", fields.len()))),
    }
}
