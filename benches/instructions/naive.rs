//! The naive script, one call at a time: what a lone mark in Redis is held against.

use redis::aio::MultiplexedConnection;

use crate::TIMES;
use crate::calls::{CONVERSATIONS, FIRST_MESSAGE, FIRST_READER, FIRST_RECIPIENT, MARKED};
use crate::counted::Counted;
use crate::limits::Figure;

const SCRIPT: &str = include_str!("../naive/script.lua");
const PAYLOAD: &str = include_str!("../naive/payload.json").trim_ascii_end();

/// Its name in `limits.toml`.
const KIND: &str = "naive_lone";
const CALLS: u64 = 200;
const WINDOW_MS: u64 = 900_000;

/// Counts the instructions of a call: a reader with as many conversations as those of the marks advances
/// one of them.
pub(crate) async fn count(redis: &mut Counted, port: u16) -> Figure {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut load = redis::cmd("SCRIPT");
    let sha: String = load.arg("LOAD").arg(SCRIPT).query_async(&mut connection).await.unwrap();
    for place in 0..CONVERSATIONS {
        mark(&mut connection, &sha, place, FIRST_MESSAGE).await;
    }
    let mut least = f64::INFINITY;
    // The first time is not counted.
    for time in 0..=TIMES {
        for number in 0..CALLS {
            let message = FIRST_MESSAGE + 1 + u64::from(time) * CALLS + number;
            mark(&mut connection, &sha, MARKED, message).await;
        }
        let counted = redis.instructions(KIND);
        if time > 0 {
            least = counted.min(least);
        }
    }
    let instructions = (least / CALLS as f64).round() as u64;
    Figure { of: redis.name, kind: KIND, instructions }
}

async fn mark(connection: &mut MultiplexedConnection, sha: &str, place: u64, message: u64) {
    let keys = [
        format!("naive:quota:{FIRST_READER}"),
        format!("naive:cursors:{FIRST_READER}"),
        "naive:events".to_owned(),
    ];
    let mut call = redis::cmd("EVALSHA");
    call.arg(sha).arg(keys.len()).arg(&keys);
    call.arg(WINDOW_MS).arg(FIRST_RECIPIENT + place).arg(message).arg(PAYLOAD);
    call.exec_async(connection).await.unwrap();
}

/// Prints what a lone mark costs Redis, beside the naive script.
pub(crate) fn compare(figures: &[Figure]) {
    let of = |kind| {
        let figure = figures.iter().find(|figure| figure.of == "redis" && figure.kind == kind);
        figure.unwrap().instructions as f64
    };
    let ratio = of("lone_advance") / of(KIND);
    println!("a lone mark costs Redis {ratio:.2} times the naive script");
}
