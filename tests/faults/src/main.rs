//! The command line of the fault harness: `tests/faults/run`.

#![allow(
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a run that cannot go on panics, and prints its account"
)]

use std::env::current_exe;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, ValueEnum, error::ErrorKind};
use markread_faults::account::Account;
use markread_faults::plan::Plan;
use markread_faults::run::Run;
use markread_faults::world::{Durability, Mode, Options};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Injects faults under load, and accounts for every acknowledged mark.
#[derive(Parser)]
#[command(name = "tests/faults/run")]
struct Arguments {
    /// How long faults are injected, in each mode.
    #[arg(long, default_value_t = 1.0, value_name = "M")]
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

impl Modes {
    fn each(self) -> &'static [(Mode, &'static str)] {
        let all = &[
            (Mode::Standalone, "standalone"),
            (Mode::Sentinel, "sentinel"),
            (Mode::Cluster, "cluster"),
        ];
        match self {
            Self::Standalone => &all[..1],
            Self::Sentinel => &all[1..2],
            Self::Cluster => &all[2..],
            Self::All => all,
        }
    }
}

impl Arguments {
    /// What a run in this mode begins with, or which arguments are wrong.
    fn run(&self, mode: Mode, seed: u64) -> Result<(Run, Plan), String> {
        let by_default = match mode {
            Mode::Standalone => Durability::Always,
            Mode::Sentinel | Mode::Cluster => Durability::AlwaysReplica,
        };
        let durability = self.durability.unwrap_or(by_default);
        if durability == Durability::AlwaysReplica && mode == Mode::Standalone {
            return Err("--durability always-replica needs --mode sentinel or cluster".to_owned());
        }
        if !(0.0..=100_000.0).contains(&self.minutes) {
            return Err("--minutes must be from 0 to 100000".to_owned());
        }
        let beside = || current_exe().unwrap().with_file_name("markread");
        let binary = self.binary.clone().unwrap_or_else(beside);
        if !binary.is_file() {
            return Err(format!("{} is not a file: --binary names another", binary.display()));
        }
        let run = Run {
            options: Options { mode, durability, binary },
            seed,
            time: Duration::from_secs_f64(60.0 * self.minutes),
            count: self.count,
            kinds: self.faults.clone(),
            history: self.history.clone(),
        };
        Ok((run, Plan::new(mode, &self.faults, self.count)?))
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let mut runs = Vec::new();
    for (mode, name) in arguments.mode.each() {
        match arguments.run(*mode, seed) {
            Ok(run) => runs.push((run, name)),
            Err(problem) => {
                let mut command = Arguments::command();
                command.error(ErrorKind::ValueValidation, problem).exit();
            }
        }
    }
    let is_over = ended_by_signals();
    let mut total: Option<Account> = None;
    let (mut is_good, is_one) = (true, runs.len() == 1);
    for ((run, mut plan), name) in runs {
        let ended = run.run(&mut plan, &is_over).await;
        println!("\n{name}:");
        ended.account.print();
        println!("{}", ended.account.totals_line(name, seed, ended.is_good));
        is_good &= ended.is_good;
        match &mut total {
            Some(total) => total.add(ended.account),
            None => total = Some(ended.account),
        }
        if *is_over.borrow() {
            break;
        }
    }
    if let Some(total) = total.filter(|_| !is_one) {
        println!("{}", total.totals_line("all", seed, is_good));
    }
    if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Becomes true with SIGINT or SIGTERM: the run ends, and is judged.
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
