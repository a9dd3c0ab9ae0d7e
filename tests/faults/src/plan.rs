//! Which faults a run injects, and when: chosen by its seed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::faults::{KINDS, Kind, NotRun, inject};
use crate::history::Injected;
use crate::world::{Mode, World};

/// The time without a fault before each one.
const PAUSE_MS: Range<u64> = 300..2000;

/// The kinds of a run, across its epochs.
pub struct Plan {
    kinds: Vec<&'static Kind>,
    /// How often each kind is to be injected, where the run is not bounded by time.
    count: Option<u32>,
    injected: BTreeMap<&'static str, u32>,
    not_run: BTreeMap<&'static str, String>,
}

impl Plan {
    /// A plan for all kinds that the mode has, or for those of these names. Returns the name that is not
    /// known.
    pub fn new(mode: Mode, names: &[String], count: Option<u32>) -> Result<Self, String> {
        if let Some(unknown) =
            names.iter().find(|name| KINDS.iter().all(|kind| kind.name != **name))
        {
            let line = |kind: &Kind| format!("  {:22} {}", kind.name, kind.does);
            let known: Vec<_> = KINDS.iter().map(line).collect();
            return Err(format!(
                "{unknown} is not a kind of fault. These are:\n{}",
                known.join("\n")
            ));
        }
        let chosen = |kind: &&Kind| {
            kind.modes.contains(&mode)
                && (names.is_empty() || names.iter().any(|name| name == kind.name))
        };
        Ok(Self {
            kinds: KINDS.iter().filter(chosen).collect(),
            count,
            injected: BTreeMap::new(),
            not_run: BTreeMap::new(),
        })
    }

    /// The kinds that could not be injected, and why.
    pub fn not_run(&self) -> Vec<(String, String)> {
        self.not_run.iter().map(|(name, why)| ((*name).to_owned(), why.clone())).collect()
    }

    /// Whether nothing is left to inject.
    pub fn is_done(&self) -> bool {
        self.left().is_empty()
    }

    /// The kinds to inject next, each once.
    fn left(&self) -> Vec<&'static Kind> {
        let is_left = |kind: &&&'static Kind| {
            let injected = self.injected.get(kind.name).copied().unwrap_or_default();
            !self.not_run.contains_key(kind.name) && self.count.is_none_or(|count| injected < count)
        };
        self.kinds.iter().filter(is_left).copied().collect()
    }

    /// Injects faults until this moment, until none is left or until the run is to end. Each kind comes once
    /// before one comes again. Returns what was injected, or what was wrong with the world after the last.
    pub async fn run(
        &mut self,
        world: &mut World,
        seed: u64,
        until: Instant,
        mut is_over: watch::Receiver<bool>,
    ) -> (Vec<Injected>, Result<(), String>) {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut deck, mut done) = (Vec::new(), Vec::new());
        while !*is_over.borrow() && Instant::now() < until {
            let pause = Duration::from_millis(random.random_range(PAUSE_MS));
            // An error is the end of the time.
            let _ = timeout(pause, is_over.wait_for(|is_over| *is_over)).await;
            if deck.is_empty() {
                deck = self.left();
                deck.shuffle(&mut random);
            }
            let Some(kind) = deck.pop() else {
                if self.count.is_some() {
                    break;
                }
                sleep(pause).await;
                continue;
            };
            if let Err(problem) = self.inject(kind, world, &mut random, &mut done).await {
                return (done, Err(format!("after {}: {problem}", kind.name)));
            }
        }
        (done, Ok(()))
    }

    /// Injects a fault, and waits until the world is whole again. Returns what is missing if it never is.
    async fn inject(
        &mut self,
        kind: &'static Kind,
        world: &mut World,
        random: &mut StdRng,
        done: &mut Vec<Injected>,
    ) -> Result<(), String> {
        let from = world.now();
        match inject(kind, world, random).await {
            Ok(losses) => {
                *self.injected.entry(kind.name).or_default() += 1;
                done.push(Injected { kind: kind.name.to_owned(), from, to: world.now(), losses });
            }
            Err(NotRun(why)) => {
                println!("NOT RUN: {}: {why}", kind.name);
                self.not_run.insert(kind.name, why);
                return Ok(());
            }
        }
        let to = world.now();
        let last = world.try_wait_until_whole().await?;
        // Until now it may have consequences, on a slow machine long after its cause is gone.
        let fault = done.last_mut().expect("it was injected");
        fault.to = world.now();
        let whole = fault.to.saturating_sub(to);
        let [at, lasted, whole] =
            [from, to.saturating_sub(from), whole].map(|time| format!("{:.1}", time.as_secs_f64()));
        let last = last.map(|last| format!(": {last}")).unwrap_or_default();
        println!("{at:>7} s  {:20} for {lasted} s, whole after {whole} s{last}", kind.name);
        Ok(())
    }
}
