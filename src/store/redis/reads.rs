//! Reads of cursors: calls of `read_states.lua`, `list_cursors.lua` and `take_reads.lua`, and their replies.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::{Cmd, Value};

use super::errors::{classify_text, unexpected};
use super::keys::Keys;
use super::placement::Placement;
use super::scripts::{Script, integer, text};
use crate::domain::{
    Conversation, CursorPage, HashPart, ListOrder, ListPosition, Quota, RateLimit, ReadCursor,
    ReadOutcome, UserId,
};
use crate::store::StoreError;
use crate::telemetry::LogThrottle;

/// The scripts, and the quota that every call of them has.
#[derive(Debug)]
pub(crate) struct ReadScripts {
    pub(crate) states: Script,
    pub(crate) list: Script,
    pub(crate) take: Script,
    pub(crate) moves: Script,
    rate_limit: RateLimit,
    whole_log: LogThrottle,
}

impl ReadScripts {
    pub(crate) fn new(rate_limit: RateLimit) -> Self {
        let (states, list) = (Script::read_states(), Script::list_cursors());
        let (take, moves) = (Script::take_reads(), Script::move_reader());
        Self { states, list, take, moves, rate_limit, whole_log: LogThrottle::default() }
    }

    /// Adds keys and arguments to a call of `states`. It costs one of the read quota, or nothing.
    pub(crate) fn fill_states(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        caller: UserId,
        StatesCall { conversations, is_free }: StatesCall<'_>,
    ) -> Cmd {
        call.arg(2 + conversations.len()).arg(keys.layout()).arg(keys.read_quota(caller));
        for conversation in conversations {
            call.arg(keys.cursors(conversation.reader));
        }
        call.arg(placement.version());
        call.arg(if is_free { 0 } else { self.rate_limit.calls }).arg(self.rate_limit.window_ms);
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
                    last_read_event_id: parse_id("a cursor", text(message)?)?,
                    read_at_ms: integer(read_at_ms)?,
                })),
                _ => Err(StoreError::corrupt("a cursor in the reply is malformed")),
            }
        });
        let quota = self.rate_limit.quota(integer(used)?, integer(reset_at_ms)?);
        Ok(ReadOutcome::Served { read: read.collect::<Result<_, _>>()?, quota })
    }

    /// Adds keys and arguments to a call of `list`. It costs one of the read quota, or nothing.
    pub(crate) fn fill_list(
        &self,
        mut call: Cmd,
        keys: &Keys,
        placement: &Placement,
        page: &PageCall,
    ) -> Cmd {
        let PageCall { caller, version, position, limit, is_free } = page;
        call.arg(3).arg(keys.layout()).arg(keys.read_quota(*caller)).arg(keys.cursors(*caller));
        let calls = if *is_free { 0 } else { self.rate_limit.calls };
        call.arg(version).arg(calls).arg(self.rate_limit.window_ms);
        let after = position.after.map_or(0, |after| placement.place(after));
        call.arg(after.max(position.place)).arg(limit);
        match position.part {
            Some(HashPart { buckets, scan, until }) => {
                call.arg(buckets).arg(scan).arg(until.map_or(0, UserId::get))
            }
            None => call.arg("").arg("").arg(""),
        };
        call
    }

    /// Parses the reply of `list`, and cuts the page out of the hashes in it.
    pub(crate) fn parse_page(
        &self,
        placement: &Placement,
        page: &PageCall,
        reply: &Value,
    ) -> Result<ReadOutcome<PageReply>, StoreError> {
        let Value::Array(fields) = reply else { return Err(unexpected(reply)) };
        let [Value::BulkString(outcome), used, reset_at_ms, more, hashes @ ..] = &fields[..] else {
            return self.over_quota(fields);
        };
        if outcome != b"read" {
            return Err(unexpected(reply));
        }
        let quota = self.rate_limit.quota(integer(used)?, integer(reset_at_ms)?);
        let more = integer(more)?;
        if more == MOVING {
            return Ok(ReadOutcome::Served { read: PageReply::Moving, quota });
        }
        let [place, buckets, scan, until, hashes @ ..] = hashes else {
            return Err(unexpected(reply));
        };
        let mut cursors = Vec::new();
        for hash in hashes {
            match hash {
                Value::BulkString(_) => self.warn_whole(text(hash)?),
                hash => cursors.extend(parse_cursors(hash)?),
            }
        }
        let PageCall { position, limit, .. } = page;
        let key = |cursor: &ReadCursor| (placement.place(cursor.recipient), cursor.recipient);
        cursors.sort_by_cached_key(key);
        if let Some(after) = position.after {
            let after = (placement.place(after), after);
            cursors.retain(|cursor| key(cursor) > after);
        }
        let is_cut = cursors.len() > *limit;
        cursors.truncate(*limit);
        let next = match place {
            _ if !is_cut && more == 0 => None,
            Value::Int(place) if *place >= 0 && !is_cut => {
                let place = u32::try_from(*place).map_err(StoreError::corrupt)?;
                Some(ListPosition { place, part: parse_part(buckets, scan, until)?, ..*position })
            }
            _ => {
                let after = cursors.last().map(|last| last.recipient).or(position.after);
                let beginning = ListPosition::beginning(position.order);
                Some(ListPosition { after, listed: position.listed, ..beginning })
            }
        };
        if let Some(listed) = position.listed {
            let plain = |recipient| (Placement::Plain.place(recipient), recipient);
            cursors.retain(|cursor| plain(cursor.recipient) > listed);
        }
        let read = PageReply::Page(CursorPage { cursors, next });
        Ok(ReadOutcome::Served { read, quota })
    }

    fn warn_whole(&self, problem: &str) {
        if let Some(suppressed) = self.whole_log.permit() {
            let problem = self.list.locate_lines(problem);
            tracing::warn!(
                %problem,
                suppressed,
                "pages read large hashes whole, since Redis refuses to read them in parts"
            );
        }
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

/// `more` in the reply of `list` while the reader's cursors are being moved.
const MOVING: u64 = 2;

/// A call of `states`: cursors of one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StatesCall<'a> {
    pub(crate) conversations: &'a [Conversation],
    pub(crate) is_free: bool,
}

/// A call of `list`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PageCall {
    pub(crate) caller: UserId,
    /// The layout's version.
    pub(crate) version: &'static str,
    /// Where the page begins, in the order of the placement.
    pub(crate) position: ListPosition,
    pub(crate) limit: usize,
    pub(crate) is_free: bool,
}

/// The reply of `list`.
#[derive(Clone, Debug)]
pub(crate) enum PageReply {
    /// The reader's cursors are being moved to the current placement, and nothing was read.
    Moving,
    /// A page.
    Page(CursorPage),
}

/// Result of a step that moves a reader's cursors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MoveStep {
    /// How many were moved.
    pub(crate) cursors: u64,
    /// Whether more are left.
    pub(crate) more: bool,
}

/// Adds keys and arguments to a call of `move_reader.lua`.
pub(crate) fn fill_move(mut call: Cmd, keys: &Keys, version: &str, reader: UserId) -> Cmd {
    call.arg(2).arg(keys.layout()).arg(keys.cursors(reader)).arg(version);
    call
}

/// Parses its reply.
pub(crate) fn parse_move(reply: &Value) -> Result<MoveStep, StoreError> {
    let Value::Array(values) = reply else { return Err(unexpected(reply)) };
    let [cursors, more] = &values[..] else { return Err(unexpected(reply)) };
    Ok(MoveStep { cursors: integer(cursors)?, more: integer(more)? == 1 })
}

/// Returns a position of a list that was begun in any order as one in the placement's. Nothing is
/// missed: a list that was begun in the plain order goes on from the beginning without what was listed
/// before; after a downgrade everything is listed again, since the keyed order is no longer known.
pub(crate) fn in_order_of(placement: &Placement, position: ListPosition) -> ListPosition {
    let order = placement.order();
    if position.order == order {
        return position;
    }
    let after = position.after.map(|after| (Placement::Plain.place(after), after));
    let before = position.place.checked_sub(1).map(|place| (place, UserId::MAX));
    let listed = match position.order {
        ListOrder::Plain => after.max(before).max(position.listed),
        ListOrder::Keyed => position.listed,
    };
    ListPosition { listed, ..ListPosition::beginning(order) }
}

fn parse_part(
    buckets: &Value,
    scan: &Value,
    until: &Value,
) -> Result<Option<HashPart>, StoreError> {
    let number = |value| text(value)?.parse::<u64>().map_err(StoreError::corrupt);
    if text(buckets)?.is_empty() {
        return Ok(None);
    }
    let until = number(until)?.try_into().ok();
    Ok(Some(HashPart { buckets: number(buckets)?, scan: number(scan)?, until }))
}

/// Parses an ID. What it is the ID of begins the text of an error, whose rest says what is wrong.
fn parse_id<T: FromStr<Err: fmt::Display>>(what: &str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|problem| StoreError::corrupt(format!("{what} {problem}")))
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
            recipient: parse_id("a recipient", recipient)?,
            last_read_event_id: parse_id("a cursor", message)?,
            read_at_ms: time?
                .parse()
                .map_err(|_| StoreError::corrupt("a cursor's time is not a number"))?,
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
