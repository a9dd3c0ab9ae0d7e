//! User objects, read from Redis and cached for a moment (`docs/contract.md`, "The event").

use std::sync::Arc;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, pipe};
use tokio::time::Instant;

use crate::domain::{Mark, UserId, UserObject, Users, distinct_users};
use crate::store::StoreError;
use crate::store::redis::errors::{classify, is_wrong_type, unexpected};
use crate::store::redis::keys::Keys;
use crate::store::redis::marks::acks::Way;
use crate::store::redis::spans::Spans;
use crate::telemetry::metrics::{self, StoreTimer};
use crate::telemetry::{LogThrottle, in_call};

/// Lifetime of a cached user object, or of its absence. An event shows an object at most 5 s old, and
/// a call takes time too.
const LIFETIME: Duration = Duration::from_secs(4);

/// Size of the cache, in bytes.
const CAPACITY_BYTES: u64 = 64 * 1024 * 1024;

/// Size of an entry without its text, roughly.
const ENTRY_BYTES: u64 = 256;

/// Expected number of users, most of them without an object.
const CAPACITY_USERS: usize = 256 * 1024;

/// A user's object, if there is one, or why it cannot be read.
pub(super) type UserRead = Result<Option<UserObject>, StoreError>;

/// Reads and caches user objects.
#[derive(Debug)]
pub(crate) struct UserCache {
    entries: Cache<UserId, Entry, Weigh>,
    /// Largest object that is embedded, in bytes.
    object_max_bytes: usize,
    oversized_log: LogThrottle,
    unreadable_log: LogThrottle,
    timer: StoreTimer,
    spans: Arc<Spans>,
}

#[derive(Clone, Debug)]
struct Entry {
    object: Option<UserObject>,
    read_at: Instant,
}

/// Users in the order of their marks, each with what is cached.
#[allow(clippy::option_option, reason = "not cached, and cached without an object, differ")]
pub(super) struct FoundUsers(Vec<(UserId, Option<Option<UserObject>>)>);

impl FoundUsers {
    /// Returns those that are not cached.
    pub(super) fn unknown(&self) -> Vec<UserId> {
        let unknown = self.0.iter().filter(|(_, object)| object.is_none());
        unknown.map(|(user, _)| *user).collect()
    }

    /// Takes over the objects of those that were not cached, in their order.
    pub(super) fn fill(&mut self, read: Vec<Option<UserObject>>) {
        let unknown = self.0.iter_mut().filter(|(_, object)| object.is_none());
        for ((_, object), read) in unknown.zip(read) {
            *object = Some(read);
        }
    }

    /// Returns the objects.
    pub(super) fn known(self) -> Users {
        let objects = self.0.into_iter();
        Users::within_bounds(objects.filter_map(|(user, object)| Some((user, object??))))
    }
}

/// Weighs entries, in bytes.
#[derive(Clone, Debug)]
struct Weigh;

impl Weighter<UserId, Entry> for Weigh {
    fn weight(&self, _: &UserId, Entry { object, .. }: &Entry) -> u64 {
        let text_bytes = object.as_ref().map_or(0, |object| object.as_str().len());
        u64::try_from(text_bytes).unwrap_or(u64::MAX).saturating_add(ENTRY_BYTES)
    }
}

impl UserCache {
    pub(crate) fn new(object_max_bytes: usize, spans: Arc<Spans>) -> Self {
        let entries = Cache::with_weighter(CAPACITY_USERS, CAPACITY_BYTES, Weigh);
        let timer = StoreTimer::new("read_users");
        let (oversized_log, unreadable_log) = Default::default();
        Self { entries, object_max_bytes, oversized_log, unreadable_log, timer, spans }
    }

    /// Returns the objects of a mark's reader and recipient, if both are cached.
    pub(crate) fn cached(&self, mark: &Mark) -> Option<Users> {
        let now = Instant::now();
        let reader = self.lookup(mark.reader, now)?;
        let recipient = self.lookup(mark.recipient, now)?;
        let objects = [(mark.reader, reader), (mark.recipient, recipient)];
        let objects = objects.into_iter().filter_map(|(user, object)| Some((user, object?)));
        Some(Users::within_bounds(objects))
    }

    /// Looks up the readers and recipients of marks.
    pub(super) fn look_up(&self, marks: &[Mark]) -> FoundUsers {
        let now = Instant::now();
        let users = distinct_users(marks).into_iter();
        FoundUsers(users.map(|user| (user, self.lookup(user, now))).collect())
    }

    /// Returns a cached user, who may have no object.
    #[allow(clippy::option_option, reason = "not cached, and cached without an object, differ")]
    fn lookup(&self, user: UserId, now: Instant) -> Option<Option<UserObject>> {
        let known = self.entries.get(&user)?;
        (now.saturating_duration_since(known.read_at) < LIFETIME).then_some(known.object)
    }

    /// Reads objects in one round trip. It reads one byte more than an object may have, so that a longer
    /// value costs no more than that.
    pub(super) async fn read(
        &self,
        users: &[UserId],
        keys: &Keys,
        way: Way,
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<UserRead>, StoreError> {
        let _timing = self.timer.start();
        let read_at = Instant::now();
        let mut reads = pipe();
        for user in users {
            if way == Way::Asking {
                reads.cmd("ASKING");
            }
            reads.cmd("GETRANGE").arg(keys.user(*user)).arg(0).arg(self.object_max_bytes);
        }
        let reads = reads.ignore_errors();
        let read = async { reads.query_async(connection).await.map_err(unreadable) };
        let operation = if users.len() > 1 { "BATCH GETRANGE" } else { "GETRANGE" };
        let span = self.spans.command(operation, users.len());
        let values: Vec<RedisResult<Value>> = span.record(read).await?;
        let each = if way == Way::Asking { 2 } else { 1 };
        let values = values.into_iter().skip(each - 1).step_by(each);
        let objects: Vec<UserRead> = values.map(|value| self.object(value)).collect();
        for (user, object) in users.iter().zip(&objects) {
            if let Ok(object) = object {
                self.entries.insert(*user, Entry { object: object.clone(), read_at });
            }
        }
        Ok(objects)
    }

    fn object(&self, value: RedisResult<Value>) -> UserRead {
        match value {
            // An absent key reads as an empty value, which is not an object.
            Ok(Value::BulkString(value)) => Ok(self.parse(&value)),
            Ok(other) => Err(unexpected(&other)),
            Err(error) if is_wrong_type(&error) => Ok(None),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Warns that the objects of some users cannot be read.
    pub(super) fn warn_unreadable(&self, error: &StoreError) {
        if let Some(suppressed) = self.unreadable_log.permit() {
            let cause = error.to_string();
            in_call(|| {
                tracing::warn!(
                    ?cause,
                    suppressed,
                    "user objects cannot be read from a node: events have the ID alone"
                );
            });
        }
    }

    fn parse(&self, value: &[u8]) -> Option<UserObject> {
        if value.len() > self.object_max_bytes {
            metrics::count_oversized_user_object();
            if let Some(suppressed) = self.oversized_log.permit() {
                let max_bytes = self.object_max_bytes;
                in_call(|| {
                    tracing::warn!(
                        max_bytes,
                        suppressed,
                        "a user object is over --user-object-max-bytes: events have the ID alone"
                    );
                });
            }
        }
        UserObject::parse(value, self.object_max_bytes)
    }
}

/// Whatever the error, a retry is safe, since nothing was written yet.
fn unreadable(error: redis::RedisError) -> StoreError {
    StoreError::unavailable(classify(error).to_string())
}

#[cfg(test)]
mod tests;
