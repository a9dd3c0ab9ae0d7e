//! A run in one mode: worlds one after the other, each loaded, broken, settled and judged.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use tokio::sync::watch;

use crate::account::Account;
use crate::history::{History, Injected};
use crate::load::{Load, settle};
use crate::plan::Plan;
use crate::rules::{Promise, Violation, judge, shortest};
use crate::world::{Options, World};

/// The longest time of a world, after which its history is judged and a new one begins: so memory is bounded,
/// and what a seed has found is found again within this time.
const EPOCH: Duration = Duration::from_secs(120);

/// Violations that are printed; the account counts all.
const PRINTED: usize = 10;

/// Lines that are printed of each log.
const LOG_LINES: usize = 20;

/// A run in one mode.
pub struct Run {
    /// What each world is started with.
    pub options: Options,
    /// The seed of the first world.
    pub seed: u64,
    /// How long faults are injected.
    pub time: Duration,
    /// How often each kind is injected, in place of a time.
    pub count: Option<u32>,
    /// The only kinds, unless it is empty.
    pub kinds: Vec<String>,
    /// Where the history is written if a rule is broken.
    pub history: Option<PathBuf>,
}

/// How a run ended.
pub struct Ended {
    /// The account of all worlds.
    pub account: Account,
    /// Whether every rule held.
    pub is_good: bool,
}

impl Run {
    /// Runs until the time is over, until each kind was injected often enough, until a rule is broken, or until
    /// it is to end.
    pub async fn run(&self, plan: &mut Plan, is_over: &watch::Receiver<bool>) -> Ended {
        let began = Instant::now();
        let mut account: Option<Account> = None;
        let mut seed = self.seed;
        loop {
            println!("{}", self.command(seed));
            let left = self.count.map_or(self.time.saturating_sub(began.elapsed()), |_| EPOCH);
            let (of_epoch, is_good) = self.epoch(seed, plan, left.min(EPOCH), is_over).await;
            match &mut account {
                Some(account) => account.add(of_epoch),
                None => account = Some(of_epoch),
            }
            let is_done = match self.count {
                Some(_) => plan.is_done(),
                None => began.elapsed() >= self.time,
            };
            if !is_good || is_done || *is_over.borrow() {
                let account = account.expect("there was an epoch");
                return Ended { account, is_good };
            }
            seed = seed.wrapping_add(1);
        }
    }

    /// One world. Returns its account, and whether every rule held.
    async fn epoch(
        &self,
        seed: u64,
        plan: &mut Plan,
        time: Duration,
        is_over: &watch::Receiver<bool>,
    ) -> (Account, bool) {
        let mut world = World::start(&self.options).await;
        let promise = Promise::new(world.mode(), world.durability(), world.partitions.into());
        let load = Load::start(&world, seed).await;
        let until = Instant::now() + time;
        let (faults, whole) = plan.run(&mut world, seed, until, is_over.clone()).await;
        if let Err(problem) = whole {
            println!("BROKEN: {problem}\n{}", logs(&world));
            let history = History { faults, ..History::default() };
            return (Account::of(&history, &promise, &[], &plan.not_run()), false);
        }
        let mut history = settle(&world, load).await;
        history.faults = faults;
        let log = logs(&world);
        world.end().await;
        let violations = judge(&history, &promise);
        if !violations.is_empty() {
            self.report(seed, &history, &promise, &violations);
            println!("{log}");
        }
        let account = Account::of(&history, &promise, &violations, &plan.not_run());
        (account, violations.is_empty())
    }

    fn report(&self, seed: u64, history: &History, promise: &Promise, broken: &[Violation]) {
        for violation in broken.iter().take(PRINTED) {
            println!("BROKEN: {violation}");
        }
        if broken.len() > PRINTED {
            println!("BROKEN: and {} more", broken.len() - PRINTED);
        }
        println!("The shortest history that shows the first of them:");
        for line in shortest(history, promise, &broken[0]) {
            println!("    {line}");
        }
        println!("To repeat: {}", self.command(seed));
        if let Some(path) = &self.history {
            match write_history(path, history) {
                Ok(()) => println!("All of it is in {}", path.display()),
                Err(error) => println!("{} cannot be written: {error}", path.display()),
            }
        }
    }

    /// The command line of a run that begins with this seed.
    fn command(&self, seed: u64) -> String {
        let name = |value: &dyn Fn() -> Option<clap::builder::PossibleValue>| {
            value().map(|value| value.get_name().to_owned()).unwrap_or_default()
        };
        let mode = name(&|| self.options.mode.to_possible_value());
        let durability = name(&|| self.options.durability.to_possible_value());
        let extent = match self.count {
            Some(count) => format!("--count {count}"),
            None => format!("--minutes {}", self.time.min(EPOCH).as_secs_f64() / 60.0),
        };
        let line = format!(
            "tests/faults/run --mode {mode} --durability {durability} --seed {seed} {extent}"
        );
        match &*self.kinds {
            [] => line,
            kinds => format!("{line} --faults {}", kinds.join(",")),
        }
    }
}

/// The last lines of each process's log.
fn logs(world: &World) -> String {
    let servers = world.servers.iter().flatten().map(|server| ("server", server.log()));
    let relays = world.relays.iter().flatten().map(|relay| ("relay", relay.log()));
    let stores = world.redis_logs().into_iter().map(|log| ("Redis", log));
    let tails = servers.chain(relays).chain(stores).map(|(what, log)| {
        let lines = &log[log.len().saturating_sub(LOG_LINES)..];
        format!("The last lines of a {what}:\n{}\n", lines.join("\n"))
    });
    tails.collect()
}

/// Writes everything that happened, a line each.
fn write_history(path: &Path, history: &History) -> std::io::Result<()> {
    let mut lines = Vec::new();
    let mut operations: Vec<_> = history.operations.iter().collect();
    operations.sort_by_key(|operation| operation.began);
    let mut put = |line: &dyn std::fmt::Debug| lines.push(format!("{line:?}"));
    history.faults.iter().for_each(|fault: &Injected| put(fault));
    for operation in operations {
        put(operation);
    }
    history.events.iter().for_each(|event| put(event));
    for watch in &history.watches {
        put(&("watch", watch.user, watch.from));
        watch.updates.iter().for_each(|update| put(&(watch.user, update)));
    }
    for deliveries in &history.deliveries {
        put(&("webhook", &deliveries.webhook, deliveries.missed, &deliveries.dead));
        deliveries.accepted.iter().for_each(|delivery| put(&(&deliveries.webhook, delivery)));
    }
    history.cursors.iter().for_each(|cursor| put(cursor));
    std::fs::write(path, lines.join("\n"))
}
