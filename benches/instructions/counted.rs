//! A program whose instructions are counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::sleep;

/// A process under callgrind, killed when this is dropped.
pub(crate) struct Counted {
    pub(crate) name: &'static str,
    dir: PathBuf,
    process: Child,
    dumps: u32,
    last_dump: Instant,
    idle_a_second: f64,
}

impl Counted {
    /// Starts a command in its environment.
    pub(crate) fn start(name: &'static str, dir: &Path, command: &Command) -> Self {
        Self::start_as(name, dir, command.get_program().as_ref(), command)
    }

    /// Starts another program with the command's arguments and environment.
    pub(crate) fn start_as(
        name: &'static str,
        dir: &Path,
        program: &Path,
        as_in: &Command,
    ) -> Self {
        let mut command = Command::new("valgrind");
        command
            .arg("--tool=callgrind")
            .args([pipes(dir), option("--callgrind-out-file", dir, name)]);
        command.arg(program).args(as_in.get_args());
        for (name, value) in as_in.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let log = fs::File::create(dir.join(format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().expect("valgrind is installed");
        let dir = dir.to_owned();
        Self { name, dir, process, dumps: 0, last_dump: Instant::now(), idle_a_second: 0.0 }
    }

    /// Measures what the processes do without calls, such as probes, which is no part of a mark.
    pub(crate) async fn idle_for(processes: &mut [Self], time: Duration) {
        for process in &mut *processes {
            process.dump("uncounted");
        }
        sleep(time).await;
        for process in processes {
            let (executed, took) = process.dump("idle");
            process.idle_a_second = executed / took.as_secs_f64();
        }
    }

    /// Returns the instructions since the last call, without those that an idle process executes.
    /// Their profile is kept under the name `of`.
    pub(crate) fn instructions(&mut self, of: &str) -> f64 {
        let (executed, took) = self.dump(of);
        executed - self.idle_a_second * took.as_secs_f64()
    }

    fn dump(&mut self, of: &str) -> (f64, Duration) {
        let took = self.last_dump.elapsed();
        let pid = format!("--pid={}", self.process.id());
        let dumped = Command::new("vgdb").args([&pipes(&self.dir), &pid, "dump"]).output().unwrap();
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        self.last_dump = Instant::now();
        self.dumps += 1;
        let profile = self.dir.join(format!("{}.{}", self.name, self.dumps));
        let text = fs::read_to_string(&profile).expect("a profile was dumped");
        fs::rename(profile, self.dir.join(format!("{}.{of}", self.name))).unwrap();
        let total = text.lines().find_map(|line| line.strip_prefix("totals: ")).unwrap();
        (total.parse().unwrap(), took)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.process.id().try_into().unwrap()), signal).unwrap();
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait());
    }
}

/// The prefix of the pipes through which valgrind takes commands.
fn pipes(dir: &Path) -> String {
    option("--vgdb-prefix", dir, "vgdb")
}

fn option(name: &str, dir: &Path, file: &str) -> String {
    format!("{name}={}", dir.join(file).display())
}
