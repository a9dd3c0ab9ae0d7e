//! Counts the instructions of a mark in the server and in Redis. They hardly depend on the load of
//! the machine, so a regression shows that times would hide.
//!
//! `cargo bench --bench instructions` builds the release binary as users get it, runs it and its own
//! Redis under valgrind's callgrind, marks over gRPC, prints a table, and fails if a figure is above
//! its limit in `benches/instructions/limits.toml`. `-- --refresh` writes the figures there instead.
//! The profiles stay in `target/tmp/instructions/`, for `callgrind_annotate`.

#![allow(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

mod calls;
mod counted;
mod limits;
mod naive;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use calls::{Callers, KINDS};
use counted::Counted;
use limits::{Figure, Limits};
use markread_harness::server::{SECRET, http1};
use markread_harness::{eventually, free_port};

/// How often the marks of a kind are counted, after a first time without counting. The least count
/// is used, since everything else that happens only adds to it.
const TIMES: u32 = 5;

/// How long the instructions of idle processes are counted.
const IDLE: Duration = Duration::from_secs(6);

/// The time for a program to start: valgrind makes it about fifty times as long.
const START_LIMIT: Duration = Duration::from_secs(120);

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let binary = release_binary();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("instructions");
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let (redis, redis_port) = redis(&dir).await;
    let (server, address) = server(&dir, &binary, redis_port).await;
    let mut processes = [server, redis];

    let callers = Callers::connect(&address, &processes[1]).await;
    Counted::idle_for(&mut processes, IDLE).await;
    let mut figures = Vec::new();
    for kind in &KINDS {
        let mut least = [f64::INFINITY; 2];
        for time in 0..=TIMES {
            callers.mark(kind, &processes[1]).await;
            for (process, least) in processes.iter_mut().zip(&mut least) {
                let counted = process.instructions(kind.name);
                if time > 0 {
                    *least = counted.min(*least);
                }
            }
        }
        for (process, least) in processes.iter().zip(least) {
            let instructions = (least / kind.marks() as f64).round() as u64;
            figures.push(Figure { of: process.name, kind: kind.name, instructions });
        }
    }
    figures.push(naive::count(&mut processes[1], redis_port).await);
    naive::compare(&figures);
    let here = limits::Place::here();
    if std::env::args().any(|word| word == "--refresh") {
        limits::refresh(&here, &figures);
    }
    Limits::read().judge(&here, &figures)
}

/// Builds the release binary to measure. What Cargo builds for a bench has features of development
/// dependencies, such as a clock that tests can pause.
fn release_binary() -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--bin", "markread"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        // Cargo sets it for the running bench; this build would take it as a setting.
        .env_remove("MARKREAD_REVISION")
        .status();
    assert!(built.unwrap().success(), "the release binary builds");
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("release").join("markread")
}

/// Starts a Redis that persists nothing, and returns its port.
async fn redis(dir: &Path) -> (Counted, u16) {
    let port = free_port();
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
    command.arg("--dir").arg(dir);
    let redis = Counted::start("redis", dir, &command);
    let client = ::redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    eventually("Redis listens", START_LIMIT, async || {
        client.get_multiplexed_async_connection().await.ok()
    })
    .await;
    (redis, port)
}

/// Starts a server, and returns its address once it is ready. No quota or timeout applies.
async fn server(dir: &Path, binary: &Path, redis_port: u16) -> (Counted, String) {
    let [address, ops] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let secret = dir.join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let mut command = markread_harness::binary::command(&["serve", "--listen", &address]);
    let command = command.as_std_mut();
    command.args(["--ops-listen", &ops, "--redis-url", &format!("redis://127.0.0.1:{redis_port}")]);
    command.arg("--jwt-secret-file").arg(secret);
    command.args(["--rate-limit", "999999999999", "--call-timeout", "60s"]);
    command.args(["--worker-threads", "1"]);
    let server = Counted::start_as("server", dir, binary, command);
    let request = "GET /readyz HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n";
    eventually("the server is ready", START_LIMIT, async || {
        http1(&ops, request).await.filter(|(head, _)| head.contains(" 200 "))
    })
    .await;
    (server, address)
}
