//! User objects, read from Redis and remembered for a moment: CONTRACT section 7.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, pipe};

use crate::domain::{Mark, USER_OBJECT_MAX_BYTES, UserId, UserObject, Users, distinct_users};
use crate::store::StoreError;
use crate::store::redis::errors::{classify, is_wrong_type};
use crate::store::redis::keys;
use crate::store::redis::spans::Spans;
use crate::telemetry::metrics::StoreTimer;

/// How long a user object, or that there is none, is remembered. An event may be older by as long
/// as its call takes, and is to show what was stored 5 s ago at the most.
const REMEMBERED: Duration = Duration::from_secs(4);

/// What is remembered, in bytes.
const CAPACITY_BYTES: u64 = 64 * 1024 * 1024;

/// What an entry costs beside its text, roughly.
const ENTRY_BYTES: u64 = 256;

/// How many users that is about, where most have no object.
const CAPACITY_USERS: usize = 256 * 1024;

/// Reads user objects.
#[derive(Debug)]
pub(crate) struct UserReader {
    key_prefix: String,
    remembered: Cache<UserId, Remembered, Weigh>,
    timer: StoreTimer,
    spans: Arc<Spans>,
}

#[derive(Clone, Debug)]
struct Remembered {
    object: Option<UserObject>,
    asked: Instant,
}

/// Weighs what is remembered, in bytes.
#[derive(Clone, Debug)]
struct Weigh;

impl Weighter<UserId, Remembered> for Weigh {
    fn weight(&self, _: &UserId, Remembered { object, .. }: &Remembered) -> u64 {
        let text_bytes = object.as_ref().map_or(0, |object| object.as_str().len());
        u64::try_from(text_bytes).unwrap_or(u64::MAX).saturating_add(ENTRY_BYTES)
    }
}

impl UserReader {
    pub(crate) fn new(key_prefix: String, spans: Arc<Spans>) -> Self {
        let remembered = Cache::with_weighter(CAPACITY_USERS, CAPACITY_BYTES, Weigh);
        Self { key_prefix, remembered, timer: StoreTimer::new("read_users"), spans }
    }

    /// The user objects of a mark's reader and recipient, where both are remembered.
    pub(crate) fn known(&self, mark: &Mark) -> Option<Users> {
        let now = Instant::now();
        let reader = self.recall(mark.reader, now)?;
        let recipient = self.recall(mark.recipient, now)?;
        let objects = [(mark.reader, reader), (mark.recipient, recipient)];
        let objects = objects.into_iter().filter_map(|(user, object)| Some((user, object?)));
        Some(Users::within_bounds(objects))
    }

    /// The user objects of the readers and recipients, the first mark's first. Those that are not
    /// remembered cost one round trip together.
    pub(crate) async fn users_of(
        &self,
        marks: &[Mark],
        connection: &mut MultiplexedConnection,
    ) -> Result<Users, StoreError> {
        let users = distinct_users(marks);
        let now = Instant::now();
        let mut objects: Vec<_> = users.iter().map(|user| self.recall(*user, now)).collect();
        let unknown = users.iter().zip(&objects).filter(|(_, object)| object.is_none());
        let unknown: Vec<_> = unknown.map(|(user, _)| *user).collect();
        if !unknown.is_empty() {
            let mut read = self.read(&unknown, connection).await?.into_iter();
            for object in objects.iter_mut().filter(|object| object.is_none()) {
                *object = read.next();
            }
        }
        let objects = users.into_iter().zip(objects);
        Ok(Users::within_bounds(objects.filter_map(|(user, object)| Some((user, object??)))))
    }

    /// What is remembered of a user, who may have no object.
    #[allow(clippy::option_option, reason = "not known, and known not to be there, are two things")]
    fn recall(&self, user: UserId, now: Instant) -> Option<Option<UserObject>> {
        let known = self.remembered.get(&user)?;
        (now.saturating_duration_since(known.asked) < REMEMBERED).then_some(known.object)
    }

    /// One read of them all. It asks for one byte more than a user object may have, so that what is
    /// stored costs no more, however long it is.
    async fn read(
        &self,
        users: &[UserId],
        connection: &mut MultiplexedConnection,
    ) -> Result<Vec<Option<UserObject>>, StoreError> {
        let _timing = self.timer.start();
        let asked = Instant::now();
        let mut reads = pipe();
        for user in users {
            let key = keys::user(&self.key_prefix, *user);
            reads.cmd("GETRANGE").arg(key).arg(0).arg(USER_OBJECT_MAX_BYTES);
        }
        let reads = reads.ignore_errors();
        let read = async { reads.query_async(connection).await.map_err(unreadable) };
        let operation = if users.len() > 1 { "BATCH GETRANGE" } else { "GETRANGE" };
        let span = self.spans.command(operation, users.len());
        let values: Vec<RedisResult<Vec<u8>>> = span.of(read).await?;
        let object = |value: RedisResult<Vec<u8>>| match value {
            // An empty value is none, and no object either.
            Ok(value) => Ok(UserObject::parse(&value)),
            Err(error) if is_wrong_type(&error) => Ok(None),
            Err(error) => Err(unreadable(error)),
        };
        let objects = values.into_iter().map(object).collect::<Result<Vec<_>, _>>()?;
        for (user, object) in users.iter().zip(&objects) {
            self.remembered.insert(*user, Remembered { object: object.clone(), asked });
        }
        Ok(objects)
    }
}

/// Whatever Redis says: a retry is safe, since nothing was written yet.
fn unreadable(error: redis::RedisError) -> StoreError {
    StoreError::unavailable(classify(error).to_string())
}
