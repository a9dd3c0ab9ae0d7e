//! Descriptors and connections that are used up.

use std::path::Path;
use std::process::Command;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::net::TcpStream;
use tokio::time::sleep;

use super::guards::Setting;
use super::{NotRun, Reach, duration};
use crate::world::World;

/// Connections that are opened to a server without descriptors: more than it can have.
const CROWD: usize = 32;

/// A limit of another process that was lowered, until this is dropped.
pub(super) struct Limit {
    process: u32,
    /// The option of `prlimit` that names it, such as `nofile`.
    name: &'static str,
    before: String,
}

impl Limit {
    /// Lowers the soft limit. `line` is its name in `/proc/<pid>/limits`.
    pub(super) fn new(
        process: u32,
        name: &'static str,
        line: &str,
        value: u64,
    ) -> Result<Self, NotRun> {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits"))
            .map_err(|error| NotRun(format!("no limits in /proc: {error}")))?;
        let limit = limits.lines().find_map(|known| known.strip_prefix(line));
        let before = limit.expect("a limit of Linux").split_whitespace().next().unwrap().to_owned();
        let limit = Self { process, name, before };
        limit.set(&value.to_string()).map_err(NotRun)?;
        Ok(limit)
    }

    /// Sets the soft limit, and leaves the hard one, so that there is a way back.
    fn set(&self, value: &str) -> Result<(), String> {
        let pid = self.process.to_string();
        let option = format!("--{}={value}:", self.name);
        let output = Command::new("prlimit").args(["--pid", &pid, &option]).output();
        let output = output.map_err(|error| format!("prlimit of util-linux: {error}"))?;
        let problem = String::from_utf8_lossy(&output.stderr);
        if output.status.success() { Ok(()) } else { Err(problem.into_owned()) }
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        // A process that has ended has no limits.
        if Path::new(&format!("/proc/{}", self.process)).exists()
            && let Err(problem) = self.set(&self.before)
        {
            eprintln!("{} was not set back to {}: {problem}", self.name, self.before);
        }
    }
}

/// A server can open no more sockets, while more clients come than it could take.
pub(super) async fn of_server(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let index = random.random_range(0..world.servers.len());
    let process = world.server(index).id();
    let open = std::fs::read_dir(format!("/proc/{process}/fd"))
        .map_err(|error| NotRun(format!("no descriptors in /proc: {error}")))?;
    let few = open.count() + random.random_range(0..=4);
    let few = u64::try_from(few).unwrap();
    let _limit = Limit::new(process, "nofile", "Max open files", few)?;
    let mut crowd = Vec::new();
    for _ in 0..CROWD {
        // The system takes them until the server's queue is full.
        crowd.extend(TcpStream::connect(&world.server_addresses[index]).await.ok());
    }
    sleep(duration(random, 1000..=2000)).await;
    Ok(None)
}

/// A master takes no more clients, and those that it had must come again.
pub(super) async fn of_store(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let node = world.a_master(random).await;
    let partitions = world.partitions_of(node).await;
    let clients = random.random_range(2..=4).to_string();
    let mut limit = Setting::new(world.node(node), "maxclients", &clients);
    limit.kill_clients();
    sleep(duration(random, 1000..=2000)).await;
    Ok(partitions)
}
