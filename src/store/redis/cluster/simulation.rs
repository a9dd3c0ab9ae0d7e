//! A cluster whose slots move and whose masters fail, hang and see the past, under marks of all partitions, with
//! seeds.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use super::*;
use crate::domain::{Mark, Outcome};
use crate::net::workers::Workers;
use crate::simulation::{self, Simulation};
use crate::store::Marks;
use crate::store::redis::cluster::tags::slot;
use crate::store::redis::connection::address::RedisFiles;
use crate::store::redis::connection::fake::{self, Command, FakeRedis, Reachable, Reply, Resp};
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::settings::RedisConfig;
use crate::store::redis::store::RedisStore;

/// Masters, and partitions: each is in the middle of an equal share of the slots, and a share moves as a whole.
const NODES: usize = 6;
const PARTITIONS: u16 = 8;
const SHARE: u16 = tags::SLOTS / PARTITIONS;

/// Numbers from which messages of the simulation have their IDs: no other argument of a script is as great.
const FIRST_ID: u64 = 1_000_000_000;

/// Longest delay of a command on its way, and of its answer; longest time until a node hears of a change.
const DELAY_MAX_MS: u64 = 20;
const GOSSIP_MS: u64 = 1_500;

/// How long a node is down or silent, and when another one takes its slots.
const AWAY_MS: std::ops::RangeInclusive<u64> = 2_000..=6_000;
const FAILOVER_MS: u64 = 1_500;

/// How long a caller waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// A partition whose node was not disturbed for so long serves each call.
const CALM_AFTER: Duration = Duration::from_secs(8);

/// Within this time all partitions are served by their nodes once nothing happens any more.
const HEALED_WITHIN: Duration = Duration::from_secs(20);

/// What a node claims, or is known to claim.
#[derive(Clone, Default)]
struct Claims {
    epoch: u64,
    shares: BTreeSet<usize>,
}

#[derive(Default)]
struct NodeModel {
    /// What it knows of each node.
    known: Vec<Claims>,
    is_silent: bool,
    /// It was away, and serves nothing until it has heard of the others.
    sees_the_past: bool,
}

#[derive(Default)]
struct Model {
    nodes: Vec<NodeModel>,
    /// What is so.
    claims: Vec<Claims>,
    /// The nodes that had each share, and when its node last changed or was disturbed.
    history: Vec<Vec<usize>>,
    disturbed: Vec<Option<Instant>>,
    moving: Option<(usize, usize, usize)>,
    layouts: HashMap<(String, String), String>,
    /// Nodes at which the layout of a partition was found.
    checked: BTreeSet<(usize, usize)>,
    /// Connections whose next command is for a slot on its way.
    asking: BTreeSet<(usize, usize)>,
    /// Marks that may have run, and those that have.
    may_have_run: BTreeSet<u64>,
    done: BTreeSet<u64>,
    last_mark: u64,
}

#[derive(Clone)]
struct World {
    simulation: Simulation,
    model: Arc<Mutex<Model>>,
}

fn id_of(node: usize) -> String {
    format!("node{node}")
}

fn address_of(node: usize) -> String {
    format!("host{node}:7000")
}

fn share_of(slot: u16) -> usize {
    usize::from(slot / SHARE)
}

impl Model {
    fn new() -> Self {
        let mut model = Self { last_mark: FIRST_ID, ..Self::default() };
        for node in 0..NODES {
            // The last one has no slots.
            let shares = (0..usize::from(PARTITIONS)).filter(|share| share % (NODES - 1) == node);
            let epoch = u64::try_from(node).unwrap();
            model.claims.push(Claims { epoch, shares: shares.collect() });
        }
        for _ in 0..NODES {
            let known = model.claims.clone();
            model.nodes.push(NodeModel { known, ..NodeModel::default() });
        }
        for share in 0..usize::from(PARTITIONS) {
            model.history.push(vec![share % (NODES - 1)]);
            model.disturbed.push(Some(Instant::now()));
        }
        model
    }

    fn owner(&self, share: usize) -> usize {
        *self.history[share].last().unwrap()
    }

    /// Returns who has a share as a node sees it.
    fn owner_seen_by(&self, node: usize, share: usize) -> usize {
        let known = self.nodes[node].known.iter().enumerate();
        let claiming = known.filter(|(_, claims)| claims.shares.contains(&share));
        claiming.max_by_key(|(_, claims)| claims.epoch).map_or(node, |(owner, _)| owner)
    }

    fn disturb(&mut self, node: usize) {
        for share in 0..usize::from(PARTITIONS) {
            if self.owner(share) == node {
                self.disturbed[share] = Some(Instant::now());
            }
        }
    }

    /// Gives a share to another node, which claims it by a greater epoch than all others have.
    fn give(&mut self, share: usize, to: usize) {
        let from = self.owner(share);
        self.claims[from].shares.remove(&share);
        let epoch = self.claims.iter().map(|claims| claims.epoch).max().unwrap() + 1;
        self.claims[to].epoch = epoch;
        self.claims[to].shares.insert(share);
        self.history[share].push(to);
        self.disturbed[share] = Some(Instant::now());
        self.nodes[to].known.clone_from(&self.claims);
    }

    /// `CLUSTER NODES` as a node sees it.
    fn nodes_seen_by(&self, node: usize) -> String {
        let line = |of: usize| {
            let myself = if of == node { "myself," } else { "" };
            let (id, address, epoch) =
                (id_of(of), address_of(of), self.nodes[node].known[of].epoch);
            let mut line = format!("{id} {address}@17000 {myself}master - 0 0 {epoch} connected");
            for share in 0..PARTITIONS {
                if self.owner_seen_by(node, usize::from(share)) == of {
                    let (first, last) = (share * SHARE, (share + 1) * SHARE - 1);
                    write!(line, " {first}-{last}").unwrap();
                }
            }
            line + "\n"
        };
        (0..NODES).map(line).collect()
    }

    /// Returns the error of a node that does not serve a slot.
    fn redirect(&mut self, node: usize, connection: usize, key: &str) -> Option<Resp> {
        let slot = slot(key.as_bytes());
        let (share, is_asking) = (share_of(slot), self.asking.remove(&(node, connection)));
        if self.nodes[node].sees_the_past {
            return Some(Resp::error("CLUSTERDOWN The cluster is down"));
        }
        let owner = self.owner_seen_by(node, share);
        let may_ask = self.moving.is_some_and(|(of, _, to)| (of, to) == (share, node));
        if owner == node || is_asking && may_ask {
            return None;
        }
        Some(Resp::error(&format!("MOVED {slot} {}", address_of(owner))))
    }
}

impl World {
    fn model(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap()
    }

    fn answer(&self, node: usize, command: &Command) -> Reply {
        let (world, command) = (self.clone(), command.clone());
        let marks = command.words.iter().filter_map(|word| word.parse::<u64>().ok());
        let marks: Vec<_> = marks.filter(|id| (FIRST_ID..2 * FIRST_ID).contains(id)).collect();
        if !marks.is_empty() {
            self.note_arrival(node, &marks);
        }
        Box::pin(async move {
            world.simulation.pause(DELAY_MAX_MS).await;
            let reply = match &marks[..] {
                [] => world.run(node, &command),
                marks => world.run_marks(node, &command, marks),
            };
            world.simulation.pause(DELAY_MAX_MS).await;
            if world.model().nodes[node].is_silent {
                std::future::pending::<()>().await;
            }
            Some(reply)
        })
    }

    fn note_arrival(&self, node: usize, marks: &[u64]) {
        let mut model = self.model();
        self.simulation.note(format!("{marks:?} arrive at {node}"));
        for mark in marks {
            let is_new = model.may_have_run.insert(*mark);
            self.simulation.require(is_new, || format!("{mark} is sent again, and may have run"));
        }
    }

    fn run_marks(&self, node: usize, command: &Command, marks: &[u64]) -> Resp {
        let mut model = self.model();
        let (key, connection) = (&command.words[3], command.connection);
        let share = share_of(slot(key.as_bytes()));
        let is_asking = model.asking.contains(&(node, connection));
        let is_on_its_way = model.moving.filter(|(of, from, _)| (*of, *from) == (share, node));
        let refusal = match is_on_its_way {
            Some((_, _, to)) if self.simulation.chance(50) => {
                Some(Resp::error(&format!("ASK {} {}", slot(key.as_bytes()), address_of(to))))
            }
            _ => model.redirect(node, connection, key),
        };
        if let Some(refusal) = refusal {
            self.simulation.note(format!("{marks:?}: {refusal:?}"));
            model.may_have_run.retain(|mark| !marks.contains(mark));
            return refusal;
        }
        let is_checked = is_asking || model.checked.contains(&(node, share));
        self.simulation.require(is_checked, || format!("{marks:?} run at {node}, unchecked"));
        let mut values = vec![Resp::integer(1_000)];
        for mark in marks {
            let is_new = model.done.insert(*mark);
            self.simulation.require(is_new, || format!("{mark} is done twice"));
            values.extend([Resp::integer(1), Resp::integer(60_000)]);
        }
        self.simulation.note(format!("{marks:?} are done at {node}"));
        Resp::array(values)
    }

    fn run(&self, node: usize, command: &Command) -> Resp {
        let mut model = self.model();
        let words: Vec<_> = command.words.iter().map(String::as_str).collect();
        match words[..] {
            ["CLUSTER", "MYID"] => Resp::text(&id_of(node)),
            ["CLUSTER", "NODES"] => Resp::text(&model.nodes_seen_by(node)),
            ["INFO", ..] => Resp::text(&format!("run_id:{node}\r\n")),
            ["SCRIPT", ..] => Resp::text("0"),
            ["GETRANGE", ..] => Resp::text(""),
            ["TIME"] => Resp::array([Resp::text("1"), Resp::text("0")]),
            ["ASKING"] => {
                model.asking.insert((node, command.connection));
                Resp::ok()
            }
            ["HSETNX", key, field, value] => {
                let refusal = model.redirect(node, command.connection, key);
                refusal.unwrap_or_else(|| {
                    let layout = model.layouts.entry((key.to_owned(), field.to_owned()));
                    let is_new = matches!(layout, std::collections::hash_map::Entry::Vacant(_));
                    layout.or_insert_with(|| value.to_owned());
                    Resp::integer(is_new.into())
                })
            }
            ["HMGET" | "HGET", key, ref fields @ ..] => {
                let refusal = model.redirect(node, command.connection, key);
                refusal.unwrap_or_else(|| {
                    model.checked.insert((node, share_of(slot(key.as_bytes()))));
                    let value = |field: &&str| {
                        let value = model.layouts.get(&(key.to_owned(), (*field).to_owned()));
                        value.map_or(Resp::nil(), |value| Resp::text(value))
                    };
                    let values: Vec<_> = fields.iter().map(value).collect();
                    if words[0] == "HGET" { values[0].clone() } else { Resp::array(values) }
                })
            }
            ["EVAL", script, ..] if script.contains("EXISTS") => {
                Resp::error("ERR Script attempted to access keys that do not hash to the same slot")
            }
            ["EVAL", script, ..] if script.contains("max-deleted-entry-id") => {
                Resp::array([Resp::text(""), Resp::text("1"), Resp::text("0")])
            }
            ["EVAL", script, ..] if script.contains("gap_before") => Resp::integer(1),
            ["EVAL", ..] | ["CLUSTER", "SLOTS"] => Resp::array([]),
            ["PING"] => Resp::text("PONG"),
            _ => Resp::error("ERR unknown command"),
        }
    }

    /// Lets a node hear of everything, later.
    fn tell(&self, node: usize) {
        let world = self.clone();
        tokio::spawn(async move {
            world.simulation.pause(GOSSIP_MS).await;
            let mut model = world.model();
            let claims = model.claims.clone();
            (model.nodes[node].known, model.nodes[node].sees_the_past) = (claims, false);
            world.simulation.note(format!("{node} knows of everything"));
        });
    }

    /// Moves a share, or lets a node be silent or down.
    async fn disturb(&self, redis: &[FakeRedis]) {
        let simulation = &self.simulation;
        let node = usize::try_from(simulation.number(0..=5)).unwrap();
        match simulation.number(0..=3) {
            0 | 1 => self.move_share(node).await,
            2 => {
                simulation.note(format!("{node} is silent"));
                redis[node].set_reachable(Reachable::Hangs);
                self.model().nodes[node].is_silent = true;
                self.be_away(node, redis).await;
                self.model().nodes[node].is_silent = false;
            }
            _ => {
                simulation.note(format!("{node} is down"));
                redis[node].set_reachable(Reachable::Refuses);
                redis[node].close_connections();
                self.model().disturb(node);
                sleep(Duration::from_millis(FAILOVER_MS)).await;
                if simulation.chance(70) {
                    self.fail_over(node, (node + 1) % NODES);
                }
                self.model().nodes[node].sees_the_past = true;
                self.be_away(node, redis).await;
                self.tell(node);
            }
        }
    }

    async fn be_away(&self, node: usize, redis: &[FakeRedis]) {
        self.model().disturb(node);
        let until = Instant::now() + Duration::from_millis(self.simulation.number(AWAY_MS));
        while Instant::now() < until {
            sleep(Duration::from_millis(500)).await;
            self.model().disturb(node);
        }
        redis[node].close_connections();
        redis[node].set_reachable(Reachable::Yes);
        self.simulation.note(format!("{node} is back"));
    }

    fn fail_over(&self, from: usize, to: usize) {
        self.simulation.note(format!("{to} takes the shares of {from}"));
        let mut model = self.model();
        for share in model.claims[from].shares.clone() {
            model.give(share, to);
        }
        drop(model);
        (0..NODES).filter(|node| *node != from && *node != to).for_each(|node| self.tell(node));
    }

    async fn move_share(&self, to: usize) {
        let share = usize::try_from(self.simulation.number(0..=u64::from(PARTITIONS) - 1)).unwrap();
        let from = self.model().owner(share);
        if from == to {
            return;
        }
        self.simulation.note(format!("{share} is on its way from {from} to {to}"));
        self.model().moving = Some((share, from, to));
        self.model().disturbed[share] = Some(Instant::now());
        self.simulation.pause(500).await;
        let mut model = self.model();
        model.moving = None;
        model.give(share, to);
        let claims = model.claims.clone();
        model.nodes[from].known = claims;
        drop(model);
        self.simulation.note(format!("{share} is at {to}"));
        (0..NODES).filter(|node| *node != from && *node != to).for_each(|node| self.tell(node));
    }

    /// Marks, in any partition.
    async fn call(self, store: Arc<RedisStore>) {
        loop {
            self.simulation.pause(300).await;
            let reader = self.simulation.number(1..=40).try_into().unwrap();
            let share = store.shared.partitions.number_of(reader);
            let (id, disturbed) = {
                let mut model = self.model();
                model.last_mark += 1;
                (model.last_mark, model.disturbed[share])
            };
            let is_calm = disturbed.is_some_and(|at| at.elapsed() > CALM_AFTER);
            let recipient = 1_000.try_into().unwrap();
            let mark = Mark { reader, recipient, last_read_event_id: id.try_into().unwrap() };
            let result = timeout(CALL_TIMEOUT, store.mark_read(mark, None)).await;
            self.simulation.note(format!("{id} of {share}: {result:?}"));
            let model = self.model();
            let is_done = matches!(result, Ok(Ok(Outcome::Advanced { .. })));
            self.simulation
                .require(!is_done || model.done.contains(&id), || format!("{id} is lost"));
            let is_calm = is_calm && model.disturbed[share] == disturbed;
            self.simulation.require(is_done || !is_calm, || format!("{id} of {share}: {result:?}"));
        }
    }

    /// Looks at who serves each partition, again and again: never a former node after a later one.
    async fn look(self, store: Arc<RedisStore>) {
        let mut seen = vec![0; usize::from(PARTITIONS)];
        loop {
            sleep(Duration::from_millis(25)).await;
            for (share, seen) in seen.iter_mut().enumerate() {
                let Some(node) = store.shared.partitions.all()[share].assigned() else { continue };
                let model = self.model();
                let had = model.history[share].iter();
                let Some(at) = had.clone().rposition(|one| address_of(*one) == *node.parts.name)
                else {
                    self.simulation.require(false, || format!("{share} is at {}", node.parts.name));
                    continue;
                };
                self.simulation.require(at >= *seen, || {
                    format!(
                        "{share} is at {} again, of {:?}",
                        node.parts.name, model.history[share]
                    )
                });
                *seen = at.max(*seen);
            }
        }
    }

    fn is_healed(&self, store: &RedisStore) -> bool {
        let model = self.model();
        store.shared.partitions.all().iter().enumerate().all(|(share, partition)| {
            let name = address_of(model.owner(share));
            partition.node().is_ok_and(|node| *node.parts.name == name)
        })
    }
}

async fn simulate(simulation: Simulation) {
    let model = Arc::new(Mutex::new(Model::new()));
    let world = World { simulation: simulation.clone(), model };
    let redis: Vec<_> = (0..NODES)
        .map(|node| {
            let world = world.clone();
            FakeRedis::new(move |command| world.answer(node, command))
        })
        .collect();
    let at = |(node, redis): (usize, &FakeRedis)| ((format!("host{node}"), 7000), redis.clone());
    fake::set_network(redis.iter().enumerate().map(at).collect());
    let seed = |node| {
        let url = format!("redis://{}", address_of(node));
        RedisAddress::new(&url, None, RedisFiles::default()).unwrap()
    };
    let seeds = ClusterSeeds { seeds: vec![seed(0), seed(1)], partitions: PARTITIONS };
    let config = RedisConfig { mode: RedisMode::Cluster(seeds), ..fake::config(None) };
    let (store, run) = RedisStore::start(config, Workers::all_here(1));
    sleep(Duration::from_secs(3)).await;
    tokio::spawn(world.clone().look(Arc::clone(&store)));
    for _ in 0..4 {
        tokio::spawn(world.clone().call(Arc::clone(&store)));
    }
    for _ in 0..simulation.number(3..=10) {
        simulation.pause(3_000).await;
        world.disturb(&redis).await;
    }
    simulation.note("nothing happens any more");
    let until = Instant::now() + HEALED_WITHIN;
    while !world.is_healed(&store) {
        assert!(Instant::now() < until, "it does not heal: {:?}", store.health());
        sleep(Duration::from_millis(50)).await;
    }
    // Nobody sees the past any more: all calls are served.
    sleep(CALM_AFTER + Duration::from_secs(2)).await;
    assert!(world.is_healed(&store) && !run.is_finished());
    fake::set_network(HashMap::new());
}

/// A mark is done once at most, at a node where its partition was checked, and what is answered was done; a node
/// that is away stops no other one's partitions; no former node is gone back to; and all is served again soon.
#[test]
fn marks_find_their_node_whatever_the_cluster_does() {
    simulation::run(24, simulate);
}
