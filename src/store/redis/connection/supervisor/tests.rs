//! The supervisor of a simulated Redis, on a paused clock.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::cmd;
use tokio::task::JoinHandle;

use super::*;
use crate::domain::UserId;
use crate::store::HealthReceiver;
use crate::store::redis::connection::fake::{
    self, Command, FakeRedis, RATE_LIMIT, Reachable, Reply, Resp,
};
use crate::store::redis::partitions::PartitionStore;
use crate::store::redis::placement::{Placement, PlacementKey};
use crate::store::redis::scripts::{self, Script};
use crate::store::redis::settings::Ack;

/// A supervisor and the simulated Redis that it is connected to.
struct Setup {
    redis: FakeRedis,
    parts: NodeParts,
    workers: Workers,
    state: Arc<Mutex<State>>,
}

/// Returns the number of a connection, in the order in which they were opened.
async fn number_of(mut connection: MultiplexedConnection) -> usize {
    cmd("PING").query_async(&mut connection).await.unwrap()
}

/// What the simulated Redis has and does.
struct State {
    layout: HashMap<String, String>,
    /// Calls that every reader has used.
    quota: Option<u64>,
    /// The answer to `INFO`, unless it is refused.
    info: Option<&'static str>,
    /// Answers before the rest does, where it returns a reply.
    intercept: Intercept,
    received: Vec<Command>,
}

type Intercept = Box<dyn Fn(&Command) -> Option<Reply> + Send>;

impl State {
    fn answer(&mut self, command: &Command) -> Reply {
        self.received.push(command.clone());
        if let Some(reply) = (self.intercept)(command) {
            return reply;
        }
        let text_or_nil = |text: Option<&String>| text.map_or(Resp::nil(), |text| Resp::text(text));
        let words: Vec<_> = command.words.iter().map(String::as_str).collect();
        fake::now(match words[..] {
            ["PING"] => Resp::integer(u64::try_from(command.connection).unwrap()),
            ["SCRIPT", "LOAD", _] => Resp::text("0"),
            ["EVAL", script, ..] if script.contains("max-deleted-entry-id") => {
                Resp::array([Resp::text(""), Resp::text("1"), Resp::text("0")])
            }
            ["EVAL", script, ..] if script.contains("gap_before") => Resp::integer(1),
            ["EVAL", ..] => Resp::array([]),
            ["HSETNX", "markread:layout", field, value] => {
                let is_new = !self.layout.contains_key(field);
                self.layout.entry(field.to_owned()).or_insert(value.to_owned());
                Resp::integer(is_new.into())
            }
            ["HMGET", "markread:layout", ref fields @ ..] => {
                Resp::array(fields.iter().map(|field| text_or_nil(self.layout.get(*field))))
            }
            ["GET", _] => text_or_nil(self.quota.map(|used| used.to_string()).as_ref()),
            ["INFO", ..] => match self.info {
                Some(info) => Resp::text(info),
                None => Resp::error("NOPERM this user has no permissions"),
            },
            ["TIME"] => Resp::array([Resp::text("1"), Resp::text("0")]),
            _ => Resp::error("ERR unknown command"),
        })
    }
}

impl Setup {
    fn new() -> Self {
        Self::of_workers(1)
    }

    fn of_workers(count: usize) -> Self {
        Self::with(count, None)
    }

    fn with(count: usize, ack: Option<Ack>) -> Self {
        let state = Arc::new(Mutex::new(State {
            layout: HashMap::new(),
            quota: None,
            info: Some(RUN_ID),
            intercept: Box::new(|_| None),
            received: Vec::new(),
        }));
        let of_redis = Arc::clone(&state);
        let redis = FakeRedis::new(move |command| of_redis.lock().unwrap().answer(command));
        let parts = fake::parts_of(count, ack);
        Self { redis, parts, workers: Workers::all_here(count), state }
    }

    /// Starts the supervisor.
    fn run(&self) -> JoinHandle<LayoutMismatch> {
        let load = [Script::mark_read(), Script::read_states(), Script::list_cursors()];
        let load = scripts::load(&load);
        let (redis, parts, workers) =
            (self.redis.clone(), self.parts.clone(), self.workers.clone());
        tokio::spawn(Supervisor::new(redis, parts, load, workers).run())
    }

    /// Starts the supervisor, and returns right after its first probe.
    async fn ready() -> Self {
        let setup = Self::new();
        setup.run();
        setup.wait_until_ready().await;
        setup
    }

    async fn wait_until_ready(&self) {
        let mut health = self.parts.connections.health();
        let ready = health.wait_for(|health| matches!(health, StoreHealth::Ready { .. }));
        timeout(Duration::from_secs(60), ready).await.expect("it becomes ready").unwrap();
    }

    fn partition(&self) -> &PartitionStore {
        &self.parts.shared.partitions.all()[0]
    }

    fn health(&self) -> StoreHealth {
        self.parts.connections.health().borrow().clone()
    }

    fn warnings(&self) -> usize {
        match self.health() {
            StoreHealth::Ready { warnings } => warnings.len(),
            StoreHealth::Away(cause) => panic!("{cause}"),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Answers commands by this function where it returns a reply.
    fn intercept(&self, intercept: impl Fn(&Command) -> Option<Reply> + Send + 'static) {
        self.state().intercept = Box::new(intercept);
    }

    /// Refuses the layout checks of these connections.
    fn refuse(&self, connections: std::ops::Range<usize>) {
        self.intercept(move |command| {
            let refuse = command.name() == "HMGET" && connections.contains(&command.connection);
            refuse.then(|| fake::now(Resp::error(FULL)))
        });
    }

    fn answer_again(&self) {
        self.intercept(|_| None);
    }

    /// Returns the number of the connection that calls use.
    async fn calls(&self) -> Option<usize> {
        self.calls_of(0).await
    }

    /// Returns the number of the connection that a worker's calls use.
    async fn calls_of(&self, worker: usize) -> Option<usize> {
        let calls = self.parts.connections.calls_link_of(worker).ok()?;
        Some(number_of(calls.connection()).await)
    }

    /// Waits until calls use the next connections.
    async fn wait_until_reconnected(&self) -> Duration {
        let began = Instant::now();
        let opened = self.redis.attempts().len();
        while self.calls().await.is_none_or(|number| number < opened) {
            assert!(began.elapsed() < Duration::from_secs(60), "calls have no new connection");
            settle().await;
        }
        began.elapsed()
    }

    fn deny(&self) {
        let until = Instant::now() + Duration::from_secs(3600);
        let (quota, denials) = (RATE_LIMIT.quota(100, 0), &self.parts.shared.denials);
        denials.insert(reader(), quota, Some(until), denials.generation());
    }

    fn is_denied(&self) -> bool {
        self.parts.shared.denials.get(reader()).is_some()
    }
}

const RUN_ID: &str = "run_id:1\r\n";
const FULL: &str = "OOM command not allowed";

fn reader() -> UserId {
    7.try_into().unwrap()
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

async fn changed(health: &mut HealthReceiver) {
    let changed = timeout(Duration::from_secs(60), health.changed()).await;
    changed.expect("the health changes").unwrap();
}

/// Lets everything run that can.
async fn settle() {
    sleep(ms(1)).await;
}

#[tokio::test(start_paused = true)]
async fn it_connects_checks_the_layout_and_is_ready_once_probed() {
    let setup = Setup::new();
    setup.intercept(|command| match (command.name(), command.connection) {
        ("SCRIPT", 0) => Some(fake::after(ms(100), Resp::text("0"))),
        ("HSETNX", 1) => Some(fake::after(ms(400), Resp::integer(0))),
        _ => None,
    });
    setup.run();
    sleep(ms(299)).await;
    assert!(setup.state().layout.is_empty());
    assert_eq!(setup.calls().await, None);
    assert!(setup.parts.connections.tail().is_err());
    sleep(ms(2)).await;
    let layout = setup.state().layout.clone();
    assert_eq!((layout["version"].as_str(), layout["partitions"].as_str()), ("2", "1"));
    assert!(PlacementKey::parse(&layout["key"]).is_some());
    assert_eq!(setup.calls().await, Some(0));
    assert!(setup.parts.connections.tail().is_ok());

    sleep(ms(398)).await;
    assert_eq!(setup.health(), StoreHealth::Away("not connected yet".to_owned()));
    sleep(ms(2)).await;
    assert_eq!(setup.health(), StoreHealth::Ready { warnings: Vec::new() });
    let received = setup.state().received.clone();
    let by_calls = received.iter().filter(|command| command.connection == 0);
    let names: Vec<_> = by_calls.map(Command::name).collect();
    let (permissions, load) = (["EVAL"; 2], ["SCRIPT"; 3]);
    let (read, write) = (["HSETNX", "HMGET"], ["HSETNX", "HSETNX", "HMGET"]);
    // The stream, before the connections are put to use.
    let check = ["EVAL"];
    let prepared = [&permissions[..], &load, &read, &write, &check].concat();
    assert_eq!(names, [&["INFO"][..], &prepared, &["TIME", "PING"]].concat());
    // Nothing but that is sent on the connection that blocks.
    let by_tail = received.iter().filter(|command| command.connection == 2);
    assert_eq!(by_tail.map(Command::name).collect::<Vec<_>>(), ["INFO", "TIME"]);
    assert!(received.iter().all(|command| command.connection < 3));
}

#[tokio::test(start_paused = true)]
async fn it_probes_every_second() {
    let setup = Setup::ready().await;
    setup.state().received.clear();
    // A slow answer does not delay the next probe.
    setup.intercept(|command| {
        let slow = command.name() == "HSETNX";
        slow.then(|| fake::after(ms(300), Resp::integer(0)))
    });
    sleep(ms(10_500)).await;
    let probes = setup.state().received.iter().filter(|sent| sent.name() == "HSETNX").count();
    assert_eq!(probes, 10);
}

#[tokio::test(start_paused = true)]
async fn looks_at_the_stream_that_take_long_are_rarer_and_no_failures() {
    let is_look =
        |command: &Command| command.words.iter().any(|word| word.contains("max-deleted-entry-id"));
    // A look after 3 s, or after 10 s when it was given up.
    for (takes, expected) in [(ms(10), 30), (ms(300), 8), (ms(600), 3)] {
        let setup = Setup::ready().await;
        let mut health = setup.parts.connections.health();
        health.mark_unchanged();
        setup.state().received.clear();
        setup.intercept(move |command| {
            let reply = || Resp::array([Resp::text(""), Resp::text("1"), Resp::text("0")]);
            is_look(command).then(|| fake::after(takes, reply()))
        });
        sleep(ms(30_500)).await;
        let received = setup.state().received.clone();
        let probes = received.iter().filter(|sent| sent.name() == "HSETNX").count();
        assert_eq!(probes, 30);
        let looks = received.iter().filter(|sent| is_look(sent)).count();
        assert!(looks.abs_diff(expected) <= 1, "{looks} looks of {takes:?}");
        assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_left_at_once_and_replaced() {
    for _ in 0..20 {
        let setup = Setup::ready().await;
        let mut health = setup.parts.connections.health();
        health.mark_unchanged();
        setup.state().quota = Some(RATE_LIMIT.calls);
        setup.deny();
        setup.redis.close_connections();
        settle().await;
        assert_eq!(setup.calls().await, None);
        assert!(setup.is_denied());
        let took = setup.wait_until_reconnected().await;
        assert!((ms(98)..=ms(402)).contains(&took), "{took:?}");
        // Another Redis may have answered.
        assert!(!setup.is_denied());
        sleep(ms(2000)).await;
        assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    }
}

#[tokio::test(start_paused = true)]
async fn a_demoted_master_is_left_at_once() {
    let setup = Setup::ready().await;
    setup.intercept(|command| {
        let demoted = command.name() == "HSETNX" && command.connection < 3;
        demoted.then(|| fake::now(Resp::error("READONLY against a read only replica")))
    });
    sleep(ms(1001)).await;
    assert_eq!(setup.calls().await, None);
    let took = setup.wait_until_reconnected().await;
    assert!(took <= ms(402), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn health_is_off_after_two_failures_on_after_one_success() {
    let setup = Setup::ready().await;
    let mut health = setup.parts.connections.health();
    health.mark_unchanged();
    let began = Instant::now();
    // The first failure is 100 ms late, the second is not: 0.9 s are between them.
    let failures = AtomicUsize::new(0);
    setup.intercept(move |command| {
        let late = || match failures.fetch_add(1, Ordering::Relaxed) {
            0 => fake::after(ms(100), Resp::error(FULL)),
            _ => fake::now(Resp::error(FULL)),
        };
        (command.name() == "HMGET").then(late)
    });
    changed(&mut health).await;
    assert_eq!(began.elapsed(), ms(2000));
    let away = StoreHealth::Away(format!("the store is unavailable: {FULL}"));
    assert_eq!(*health.borrow_and_update(), away);
    setup.answer_again();
    changed(&mut health).await;
    assert_eq!(began.elapsed(), ms(3000));
    assert!(matches!(setup.health(), StoreHealth::Ready { .. }));
}

#[tokio::test(start_paused = true)]
async fn health_stays_on_through_single_failures() {
    let setup = Setup::ready().await;
    let mut health = setup.parts.connections.health();
    health.mark_unchanged();
    sleep(ms(500)).await;
    for _ in 0..3 {
        setup.refuse(0..3);
        sleep(ms(1000)).await;
        setup.answer_again();
        sleep(ms(1000)).await;
    }
    assert!(!health.has_changed().unwrap(), "{:?}", setup.health());
    assert_eq!(setup.redis.attempts().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn probes_that_hang_count_as_failed() {
    let setup = Setup::ready().await;
    let began = Instant::now();
    setup.intercept(|command| (command.name() == "HMGET").then(fake::never));
    let mut health = setup.parts.connections.health();
    health.mark_unchanged();
    changed(&mut health).await;
    assert_eq!(began.elapsed(), ms(3100));
    assert_eq!(setup.health(), StoreHealth::Away("a probe timed out".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn three_failed_probes_lead_to_new_connections() {
    let setup = Setup::ready().await;
    setup.refuse(0..3);
    sleep(ms(2999)).await;
    assert_eq!(setup.redis.attempts().len(), 3);
    // The old connections stay in use until new ones are ready.
    setup.redis.set_reachable(Reachable::Hangs);
    sleep(ms(402)).await;
    assert_eq!(setup.redis.attempts().len(), 6);
    sleep(ms(5000)).await;
    assert_eq!(setup.calls().await, Some(0));
    assert!(matches!(setup.health(), StoreHealth::Away(_)));
    setup.redis.set_reachable(Reachable::Yes);
    sleep(ms(2402)).await;
    assert_eq!(setup.calls().await, Some(3));
    assert!(matches!(setup.health(), StoreHealth::Ready { .. }));
}

#[tokio::test(start_paused = true)]
async fn new_connections_that_are_refused_too_are_not_used() {
    let setup = Setup::ready().await;
    setup.refuse(0..usize::MAX);
    sleep(ms(10_000)).await;
    assert!(setup.redis.attempts().len() > 6);
    assert_eq!(setup.calls().await, Some(0));
}

/// What is wrong with a Redis that has four partitions of the second version.
const MISMATCH: &str = "Redis has layout version \"2\" in \"4\" partitions, this server needs \
                        version \"1\" or \"2\" in \"1\"";

fn other_layout() -> HashMap<String, String> {
    [("version", "2"), ("partitions", "4")]
        .map(|(field, value)| (field.to_owned(), value.to_owned()))
        .into()
}

#[tokio::test(start_paused = true)]
async fn another_layout_at_first_contact_ends_the_run() {
    let setup = Setup::new();
    setup.redis.set_reachable(Reachable::Refuses);
    let run = setup.run();
    sleep(ms(5000)).await;
    assert!(!run.is_finished());
    setup.state().layout = other_layout();
    setup.redis.set_reachable(Reachable::Yes);
    let mismatch = timeout(ms(402), run).await.expect("the run ends").unwrap();
    assert_eq!(mismatch.to_string(), MISMATCH);
    assert_eq!(setup.calls().await, None);
    assert_eq!(setup.state().layout, other_layout());
}

#[tokio::test(start_paused = true)]
async fn another_layout_later_takes_the_store_away() {
    let setup = Setup::new();
    let run = setup.run();
    setup.wait_until_ready().await;
    let layout = std::mem::replace(&mut setup.state().layout, other_layout());
    sleep(ms(1001)).await;
    assert_eq!(setup.calls().await, None);
    sleep(ms(60_000)).await;
    assert_eq!(setup.calls().await, None);
    assert_eq!(setup.health(), StoreHealth::Away(MISMATCH.to_owned()));
    assert!(!run.is_finished());
    setup.state().layout = layout;
    setup.wait_until_ready().await;
    assert!(setup.calls().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_absent_layout_clears_the_denials() {
    let setup = Setup::ready().await;
    // The reader's quota is used up again.
    setup.state().quota = Some(RATE_LIMIT.calls);
    setup.deny();
    sleep(ms(3001)).await;
    assert!(setup.is_denied());
    setup.state().layout.clear();
    sleep(ms(1000)).await;
    assert!(!setup.is_denied());
    assert_eq!(setup.state().layout.len(), 3);
}

fn layout(fields: &[(&str, &str)]) -> HashMap<String, String> {
    fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(start_paused = true)]
async fn a_layout_of_version_1_is_left_alone_and_followed_to_version_2() {
    let setup = Setup::new();
    let first = layout(&[("version", "1"), ("partitions", "1")]);
    setup.state().layout = first.clone();
    setup.run();
    setup.wait_until_ready().await;
    sleep(ms(3000)).await;
    assert_eq!(setup.state().layout, first);
    assert_eq!(*setup.partition().layout.placement(), Placement::Plain);

    let key = PlacementKey::random();
    let text = key.to_secret_text();
    setup.state().layout = layout(&[("version", "2"), ("partitions", "1"), ("key", &text)]);
    sleep(ms(1001)).await;
    assert_eq!(*setup.partition().layout.placement(), Placement::Keyed(key));
    assert!(setup.calls().await.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_layout_is_written_again_as_it_was() {
    for first in [
        layout(&[("version", "1"), ("partitions", "1")]),
        layout(&[("version", "2"), ("partitions", "1"), ("key", &"0123456789abcd".repeat(4))]),
    ] {
        let setup = Setup::new();
        setup.state().layout = first.clone();
        setup.run();
        setup.wait_until_ready().await;
        setup.state().layout.clear();
        sleep(ms(1001)).await;
        assert_eq!(setup.state().layout, first);
    }
}

#[tokio::test(start_paused = true)]
async fn version_2_without_a_valid_key_is_refused_and_the_key_not_shown() {
    for key in [None, Some("0123456789abcdef"), Some("")] {
        let setup = Setup::new();
        setup.state().layout = layout(&[("version", "2"), ("partitions", "1")]);
        if let Some(key) = key {
            setup.state().layout.insert("key".to_owned(), key.to_owned());
        }
        let before = setup.state().layout.clone();
        let mismatch = timeout(ms(1000), setup.run()).await.expect("the run ends").unwrap();
        let text = mismatch.to_string();
        assert!(text.contains("without a valid placement key"), "{text}");
        assert!(key.is_none_or(|key| key.is_empty() || !text.contains(key)), "{text}");
        assert_eq!(setup.state().layout, before);
    }
}

#[tokio::test(start_paused = true)]
async fn half_of_another_layout_clears_the_denials_too() {
    let setup = Setup::ready().await;
    setup.state().quota = Some(RATE_LIMIT.calls);
    setup.deny();
    setup.state().layout.remove("version");
    setup.state().layout.insert("partitions".to_owned(), "4".to_owned());
    sleep(ms(1001)).await;
    assert!(!setup.is_denied());
    assert_eq!(setup.calls().await, None);
}

#[tokio::test(start_paused = true)]
async fn denials_are_compared_with_redis_at_each_probe() {
    let setup = Setup::ready().await;
    settle().await;
    for used in [None, Some(RATE_LIMIT.calls - 1)] {
        setup.state().quota = Some(RATE_LIMIT.calls);
        setup.deny();
        sleep(ms(2000)).await;
        assert!(setup.is_denied(), "{used:?}");
        setup.state().quota = used;
        sleep(ms(1000)).await;
        assert!(!setup.is_denied(), "{used:?}");
    }

    // Without an answer they stay.
    setup.state().quota = None;
    setup.deny();
    setup.intercept(|command| {
        (command.name() == "GET").then(|| fake::now(Resp::error("NOPERM this user")))
    });
    sleep(ms(3000)).await;
    assert!(setup.is_denied());
    let received = setup.state().received.clone();
    assert!(received.iter().any(|command| command.words == ["GET", "markread:quota:7"]));
}

#[tokio::test(start_paused = true)]
async fn denied_reads_are_compared_with_redis_too() {
    let setup = Setup::ready().await;
    settle().await;
    let denials = &setup.parts.shared.read_denials;
    let deny = || {
        let until = Instant::now() + Duration::from_secs(3600);
        denials.insert(reader(), RATE_LIMIT.quota(100, 0), Some(until), denials.generation());
    };
    setup.state().quota = Some(RATE_LIMIT.calls);
    deny();
    sleep(ms(2000)).await;
    assert!(denials.get(reader()).is_some());
    setup.state().quota = None;
    sleep(ms(1000)).await;
    assert!(denials.get(reader()).is_none());
    let received = setup.state().received.clone();
    assert!(received.iter().any(|command| command.words == ["GET", "markread:read_quota:7"]));

    deny();
    setup.state().quota = Some(RATE_LIMIT.calls);
    setup.state().layout.clear();
    sleep(ms(1000)).await;
    assert!(denials.get(reader()).is_none(), "a flush clears them");
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_hangs_is_given_up_after_2_s() {
    let setup = Setup::new();
    setup.redis.set_reachable(Reachable::Hangs);
    setup.run();
    sleep(ms(60_000)).await;
    // Three at a time.
    let known = setup.redis.attempts().len();
    let attempts: Vec<_> = setup.redis.attempts().into_iter().step_by(3).collect();
    assert!(attempts.len() > 20);
    for two in attempts.windows(2) {
        let between = two[1] - two[0];
        assert!((ms(2100)..=ms(2402)).contains(&between), "{between:?}");
    }
    assert_eq!(setup.health(), StoreHealth::Away("connecting timed out".to_owned()));

    // As is a connection that opens and does not answer.
    setup.intercept(|command| (command.name() == "SCRIPT").then(fake::never));
    setup.redis.set_reachable(Reachable::Yes);
    sleep(ms(60_000)).await;
    let attempts: Vec<_> = setup.redis.attempts()[known..].iter().step_by(3).copied().collect();
    assert!(attempts.len() > 20);
    for two in attempts.windows(2) {
        let between = two[1] - two[0];
        assert!((ms(2100)..=ms(2402)).contains(&between), "{between:?}");
    }
    assert_eq!(setup.calls().await, None);
    setup.answer_again();
    setup.wait_until_ready().await;
}

#[tokio::test(start_paused = true)]
async fn warnings_stay_while_info_is_refused() {
    let setup = Setup::new();
    setup.state().info = Some("maxmemory_policy:allkeys-lru\r\n");
    setup.run();
    setup.wait_until_ready().await;
    assert_eq!(setup.warnings(), 1);
    setup.state().info = None;
    sleep(ms(3000)).await;
    assert_eq!(setup.warnings(), 1);
    setup.state().info = Some("maxmemory_policy:noeviction\r\n");
    sleep(ms(1001)).await;
    assert_eq!(setup.warnings(), 0);
}

mod losses;
mod simulation;
