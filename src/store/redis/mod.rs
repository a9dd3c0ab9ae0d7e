//! The store on Redis: one atomic step a call, in one round trip.
//!
//! - `mark_read.lua`: the step. - `marks`: what is sent to it and what it replies.
//! - `users`: the user objects that go with it.
//! - `read_states.lua`, `list_cursors.lua`: reading cursors. - `reads`: the same for them.
//! - `stream`: reading the stream of events.
//! - `common.lua`: what the scripts share. - `script`: how one is called.
//! - `address`: where Redis is. - `link`: the connection, its probes, the layout. - `denials`: readers known to be over quota.
//! - `keys`: every key. - `errors`: which errors pass. - `survey` and `durability`: what an
//!   operator is told.
//! - `spans`: what a trace tells of all that.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisResult, Value, cmd, pipe};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::{AbortHandle, JoinHandle};

use self::denials::Denials;
use self::errors::{classify, lost_script};
use self::link::{Keeper, Link};
use self::marks::MarkReadScript;
use self::reads::ReadScripts;
use self::script::Script;
use self::spans::Spans;
use self::users::UserReader;
use super::{
    Entries, MarkResult, NONCE_KEPT_MS, NonceUse, Store, StoreError, StoreHealth, StreamSpan,
};
use crate::entry_id::EntryId;
use crate::identity::oauth1::Nonce;
use crate::ids::UserId;
use crate::mark_read::{Mark, Outcome, RateLimit, ReadCursor};
use crate::metrics::{self, StoreTimer};
use crate::read_state::{Conversation, CursorPage, ReadOutcome};
use crate::telemetry::Traceparent;
use crate::users::Users;

mod address;
mod denials;
mod durability;
mod errors;
mod keys;
mod link;
mod marks;
mod reads;
mod script;
mod spans;
mod stream;
mod survey;
mod users;

pub use self::address::{RedisAddress, RedisFiles};
pub use self::link::LayoutMismatch;

/// Calls that may wait for Redis at once; one more is refused. At a millisecond a call that is four
/// million calls a second: it is reached only by a Redis that hangs.
const IN_FLIGHT_MAX: usize = 4096;

/// Calls that Redis is sent at once where it waits for replicas after each.
const WAITING_MAX: usize = 16;

/// How the store works on Redis.
#[derive(Clone)]
pub struct RedisConfig {
    /// Where Redis is, with its credentials.
    pub address: RedisAddress,
    /// The stream's key.
    pub stream: String,
    /// Entries that the stream is trimmed to, roughly; 0 never trims.
    pub stream_maxlen: u64,
    /// What a user object's key has in front of the user ID.
    pub user_key_prefix: String,
    /// The quota of each reader.
    pub rate_limit: RateLimit,
    /// The quota of each reader's reads.
    pub read_rate_limit: RateLimit,
    /// What replicas must have before a mark is answered OK.
    pub replicas_ack: Option<ReplicasAck>,
}

/// `WAIT`: a mark is OK only when so many replicas have it.
#[derive(Clone, Copy, Debug)]
pub struct ReplicasAck {
    /// How many replicas.
    pub replicas: u32,
    /// How long they are waited for.
    pub timeout: Duration,
}

impl fmt::Debug for RedisConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig")
            .field("address", &self.address)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

/// Cursors, quotas and events in Redis.
#[derive(Debug)]
pub struct RedisStore {
    stream: String,
    scripts: Arc<Scripts>,
    replicas_ack: Option<ReplicasAck>,
    link: Arc<Link>,
    denials: Arc<Denials>,
    users: UserReader,
    spans: Arc<Spans>,
    keeper: AbortHandle,
    timer: StoreTimer,
    nonce_timer: StoreTimer,
    states_timer: StoreTimer,
    list_timer: StoreTimer,
    in_flight: Semaphore,
    waiting: Arc<Semaphore>,
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl RedisStore {
    /// A store that connects, and connects again, by itself, until it is dropped. The task ends
    /// only when the first Redis it meets has another layout.
    pub fn start(config: RedisConfig) -> (Arc<Self>, JoinHandle<LayoutMismatch>) {
        let RedisConfig { address, stream, stream_maxlen, rate_limit, .. } = config;
        metrics::set_stream_maxlen(stream_maxlen);
        let spans = Arc::new(Spans::of(address.info()));
        let link = Arc::new(Link::new());
        let denials = Arc::new(Denials::new(rate_limit));
        let scripts = Arc::new(Scripts {
            marks: MarkReadScript::new(stream.clone(), stream_maxlen, rate_limit),
            reads: ReadScripts::new(config.read_rate_limit),
        });
        let stream_name = stream.clone();
        let keeper = Keeper::new(
            address,
            Arc::clone(&scripts),
            stream,
            rate_limit,
            Arc::clone(&link),
            Arc::clone(&denials),
        );
        let keeper = tokio::spawn(keeper.run());
        let store = Self {
            stream: stream_name,
            scripts,
            replicas_ack: config.replicas_ack,
            link,
            denials,
            users: UserReader::new(config.user_key_prefix, Arc::clone(&spans)),
            spans,
            keeper: keeper.abort_handle(),
            timer: StoreTimer::new("mark_read"),
            nonce_timer: StoreTimer::new("use_nonce"),
            states_timer: StoreTimer::new("read_states"),
            list_timer: StoreTimer::new("list_cursors"),
            in_flight: Semaphore::new(IN_FLIGHT_MAX),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
        };
        (Arc::new(store), keeper)
    }
}

#[async_trait::async_trait]
impl Store for RedisStore {
    async fn mark_read(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let mut results: Vec<Option<MarkResult>> =
            marks.iter().map(|mark| self.known_denial(mark).map(Ok)).collect();
        let open: Vec<Mark> = marks
            .iter()
            .zip(&results)
            .filter_map(|(mark, known)| known.is_none().then_some(*mark))
            .collect();
        if !open.is_empty() {
            let mut answers = self.run_script(&open, traceparent).await?.into_iter();
            for result in results.iter_mut().filter(|result| result.is_none()) {
                *result = answers.next();
            }
        }
        let missing = || Err(StoreError::corrupt("a mark without an answer"));
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    async fn next_entries(&self, after: EntryId, wait: Duration) -> Result<Entries, StoreError> {
        stream::next(&mut self.link.tail()?, &self.stream, after, wait).await
    }

    async fn entries(&self, after: EntryId, limit: usize) -> Result<Entries, StoreError> {
        let _permit = self.permit()?;
        let mut connection = self.link.connection()?;
        let read = stream::range(&mut connection, &self.stream, after, limit);
        self.spans.command("XRANGE", 1).of(read).await
    }

    async fn newest_entries(&self, limit: usize) -> Result<Entries, StoreError> {
        let _permit = self.permit()?;
        stream::newest(&mut self.link.connection()?, &self.stream, limit).await
    }

    async fn stream_span(&self) -> Result<StreamSpan, StoreError> {
        let _permit = self.permit()?;
        let mut connection = self.link.connection()?;
        let asked = stream::span(&mut connection, &self.stream);
        self.spans.command("BATCH", stream::SPAN_COMMANDS).of(asked).await
    }

    async fn use_nonce(&self, nonce: Nonce) -> Result<NonceUse, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.nonce_timer.start();
        let mut connection = self.link.connection()?;
        let mut set = cmd("SET");
        set.arg(keys::nonce(&nonce)).arg(1).arg("NX").arg("PX").arg(NONCE_KEPT_MS);
        let set = async { set.query_async(&mut connection).await.map_err(classify) };
        let set: Option<String> = self.spans.command("SET", 1).of(set).await?;
        Ok(if set.is_some() { NonceUse::First } else { NonceUse::Repeated })
    }

    async fn read_states(
        &self,
        caller: UserId,
        conversations: &[Conversation],
    ) -> Result<ReadOutcome<Vec<Option<ReadCursor>>>, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.states_timer.start();
        let reads = &self.scripts.reads;
        let fill = |call| reads.fill_states(call, caller, conversations);
        let read = self.read(&reads.states, fill);
        let reply = self.spans.script("read_states", conversations.len()).of(read).await?;
        reads.states_read(conversations, &reply)
    }

    async fn list_cursors(
        &self,
        caller: UserId,
        after: Option<UserId>,
        limit: usize,
    ) -> Result<ReadOutcome<CursorPage>, StoreError> {
        let _permit = self.permit()?;
        let _timing = self.list_timer.start();
        let reads = &self.scripts.reads;
        let read = self.read(&reads.list, |call| reads.fill_list(call, caller, after, limit));
        let reply = self.spans.script("list_cursors", 1).of(read).await?;
        reads.page_read(after, limit, &reply)
    }

    fn health(&self) -> watch::Receiver<StoreHealth> {
        self.link.health()
    }
}

impl RedisStore {
    fn known_denial(&self, mark: &Mark) -> Option<Outcome> {
        let (quota, retry_after) = self.denials.of(mark.reader)?;
        Some(Outcome::OverQuota { quota, retry_after })
    }

    /// The right to ask Redis.
    fn permit(&self) -> Result<SemaphorePermit<'_>, StoreError> {
        let permit = self.in_flight.try_acquire();
        permit.map_err(|_| StoreError::unavailable("too many calls wait for Redis"))
    }

    async fn run_script(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _permit = self.permit()?;
        let mut connection = self.link.connection()?;
        let users = self.users.users_of(marks, &mut connection).await?;
        let step = self.step(&mut connection, marks, traceparent, &users);
        let span = self.spans.script("mark_read", marks.len());
        span.of_many(step, |results| results.iter().find_map(|result| result.as_ref().err())).await
    }

    async fn step(
        &self,
        connection: &mut MultiplexedConnection,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
        users: &Users,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _timing = self.timer.start();
        let generation = self.denials.generation();
        let asked = Instant::now();
        let step = &self.scripts.marks;
        let by_digest = step.fill(step.script.by_digest(), marks, traceparent, users);
        let reply = match self.send(connection, by_digest).await {
            Err(error) if lost_script(&error) => {
                let by_source = step.fill(step.script.by_source(), marks, traceparent, users);
                self.send(connection, by_source).await
            }
            sent => sent,
        };
        let (reply, replicas) = reply.map_err(classify)?;
        let mut results = step.results(marks, reply)?;
        for (mark, result) in marks.iter().zip(&mut results) {
            match result {
                Ok(Outcome::OverQuota { quota, retry_after }) => {
                    // Redis looked at its clock later than it was asked: a moment early is right.
                    let until = asked.checked_add(*retry_after);
                    self.denials.remember(mark.reader, *quota, until, generation);
                }
                Ok(_) if !replicas.enough => {
                    *result = Err(StoreError::unavailable("too few replicas acknowledged"));
                }
                _ => {}
            }
        }
        Ok(results)
    }

    /// Runs a script that writes nothing but a quota: no replica is waited for.
    async fn read(&self, script: &Script, fill: impl Fn(Cmd) -> Cmd) -> Result<Value, StoreError> {
        let mut connection = self.link.connection()?;
        let reply = match fill(script.by_digest()).query_async(&mut connection).await {
            Err(error) if lost_script(&error) => {
                fill(script.by_source()).query_async(&mut connection).await
            }
            sent => sent,
        };
        reply.map_err(classify)
    }

    /// Sends one call of the script, and where replicas count, waits for them.
    async fn send(
        &self,
        connection: &mut MultiplexedConnection,
        call: Cmd,
    ) -> RedisResult<(Value, Replicas)> {
        match self.replicas_ack {
            Some(ack) => self.send_and_wait(connection.clone(), call, ack).await,
            None => Ok((call.query_async(connection).await?, Replicas { enough: true })),
        }
    }

    /// `WAIT` goes on the same connection, since it looks at what this connection wrote, and holds
    /// up whatever comes behind it. So only a few calls are sent at once, and one counts until Redis
    /// has answered, even if its caller has given up; the others queue here, where a mark whose
    /// caller gives up is never sent.
    async fn send_and_wait(
        &self,
        mut connection: MultiplexedConnection,
        call: Cmd,
        ack: ReplicasAck,
    ) -> RedisResult<(Value, Replicas)> {
        let permit = Arc::clone(&self.waiting).acquire_owned().await;
        let timeout_ms = u64::try_from(ack.timeout.as_millis()).unwrap_or(u64::MAX);
        let mut calls = pipe();
        calls.add_command(call).cmd("WAIT").arg(ack.replicas).arg(timeout_ms).ignore_errors();
        let sent = tokio::spawn(async move {
            let replies: RedisResult<Vec<RedisResult<Value>>> =
                calls.query_async(&mut connection).await;
            drop(permit);
            replies
        });
        let replies = sent.await.map_err(|error| io::Error::other(error.to_string()))??;
        let [reply, acknowledged] =
            <[_; 2]>::try_from(replies).unwrap_or_else(|_| [Ok(Value::Nil), Ok(Value::Nil)]);
        // An error of WAIT, as on a master that has just been demoted, means: not enough.
        let needed = i64::from(ack.replicas);
        let enough = matches!(acknowledged, Ok(Value::Int(count)) if count >= needed);
        Ok((reply?, Replicas { enough }))
    }
}

/// All scripts, with the settings that go along with their calls.
#[derive(Debug)]
struct Scripts {
    marks: MarkReadScript,
    reads: ReadScripts,
}

impl Scripts {
    fn load(&self) -> Pipeline {
        let mut load = pipe();
        for script in [&self.marks.script, &self.reads.states, &self.reads.list] {
            load.add_command(script.load());
        }
        load
    }
}

/// Whether enough replicas have what a call of the script wrote.
#[derive(Clone, Copy)]
struct Replicas {
    enough: bool,
}
