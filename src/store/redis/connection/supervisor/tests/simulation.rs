//! Connections that close, hang and are refused, and a Redis that fails over, under calls of two workers, with
//! seeds.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::simulation::{self, Simulation};

const WORKERS: usize = 2;

/// Longest delay of an answer while Redis is slow.
const SLOW_MS: u64 = 700;

/// How long something fails at most.
const AWAY_MAX_MS: u64 = 5_000;

/// How long a caller waits.
const CALL_TIMEOUT: Duration = Duration::from_millis(800);

/// Within this time after the last failure all calls are served by the master: three probes of two seconds,
/// and two attempts to connect.
const HEALED_WITHIN: Duration = Duration::from_secs(15);

/// Closings of single connections are so far apart that the connection is replaced.
const GENTLE_SPACING: Duration = Duration::from_millis(1_500);

/// What the Redis processes know.
struct Model {
    redis: State,
    /// The process that is the master: each has a greater number than the one before.
    master: u64,
    process_of: BTreeMap<usize, u64>,
    /// Processes whose layout was checked.
    verified: BTreeSet<u64>,
    /// Connections that were closed, and that answer nothing any more.
    closed: BTreeSet<usize>,
    silent: BTreeSet<usize>,
    /// Where each call arrived.
    arrived: BTreeMap<u64, usize>,
    /// The process at which the latest call arrived.
    in_use: u64,
    last_call: u64,
    delay_ms: u64,
}

#[derive(Clone)]
struct World {
    simulation: Simulation,
    model: Arc<Mutex<Model>>,
    parts: NodeParts,
    /// Whether nothing happens but that single connections close.
    is_gentle: bool,
}

impl World {
    fn new(simulation: &Simulation) -> Self {
        let layout = HashMap::new();
        let (intercept, received): (Intercept, _) = (Box::new(|_| None), Vec::new());
        let redis = State { layout, quota: None, info: Some(RUN_ID), intercept, received };
        let (process_of, verified, closed, silent, arrived) = Default::default();
        let (master, in_use, last_call, delay_ms) = (1, 1, 0, 2);
        let model = Model {
            redis,
            master,
            process_of,
            verified,
            closed,
            silent,
            arrived,
            in_use,
            last_call,
            delay_ms,
        };
        let parts = fake::parts_of(WORKERS, None);
        let (simulation, is_gentle) = (simulation.clone(), simulation.chance(30));
        Self { simulation, model: Arc::new(Mutex::new(model)), parts, is_gentle }
    }

    fn model(&self) -> std::sync::MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn answer(&self, command: &Command) -> Reply {
        let mut model = self.model();
        let (connection, master) = (command.connection, model.master);
        let process = *model.process_of.entry(connection).or_insert(master);
        let reply = match command.name() {
            "MARK" => {
                let call = command.words[1].parse().unwrap();
                self.simulation.note(format!("{call} arrives on {connection}, of {process}"));
                model.arrived.insert(call, connection);
                let is_verified = model.verified.contains(&process);
                self.simulation
                    .require(is_verified, || format!("{call} goes to {process}, not verified"));
                let in_use = std::mem::replace(&mut model.in_use, process);
                self.simulation
                    .require(process >= in_use, || format!("{call} goes to {process} again"));
                fake::now(Resp::integer(process))
            }
            "INFO" => fake::now(Resp::text(&format!("run_id:{process}\r\n"))),
            _ => model.redis.answer(command),
        };
        model.redis.received.clear();
        let (delay_ms, is_layout) = (model.delay_ms, command.name() == "HMGET");
        drop(model);
        let world = self.clone();
        let is_write = command.name() == "HSETNX";
        Box::pin(async move {
            world.simulation.pause(delay_ms).await;
            if world.model().silent.contains(&connection) {
                std::future::pending::<()>().await;
            }
            if is_write && process != world.model().master {
                return Some(Resp::error("READONLY You can't write against a read only replica."));
            }
            if is_layout {
                world.model().verified.insert(process);
            }
            reply.await
        })
    }

    /// Calls again and again, as a worker's callers do.
    async fn call(self, worker: usize) {
        loop {
            self.simulation.pause(60).await;
            let call = {
                let mut model = self.model();
                model.last_call += 1;
                model.last_call
            };
            let Ok(link) = self.parts.connections.calls_link_of(worker) else {
                self.simulation.note(format!("{call} finds no connection"));
                let is_expected = !self.is_gentle || self.model().verified.is_empty();
                self.simulation.require(is_expected, || format!("{call} finds no connection"));
                continue;
            };
            let (mut connection, mut mark) = (link.connection(), cmd("MARK"));
            let called = mark.arg(call).query_async::<u64>(&mut connection);
            match timeout(CALL_TIMEOUT, called).await {
                Ok(Ok(process)) => self.simulation.note(format!("{call} is done by {process}")),
                Ok(Err(error)) => {
                    self.simulation.note(format!("{call} fails: {error}"));
                    let model = self.model();
                    let arrived = model.arrived.get(&call);
                    let is_lost = arrived.is_none_or(|at| model.closed.contains(at));
                    let is_expected = is_lost && !model.closed.is_empty();
                    self.simulation.require(is_expected, || format!("{call} fails on {arrived:?}"));
                }
                Err(_) => {
                    self.simulation.note(format!("{call} has no answer"));
                    let is_gentle = self.is_gentle;
                    self.simulation.require(!is_gentle, || format!("{call} has no answer"));
                }
            }
        }
    }

    fn open(&self) -> Vec<usize> {
        let model = self.model();
        let open = model.process_of.keys().filter(|one| !model.closed.contains(one));
        open.copied().collect()
    }

    fn close(&self, redis: &FakeRedis, connections: &[usize]) {
        self.simulation.note(format!("{connections:?} close"));
        self.model().closed.extend(connections);
        for connection in connections {
            redis.close_connection(*connection);
        }
    }

    /// Does something to Redis or to its connections.
    async fn disturb(&self, redis: &FakeRedis) {
        let (simulation, open) = (&self.simulation, self.open());
        let one = if open.is_empty() { Vec::new() } else { vec![simulation.one_of(&open)] };
        if self.is_gentle {
            self.close(redis, &one);
            return sleep(GENTLE_SPACING).await;
        }
        match simulation.number(0..=6) {
            0 => self.close(redis, &one),
            1 => self.close(redis, &open),
            2 => {
                let reachable = simulation.one_of(&[Reachable::Refuses, Reachable::Hangs]);
                simulation.note(format!("{reachable:?}"));
                redis.set_reachable(reachable);
                simulation.pause(AWAY_MAX_MS).await;
                redis.set_reachable(Reachable::Yes);
            }
            3 => {
                simulation.note(format!("{one:?} are silent"));
                self.model().silent.extend(one);
            }
            4 => {
                self.model().delay_ms = simulation.one_of(&[0, 20, SLOW_MS]);
            }
            _ => {
                self.model().master += 1;
                simulation.note(format!("{} is the master", self.model().master));
                match simulation.number(0..=2) {
                    0 => self.close(redis, &open),
                    1 => self.model().silent.extend(open),
                    // The former one answers, and refuses writes.
                    _ => {}
                }
            }
        }
    }

    /// Returns whether Redis is ready, and all workers' calls are the master's.
    async fn is_healed(&self) -> bool {
        let connections = &self.parts.connections;
        let is_ready = matches!(&*connections.health().borrow(), StoreHealth::Ready { .. });
        for worker in 0..WORKERS {
            let Ok(link) = connections.calls_link_of(worker) else { return false };
            let mut link = link.connection();
            let number = timeout(ms(50), cmd("PING").query_async::<usize>(&mut link)).await;
            let Ok(Ok(number)) = number else { return false };
            let model = self.model();
            if model.process_of.get(&number) != Some(&model.master) {
                return false;
            }
        }
        is_ready
    }
}

async fn simulate(simulation: Simulation) {
    let world = World::new(&simulation);
    let answering = world.clone();
    let redis = FakeRedis::new(move |command| answering.answer(command));
    let load = scripts::load(&[Script::mark_read(), Script::read_states()]);
    let workers = Workers::all_here(WORKERS);
    let supervisor = Supervisor::new(redis.clone(), world.parts.clone(), load, workers);
    let supervisor = tokio::spawn(supervisor.run());
    sleep(ms(500)).await;
    for worker in 0..WORKERS {
        tokio::spawn(world.clone().call(worker));
    }
    for _ in 0..simulation.number(5..=25) {
        simulation.pause(2_000).await;
        world.disturb(&redis).await;
    }
    world.model().delay_ms = 1;
    simulation.note("nothing fails any more");
    let until = Instant::now() + HEALED_WITHIN;
    while !world.is_healed().await {
        assert!(Instant::now() < until, "it does not heal: {:?}", world.parts.connections);
        sleep(ms(50)).await;
    }
    simulation.note("it is healed");
    assert!(!supervisor.is_finished());
}

/// Calls go only to a Redis that was verified, all to the same one at a time, and fail only with their own
/// connection; while one is replaced the others serve; and soon after the last failure all are the master's.
#[test]
fn calls_reach_a_verified_redis_whatever_its_connections_do() {
    simulation::run(40, simulate);
}
