//! Ends the service of a store whose cursors are moved, in two steps: its layout gets a version that no
//! server accepts, and then its stream is put out of the servers' way.
//!
//! A server notices the layout at its next probe, and marks until then; one that is stopped marks when it
//! goes on. An event comes before its cursor in each of their scripts, so once the stream cannot be written,
//! no cursor advances. What was marked before that is in the stream.

use std::sync::Arc;

use redis::{RedisResult, cmd};

use crate::domain::EntryId;
use crate::store::redis::admin::AdminError;
use crate::store::redis::admin::cursors::CursorAdmin;
use crate::store::redis::connection::layout::MOVED;

/// Sets another version in place of one, and notes the destination and the stream. A full Redis refuses a
/// script's first write if it needs memory, so that is one that does not.
const SET_VERSION: &str = "
    local version = redis.call('HGET', KEYS[1], 'version')
    if version == ARGV[2] then return 1 end
    if version ~= ARGV[1] then return 0 end
    redis.call('HDEL', KEYS[1], 'x')
    redis.call('HSET', KEYS[1], 'version', ARGV[2], 'moved_to', ARGV[3], 'moved_stream', ARGV[4])
    return 1";

/// Renames the stream, if it is there, and puts a string in its place.
const CLOSE_STREAM: &str = "
    local function type_of(key) return redis.call('TYPE', key).ok end
    local version = redis.call('HGET', KEYS[1], 'version')
    if not version or not string.find(version, '-moved$') then
        return {err = 'LAYOUT the version has changed'}
    end
    if type_of(KEYS[2]) == 'stream' then
        if type_of(KEYS[3]) ~= 'none' then return {err = 'ERR there are two streams of moved events'} end
        redis.call('RENAME', KEYS[2], KEYS[3])
    end
    redis.call('HDEL', KEYS[1], 'x')
    redis.call('SET', KEYS[2], 'moved')
    return redis.status_reply('OK')";

/// Entries of the stream of which one must be an event.
const STREAM_SAMPLE: usize = 100;

/// Returns the commands of both that the user may not run.
const MAY_CLOSE: &str = "
    local missing = {}
    for _, words in ipairs({
        {'HSET', KEYS[1], 'version', 'x'}, {'HDEL', KEYS[1], 'x'}, {'TYPE', KEYS[2]},
        {'RENAME', KEYS[2], KEYS[3]}, {'SET', KEYS[2], 'x'},
    }) do
        local exists, may = pcall(redis.acl_check_cmd, unpack(words))
        if not (exists and may) then missing[#missing + 1] = words[1] end
    end
    return missing";

/// Undoes both. Servers that have read that the cursors were moved go by `reopened`.
const REOPEN: &str = "
    local function type_of(key) return redis.call('TYPE', key).ok end
    if redis.call('HGET', KEYS[1], 'version') ~= ARGV[2] then return 0 end
    if type_of(KEYS[3]) == 'stream' then
        redis.call('RENAME', KEYS[3], KEYS[2])
    elseif type_of(KEYS[2]) == 'string' then
        redis.call('UNLINK', KEYS[2])
    end
    local reopened = tonumber(redis.call('HGET', KEYS[1], 'reopened') or '') or 0
    redis.call('HSET', KEYS[1], 'version', ARGV[1], 'reopened', reopened + 1)
    redis.call('HDEL', KEYS[1], 'moved_to', 'moved_stream')
    return 1";

/// Returns the ID of a store, and gives it one if it has none.
const IDENTIFY: &str = "
    local id = redis.call('HGET', KEYS[1], 'id')
    if id then return id end
    redis.call('HDEL', KEYS[1], 'x')
    redis.call('HSET', KEYS[1], 'id', ARGV[1])
    return ARGV[1]";

impl CursorAdmin {
    /// Returns whether the cursors were moved, or are being.
    pub(super) fn is_moved(&self) -> bool {
        MOVED.iter().any(|(_, moved)| *moved == self.version)
    }

    /// Returns the ID of the store.
    pub(super) async fn identify(&mut self) -> RedisResult<String> {
        let new = format!("{:032x}", rand::random::<u128>());
        let mut identify = cmd("EVAL");
        identify.arg(IDENTIFY).arg(1).arg(self.shared.keys.layout()).arg(new);
        self.connection.query(&identify).await
    }

    /// Checks that servers can be shut out: once that has begun, it has to be completed.
    pub(super) async fn check_may_close(&mut self) -> Result<(), AdminError> {
        let shared = Arc::clone(&self.shared);
        let keys = &shared.keys;
        let mut check = cmd("EVAL");
        check.arg(MAY_CLOSE).arg(3);
        check.arg(keys.layout()).arg(keys.stream()).arg(keys.moved_events());
        let missing: Vec<String> = self.connection.query(&check).await?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(AdminError::Failed(format!(
            "nothing was changed: Redis refuses {}, without which servers cannot be shut out",
            missing.join(", ")
        )))
    }

    /// Checks that the stream has this name, by which servers note what advances, if it is there. Returns
    /// whether it is.
    pub(super) async fn check_stream(&mut self) -> Result<bool, AdminError> {
        let shared = Arc::clone(&self.shared);
        let stream = shared.keys.stream();
        let mut ask = cmd("TYPE");
        ask.arg(stream);
        let kind: String = self.connection.query(&ask).await?;
        match &*kind {
            "none" => return Ok(false),
            "stream" => {}
            _ => return Err(AdminError::Failed(format!("--stream {stream} is not a stream"))),
        }
        let first = self.entries(&shared.keys, EntryId::ZERO, STREAM_SAMPLE).await?;
        if first.count > 0 && first.events.is_empty() {
            return Err(AdminError::Failed(format!(
                "--stream {stream} has entries of other programs alone: the servers' --stream must be given"
            )));
        }
        Ok(true)
    }

    /// Checks that an earlier move, which may have been interrupted, was one of this stream, and to this
    /// destination if it is given.
    pub(super) async fn check_earlier_move(&mut self, to: Option<&str>) -> Result<(), AdminError> {
        if !self.is_moved() {
            return Ok(());
        }
        let mut read = cmd("HMGET");
        read.arg(self.shared.keys.layout()).arg("moved_to").arg("moved_stream");
        let (moved_to, stream): (Option<String>, Option<String>) =
            self.connection.query(&read).await?;
        let given = self.shared.keys.stream();
        if let Some(stream) = stream.filter(|stream| stream != given) {
            return Err(AdminError::Failed(format!(
                "the cursors were moved with another --stream: {stream}, not {given}"
            )));
        }
        if to.is_some_and(|to| moved_to.is_some_and(|moved_to| moved_to != to)) {
            return Err(AdminError::Failed(
                "the cursors were moved to another Redis than --to, or that was flushed since: give that \
                 one, or let the old servers in with --undo first"
                    .to_owned(),
            ));
        }
        Ok(())
    }

    /// Writes into the layout that the cursors were moved to this destination.
    pub(super) async fn write_moved(&mut self, to: &str) -> Result<(), AdminError> {
        let Some((before, moved)) = MOVED.iter().find(|(before, _)| *before == self.version) else {
            return Ok(());
        };
        let mut change = cmd("EVAL");
        change.arg(SET_VERSION).arg(1).arg(self.shared.keys.layout()).arg(before).arg(moved);
        change.arg(to).arg(self.shared.keys.stream());
        if !self.connection.query::<bool>(&change).await? {
            return Err(changed_meanwhile());
        }
        self.read_layout().await
    }

    /// Closes the stream to servers. What is in it stays, by the name that is returned in its keys.
    pub(super) async fn close_stream(&mut self) -> Result<(), AdminError> {
        let shared = Arc::clone(&self.shared);
        let keys = &shared.keys;
        let mut close = cmd("EVAL");
        close.arg(CLOSE_STREAM).arg(3);
        close.arg(keys.layout()).arg(keys.stream()).arg(keys.moved_events());
        Ok(self.connection.query(&close).await?)
    }

    /// Gives the partition back to servers. Returns whether it was moved.
    pub(super) async fn reopen(&mut self) -> Result<bool, AdminError> {
        let Some((before, moved)) = MOVED.iter().find(|(_, moved)| *moved == self.version) else {
            return Ok(false);
        };
        let shared = Arc::clone(&self.shared);
        let keys = &shared.keys;
        let mut reopen = cmd("EVAL");
        reopen.arg(REOPEN).arg(3);
        reopen.arg(keys.layout()).arg(keys.stream()).arg(keys.moved_events());
        reopen.arg(before).arg(moved);
        if !self.connection.query::<bool>(&reopen).await? {
            return Err(changed_meanwhile());
        }
        Ok(true)
    }
}

fn changed_meanwhile() -> AdminError {
    AdminError::Failed("the layout was changed meanwhile: run the command again".to_owned())
}
