//! Deterministic simulation: a test that runs with many seeds, each of which decides everything that is left to
//! chance (`docs/development.md`, "Simulation").
//!
//! A run has one thread and a paused clock. Delays, failures and the order in which tasks go on come from the
//! seed, also the random numbers of the code under test ([`crate::chance`]). So a seed that failed fails again.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "it is a part of tests")]

use std::cell::RefCell;
use std::env;
use std::fmt::Display;
use std::hash::{BuildHasherDefault, DefaultHasher};
use std::ops::{Range, RangeInclusive};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rand::distr::uniform::{SampleRange, SampleUniform};
use rand::distr::{Distribution, StandardUniform};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::runtime::Builder;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

/// The only seed to run.
const SEED: &str = "MARKREAD_TEST_SEED";

/// How many seeds to run, or which: `10000` or `10000..20000`.
const SEEDS: &str = "MARKREAD_TEST_SEEDS";

/// If it is set, the trace is printed as it grows: of a run that does not end too.
const TRACE: &str = "MARKREAD_TEST_TRACE";

/// Each seed that is a multiple of this is run twice, and must do the same both times.
const TWICE_EVERY: u64 = 16;

/// Lines of the trace that are shown of a seed that failed.
const SHOWN_LINES: usize = 80;

/// Times that a task lets others go on at most, where it waits for no time.
const YIELDS_MAX: u64 = 4;

thread_local! {
    /// The numbers of the seed that this thread runs.
    static NUMBERS: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// Random numbers: those of the seed, and in other tests any.
pub(crate) struct Numbers;

/// Gives maps the same order in each run.
pub(crate) type RandomState = BuildHasherDefault<DefaultHasher>;

impl RngCore for Numbers {
    fn next_u32(&mut self) -> u32 {
        NUMBERS.with_borrow_mut(|seeded| match seeded {
            Some(numbers) => numbers.next_u32(),
            None => rand::rng().next_u32(),
        })
    }

    fn next_u64(&mut self) -> u64 {
        NUMBERS.with_borrow_mut(|seeded| match seeded {
            Some(numbers) => numbers.next_u64(),
            None => rand::rng().next_u64(),
        })
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        NUMBERS.with_borrow_mut(|seeded| match seeded {
            Some(numbers) => numbers.fill_bytes(bytes),
            None => rand::rng().fill_bytes(bytes),
        });
    }
}

/// As [`rand::rng`].
pub(crate) fn rng() -> Numbers {
    Numbers
}

/// As [`rand::random`].
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    Numbers.random()
}

/// As [`rand::random_range`].
pub(crate) fn random_range<T: SampleUniform>(range: impl SampleRange<T>) -> T {
    Numbers.random_range(range)
}

/// One run: what the seed decides, what has happened, and which rules were broken.
#[derive(Clone)]
pub(crate) struct Simulation(Arc<State>);

struct State {
    seed: u64,
    is_shown: bool,
    began: Instant,
    trace: Mutex<Vec<String>>,
    broken: Mutex<Vec<String>>,
}

#[allow(clippy::unused_self, reason = "the numbers are this run's: it is the one of the thread")]
impl Simulation {
    /// Returns a number of a range.
    pub(crate) fn number(&self, range: RangeInclusive<u64>) -> u64 {
        random_range(range)
    }

    /// Returns one of several.
    pub(crate) fn one_of<T: Copy>(&self, several: &[T]) -> T {
        several[random_range(0..several.len())]
    }

    /// Returns true so often of a hundred times.
    pub(crate) fn chance(&self, percent: u64) -> bool {
        random_range(0..100) < percent
    }

    /// Waits for a time of at most so many milliseconds, or lets other tasks go on within the same one.
    pub(crate) async fn pause(&self, max_ms: u64) {
        if max_ms == 0 || self.chance(50) {
            for _ in 0..self.number(0..=YIELDS_MAX) {
                yield_now().await;
            }
        } else {
            sleep(Duration::from_millis(self.number(1..=max_ms))).await;
        }
    }

    /// Returns the milliseconds since the run began.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap()
    }

    /// Adds a line to the trace.
    #[allow(clippy::print_stderr, reason = "whoever asked for the trace reads the test's output")]
    pub(crate) fn note(&self, what: impl Display) {
        let line = format!("{:>6} ms  {what}", self.now_ms());
        if self.0.is_shown {
            eprintln!("{line}");
        }
        self.0.trace.lock().unwrap().push(line);
    }

    /// Notes that a rule is broken, unless it holds. In a task too, whose panic nobody would notice.
    pub(crate) fn require(&self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds {
            let rule = rule();
            self.note(format!("BROKEN: {rule}"));
            self.0.broken.lock().unwrap().push(rule);
        }
    }
}

/// Shows the seed and the end of the trace if the run panics.
struct Shown(Simulation);

impl Drop for Shown {
    #[allow(clippy::print_stderr, reason = "whoever reads the test's output needs the seed")]
    fn drop(&mut self) {
        if thread::panicking() {
            let Simulation(state) = &self.0;
            let trace = state.trace.lock().unwrap();
            for line in &trace[trace.len().saturating_sub(SHOWN_LINES)..] {
                eprintln!("{line}");
            }
            let test = thread::current().name().unwrap_or_default().to_owned();
            eprintln!("reproduce with {SEED}={} cargo test --lib {test}", state.seed);
        }
    }
}

/// Runs a simulation with so many seeds, unless the environment names others.
pub(crate) fn run<F: Future<Output = ()>>(seeds: u64, simulate: impl Fn(Simulation) -> F) {
    let chosen = chosen(env::var(SEED).ok().as_deref(), env::var(SEEDS).ok().as_deref());
    for seed in chosen.unwrap_or(0..seeds) {
        let trace = run_seed(seed, &simulate);
        if seed % TWICE_EVERY == 0 {
            let again = run_seed(seed, &simulate);
            let differing = trace.iter().zip(&again).position(|(one, other)| one != other);
            if let Some(at) = differing {
                let before = &trace[at.saturating_sub(SHOWN_LINES)..at];
                let (one, other) = (&trace[at], &again[at]);
                panic!("seed {seed} does not do the same twice, after {before:#?}: {one}, {other}");
            }
            assert_eq!(trace.len(), again.len(), "seed {seed} does not do the same twice");
        }
    }
}

fn chosen(seed: Option<&str>, seeds: Option<&str>) -> Option<Range<u64>> {
    let parse = |text: &str| text.parse::<u64>().expect("a seed is a number");
    if let Some(seed) = seed {
        return Some(parse(seed)..parse(seed) + 1);
    }
    let seeds = seeds?;
    let (first, end) = seeds.split_once("..").unwrap_or(("0", seeds));
    Some(parse(first)..parse(end))
}

/// Runs a simulation with one seed, and returns its trace.
fn run_seed<F: Future<Output = ()>>(seed: u64, simulate: impl Fn(Simulation) -> F) -> Vec<String> {
    NUMBERS.set(Some(StdRng::seed_from_u64(seed)));
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let trace = runtime.block_on(async {
        let (began, trace, broken) = (Instant::now(), Mutex::default(), Mutex::default());
        let is_shown = env::var_os(TRACE).is_some();
        let simulation = Simulation(Arc::new(State { seed, is_shown, began, trace, broken }));
        let _shown = Shown(simulation.clone());
        simulate(simulation.clone()).await;
        let broken = std::mem::take(&mut *simulation.0.broken.lock().unwrap());
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
        std::mem::take(&mut *simulation.0.trace.lock().unwrap())
    });
    drop(runtime);
    NUMBERS.set(None);
    trace
}

/// As [`tokio::sync::watch`], whose receivers wake in a random order: here in the order in which they wait.
pub(crate) mod watch {
    use std::ops::Deref;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Arc, RwLock, RwLockReadGuard};

    use tokio::sync::Notify;

    #[derive(Default)]
    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    pub(crate) struct Receiver<T> {
        shared: Arc<Shared<T>>,
        seen: u64,
    }

    #[derive(Default)]
    struct Shared<T> {
        value: RwLock<T>,
        version: AtomicU64,
        is_closed: AtomicBool,
        changed: Notify,
    }

    /// A value that is borrowed. No guard by its type, so that it is used as tokio's.
    pub(crate) struct Ref<'a, T>(RwLockReadGuard<'a, T>);

    impl<T> Deref for Ref<'_, T> {
        type Target = T;

        fn deref(&self) -> &T {
            &self.0
        }
    }

    /// The sender is gone.
    #[derive(Debug)]
    pub(crate) struct Closed;

    impl<T> Sender<T> {
        pub(crate) fn new(value: T) -> Self {
            let (version, is_closed, changed) = Default::default();
            let value = RwLock::new(value);
            Self(Arc::new(Shared { value, version, is_closed, changed }))
        }

        pub(crate) fn subscribe(&self) -> Receiver<T> {
            let seen = self.0.version.load(Ordering::SeqCst);
            Receiver { shared: Arc::clone(&self.0), seen }
        }

        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            Ref(self.0.value.read().unwrap())
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut T)) {
            modify(&mut self.0.value.write().unwrap());
            self.0.version.fetch_add(1, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }

        pub(crate) fn send_replace(&self, value: T) {
            self.send_modify(|known| *known = value);
        }
    }

    impl<T> Drop for Sender<T> {
        fn drop(&mut self) {
            self.0.is_closed.store(true, Ordering::SeqCst);
            self.0.changed.notify_waiters();
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn borrow(&self) -> Ref<'_, T> {
            Ref(self.shared.value.read().unwrap())
        }

        pub(crate) fn borrow_and_update(&mut self) -> Ref<'_, T> {
            self.seen = self.shared.version.load(Ordering::SeqCst);
            self.borrow()
        }

        pub(crate) async fn changed(&mut self) -> Result<(), Closed> {
            loop {
                let changed = self.shared.changed.notified();
                let version = self.shared.version.load(Ordering::SeqCst);
                if std::mem::replace(&mut self.seen, version) != version {
                    return Ok(());
                }
                if self.shared.is_closed.load(Ordering::SeqCst) {
                    return Err(Closed);
                }
                changed.await;
            }
        }

        pub(crate) async fn wait_for(
            &mut self,
            mut is_so: impl FnMut(&T) -> bool,
        ) -> Result<Ref<'_, T>, Closed> {
            while !is_so(&self.borrow_and_update()) {
                self.changed().await?;
            }
            Ok(self.borrow())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_seed_decides_delays_and_random_numbers() {
        let traces = [1, 1, 2].map(|seed| {
            run_seed(seed, |simulation| async move {
                for _ in 0..10 {
                    simulation.pause(100).await;
                    simulation.note(crate::chance::random::<u64>());
                }
            })
        });
        assert_eq!(traces[0], traces[1]);
        assert_ne!(traces[0], traces[2]);
    }

    #[test]
    fn the_environment_chooses_seeds() {
        assert_eq!(chosen(None, None), None);
        assert_eq!(chosen(Some("7"), Some("100")), Some(7..8));
        assert_eq!(chosen(None, Some("100")), Some(0..100));
        assert_eq!(chosen(None, Some("100..200")), Some(100..200));
    }

    #[test]
    fn a_rule_that_a_task_finds_broken_fails_the_run() {
        let failed = catch_unwind(AssertUnwindSafe(|| {
            run_seed(1, |simulation| async move {
                let task = simulation.clone();
                tokio::spawn(async move { task.require(false, || "it holds".to_owned()) });
                simulation.pause(0).await;
                yield_now().await;
            })
        }));
        let message = *failed.unwrap_err().downcast::<String>().unwrap();
        assert!(message.contains("it holds"), "{message}");
    }

    #[test]
    fn a_run_that_differs_the_second_time_is_noticed() {
        let runs = RefCell::new(0);
        let failed = catch_unwind(AssertUnwindSafe(|| {
            run(1, |simulation| {
                *runs.borrow_mut() += 1;
                let number = *runs.borrow();
                async move { simulation.note(number) }
            });
        }));
        assert!(failed.is_err() || env::var(SEED).is_ok());
    }
}
