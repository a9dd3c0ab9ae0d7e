//! One run of the fault harness: `tests/faults/run --help` has the command line.

#![allow(
    clippy::expect_used,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a run that cannot go on panics, and prints its account"
)]

use std::env::current_exe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use markread_faults::load::{Load, settle};
use markread_faults::plan::Plan;
use markread_faults::world::{Durability, Mode, Options, World};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The longest time of a world, after which its history is judged and a new one begins: so memory is bounded,
/// and a seed that fails takes no longer to fail again.
const EPOCH: Duration = Duration::from_secs(120);

/// Injects faults under load, and accounts for every acknowledged mark.
#[derive(Parser)]
#[command(name = "tests/faults/run")]
struct Arguments {
    /// How long faults are injected, in each mode.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// Chooses the load, the faults and their order. By default a random one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How the servers reach Redis.
    #[arg(long, value_enum, default_value_t = Modes::All)]
    mode: Modes,
    /// What Redis keeps, and when it acknowledges. By default `always`, with replicas `always-replica`.
    #[arg(long, value_enum)]
    durability: Option<Durability>,
    /// Only these kinds of faults.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    faults: Vec<String>,
    /// Until each kind was injected so often, in place of a time.
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    count: Option<u32>,
    /// The `markread` binary: by default the one beside this program.
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
    /// Where the history is written if a rule is broken.
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Modes {
    Standalone,
    Sentinel,
    Cluster,
    /// One after the other.
    All,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let is_over = ended_by_signals();
    let mode = Mode::Standalone;
    let durability = Durability::Always;
    let options = Options {
        mode,
        durability,
        binary: arguments
            .binary
            .clone()
            .unwrap_or_else(|| current_exe().unwrap().with_file_name("markread")),
    };
    let _ = (EPOCH, StdRng::seed_from_u64(1).random::<u64>());
    let mut plan = Plan::new(mode, &arguments.faults, arguments.count).unwrap();
    let began = Instant::now();
    let mut world = World::start(&options).await;
    println!("world {:?}", began.elapsed());
    let load = Load::start(&world, seed).await;
    println!("load {:?}", began.elapsed());
    let until = Instant::now() + Duration::from_secs_f64(60.0 * arguments.minutes);
    let (faults, whole) = plan.run(&mut world, seed, until, is_over).await;
    println!("{faults:?} {whole:?}");
    let mut history = settle(&world, load).await;
    println!("settled {:?}", began.elapsed());
    history.faults = faults;
    world.end().await;
    println!(
        "ops {} cursors {} events {} watches {:?} deliveries {:?}",
        history.operations.len(),
        history.cursors.len(),
        history.events.len(),
        history.watches.iter().map(|w| w.updates.len()).collect::<Vec<_>>(),
        history
            .deliveries
            .iter()
            .map(|w| (w.accepted.len(), w.dead.len(), w.missed))
            .collect::<Vec<_>>()
    );
    let mut counts = std::collections::BTreeMap::new();
    for op in &history.operations {
        let key = match &op.outcome {
            markread_faults::history::Outcome::Marked { advanced, .. } => {
                format!("marked {advanced}")
            }
            markread_faults::history::Outcome::Read(r) => format!("read {}", r.is_some()),
            o => format!("{o:?}"),
        };
        *counts.entry(key).or_insert(0) += 1;
    }
    println!("{counts:?}");
    ExitCode::SUCCESS
}

/// Becomes true with SIGINT or SIGTERM: the run stops, and is judged.
fn ended_by_signals() -> watch::Receiver<bool> {
    let (sender, is_over) = watch::channel(false);
    let [mut interrupt, mut terminate] =
        [SignalKind::interrupt(), SignalKind::terminate()].map(|kind| signal(kind).unwrap());
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("ended by a signal: what happened until now is judged");
        sender.send_replace(true);
        sender.closed().await;
    });
    is_over
}
