//! Watchers that are slow, leave and come back, on logs whose reads are late, fail, hang and lose entries, with
//! seeds.

use std::collections::BTreeMap;

use super::*;
use crate::simulation::{self, Simulation};

/// Watchers, and the users that they and the events are of.
const WATCHERS: u64 = 4;
const USERS: u64 = 3;

/// Events of one burst: with one more a watcher that does not read is too slow.
const BURST: u64 = 2_100;

/// How long a log fails or hangs at most.
const AWAY_MAX: u64 = 20_000;

/// How long a watcher stays at most before it leaves and comes back.
const STAY_MAX_MS: u64 = 20_000;

/// Within this time after everything is well again each watcher hears of new events, and of what it missed.
const HEALED_WITHIN: Duration = Duration::from_secs(180);

/// Time between two losses: of those that are nearer the second may be taken for a part of the first.
const LOSS_SPACING: Duration = Duration::from_secs(8);

/// The reader and the recipient of each event of a log, by its number.
type Published = BTreeMap<u64, [u64; 2]>;

#[derive(Clone)]
struct World {
    simulation: Simulation,
    hub: Arc<Hub>,
    logs: Vec<Arc<FakeLog>>,
    /// The reader and the recipient of each event that a log ever had. No number is used twice.
    published: Arc<Mutex<Vec<Published>>>,
    /// Most entries of a log, where entries may be lost.
    limit: Option<usize>,
    /// The last event of each log and user, once the run ends.
    last: tokio::sync::watch::Sender<Option<Vec<BTreeMap<u64, u64>>>>,
}

/// What a watcher has heard since it came, or since the last gap.
struct Heard {
    /// Up to where it has heard everything of each log, as far as that is known.
    places: Vec<Option<u64>>,
    /// Events that it did not hear, and for which it is owed a gap: they may have been lost.
    owed: Vec<(usize, u64)>,
}

impl World {
    fn new(simulation: &Simulation) -> Self {
        let count = simulation.one_of(&[1, 1, 3]);
        let logs: Vec<_> = (0..count).map(|_| Arc::new(FakeLog::late(simulation))).collect();
        let of_hub = logs.iter().map(|log| -> Arc<dyn EventLog> { Arc::<FakeLog>::clone(log) });
        let hub = Arc::new(Hub::on(of_hub.collect(), Arc::<FakeLog>::clone(&logs[0])));
        let published = Arc::new(Mutex::new(vec![BTreeMap::new(); count]));
        let limits = [Some(300), Some(1_500), None, None, None];
        let limit = simulation.one_of(&limits);
        let (simulation, last) = (simulation.clone(), tokio::sync::watch::Sender::new(None));
        Self { simulation, hub, logs, published, limit, last }
    }

    /// Publishes events of two users, and returns the last one's number.
    fn publish(&self, log: usize, count: u64, [reader, recipient]: [u64; 2]) -> u64 {
        let first = self.logs[log].last() + 1;
        self.logs[log].publish(count, reader, recipient);
        let mut published = self.published.lock().unwrap();
        published[log].extend((first..first + count).map(|number| (number, [reader, recipient])));
        if let Some(limit) = self.limit {
            self.logs[log].limit(limit);
        }
        self.simulation.note(format!("{count} in {log} from {first}: {reader}, {recipient}"));
        first + count - 1
    }

    /// Does something to a log.
    async fn disturb(&self) {
        let simulation = &self.simulation;
        let log = usize::try_from(simulation.number(0..=2)).unwrap() % self.logs.len();
        let of_log = &self.logs[log];
        match simulation.number(0..=5) {
            0 | 1 => {
                let mode = simulation.one_of(&[Mode::Fails, Mode::Hangs]);
                simulation.note(format!("{log}: {mode:?}"));
                of_log.set_mode(mode);
                simulation.pause(AWAY_MAX).await;
                simulation.note(format!("{log} answers"));
                of_log.set_mode(Mode::Answers);
            }
            // Of several logs watchers read what is behind again and again.
            2 => drop(self.publish(log, if self.logs.len() == 1 { BURST } else { 50 }, [1, 2])),
            3 if self.limit.is_some() => {
                simulation.note(format!("{log} is flushed"));
                let last = of_log.last();
                of_log.set_gap_before(last);
                of_log.flush(last);
                sleep(LOSS_SPACING).await;
            }
            4 if self.limit.is_some() => {
                simulation.note(format!("{log} loses its newest"));
                let last = of_log.last();
                of_log.lose(simulation.number(1..=3).min(last));
                of_log.advance_to(last);
                of_log.set_gap_before(last);
                sleep(LOSS_SPACING).await;
            }
            _ => simulation.pause(3_000).await,
        }
    }

    /// Watches, leaves and comes back, until the run ends.
    async fn watch(self, number: u64) {
        let user = 1 + number % USERS;
        let slowness = self.simulation.one_of(&[0, 1, 20]);
        let mut place: Option<WatchPosition> = None;
        loop {
            self.simulation.note(format!("{number} watches {user} after {place:?}"));
            let starts = place.as_ref().map(|place| place.starts(self.logs.len()).unwrap());
            let mut heard = Heard::new(starts.as_deref(), self.logs.len());
            let watch = self.hub.watch(user.try_into().unwrap(), starts);
            let mut watch = match timeout(seconds(10), watch).await {
                Ok(Ok(watch)) => watch,
                Ok(Err(WatchError::Ahead)) => {
                    self.simulation.require(false, || format!("{number} is ahead"));
                    return;
                }
                Ok(Err(WatchError::Store(_))) | Err(_) => {
                    sleep(ms(500)).await;
                    continue;
                }
            };
            let leaves_at = Instant::now() + ms(self.simulation.number(0..=STAY_MAX_MS));
            while self.last.borrow().is_some() || Instant::now() < leaves_at {
                self.simulation.pause(slowness).await;
                let Ok(next) = timeout(seconds(2), watch.next()).await else {
                    if self.has_ended(user, &heard) {
                        return;
                    }
                    continue;
                };
                let Some(update) = next else { break };
                if !self.hear(number, user, &update, &mut heard, &mut place) {
                    break;
                }
            }
            let unsent = watch.unsent_heartbeat().filter(|_| self.simulation.chance(50));
            place = unsent.or(place);
        }
    }

    /// Checks an update, and notes the place after it. Returns whether the watch goes on.
    fn hear(
        &self,
        number: u64,
        user: u64,
        update: &Update,
        heard: &mut Heard,
        place: &mut Option<WatchPosition>,
    ) -> bool {
        match update {
            Update::Event { partition, event, .. } => {
                let log = usize::from(partition.unwrap_or_default());
                let at = event.position.entry().ms;
                self.simulation.note(format!("{number} hears {log}-{at}"));
                let concerned = [event.mark.reader.get(), event.mark.recipient.get()];
                self.simulation.require(concerned.contains(&user), || {
                    format!("{number} hears of {concerned:?}")
                });
                let is_next = heard.places[log].is_none_or(|place| place < at);
                self.simulation.require(is_next, || {
                    format!("{number} hears {log}-{at} after {:?}", heard.places[log])
                });
                self.reach(number, user, heard, log, at - 1);
                heard.places[log] = heard.places[log].max(Some(at));
                *place = Some(WatchPosition::of_event(*partition, event.position));
            }
            Update::Heartbeat(position) => {
                self.simulation.note(format!("{number} hears {position:?}"));
                let starts = position.starts(self.logs.len()).unwrap();
                for (log, start) in starts.into_iter().enumerate() {
                    if let Start::After(reached) = start {
                        self.reach(number, user, heard, log, reached.entry().ms);
                    }
                }
                *place = Some(position.clone());
            }
            Update::Gap => {
                self.simulation.note(format!("{number} hears of a gap"));
                // Of several logs one may have been unknown when the watcher came.
                let may_be = self.limit.is_some() || self.logs.len() > 1;
                self.simulation.require(may_be, || format!("{number} hears of no loss"));
                *heard = Heard::new(None, self.logs.len());
            }
            Update::OverQuota { .. } => {
                self.simulation.require(false, || format!("{number} has no quota"));
            }
            Update::Failed(_) => return false,
        }
        true
    }

    /// Notes that a watcher was told that it has everything up to a place.
    fn reach(&self, number: u64, user: u64, heard: &mut Heard, log: usize, to: u64) {
        let from = heard.places[log].unwrap_or(to);
        if from < to {
            let published = self.published.lock().unwrap();
            let missed = published[log].range(from + 1..=to);
            let missed = missed.filter(|(_, users)| users.contains(&user)).map(|(at, _)| *at);
            for at in missed {
                self.simulation.note(format!("{number} missed {log}-{at}"));
                self.simulation
                    .require(self.limit.is_some(), || format!("{number} missed {log}-{at}"));
                heard.owed.push((log, at));
            }
        }
        heard.places[log] = heard.places[log].max(Some(to));
    }

    /// Returns whether a watcher has heard the last event of each log.
    fn has_ended(&self, user: u64, heard: &Heard) -> bool {
        let last = self.last.borrow();
        let Some(last) = &*last else { return false };
        let has_heard =
            |(last, place): (&BTreeMap<u64, u64>, &Option<u64>)| Some(last[&user]) <= *place;
        let has_all = last.iter().zip(&heard.places).all(has_heard);
        self.simulation.require(!has_all || heard.owed.is_empty(), || {
            format!("a watcher of {user} was never told that it missed {:?}", heard.owed)
        });
        has_all
    }
}

impl Heard {
    fn new(starts: Option<&[Start]>, logs: usize) -> Self {
        let place = |start: &Start| match start {
            Start::After(position) => Some(position.entry().ms),
            Start::At(ms) => Some(ms.saturating_sub(1)),
            Start::Unknown => None,
        };
        let places = starts.map(|starts| starts.iter().map(place).collect());
        Self { places: places.unwrap_or_else(|| vec![None; logs]), owed: Vec::new() }
    }
}

async fn simulate(simulation: Simulation) {
    let world = World::new(&simulation);
    tokio::spawn(Arc::clone(&world.hub).run());
    let watchers: Vec<_> =
        (0..WATCHERS).map(|number| tokio::spawn(world.clone().watch(number))).collect();
    for _ in 0..simulation.number(20..=100) {
        simulation.pause(400).await;
        let users = [simulation.number(1..=USERS), simulation.number(1..=USERS + 1)];
        let log = usize::try_from(simulation.number(0..=2)).unwrap() % world.logs.len();
        world.publish(log, simulation.one_of(&[1, 1, 2, 20]), users);
        if simulation.chance(5) {
            world.disturb().await;
        }
    }
    // What was lost is noticed, and then each user hears of one more event.
    sleep(seconds(60)).await;
    let last = (0..world.logs.len()).map(|log| {
        (1..=USERS).map(|user| (user, world.publish(log, 1, [user, USERS + 1]))).collect()
    });
    let last = last.collect();
    world.last.send_replace(Some(last));
    for watcher in watchers {
        let ended = timeout(HEALED_WITHIN, watcher).await;
        simulation.require(ended.is_ok(), || "a watcher never hears the last event".to_owned());
    }
}

/// Each watcher hears each event of its user once and in order, whatever the logs and it itself do, or a gap,
/// and no gap if nothing was lost; and soon after all is well it hears of new events.
#[test]
fn every_watcher_hears_everything_once_or_a_gap() {
    simulation::run(60, simulate);
}
