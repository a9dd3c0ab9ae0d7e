//! The well-behaved client beside an attack: users who mark at an even pace.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use markread_harness::caller::{Caller, Credentials};
use markread_harness::{RECIPIENT, Server};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// The time between two marks: 150 a second.
const PACE: Duration = Duration::from_micros(6667);

/// How many users mark in turn, so that none of them reaches a quota.
const USERS: u64 = 60;

/// The first of them.
const FIRST_USER: u64 = 9_000_001;

/// A call that takes longer is refused as far as its user is concerned.
const PATIENCE: Duration = Duration::from_secs(3);

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing is measured.
    Pause,
    /// Nobody attacks yet.
    Alone,
    /// The attack is under way.
    Attack,
    /// The attack is over.
    After,
}

/// What the neighbour met in a phase.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    /// Times of the served calls in ms, in order.
    times_ms: Vec<f64>,
    /// The number of calls that were not served, by status and reason.
    pub(crate) refused: BTreeMap<String, usize>,
}

impl Figures {
    /// The time that this share of the served calls did not exceed.
    pub(crate) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let last = self.times_ms.len().checked_sub(1)?;
        self.times_ms.get((last as f64 * share) as usize).copied()
    }

    pub(crate) fn served(&self) -> usize {
        self.times_ms.len()
    }

    pub(crate) fn refused(&self) -> usize {
        self.refused.values().sum()
    }
}

#[derive(Default)]
struct Shared {
    phase: AtomicUsize,
    started: AtomicBool,
    stop: AtomicBool,
    figures: Mutex<[Figures; 4]>,
}

/// A thread with the client, so that no attacker's task is in front of it.
pub(crate) struct Neighbour {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

impl Neighbour {
    /// Starts the thread, which does nothing until [`Neighbour::move_in`].
    pub(crate) fn new(server: &Server) -> Self {
        let shared = Arc::<Shared>::default();
        let address = server.address.clone();
        let to = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(run(&address, &to));
        });
        Self { shared, thread }
    }

    /// Begins to mark.
    pub(crate) fn move_in(&self) {
        self.shared.started.store(true, Relaxed);
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.shared.phase.store(phase as usize, Relaxed);
    }

    /// How many marks were served in all phases so far.
    pub(crate) fn served(&self) -> usize {
        self.shared.figures.lock().unwrap().iter().map(Figures::served).sum()
    }

    /// Waits for the calls under way, and returns the figures of each phase.
    pub(crate) fn stop(self) -> [Figures; 4] {
        self.shared.stop.store(true, Relaxed);
        self.thread.join().unwrap();
        let mut figures = self.shared.figures.lock().unwrap().clone();
        for figures in &mut figures {
            figures.times_ms.sort_by(f64::total_cmp);
        }
        figures
    }
}

async fn run(address: &str, shared: &Arc<Shared>) {
    let channel = || {
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"));
        endpoint.unwrap().connect_lazy()
    };
    let channels = [channel(), channel()];
    let users = (0..USERS).map(|user| {
        let channel = channels[user as usize % channels.len()].clone();
        Caller::new(channel, Credentials::token_of(FIRST_USER + user))
    });
    let users: Vec<Caller> = users.collect();
    let mut calls = JoinSet::new();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for (message, user) in (1..).zip(users.iter().cycle()) {
        while !shared.started.load(Relaxed) && !shared.stop.load(Relaxed) {
            sleep(PACE).await;
        }
        if shared.stop.load(Relaxed) {
            break;
        }
        pace.tick().await;
        calls.spawn(call(user.clone(), message, Arc::clone(shared)));
        while calls.try_join_next().is_some() {}
    }
    calls.join_all().await;
}

async fn call(user: Caller, message: u64, shared: Arc<Shared>) {
    let phase = shared.phase.load(Relaxed);
    let began = Instant::now();
    let answer = timeout(PATIENCE, user.mark(RECIPIENT, message)).await;
    let took = began.elapsed();
    let figures = &mut shared.figures.lock().unwrap()[phase];
    let refusal = match answer {
        Ok(Ok(_)) => return figures.times_ms.push(1000.0 * took.as_secs_f64()),
        Ok(Err(refusal)) if refusal.reason.is_empty() => format!("{:?}", refusal.code),
        Ok(Err(refusal)) => refusal.reason,
        Err(_) => "no answer in 3 s".to_owned(),
    };
    *figures.refused.entry(refusal).or_default() += 1;
}
