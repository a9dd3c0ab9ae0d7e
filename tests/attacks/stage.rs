//! Where an attack happens: a server with its Redis, a neighbour, and what is measured of them.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use markread_harness::binary::without_settings;
use markread_harness::server::SECRET;
use markread_harness::{Redis, Server};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::case::Case;
use crate::neighbour::{Figures, Neighbour, Phase};
use crate::process::{CpuWatch, MemoryWatch};

/// How long the neighbour is measured before and after an attack.
const ALONE: Duration = Duration::from_millis(1200);
const AFTER: Duration = Duration::from_secs(1);

/// The time for what an attack has left to be gone.
const SETTLE: Duration = Duration::from_millis(400);

/// The same, for a server that gives memory back before it serves everybody again.
const SETTLE_LIMITED: Duration = Duration::from_secs(2);

/// An attack that is not over by then has failed.
const ATTACK_MAX: Duration = Duration::from_secs(60);

/// Redis's memory, so that what is added to it without a bound ends there.
const REDIS_MAX: [&str; 2] = ["--maxmemory", "1gb"];

/// The binary under attack, and the flags that it knows.
pub(crate) struct Binary {
    pub(crate) path: PathBuf,
    help: String,
}

impl Binary {
    pub(crate) async fn new(path: PathBuf) -> Self {
        let mut help = Command::new(&path);
        without_settings(&mut help).args(["serve", "--help"]).stdout(Stdio::piped());
        let help = help.output().await.expect("the release binary runs");
        Self { path, help: String::from_utf8(help.stdout).unwrap() }
    }

    /// The flags without those that the binary does not know, with their values.
    fn known<'a>(&self, flags: &'a [String]) -> Vec<&'a str> {
        let flags = flags.chunks(2).filter(|flag| self.help.contains(&format!("{} <", flag[0])));
        flags.flatten().map(String::as_str).collect()
    }

    /// A command that runs shell commands, then the binary in the same process.
    fn command(&self, prelude: &str) -> Command {
        let mut command = Command::new("sh");
        without_settings(&mut command).args(["-c", &format!("{prelude}\nexec \"$0\" \"$@\"")]);
        command.arg(&self.path);
        command
    }
}

/// What an attack has found.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) holds: bool,
    pub(crate) what: String,
    /// Whether no other run can excuse it. A slow machine may be to blame for the others.
    pub(crate) is_final: bool,
}

impl Finding {
    pub(crate) fn new(holds: bool, what: impl Into<String>) -> Self {
        Self { holds, what: what.into(), is_final: false }
    }

    /// One that no other run can excuse.
    pub(crate) fn final_one(holds: bool, what: impl Into<String>) -> Self {
        Self { is_final: true, ..Self::new(holds, what) }
    }
}

/// Everything that an attack meets.
pub(crate) struct Stage {
    pub(crate) redis: Redis,
    pub(crate) server: Server,
    neighbour: Option<Neighbour>,
    memory: MemoryWatch,
    peaks: Mutex<[u64; 2]>,
    cpu: Mutex<CpuWatch>,
    cores: Mutex<[f64; 2]>,
    findings: Mutex<Vec<Finding>>,
    _secret: TempDir,
}

/// What a run has measured.
pub(crate) struct Outcome {
    pub(crate) alone: Figures,
    pub(crate) attack: Figures,
    pub(crate) after: Figures,
    /// The most anonymous memory before and during the attack.
    pub(crate) peaks: [u64; 2],
    /// The server's CPU before, during and after the attack, in cores.
    pub(crate) cores: [f64; 3],
    pub(crate) findings: Vec<Finding>,
}

impl Stage {
    pub(crate) async fn set(binary: &Binary, case: &Case) -> Self {
        let redis = Redis::with(&REDIS_MAX).await;
        if let Some(share) = &case.redis_in {
            share.take(redis.id());
        }
        let secret = tempfile::tempdir().unwrap();
        let file = secret.path().join("secret");
        std::fs::write(&file, SECRET).unwrap();
        let url = redis.url();
        let mut flags = vec!["--redis-url", &url, "--jwt-secret-file", file.to_str().unwrap()];
        flags.extend(binary.known(&case.flags));
        let server = Server::started_by(binary.command(&case.prelude), &flags, false).await;
        server.wait_until_ready().await;
        let neighbour = case.neighbour.then(|| Neighbour::new(&server));
        let memory = MemoryWatch::start(server.id());
        let cpu = Mutex::new(CpuWatch::start(server.id()));
        let (peaks, cores, findings) = Default::default();
        Self { redis, server, neighbour, memory, peaks, cpu, cores, findings, _secret: secret }
    }

    /// The address of gRPC and HTTP.
    pub(crate) fn address(&self) -> &str {
        &self.server.address
    }

    fn enter(&self, phase: Phase) {
        if let Some(neighbour) = &self.neighbour {
            neighbour.enter(phase);
        }
    }

    fn take_cores(&self) -> f64 {
        self.cpu.lock().unwrap().take_cores()
    }

    /// How many marks of the neighbour were served so far.
    pub(crate) fn neighbours_marks(&self) -> usize {
        self.neighbour.as_ref().map_or(0, Neighbour::served)
    }

    /// Notes whether something holds that the attack has looked at.
    pub(crate) fn check(&self, holds: bool, what: impl Into<String>) {
        self.findings.lock().unwrap().push(Finding::new(holds, what));
    }

    /// Measures the neighbour alone, during the attack, and after it. The attack is over when its
    /// future is; what the future returned is kept until then.
    pub(crate) async fn attack<T>(&self, attack: impl Future<Output = T>) -> Option<T> {
        if let Some(neighbour) = &self.neighbour {
            neighbour.move_in();
            // The first calls connect.
            sleep(SETTLE).await;
            self.enter(Phase::Alone);
            self.take_cores();
            sleep(ALONE).await;
        }
        self.peaks.lock().unwrap()[0] = self.memory.take_peak();
        self.cores.lock().unwrap()[0] = self.take_cores();
        self.enter(Phase::Attack);
        let attacked = timeout(ATTACK_MAX, attack).await.ok();
        self.check(attacked.is_some(), format!("the attack is over within {ATTACK_MAX:?}"));
        self.peaks.lock().unwrap()[1] = self.memory.take_peak();
        self.cores.lock().unwrap()[1] = self.take_cores();
        self.enter(Phase::Pause);
        attacked
    }

    /// Measures what is left to measure and ends everything.
    pub(crate) async fn end(mut self, case: &Case) -> Outcome {
        if self.neighbour.is_some() {
            sleep(if case.is_limited { SETTLE_LIMITED } else { SETTLE }).await;
            self.enter(Phase::After);
            self.take_cores();
            sleep(AFTER).await;
        }
        let cores_after = self.take_cores();
        let [_, alone, attack, after] = self.neighbour.map(Neighbour::stop).unwrap_or_default();
        let mut findings = self.findings.into_inner().unwrap();
        let lives = self.server.is_running();
        let killed = self.memory.has_killed();
        let how = if killed { ", killed at 3 GiB" } else { "" };
        findings.push(Finding::final_one(lives, format!("the process lives{how}")));
        let panicked = self.server.log().iter().filter(|line| line.contains("panicked")).count();
        findings.push(Finding::final_one(panicked == 0, format!("nothing panics, got {panicked}")));
        if case.neighbour {
            let served = after.refused() == 0 && after.served() > 0;
            findings.push(Finding::new(served, "everybody is served after it"));
        }
        self.memory.stop();
        // Its payloads are not looked at: there may be hundreds of thousands.
        self.redis.kill().await;
        let peaks = self.peaks.into_inner().unwrap();
        let [cores_alone, cores] = self.cores.into_inner().unwrap();
        let cores = [cores_alone, cores, cores_after];
        Outcome { alone, attack, after, peaks, cores, findings }
    }
}

/// The time when an attack that lasts so long is over.
pub(crate) fn until(lasts: Duration) -> Instant {
    Instant::now() + lasts
}
