//! The cache of user objects on a simulated Redis, with seeds.

use std::collections::HashMap;
use std::sync::Mutex;

use tokio::time::timeout;

use super::*;
use crate::simulation::{self, Simulation};
use crate::store::redis::connection::address::{RedisAddress, RedisFiles};
use crate::store::redis::connection::fake::{self, Command, FakeRedis, Reply, Resp};
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::keys::Partition;

const USERS: u64 = 4;

/// Longest delay of a read, and of its answer.
const DELAY_MAX_MS: u64 = 300;

/// Longest pause of a caller, and of whoever changes objects.
const PAUSE_MAX_MS: u64 = 1_500;

/// The versions of each user's object, each with the time until which it was the current one.
type Versions = HashMap<u64, Vec<Option<Instant>>>;

#[derive(Clone)]
struct World {
    simulation: Simulation,
    versions: Arc<Mutex<Versions>>,
}

impl World {
    /// Gives a user the next version of its object.
    fn change(&self) {
        let user = self.simulation.number(1..=USERS);
        let mut versions = self.versions.lock().unwrap();
        let versions = versions.entry(user).or_insert_with(|| vec![None]);
        *versions.last_mut().unwrap() = Some(Instant::now());
        versions.push(None);
        self.simulation.note(format!("{user} has version {}", versions.len() - 1));
    }

    /// Answers a read of a user, of which each third version is no object.
    fn answer(&self, command: &Command) -> Reply {
        let user: u64 = command.words[1].strip_prefix("user:").unwrap().parse().unwrap();
        let world = self.clone();
        Box::pin(async move {
            world.simulation.pause(DELAY_MAX_MS).await;
            let version = {
                let mut versions = world.versions.lock().unwrap();
                versions.entry(user).or_insert_with(|| vec![None]).len() - 1
            };
            let is_absent = version % 3 == 2;
            let text = if is_absent { String::new() } else { object(user, version) };
            world.simulation.pause(DELAY_MAX_MS).await;
            match world.simulation.number(0..=19) {
                0 => Some(Resp::error("LOADING Redis is loading the dataset in memory")),
                _ => Some(Resp::text(&text)),
            }
        })
    }

    /// Checks that what is shown of a user was current within the lifetime of an entry.
    fn check(&self, user: u64, shown: Option<&str>) {
        let versions = self.versions.lock().unwrap();
        let Some(all) = versions.get(&user) else { return };
        let oldest = Instant::now() - LIFETIME;
        let is_recent = |until: &Option<Instant>| until.is_none_or(|until| until > oldest);
        let is_shown = |version: usize| match shown {
            None => version % 3 == 2,
            Some(shown) => shown == object(user, version),
        };
        let mut recent = all.iter().enumerate().filter(|(_, until)| is_recent(until));
        let holds = recent.any(|(version, _)| is_shown(version));
        self.simulation.note(format!("{user} is shown as {shown:?}"));
        self.simulation.require(holds, || format!("{user} is shown as {shown:?}, of {all:?}"));
    }
}

fn object(user: u64, version: usize) -> String {
    format!("{{\"id\":\"{user}\",\"version\":{version}}}")
}

fn user(id: u64) -> UserId {
    id.try_into().unwrap()
}

async fn call(world: World, cache: Arc<UserCache>, mut connection: MultiplexedConnection) {
    let keys = Keys::new(Partition::Only, "events", "user:");
    for _ in 0..40 {
        world.simulation.pause(PAUSE_MAX_MS).await;
        let (reader, recipient) = (world.simulation.number(1..=2), world.simulation.number(3..=4));
        let last_read_event_id = 1.try_into().unwrap();
        let mark = Mark { reader: user(reader), recipient: user(recipient), last_read_event_id };
        if let Some(known) = cache.cached(&mark) {
            for of in [reader, recipient] {
                let mut known = known.iter();
                let shown = known.find(|(user, _)| user.get() == of);
                world.check(of, shown.map(|(_, object)| object.as_str()));
            }
            continue;
        }
        let unknown = cache.look_up(&[mark]).unknown();
        let read = cache.read(&unknown, &keys, Way::Plain, &mut connection);
        // A caller may give up while it waits.
        let patience = Duration::from_millis(world.simulation.number(100..=2_000));
        let read = timeout(patience, read).await;
        world.simulation.note(format!("{unknown:?} are read: {}", read.is_ok()));
    }
}

async fn simulate(simulation: Simulation) {
    let world = World { simulation: simulation.clone(), versions: Arc::default() };
    let answering = world.clone();
    let redis = FakeRedis::new(move |command| answering.answer(command));
    let parts = fake::parts_of(1, None);
    redis.connect_calls(&parts).await;
    let address = RedisAddress::new("redis://127.0.0.1:1", None, RedisFiles::default()).unwrap();
    let spans = Arc::new(Spans::new(&RedisMode::Standalone(address)));
    let cache = Arc::new(UserCache::new(100, spans));
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let connection = parts.connections.calls().unwrap();
            tokio::spawn(call(world.clone(), Arc::clone(&cache), connection))
        })
        .collect();
    while calls.iter().any(|call| !call.is_finished()) {
        simulation.pause(PAUSE_MAX_MS).await;
        world.change();
    }
}

/// What is shown of a user was so at most the lifetime ago, however late Redis answers.
#[test]
fn no_user_object_is_shown_that_is_older_than_the_lifetime() {
    simulation::run(100, simulate);
}
