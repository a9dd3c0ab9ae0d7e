//! Several processes on networks that are late, lose and are cut, with seeds: processes come, drain and are
//! killed at any moment, and what they sent arrives later.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use super::far_store::{FarStore, Network};
use super::*;
use crate::domain::EntryId;
use crate::relay::receiver::{Delivery, Receiver};
use crate::simulation::{self, Simulation};

/// Partitions of the store, and conversations of each.
const PARTITIONS: usize = 2;
const CONVERSATIONS: u64 = 3;

/// Processes at the same time.
const PROCESSES_MAX: usize = 3;

/// Longest delay of a delivery that is late: its process may have lost its lease meanwhile.
const LATE_MS: u64 = 9_000;

/// Within this time everything has arrived and is acknowledged once nothing fails any more.
const HEALED_WITHIN: Duration = Duration::from_secs(300);

/// What the receiver knows.
#[derive(Default)]
struct Model {
    /// The entries of each conversation, in their order.
    conversations: BTreeMap<(usize, u64), Vec<u64>>,
    conversation_of: BTreeMap<u64, (usize, u64)>,
    /// How often each entry has arrived.
    arrived: BTreeMap<u64, usize>,
    /// Entries of which a process was told that they have arrived.
    told: BTreeSet<(usize, u64)>,
}

#[derive(Clone)]
struct World {
    simulation: Simulation,
    store: Arc<FakeStore>,
    model: Arc<Mutex<Model>>,
    /// Whether processes are killed, and networks and the receiver fail. Otherwise processes only come and
    /// drain.
    has_faults: bool,
}

/// The receiver as one process reaches it.
struct FarReceiver {
    world: World,
    number: usize,
    network: Arc<Network>,
}

/// A process that runs.
struct Running {
    number: usize,
    network: Arc<Network>,
    shutdown: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl World {
    fn new(simulation: &Simulation) -> Self {
        let (simulation, store) = (simulation.clone(), FakeStore::new(PARTITIONS));
        let has_faults = simulation.chance(70);
        Self { simulation, store, model: Arc::default(), has_faults }
    }

    fn publish(&self) {
        let partition = usize::try_from(self.simulation.number(0..=1)).unwrap();
        let conversation = (partition, self.simulation.number(1..=CONVERSATIONS));
        let entry = self.store.publish(partition, conversation.1, 1_000);
        self.simulation.note(format!("{entry} is published in {conversation:?}"));
        let mut model = self.model.lock().unwrap();
        model.conversations.entry(conversation).or_default().push(entry);
        model.conversation_of.insert(entry, conversation);
    }

    /// Notes that an entry arrived: the first time after all earlier ones of its conversation.
    fn arrive(&self, number: usize, entry: u64) {
        let mut model = self.model.lock().unwrap();
        let count = model.arrived.entry(entry).or_default();
        *count += 1;
        let count = *count;
        self.simulation.note(format!("{entry} arrives from {number}, time {count}"));
        let is_allowed = count == 1 || self.has_faults;
        self.simulation.require(is_allowed, || format!("{entry} is doubled without a failure"));
        let earlier = model.conversations[&model.conversation_of[&entry]].iter();
        let missing: Vec<_> = earlier
            .take_while(|earlier| **earlier < entry)
            .filter(|earlier| !model.arrived.contains_key(earlier))
            .collect();
        self.simulation.require(missing.is_empty(), || format!("{entry} is before {missing:?}"));
    }

    fn note_acknowledged(&self, entry: EntryId) {
        self.simulation.note(format!("{} is acknowledged", entry.ms));
        let has_arrived = self.model.lock().unwrap().arrived.contains_key(&entry.ms);
        self.simulation
            .require(has_arrived, || format!("{} is acknowledged before it arrives", entry.ms));
    }

    fn start(&self, number: usize) -> Running {
        self.simulation.note(format!("process {number} starts"));
        let network = Network::new(&self.simulation);
        let world = self.clone();
        let receiver = FarReceiver { world, number, network: Arc::clone(&network) };
        let webhook = Arc::new(Webhook {
            name: "w".parse().unwrap(),
            audience: Audience::All,
            echo: false,
            settings: "s".to_owned(),
            receiver: Arc::new(receiver),
        });
        let world = self.clone();
        let store = Arc::new(FarStore {
            store: Arc::clone(&self.store),
            network: Arc::clone(&network),
            note_acknowledged: Arc::new(move |entry| world.note_acknowledged(entry)),
        });
        let (_, webhooks) = watch::channel(Webhooks::from([webhook].as_slice()));
        let clock = Arc::clone(&self.store);
        let clock = Arc::new(move || clock.now_ms());
        let config = RelayConfig { concurrency: 4, ..CONFIG };
        let relay = Relay::with_clock(store, self.store.logs(), webhooks, config, clock);
        let (shutdown, stopped) = oneshot::channel::<()>();
        let stopped = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(relay.run(stopped, seconds(20)));
        Running { number, network, shutdown: Some(shutdown), task }
    }

    /// Does something to the processes or their networks.
    fn disturb(&self, running: &mut Vec<Running>, started: &mut usize) {
        let simulation = &self.simulation;
        running.retain(|process| !process.task.is_finished());
        let draining = running.iter().filter(|process| process.shutdown.is_none()).count();
        let at = usize::try_from(simulation.number(0..=2)).unwrap();
        let kinds = if self.has_faults { 6 } else { 2 };
        match simulation.number(0..=kinds) {
            0 if running.len() < PROCESSES_MAX => {
                *started += 1;
                running.push(self.start(*started));
            }
            1 if running.len() - draining > 1 && at < running.len() => {
                running[at].drain(simulation);
            }
            3 if at < running.len() => {
                let killed = running.remove(at);
                simulation.note(format!("process {} is killed", killed.number));
                killed.task.abort();
            }
            4..=6 if at < running.len() => running[at].network.disturb(running[at].number),
            _ => {}
        }
    }
}

impl Running {
    fn drain(&mut self, simulation: &Simulation) {
        if let Some(shutdown) = self.shutdown.take() {
            simulation.note(format!("process {} drains", self.number));
            let _ = shutdown.send(());
        }
    }
}

impl Network {
    /// Changes what the network does.
    fn disturb(&self, number: usize) {
        let simulation = self.simulation();
        let delay = simulation.one_of(&[1, 20, 500, 4_000]);
        let lost = simulation.one_of(&[0, 0, 5, 30]);
        let is_cut = simulation.chance(40);
        simulation.note(format!("network of {number}: {delay} ms, {lost} % lost, cut {is_cut}"));
        self.delay_ms.store(delay, Ordering::Relaxed);
        self.lost_percent.store(lost, Ordering::Relaxed);
        self.is_cut.send_replace(is_cut);
    }

    fn heal(&self) {
        self.delay_ms.store(1, Ordering::Relaxed);
        self.lost_percent.store(0, Ordering::Relaxed);
        self.is_cut.send_replace(false);
    }
}

#[async_trait::async_trait]
impl Receiver for FarReceiver {
    /// What is sent arrives even if the process gives up or is killed.
    async fn deliver(&self, delivery: &Delivery) -> Attempt {
        let (world, number, entry) = (self.world.clone(), self.number, delivery.id.entry.ms);
        let owner = world.store.owners().get(&feed("w", delivery.id.partition)).cloned();
        let own = self.network.process.lock().unwrap().clone();
        world.simulation.note(format!("{number} sends {entry}"));
        world.simulation.require(owner.as_ref() == Some(&own), || {
            format!("{number} sends {entry}, whose lease it does not have")
        });
        let is_told = world.model.lock().unwrap().told.contains(&(number, entry));
        world.simulation.require(!is_told, || format!("{number} sends {entry}, though it knows"));
        let sent = tokio::spawn(async move {
            let (simulation, has_faults) = (&world.simulation, world.has_faults);
            let is_late = has_faults && simulation.chance(3);
            simulation.pause(if is_late { LATE_MS } else { 5 }).await;
            if simulation.chance(10) {
                return failed(500);
            }
            world.arrive(number, entry);
            simulation.pause(5).await;
            if has_faults && simulation.chance(3) { failed(500) } else { Attempt::Delivered(204) }
        });
        let attempt = sent.await.unwrap();
        if let Attempt::Delivered(_) = attempt {
            self.world.model.lock().unwrap().told.insert((number, entry));
        }
        attempt
    }

    async fn check(&self) -> Check {
        self.world.simulation.pause(5).await;
        Check::Passed
    }
}

async fn simulate(simulation: Simulation) {
    let world = World::new(&simulation);
    let (mut running, mut started) = (vec![world.start(1)], 1);
    let pace = simulation.one_of(&[10, 100, 1_000]);
    for _ in 0..simulation.number(20..=120) {
        simulation.pause(pace).await;
        for _ in 0..simulation.number(0..=3) {
            world.publish();
        }
        if simulation.chance(20) {
            world.disturb(&mut running, &mut started);
        }
    }
    for process in &running {
        process.network.heal();
    }
    running.push(world.start(started + 1));
    let published: BTreeSet<u64> =
        world.model.lock().unwrap().conversation_of.keys().copied().collect();
    within(HEALED_WITHIN, "all are acknowledged", || {
        let acknowledged: BTreeSet<_> = world.store.acknowledged().into_iter().collect();
        acknowledged == published && world.store.pending_entries().is_empty()
    })
    .await;
    simulation.note("all are acknowledged");
}

/// An entry is acknowledged only once it arrived; nobody sends without the lease, or what it knows has
/// arrived; the first arrivals of a conversation are in order; everything arrives, and once if nothing fails.
#[test]
fn every_event_arrives_in_order_whatever_fails() {
    simulation::run(100, simulate);
}
