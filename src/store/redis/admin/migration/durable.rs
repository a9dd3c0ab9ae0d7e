//! Makes what was written at the source durable: a Redis that comes back without it would let its servers mark
//! again.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use redis::{RedisResult, cmd};
use tokio::time::{Instant, sleep};

use crate::store::redis::admin::AdminError;
use crate::store::redis::admin::cursors::CursorAdmin;
use crate::store::redis::errors::{classify, server_text};

/// Longest wait for the replicas, and for the append-only file.
const WAIT_MS: u32 = 10_000;

/// Longest wait for a snapshot.
const SNAPSHOT_MAX: Duration = Duration::from_secs(60);

/// Time between two looks at it.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A write of this connection, which WAIT and WAITAOF go by. It takes no memory.
const TOUCH: &str = "
    redis.call('HDEL', KEYS[1], 'x')
    redis.call('HSET', KEYS[1], 'x', '')
    return redis.call('HDEL', KEYS[1], 'x')";

/// Makes the writes of all partitions durable, once for each Redis process. Returns why that is not certain.
pub(super) async fn make_durable(
    partitions: &mut [CursorAdmin],
) -> Result<Option<String>, AdminError> {
    let mut done = HashSet::new();
    let mut problem = None;
    for partition in partitions {
        let state = State::read(partition).await?;
        if done.insert(state.text("run_id").to_owned()) {
            let of_replicas = replicate(partition, &state).await?;
            let of_disk = write_to_disk(partition, &state).await?;
            problem = problem.or(of_disk).or(of_replicas);
        }
    }
    Ok(problem)
}

/// What Redis says of itself.
struct State(HashMap<String, String>);

impl State {
    async fn read(partition: &mut CursorAdmin) -> RedisResult<Self> {
        let info: String = partition.connection.query(&cmd("INFO")).await?;
        let fields = info.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()))
    }

    fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}

/// Waits for the replicas, of which one may be the master after a failover.
async fn replicate(
    partition: &mut CursorAdmin,
    state: &State,
) -> Result<Option<String>, AdminError> {
    let replicas: u64 = state.text("connected_slaves").parse().unwrap_or(0);
    if replicas == 0 {
        return Ok(None);
    }
    let mut touch = cmd("EVAL");
    touch.arg(TOUCH).arg(1).arg(partition.shared.keys.layout());
    partition.connection.query::<()>(&touch).await?;
    let mut wait = cmd("WAIT");
    wait.arg(replicas).arg(WAIT_MS);
    Ok(match answer(partition.connection.query::<u64>(&wait).await)? {
        Ok(reached) if reached >= replicas => None,
        Ok(reached) => Some(format!("{reached} of {replicas} replicas have it")),
        Err(refusal) => Some(format!("nobody knows whether replicas have it: {refusal}")),
    })
}

async fn write_to_disk(
    partition: &mut CursorAdmin,
    state: &State,
) -> Result<Option<String>, AdminError> {
    if state.text("aof_enabled") != "1" {
        return save_snapshot(partition).await;
    }
    let mut touch = cmd("EVAL");
    touch.arg(TOUCH).arg(1).arg(partition.shared.keys.layout());
    partition.connection.query::<()>(&touch).await?;
    let mut wait = cmd("WAITAOF");
    wait.arg(1).arg(0).arg(WAIT_MS);
    Ok(match answer(partition.connection.query::<(u64, u64)>(&wait).await)? {
        Ok((1.., _)) => None,
        Ok(_) => Some("the append-only file was not synced within 10 s".to_owned()),
        Err(refusal) if refusal.contains("unknown command") => {
            Some("the append-only file may not be synced yet, Redis has no WAITAOF".to_owned())
        }
        Err(refusal) => Some(format!("the append-only file may not be synced: {refusal}")),
    })
}

/// Saves a snapshot that was begun after the last write.
async fn save_snapshot(partition: &mut CursorAdmin) -> Result<Option<String>, AdminError> {
    let until = Instant::now() + SNAPSHOT_MAX;
    let mut is_begun = false;
    loop {
        let state = State::read(partition).await?;
        let is_idle = state.text("rdb_bgsave_in_progress") == "0";
        if is_begun && is_idle {
            let is_saved = state.text("rdb_last_bgsave_status") == "ok";
            return Ok((!is_saved).then(|| "a snapshot has failed".to_owned()));
        }
        if Instant::now() >= until {
            return Ok(Some("a snapshot was not complete within 60 s".to_owned()));
        }
        if is_idle {
            match answer(partition.connection.query::<String>(&cmd("BGSAVE")).await)? {
                Ok(_) => is_begun = true,
                // Another one, or a rewrite of the append-only file, has begun meanwhile.
                Err(refusal) if refusal.contains("progress") || refusal.contains("child") => {}
                Err(refusal) => return Ok(Some(format!("no snapshot was saved: {refusal}"))),
            }
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Returns the answer, or the text by which Redis refuses.
fn answer<T>(reply: RedisResult<T>) -> Result<Result<T, String>, AdminError> {
    match reply {
        Ok(answer) => Ok(Ok(answer)),
        Err(error) => match server_text(&error) {
            Some(_) => Ok(Err(classify(error).to_string())),
            None => Err(error.into()),
        },
    }
}
