//! Memory: of cursors, quotas and events in Redis, and of connections and watchers in the server.

use std::fmt::Write;
use std::time::Duration;

use markread_harness::{Redis, Server};
use tokio::time::sleep;

use crate::bound::Bound;
use crate::connections::IdleConnections;
use crate::growth::seed;
use crate::load::Connections;
use crate::process::rss_bytes;
use crate::report::thousands;
use crate::rounds::UNLIMITED;
use crate::workloads::{self, FIRST_READER, FIRST_RECIPIENT, Population, USER_OBJECT_BYTES};

/// Conversations of a reader, and the most bytes that a cursor may cost then.
const CONVERSATIONS: [(u64, Option<Bound>); 9] = [
    (1, None),
    (5, None),
    (20, Some(Bound::AtMost(64.0))),
    (50, Some(Bound::AtMost(45.0))),
    (64, Some(Bound::AtMost(64.0))),
    (100, Some(Bound::AtMost(64.0))),
    (256, Some(Bound::AtMost(64.0))),
    (1000, Some(Bound::AtMost(64.0))),
    (100_000, Some(Bound::AtMost(64.0))),
];

/// Cursors of one measurement.
const CURSORS: u64 = 200_000;

const WARM_UP: Population = Population { first_reader: 0, readers: 10, conversations: 500 };

/// Time for what Redis does ten times a second.
const SETTLES: Duration = Duration::from_secs(1);

const ENTRIES: u64 = 20_000;
const ENTRIES_WITH_USERS: u64 = 2000;

const WATCHERS: u64 = 5000;
const WATCHERS_PER_CONNECTION: u64 = 200;

/// Returns the figures as text, and those of idle connections.
pub(crate) async fn measure() -> (String, IdleConnections) {
    println!("memory: cursors");
    let cursors = cursors().await;
    println!("memory: events");
    let [bare, with_users] = entries().await;
    println!("memory: connections and watchers");
    let redis = Redis::start().await;
    let idle = IdleConnections::measure(&redis).await;
    let watcher = watcher(&redis).await;
    let text = format!(
        "## Memory\n\n{cursors}\n\
         | other | bytes |\n| --- | ---: |\n\
         | an entry of the stream without user objects | {bare:.0} |\n\
         | the same with two user objects of {USER_OBJECT_BYTES} bytes | {with_users:.0} |\n\
         | resident in the server: an idle watcher, without its connection ({} on {}) | {} |\n\n{}",
        thousands(WATCHERS),
        WATCHERS / WATCHERS_PER_CONNECTION,
        thousands(watcher as u64),
        idle.text(),
    );
    (text, idle)
}

/// The memory of cursors and quotas, as text.
async fn cursors() -> String {
    let mut text = format!(
        "Bytes of Redis memory for a cursor, with recipient and message IDs of 19 digits. \
         `used_memory` is Redis's total, with\n{} cursors; `MEMORY USAGE` is the sum of all keys \
         of one reader.\n\n\
         | conversations of a reader | `used_memory` | `MEMORY USAGE` | target | |\n\
         | ---: | ---: | ---: | ---: | --- |\n",
        thousands(CURSORS),
    );
    let (mut quotas, mut quota_bytes) = (0, 0.0);
    for (conversations, bound) in CONVERSATIONS {
        // In its own Redis: hash tables of keys stay large when keys are deleted.
        let redis = Redis::start().await;
        let flags = [&UNLIMITED[..], &["--stream-maxlen", "100"]].concat();
        let server = Server::on_with(&redis, &flags).await;
        let readers = CURSORS / conversations;
        let population = Population { first_reader: FIRST_READER, readers, conversations };
        // The first marks allocate more than cursors, such as buffers.
        let first = Population { first_reader: FIRST_READER + readers, ..WARM_UP };
        seed(&server, first).await;
        sleep(SETTLES).await;
        let before = used_memory(&redis).await;
        seed(&server, population).await;
        let with_quotas = used_memory(&redis).await;
        let keys = (FIRST_READER..).take(readers as usize);
        delete(&redis, keys.map(|reader| format!("markread:quota:{reader}"))).await;
        // The table of expiring keys shrinks again.
        sleep(SETTLES).await;
        let after = used_memory(&redis).await;
        quotas += readers;
        quota_bytes += with_quotas - after;
        let each = (after - before) / population.cursors() as f64;
        let usage = usage_of_reader(&redis, FIRST_READER).await / conversations as f64;
        let (goal, verdict) = match bound {
            Some(bound) => (bound.to_string(), bound.verdict(each)),
            None => (String::new(), ""),
        };
        let amount = thousands(conversations);
        let _ = writeln!(text, "| {amount} | {each:.1} | {usage:.1} | {goal} | {verdict} |");
    }
    let quota = quota_bytes / quotas as f64;
    let _ = write!(text, "\nA quota costs {quota:.0} bytes.\n");
    text
}

/// The memory of all keys that hold a reader's cursors.
async fn usage_of_reader(redis: &Redis, reader: u64) -> f64 {
    let own = format!("markread:cursors:{reader}");
    let keys = std::iter::once(own).chain(redis.bucket_keys(reader).await);
    let mut pipe = ::redis::pipe();
    for key in keys {
        pipe.cmd("MEMORY").arg("USAGE").arg(key).arg("SAMPLES").arg(0);
    }
    let all: Vec<f64> = pipe.query_async(&mut redis.connection().await).await.unwrap();
    all.iter().sum()
}

async fn delete(redis: &Redis, keys: impl Iterator<Item = String>) {
    let mut connection = redis.connection().await;
    let keys: Vec<String> = keys.collect();
    for keys in keys.chunks(1000) {
        let mut delete = ::redis::cmd("DEL");
        delete.arg(keys).query_async::<()>(&mut connection).await.unwrap();
    }
}

/// The bytes that Redis has allocated, without its clients' buffers.
async fn used_memory(redis: &Redis) -> f64 {
    let info: String = redis.run("INFO memory").await;
    let field = |name: &str| {
        let mut lines = info.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.unwrap().parse::<f64>().unwrap()
    };
    field("used_memory") - field("mem_clients_normal")
}

/// The bytes of a stream entry, without user objects and with two.
async fn entries() -> [f64; 2] {
    let redis = Redis::start().await;
    let readers = Population { first_reader: FIRST_READER, readers: 40, conversations: 500 };
    let bare = entry(&redis, readers, ENTRIES).await;
    let some = Population { first_reader: FIRST_READER + 40, readers: 4, conversations: 500 };
    let users = (some.first_reader..).take(4).chain((FIRST_RECIPIENT..).take(500));
    for user in users {
        redis.put_user(user, workloads::user_object(user).as_bytes()).await;
    }
    [bare, entry(&redis, some, ENTRIES_WITH_USERS).await]
}

async fn entry(redis: &Redis, population: Population, entries: u64) -> f64 {
    let server = Server::on_with(redis, &UNLIMITED).await;
    seed(&server, population).await;
    let length: u64 = redis.run("XLEN direct_message_mark_read_events").await;
    assert_eq!(length, entries);
    let before = used_memory(redis).await;
    redis.run::<()>("DEL direct_message_mark_read_events").await;
    (before - used_memory(redis).await) / entries as f64
}

/// The memory of a watcher in the server.
async fn watcher(redis: &Redis) -> f64 {
    let server = Server::on_with(redis, &UNLIMITED).await;
    let count = (WATCHERS / WATCHERS_PER_CONNECTION) as usize;
    let connections = Connections::open(&server.address, count).await;
    connections.call_each(&workloads::state(), 100 * count).await;
    let before = rss_bytes(server.id());
    let calls = workloads::watches(WATCHERS);
    let mut watching = Vec::new();
    for turn in 0..WATCHERS as usize {
        let mut updates = connections.begin(&calls, turn).await;
        let heartbeat = updates.body_mut().data().await;
        assert!(heartbeat.is_some_and(|data| data.is_ok()), "{updates:?}");
        watching.push(updates);
    }
    (rss_bytes(server.id()) - before) as f64 / watching.len() as f64
}
