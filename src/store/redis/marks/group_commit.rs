//! Atomic steps: marks on their way to the script, alone, in a batch, or together with others.
//!
//! A single mark that finds a turn free takes it, and leaves at once. Those that find none wait; when a
//! turn is given back the next ones leave together, in one call of the script. So a mark that is alone
//! is not held up, and under load the round trip, the script's start and its look at the clock are
//! shared.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value, pipe};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};

use crate::domain::{Outcome, Users};
use crate::store::redis::connection::link::Link;
use crate::store::redis::errors::{classify, lost_script};
use crate::store::redis::marks::denials::Denials;
use crate::store::redis::marks::script_call::TracedMark;
use crate::store::redis::{ReplicasAck, Scripts};
use crate::store::{MarkResult, StoreError};

/// Single marks' steps that are with Redis at once. With two it waits while the server answers those of
/// both.
const TURNS: usize = 3;

/// Marks that share a step: for so long nobody else is served.
const SHARED_MAX_MARKS: usize = 64;

/// What the user objects of a shared step may come to, in bytes, before its last mark.
const SHARED_MAX_BYTES: usize = 1024 * 1024;

/// Calls that Redis is sent at once where it waits for replicas after each.
const WAITING_MAX: usize = 16;

/// What it takes to step, and who waits to.
pub(crate) struct Steps {
    scripts: Arc<Scripts>,
    link: Arc<Link>,
    denials: Arc<Denials>,
    replicas_ack: Option<ReplicasAck>,
    waiting_for_replicas: Arc<Semaphore>,
    turns: Mutex<Turns>,
}

#[derive(Default)]
struct Turns {
    taken: usize,
    queue: VecDeque<Queued>,
}

/// A mark without a turn, with what goes along.
struct Queued {
    mark: TracedMark,
    users: Users,
    answer: Answer,
}

type Answer = oneshot::Sender<MarkResult>;

/// Marks that share a step.
#[derive(Default)]
struct Shared {
    marks: Vec<TracedMark>,
    users: Users,
    answers: Vec<Answer>,
}

/// The right to step, until it is dropped.
struct Turn(Arc<Steps>);

impl Steps {
    pub(crate) fn new(
        scripts: Arc<Scripts>,
        link: Arc<Link>,
        denials: Arc<Denials>,
        replicas_ack: Option<ReplicasAck>,
    ) -> Self {
        let waiting_for_replicas = Arc::new(Semaphore::new(WAITING_MAX));
        let turns = Mutex::default();
        Self { scripts, link, denials, replicas_ack, waiting_for_replicas, turns }
    }

    /// Does one mark, in a step of its own or with others.
    pub(crate) async fn do_one(self: &Arc<Self>, mark: TracedMark, users: Users) -> MarkResult {
        match self.ask_for_turn(mark, users) {
            // On the heap: under load most marks wait, and each would carry the room for it.
            Ok((turn, users)) => Box::pin(self.step_alone(turn, mark, users)).await,
            // It ends without an answer when the process does.
            Err(answered) => {
                answered.await.unwrap_or_else(|gone| Err(StoreError::unavailable(gone)))
            }
        }
    }

    async fn step_alone(&self, turn: Turn, mark: TracedMark, users: Users) -> MarkResult {
        let result = self.step(&[mark], &users).await.map(|mut results| results.pop());
        drop(turn);
        result?.unwrap_or_else(|| Err(StoreError::unanswered_mark()))
    }

    /// Does marks in order, in one step.
    pub(crate) async fn step(
        &self,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let mut connection = self.link.connection()?;
        let generation = self.denials.generation();
        let asked = Instant::now();
        let step = &self.scripts.marks;
        let by_digest = step.fill(step.script.by_digest(), marks, users);
        let reply = match self.send(&mut connection, by_digest).await {
            Err(error) if lost_script(&error) => {
                let by_source = step.fill(step.script.by_source(), marks, users);
                self.send(&mut connection, by_source).await
            }
            sent => sent,
        };
        let (reply, replicas) = reply.map_err(classify)?;
        let mut results = step.results(marks, &reply)?;
        for (TracedMark { mark, .. }, result) in marks.iter().zip(&mut results) {
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

    /// Gives a turn where one is free, else puts the mark in the queue.
    fn ask_for_turn(
        self: &Arc<Self>,
        mark: TracedMark,
        users: Users,
    ) -> Result<(Turn, Users), oneshot::Receiver<MarkResult>> {
        let mut turns = self.turns();
        if turns.taken < TURNS {
            turns.taken += 1;
            return Ok((Turn(Arc::clone(self)), users));
        }
        let (answer, answered) = oneshot::channel();
        turns.queue.push_back(Queued { mark, users, answer });
        Err(answered)
    }

    /// Who steps next with a turn that is free again. Where nobody waits it stays so.
    fn next_shared(&self) -> Option<Shared> {
        let mut turns = self.turns();
        let mut shared = Shared::default();
        let mut bytes = 0;
        while shared.marks.len() < SHARED_MAX_MARKS && bytes < SHARED_MAX_BYTES {
            let Some(Queued { mark, users, answer }) = turns.queue.pop_front() else { break };
            // A mark whose caller has given up is never sent.
            if !answer.is_closed() {
                bytes += users.bytes();
                shared.marks.push(mark);
                shared.users.extend(users);
                shared.answers.push(answer);
            }
        }
        if shared.marks.is_empty() {
            turns.taken -= 1;
            return None;
        }
        Some(shared)
    }

    /// Steps with a turn as long as somebody waits.
    async fn keep_stepping(self: Arc<Self>, mut shared: Shared) {
        loop {
            self.step_shared(shared).await;
            match self.next_shared() {
                Some(next) => shared = next,
                None => return,
            }
        }
    }

    async fn step_shared(&self, shared: Shared) {
        let Shared { marks, users, mut answers } = shared;
        let answered = tokio::select! {
            answered = self.step(&marks, &users) => answered,
            // A Redis that hangs does not keep the turn longer than anybody waits for it.
            () = all_gone(&mut answers) => return,
        };
        match answered {
            Ok(results) => {
                for (answer, result) in answers.into_iter().zip(results) {
                    let _ = answer.send(result);
                }
            }
            Err(error) => {
                for answer in answers {
                    let _ = answer.send(Err(error.clone()));
                }
            }
        }
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        // A panic while the lock was held cannot have left it half changed: nothing in it panics.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
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
        let permit = Arc::clone(&self.waiting_for_replicas).acquire_owned().await;
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

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(shared) = self.0.next_shared()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(Arc::clone(&self.0).keep_stepping(shared));
        }
    }
}

/// Waits until nobody waits for any of these.
async fn all_gone(answers: &mut [Answer]) {
    for answer in answers {
        answer.closed().await;
    }
}

/// Whether enough replicas have what a call of the script wrote.
#[derive(Clone, Copy)]
struct Replicas {
    enough: bool,
}

impl fmt::Debug for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}
