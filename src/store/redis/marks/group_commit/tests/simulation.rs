//! Marks of many callers against a Redis that is late, refuses, hangs and closes connections, with seeds.

use std::collections::BTreeMap;

use super::*;
use crate::simulation::{self, Simulation};
use crate::store::redis::connection::fake::Reply;
use crate::store::redis::scripts::Script;

/// Numbers from which messages of the simulation have their IDs: no other argument of a script is as great.
const FIRST_ID: u64 = 1_000_000_000;

/// Longest delay of a command on its way, and of its answer.
const DELAY_MAX_MS: u64 = 15;

/// How long a hanging connection hangs at most.
const HANG_MAX_MS: u64 = 300;

/// Within this time each mark is answered: the longest hang, and all calls that may be before it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// Within this time a mark is answered whose connection was closed.
const LOST_WITHIN_MS: u64 = 5;

/// What Redis answered to a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Advanced,
    OverQuota,
    Failed,
    /// It was not run, and is to be sent again.
    NotRun,
}

/// What has happened to a mark.
#[derive(Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact for itself")]
struct Fate {
    is_waiting: bool,
    /// Whether it arrived, and was not answered that it was not run.
    may_have_run: bool,
    was_rare: bool,
    answer: Option<Answer>,
    is_acknowledged: bool,
    lost_at: Option<u64>,
}

/// A script call that has arrived and is not answered.
struct Call {
    connection: usize,
    marks: Vec<u64>,
}

#[derive(Default)]
struct Model {
    marks: BTreeMap<u64, Fate>,
    calls: BTreeMap<u64, Call>,
    last_call: u64,
    /// The last mark of each connection that arrived for the first time.
    last_arrived: BTreeMap<usize, u64>,
    /// The marks that the connection's next acknowledgement is of.
    unacknowledged: BTreeMap<usize, Vec<u64>>,
    hanging: Vec<usize>,
    has_closed: bool,
}

#[derive(Clone)]
struct World {
    simulation: Simulation,
    model: Arc<Mutex<Model>>,
    ack: Option<Ack>,
    /// Whether connections hang and close.
    has_faults: bool,
    /// Calls of the full script, to tell them from others.
    full: Arc<String>,
}

impl World {
    fn new(simulation: &Simulation) -> Self {
        let script = Script::mark_read();
        let calls = [script.by_digest(), script.by_source()];
        let full = calls.map(|call| String::from_utf8(call.get_packed_command()).unwrap()).concat();
        let ack = ACK.filter(|_| simulation.chance(30));
        let (simulation, has_faults) = (simulation.clone(), simulation.chance(70));
        Self { simulation, model: Arc::default(), ack, has_faults, full: Arc::new(full) }
    }

    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    /// Answers a command.
    fn answer(&self, command: &Command) -> Reply {
        match command.name() {
            "EVALSHA" | "EVAL" => self.answer_call(command),
            "WAIT" => self.acknowledge(command.connection),
            "HSETNX" => fake::now(Resp::integer(0)),
            _ => {
                let fields = [Resp::text("1"), Resp::text("1"), Resp::nil()];
                fake::now(Resp::array(fields.into_iter().take(command.words.len() - 2)))
            }
        }
    }

    fn answer_call(&self, command: &Command) -> Reply {
        let ids = command.words.iter().filter_map(|word| word.parse::<u64>().ok());
        let marks: Vec<_> = ids.filter(|id| (FIRST_ID..2 * FIRST_ID).contains(id)).collect();
        let (connection, is_full) = (command.connection, self.full.contains(&command.words[1]));
        let is_by_digest = command.name() == "EVALSHA";
        let call = self.note_arrival(connection, &marks);
        let (world, simulation) = (self.clone(), self.simulation.clone());
        Box::pin(async move {
            simulation.pause(DELAY_MAX_MS).await;
            if world.has_faults && simulation.chance(3) {
                if simulation.chance(50) {
                    world.close(connection);
                    return None;
                }
                simulation.note(format!("connection {connection} hangs"));
                world.model().hanging.push(connection);
                return std::future::pending().await;
            }
            let reply = if is_by_digest && simulation.chance(3) {
                world.note_answers(&marks, &vec![Answer::NotRun; marks.len()]);
                Resp::error("NOSCRIPT No matching script.")
            } else {
                world.run(connection, &marks, is_full)
            };
            simulation.pause(DELAY_MAX_MS).await;
            if world.has_faults && simulation.chance(2) {
                world.close(connection);
                return None;
            }
            world.model().calls.remove(&call);
            simulation.note(format!("call {call} is answered"));
            Some(reply)
        })
    }

    /// Notes a call that arrived. No mark comes twice that may have been run.
    fn note_arrival(&self, connection: usize, marks: &[u64]) -> u64 {
        let mut model = self.model();
        model.last_call += 1;
        let call = model.last_call;
        self.simulation.note(format!("call {call} on {connection}: {marks:?}"));
        self.simulation.require(marks.len() <= GROUP_MAX_MARKS, || format!("{call} is too long"));
        for mark in marks {
            let fate = model.marks.entry(*mark).or_default();
            let is_first = fate.answer.is_none() && !fate.may_have_run;
            let is_again = std::mem::replace(&mut fate.may_have_run, true);
            self.simulation
                .require(!is_again, || format!("{mark} is sent again, and may have run"));
            if is_first {
                let last = model.last_arrived.insert(connection, *mark);
                self.simulation
                    .require(last < Some(*mark), || format!("{mark} comes after {last:?}"));
            }
        }
        model.calls.insert(call, Call { connection, marks: marks.to_vec() });
        let is_waited_for = |call: &&Call| {
            call.marks.iter().any(|mark| model.marks.get(mark).is_some_and(|one| one.is_waiting))
        };
        let in_flight = model.calls.values().filter(is_waited_for).count();
        let most = self.ack.map_or(SLOTS, |ack| ack.connections);
        self.simulation.require(in_flight <= most, || format!("{in_flight} calls are in flight"));
        call
    }

    /// Decides what the marks of a call do, and returns the reply.
    fn run(&self, connection: usize, marks: &[u64], is_full: bool) -> Resp {
        let mut values = vec![Resp::integer(1_000)];
        let mut answers = Vec::with_capacity(marks.len());
        for mark in marks {
            let was_rare = self.model().marks.get(mark).is_some_and(|fate| fate.was_rare);
            let reset = Resp::integer(reset_of(*mark));
            answers.push(match self.simulation.number(0..=99) {
                0..=7 if !is_full && !was_rare => {
                    values.extend([Resp::integer(0), Resp::integer(0)]);
                    self.model().marks.entry(*mark).or_default().was_rare = true;
                    Answer::NotRun
                }
                0..=7 if is_full => {
                    values.extend([Resp::text("error"), Resp::text("LAYOUT it has changed")]);
                    Answer::NotRun
                }
                8..=12 if is_full => {
                    values.extend([Resp::text("over_quota"), reset, Resp::integer(60_000)]);
                    Answer::OverQuota
                }
                13..=16 if is_full => {
                    values.extend([Resp::text("error"), Resp::text("OOM it is full")]);
                    Answer::Failed
                }
                _ => {
                    values.extend([Resp::integer(1), reset]);
                    Answer::Advanced
                }
            });
        }
        self.note_answers(marks, &answers);
        self.model().unacknowledged.insert(connection, marks.to_vec());
        Resp::array(values)
    }

    fn note_answers(&self, marks: &[u64], answers: &[Answer]) {
        let mut model = self.model();
        for (mark, answer) in marks.iter().zip(answers) {
            let fate = model.marks.entry(*mark).or_default();
            (fate.answer, fate.may_have_run) = (Some(*answer), *answer != Answer::NotRun);
        }
        self.simulation.note(format!("{marks:?}: {answers:?}"));
    }

    fn acknowledge(&self, connection: usize) -> Reply {
        let world = self.clone();
        Box::pin(async move {
            world.simulation.pause(DELAY_MAX_MS).await;
            let replicas = world.simulation.number(1..=3).min(2);
            let mut model = world.model();
            for mark in model.unacknowledged.remove(&connection).unwrap_or_default() {
                model.marks.entry(mark).or_default().is_acknowledged = replicas == 2;
            }
            Some(Resp::integer(replicas))
        })
    }

    /// Notes that a connection closes: its calls are lost.
    fn close(&self, connection: usize) {
        self.simulation.note(format!("connection {connection} closes"));
        let (mut model, now) = (self.model(), self.simulation.now_ms());
        model.has_closed = true;
        model.hanging.retain(|hanging| *hanging != connection);
        let lost = model.calls.extract_if(.., |_, call| call.connection == connection);
        let lost: Vec<u64> = lost.flat_map(|(_, call)| call.marks).collect();
        // Without its acknowledgement a call is lost too.
        let unacknowledged = model.unacknowledged.remove(&connection).unwrap_or_default();
        let unacknowledged = if self.ack.is_some() { unacknowledged } else { Vec::new() };
        for mark in lost.into_iter().chain(unacknowledged) {
            model.marks.entry(mark).or_default().lost_at.get_or_insert(now);
        }
    }

    /// Marks as a caller does that may give up early.
    async fn call(self, mark: u64, group_commit: Arc<GroupCommit>) {
        let patience = if self.simulation.chance(20) {
            Duration::from_millis(self.simulation.number(0..=60))
        } else {
            ANSWERED_WITHIN
        };
        self.model().marks.entry(mark).or_default().is_waiting = true;
        let traced = TracedMark {
            mark: Mark {
                reader: user(self.simulation.number(1..=4)),
                recipient: user(self.simulation.number(1_001..=1_002)),
                last_read_event_id: mark.try_into().unwrap(),
            },
            traceparent: None,
        };
        let result = timeout(patience, group_commit.mark(traced, Users::default())).await;
        let mut model = self.model();
        let has_closed = model.has_closed;
        let fate = model.marks.entry(mark).or_default();
        fate.is_waiting = false;
        let Ok(result) = result else {
            self.simulation.note(format!("{mark} gives up"));
            let may_give_up = patience < ANSWERED_WITHIN;
            return self.simulation.require(may_give_up, || format!("{mark} is never answered"));
        };
        self.simulation.note(format!("{mark} gets {result:?}"));
        self.simulation.require(self.is_right(mark, fate, has_closed, &result), || {
            format!("{mark} gets {result:?}, and Redis answered {:?}", fate.answer)
        });
        let late = fate.lost_at.map(|at| self.simulation.now_ms() - at);
        self.simulation.require(late.is_none_or(|late| late <= LOST_WITHIN_MS), || {
            format!("{mark} waits {late:?} ms for a connection that was closed")
        });
    }

    /// Returns whether a result is what Redis answered to this mark.
    fn is_right(&self, mark: u64, fate: &Fate, has_closed: bool, result: &MarkResult) -> bool {
        let is_lost = fate.lost_at.is_some();
        match (result, fate.answer) {
            (Ok(Outcome::Advanced { quota, .. }), Some(Answer::Advanced)) => {
                let is_acknowledged = self.ack.is_none() || fate.is_acknowledged;
                quota.reset_at_ms == reset_of(mark) && is_acknowledged
            }
            (Ok(Outcome::OverQuota { quota, .. }), Some(Answer::OverQuota)) => {
                quota.reset_at_ms == reset_of(mark)
            }
            // One that was not run could not be sent again, or was refused too often.
            (Err(_), Some(Answer::Failed | Answer::NotRun)) => true,
            (Err(_), Some(Answer::Advanced)) => {
                is_lost || self.ack.is_some() && !fate.is_acknowledged
            }
            (Err(_), Some(Answer::OverQuota)) => is_lost,
            (Err(_), None) => has_closed,
            _ => false,
        }
    }
}

/// When the window ends that a mark's reply names: its own, so that replies are told apart.
fn reset_of(mark: u64) -> u64 {
    mark + 60_000
}

/// Closes connections, at times or since they hang, and opens others.
async fn disturb(world: World, redis: FakeRedis, parts: NodeParts, each: usize) {
    let mut opened = each;
    loop {
        sleep(Duration::from_millis(world.simulation.number(1..=HANG_MAX_MS))).await;
        let hanging = world.model().hanging.clone();
        let closed: Vec<_> =
            if world.simulation.chance(20) { (opened - each..opened).collect() } else { hanging };
        for connection in closed {
            world.close(connection);
            redis.close_connection(connection);
        }
        if world.has_faults {
            opened += redis.connect_calls(&parts).await;
        }
    }
}

async fn simulate(simulation: Simulation) {
    let world = World::new(&simulation);
    let answering = world.clone();
    let redis = FakeRedis::new(move |command| answering.answer(command));
    let parts = fake::parts_of(1, world.ack);
    let each = redis.connect_calls(&parts).await;
    let script = MarkReadScript::new(Arc::clone(&parts.shared.stream_limit), RATE_LIMIT, false);
    let group_commit = Arc::new(GroupCommit::new(parts.clone(), Arc::new(script)));
    let disturbing = tokio::spawn(disturb(world.clone(), redis.clone(), parts.clone(), each));
    let pace = simulation.one_of(&[0, 1, 5]);
    let mut callers = Vec::new();
    for mark in FIRST_ID..FIRST_ID + simulation.number(10..=150) {
        callers.push(tokio::spawn(world.clone().call(mark, Arc::clone(&group_commit))));
        simulation.pause(pace).await;
    }
    for caller in callers {
        caller.await.unwrap();
    }
    disturbing.abort();
    redis.close_connections();
    sleep(Duration::from_millis(100)).await;
    let slots = group_commit.slots();
    let left = (slots.taken, slots.line.len());
    simulation.require(left == (0, 0), || format!("slots and marks are left: {left:?}"));
}

/// Each mark is answered once, with its own result; none that may have run is sent again; marks arrive in
/// order, at most so many calls at once; whatever ends frees its slot.
#[test]
fn marks_keep_their_answers_and_order_whatever_redis_does() {
    simulation::run(150, simulate);
}
