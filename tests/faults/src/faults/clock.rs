//! Clocks that jump, by libfaketime.

use std::path::{Path, PathBuf};

use markread_harness::Redis;
use rand::Rng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tokio::time::sleep;

use super::{NotRun, Reach, duration};
use crate::world::World;

/// The variable with the path of libfaketime, where it is not where Debian's package `libfaketime` has it.
const LIBRARY: &str = "MARKREAD_TEST_LIBFAKETIME";

/// The variables with paths of Valkey, as `tests/tools/servers.sh` sets them.
const VALKEYS: [&str; 2] = ["MARKREAD_TEST_VALKEY9", "MARKREAD_TEST_VALKEY8"];

/// The longest jump: tokens of the load stay valid for longer.
const JUMP_S: i64 = 1800;

/// The time between two jumps, in milliseconds.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 200..=800;

/// The wall clock of a process, which a file determines.
struct Clock {
    library: PathBuf,
    dir: TempDir,
}

impl Clock {
    fn new() -> Result<Self, NotRun> {
        let library = library().ok_or_else(|| {
            NotRun(format!("no libfaketime (Debian's package libfaketime, or {LIBRARY})"))
        })?;
        let clock = Self { library, dir: tempfile::tempdir().unwrap() };
        clock.set(0);
        Ok(clock)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("offset")
    }

    /// Sets it to so many seconds after the system's.
    fn set(&self, offset_s: i64) {
        let new = self.dir.path().join("new");
        std::fs::write(&new, format!("{offset_s:+}\n")).unwrap();
        std::fs::rename(new, self.file()).unwrap();
    }

    /// Jumps several times, forth and back.
    async fn jump(&self, random: &mut StdRng) {
        for _ in 0..random.random_range(2..=5) {
            sleep(duration(random, PAUSE_MS)).await;
            self.set(random.random_range(-JUMP_S..=JUMP_S));
        }
        sleep(duration(random, PAUSE_MS)).await;
    }

    /// The variables of a process that has this clock. The time by which it waits is the system's.
    fn variables(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let variables = [
            ("LD_PRELOAD", text(&self.library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&self.file())),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("DONT_FAKE_MONOTONIC", "1".to_owned()),
        ];
        variables.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

/// The library for programs with threads.
fn library() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os(LIBRARY) {
        return Some(path.into());
    }
    let machines = std::fs::read_dir("/usr/lib").ok()?;
    let libraries =
        machines.flatten().map(|dir| dir.path().join("faketime").join("libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.exists())
}

/// A server is started again with a clock that jumps, and after a while with the system's.
pub(super) async fn of_server(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let clock = Clock::new()?;
    let server = random.random_range(0..world.servers.len());
    world.drain_server(server).await;
    let variables = clock.variables();
    let variables: Vec<_> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    world.start_server(server, &variables).await;
    clock.jump(random).await;
    world.drain_server(server).await;
    world.start_server(server, &[]).await;
    Ok(None)
}

/// Redis is started again with a clock that jumps, and after a while with the system's. Since Redis hangs under
/// libfaketime, a Valkey takes its place for that time, if it is not one: with an append-only file, to which it
/// adds nothing that Redis does not know.
pub(super) async fn of_store(world: &mut World, random: &mut StdRng) -> Result<Reach, NotRun> {
    let clock = Clock::new()?;
    let is_valkey = is_valkey(world.node(0)).await;
    let redis = world.node_mut(0);
    let valkey = if is_valkey { None } else { Some(valkey(redis)?) };
    redis.shut_down().await;
    let before = valkey.map(|valkey| redis.run_as(valkey));
    redis.variables = clock.variables();
    redis.restart().await;
    clock.jump(random).await;
    redis.shut_down().await;
    redis.variables = Vec::new();
    if let Some(before) = before {
        redis.run_as(before);
    }
    redis.restart().await;
    Ok(None)
}

async fn is_valkey(redis: &Redis) -> bool {
    redis.info("INFO server").await.contains_key("valkey_version")
}

/// A Valkey that can take the place of a Redis.
fn valkey(redis: &Redis) -> Result<PathBuf, NotRun> {
    if redis.setting("--appendonly") != Some("yes") {
        return Err(NotRun("Redis could not read a Valkey's snapshot".to_owned()));
    }
    let installed = VALKEYS.iter().filter_map(std::env::var_os).map(PathBuf::from);
    let valkey = installed.into_iter().find(|valkey| valkey.exists());
    valkey.ok_or_else(|| {
        let either = VALKEYS.join(" nor ");
        NotRun(format!("Redis hangs under libfaketime, and neither {either} names a Valkey"))
    })
}
