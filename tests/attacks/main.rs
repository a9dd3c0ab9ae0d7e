//! Attacks on the release binary, each with a well-behaved client beside it.
//!
//! `cargo test --test attacks` builds the release binary, or takes the one that
//! `MARKREAD_TEST_RELEASE_BINARY` names. For each attack it starts a Redis and a server at its defaults,
//! and measures a client that marks 150 times a second before, during and after the attack. It prints a
//! table, and fails if a limit is broken: most are ratios of the same run without the attack. Flags that
//! the binary does not know are left out, so that an older one shows which attacks it does not stand.
//! `-- TEXT…` runs the attacks that have a text in their name; `-- --list` names them all.
//!
//! Each attack lasts some seconds, on loopback, and ends with its connections. A server that takes more
//! than 3 GiB is killed.

#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a test prints, and ends where something fails"
)]

mod bucket;
mod calls;
mod case;
mod cgroup;
mod connections;
mod control_frames;
mod crowd;
mod fair_share;
mod frame_heads;
mod frames;
mod guard;
mod h2_bounds;
mod health;
mod http2;
mod logs;
mod neighbour;
mod nonces;
mod operators;
mod overload;
mod process;
mod random;
mod reader;
mod reflection;
mod report;
mod slow;
mod stage;
mod unread;
mod users;
mod watches;

use std::env::var_os;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Instant;

use case::Case;
use cgroup::{Cgroup, CpuShare};
use report::Verdict;
use stage::{Binary, Stage};

/// Attackers yield to the server and its neighbour: they would have machines of their own.
const NICE: &str = "10";

/// How often an attack is run again that broke no limit of memory, and did not end the server.
const RETRIES: usize = 2;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    // The main thread starts the servers, so only the others are nice.
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().on_thread_start(|| {
        let thread = nix::unistd::gettid().to_string();
        let _ = Command::new("renice").args(["-n", NICE, "-p", &thread]).output();
    });
    runtime.build().unwrap().block_on(run(&words))
}

async fn run(words: &[String]) -> ExitCode {
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let (mut cases, cgroup) = (all().await, Cgroup::with_limit(report::LIMIT_MIB));
    cases.extend(in_512_mib(&cases, cgroup.as_ref()));
    let shares = [("store", 1000, 20_000), ("server", 2000, 10_000)];
    let [store, server] = shares.map(|(name, us, period_us)| CpuShare::of(name, us, period_us));
    cases.extend(overload::cases([&store, &server]));
    cases.extend(fair_share::cases([&store, &server]));
    cases.retain(|case| {
        filters.is_empty() || filters.iter().any(|filter| case.name.contains(*filter))
    });
    if words.iter().any(|word| word == "--list") {
        for case in &cases {
            println!("{}", case.name);
        }
        return ExitCode::SUCCESS;
    }
    let binary = Binary::new(release_binary()).await;
    let began = Instant::now();
    report::head();
    let mut broken = Vec::new();
    for case in &cases {
        let mut verdict = report::row(case, &run_case(&binary, case).await);
        for _ in 0..RETRIES {
            if verdict != Verdict::Retry {
                break;
            }
            println!("    once more, since something else may have been slow");
            verdict = report::row(case, &run_case(&binary, case).await);
        }
        if verdict != Verdict::Ok {
            broken.push(case.name.as_str());
        }
    }
    println!("\n{} attacks in {} s", cases.len(), began.elapsed().as_secs());
    if let Err(reason) = &cgroup {
        println!("SKIPPED: attacks in a cgroup of 512 MiB: {reason}");
    }
    if let Err(reason) = store.and(server) {
        println!("SKIPPED: overload of a store or server with a share of a CPU: {reason}");
    }
    if broken.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("{} broke a limit: {}", broken.len(), broken.join(", "));
    ExitCode::FAILURE
}

async fn run_case(binary: &Binary, case: &Case) -> stage::Outcome {
    let stage = Arc::new(Stage::set(binary, case).await);
    let attack = tokio::spawn((case.attack)(Arc::clone(&stage))).await;
    stage.check(attack.is_ok(), "the attacker can go on");
    let stage = Arc::into_inner(stage).expect("an attack ends what it has started");
    stage.end(case).await
}

/// All attacks.
async fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(frame_heads::cases());
    cases.extend(reflection::cases());
    cases.extend(health::cases());
    cases.extend(unread::cases());
    cases.extend(watches::cases());
    cases.extend(bucket::cases());
    cases.extend(reader::cases());
    cases.extend(connections::cases());
    cases.extend(control_frames::cases());
    cases.extend(guard::cases());
    cases.extend(nonces::cases());
    cases.extend(users::cases());
    cases.extend(operators::cases());
    cases.extend(logs::cases().await);
    cases.extend(h2_bounds::cases());
    cases.extend(slow::cases());
    cases.extend(random::cases());
    cases
}

/// The attacks on memory, which run again at the memory limit of the chart.
const HEAVY: [&str; 4] = [
    "frame heads: reflection",
    "frame heads: MarkRead",
    "reflection: unread answers",
    "unread: batches of invalid marks",
];

/// The heavy ones with a limit as a flag, and as a cgroup's.
fn in_512_mib(cases: &[Case], cgroup: Result<&Cgroup, &String>) -> Vec<Case> {
    let mut limited = Vec::new();
    for case in cases.iter().filter(|case| HEAVY.contains(&case.name.as_str())) {
        limited.push(case.clone().flags("--memory-limit 512MiB").limited("in 512 MiB"));
        if let Ok(cgroup) = cgroup {
            limited.push(case.clone().after(&cgroup.enter()).limited("in a cgroup of 512 MiB"));
        }
    }
    limited
}

/// The binary to attack. What Cargo builds for a test is not the release.
fn release_binary() -> PathBuf {
    if let Some(path) = var_os("MARKREAD_TEST_RELEASE_BINARY") {
        return path.into();
    }
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--bin", "markread"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Cargo sets it for the running test; this build would take it as a setting.
        .env_remove("MARKREAD_REVISION")
        .status();
    assert!(built.unwrap().success(), "the release binary builds");
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("release").join("markread")
}
