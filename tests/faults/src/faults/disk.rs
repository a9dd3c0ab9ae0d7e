//! A full disk under the append-only file.

use std::path::Path;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::descriptors::Limit;
use super::{NotRun, Reach, duration};
use crate::world::{Durability, World};

const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The bit of SIGXFSZ (25) in the masks of `/proc/<pid>/status`.
const SIGXFSZ: u64 = 1 << 24;

/// A master's append-only file cannot grow by more than a few bytes: a write ends in the middle of a command,
/// and the next one fails, as on a full disk. (The limit is that of the process, `RLIMIT_FSIZE`: the error is
/// EFBIG in place of ENOSPC, which Redis treats alike, and nobody needs to mount a disk of its own.) A Redis
/// that syncs before each answer ends itself then, and is started again once there is space.
pub(super) async fn full(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    if matches!(world.durability(), Durability::None | Durability::Snapshots) {
        return Err(NotRun("there is no append-only file".to_owned()));
    }
    let node = world.a_master(random).await;
    let partitions = world.partitions_of(node).await;
    let redis = world.node_mut(node);
    if !ignores_sigxfsz(redis.id()) {
        return Err(NotRun("Redis would be killed: start with SIGXFSZ ignored".to_owned()));
    }
    let size = largest_file(&redis.dir().join("appendonlydir")) + random.random_range(1..=3000);
    let limit = Limit::new(redis.id(), "fsize", "Max file size", size)?;
    let until = Instant::now() + duration(random, 1500..=2500);
    let mut has_exited = false;
    while !has_exited && Instant::now() < until {
        sleep(POLL_INTERVAL).await;
        has_exited = redis.has_exited();
    }
    drop(limit);
    if has_exited {
        sleep(duration(random, 0..=500)).await;
        redis.restart().await;
    }
    Ok(partitions)
}

/// The size of the file that is appended to. Its base is smaller, or was written as a whole.
fn largest_file(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).expect("Redis keeps its append-only file there");
    files.map(|file| file.unwrap().metadata().unwrap().len()).max().unwrap_or_default()
}

fn ignores_sigxfsz(process: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .is_some_and(|mask| mask & SIGXFSZ != 0)
}
