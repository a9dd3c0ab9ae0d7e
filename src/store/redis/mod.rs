//! The store on Redis: one atomic step a call, in one round trip.
//!
//! - `mark_read.lua`: the step. - `marks`: what is sent to it and what it replies. - `steps`: which
//!   marks go together.
//! - `users`: the user objects that go with it.
//! - `read_states.lua`, `list_cursors.lua`: reading cursors. - `reads`: the same for them.
//! - `stream`: reading the stream of events.
//! - `common.lua`: what the scripts share. - `script`: how one is called.
//! - `address`: where Redis is. - `link`: the connection, its probes, the layout.
//! - `denials`: readers known to be over quota.
//! - `keys`: every key. - `errors`: which errors pass. - `survey` and `durability`: what an
//!   operator is told.
//! - `spans`: what a trace tells of all that.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value, cmd, pipe};
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::{AbortHandle, JoinHandle};

use self::connection::link::{Keeper, Link};
use self::errors::{classify, lost_script};
use self::marks::denials::Denials;
use self::marks::group_commit::Steps;
use self::marks::script_call::{MarkReadScript, TracedMark};
use self::marks::users::UserReader;
use self::reads::ReadScripts;
use self::scripts::Script;
use self::spans::Spans;
use super::{
    Entries, MarkResult, NONCE_KEPT_MS, NonceUse, Store, StoreError, StoreHealth, StreamSpan,
};
use crate::domain::{
    Conversation, CursorPage, EntryId, Mark, Nonce, Outcome, RateLimit, ReadCursor, ReadOutcome,
    UserId, Users,
};
use crate::telemetry::Traceparent;
use crate::telemetry::metrics::{self, StoreTimer};

mod connection;
mod errors;
mod keys;
mod marks;
mod probe;
mod reads;
mod scripts;
mod spans;
mod stream;

pub use self::connection::address::{RedisAddress, RedisFiles};
pub use self::connection::link::LayoutMismatch;

/// Calls that may wait for Redis at once; one more is refused. At a millisecond a call that is four
/// million calls a second: it is reached only by a Redis that hangs.
const IN_FLIGHT_MAX: usize = 4096;

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
    steps: Arc<Steps>,
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
        let denials = Arc::new(Denials::new());
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
        let steps = Steps::new(
            Arc::clone(&scripts),
            Arc::clone(&link),
            Arc::clone(&denials),
            config.replicas_ack,
        );
        let store = Self {
            stream: stream_name,
            scripts,
            steps: Arc::new(steps),
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
        };
        (Arc::new(store), keeper)
    }
}

#[async_trait::async_trait]
impl Store for RedisStore {
    /// It may share its step with others.
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult {
        if let Some(denial) = self.known_denial(&mark) {
            return Ok(denial);
        }
        let _permit = self.permit()?;
        let users = match self.users.known(&mark) {
            Some(users) => users,
            // On the heap: most users are known, and each call would carry the room for it.
            None => Box::pin(self.read_users(&[mark])).await?,
        };
        let _timing = self.timer.start();
        let step = self.steps.do_one(TracedMark { mark, traceparent }, users);
        self.spans.script("mark_read", 1).of(step).await
    }

    /// Marks of one caller, in one step.
    async fn mark_read_all(
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
            let mut answers = self.do_all(&open, traceparent).await?.into_iter();
            for result in results.iter_mut().filter(|result| result.is_none()) {
                *result = answers.next();
            }
        }
        let missing = || Err(StoreError::unanswered_mark());
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

    async fn read_users(&self, marks: &[Mark]) -> Result<Users, StoreError> {
        self.users.users_of(marks, &mut self.link.connection()?).await
    }

    async fn do_all(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _permit = self.permit()?;
        let users = self.read_users(marks).await?;
        let _timing = self.timer.start();
        let traced: Vec<_> = marks.iter().map(|&mark| TracedMark { mark, traceparent }).collect();
        let step = self.steps.step(&traced, &users);
        let span = self.spans.script("mark_read", marks.len());
        span.of_many(step, |results| results.iter().find_map(|result| result.as_ref().err())).await
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
