//! Marks a second with `--replicas-ack 1`, by the connections of a worker for calls that wait.
//!
//! `cargo bench --bench acks` starts its own Redis and a replica, as far away as the variable
//! `REPLICA_RTT_MS` says (2 ms round trip), and takes turns.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a bench prints, and ends where something fails"
)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread::domain::{Mark, RateLimit, USER_OBJECT_MAX_BYTES};
use markread::net::workers::Workers;
use markread::store::redis::{
    Access, Ack, RedisAddress, RedisConfig, RedisFiles, RedisMode, RedisStore,
};
use markread::store::{Marks, StoreHealth};
use markread_harness::{Redis, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep_until;

const CONNECTIONS: [usize; 4] = [1, 2, 4, 8];
const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const MANY: RateLimit = RateLimit { calls: 1_000_000_000, window_ms: 3_600_000 };

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let redis = Redis::with(&["--repl-diskless-sync-delay", "0"]).await;
    let rtt_ms = std::env::var("REPLICA_RTT_MS").map_or(2, |ms| ms.parse().unwrap());
    let port = distant(redis.port, Duration::from_millis(rtt_ms) / 2).await.to_string();
    let _replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
    println!("the replica is {rtt_ms} ms away");
    eventually("the replica follows", Duration::from_secs(10), async || {
        let info: String = redis.run("INFO replication").await;
        info.contains("state=online").then_some(())
    })
    .await;
    for callers in [16, 256] {
        let mut rates = [const { Vec::new() }; CONNECTIONS.len()];
        for _ in 0..ROUNDS {
            for (connections, rates) in CONNECTIONS.iter().zip(&mut rates) {
                let ack = Ack {
                    replicas: 1,
                    fsync: false,
                    timeout: Duration::from_secs(1),
                    connections: *connections,
                };
                let store = connect(&redis, ack).await;
                rates.push(rate(&store, callers).await);
            }
        }
        for (connections, rates) in CONNECTIONS.iter().zip(&mut rates) {
            rates.sort_by(f64::total_cmp);
            let (median, least, most) = (rates[ROUNDS / 2], rates[0], rates[ROUNDS - 1]);
            println!(
                "{callers:4} callers, {connections} connections: {median:7.0} marks/s \
                 ({least:.0} to {most:.0})"
            );
        }
    }
}

/// Listens on a port that leads to another one, with a delay in each direction.
async fn distant(port: u16, delay: Duration) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let distant = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let (near_read, near_write) = near.into_split();
            let far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (far_read, far_write) = far.into_split();
            tokio::spawn(carry(near_read, far_write, delay));
            tokio::spawn(carry(far_read, near_write, delay));
        }
    });
    distant
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((at, bytes)) = receiver.recv().await {
            sleep_until(at).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let at = tokio::time::Instant::now() + delay;
        if sender.send((at, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

/// Marks a second of so many callers, each with one mark in flight.
async fn rate(store: &Arc<RedisStore>, callers: u64) -> f64 {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 1..=callers {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut marks = 0_u32;
            while began.elapsed() < ROUND {
                marks += 1;
                let mark = Mark {
                    reader: caller.try_into().unwrap(),
                    recipient: u64::from(marks % 50 + 1).try_into().unwrap(),
                    last_read_event_id: u64::from(marks).try_into().unwrap(),
                };
                store.mark_read(mark, None).await.unwrap();
            }
            marks
        });
    }
    let marks: u32 = tasks.join_all().await.into_iter().sum();
    f64::from(marks) / began.elapsed().as_secs_f64()
}

async fn connect(redis: &Redis, ack: Ack) -> Arc<RedisStore> {
    let address = RedisAddress::new(&redis.url(), None, RedisFiles::default()).unwrap();
    let config = RedisConfig {
        mode: RedisMode::Standalone(address),
        stream: "direct_message_mark_read_events".to_owned(),
        stream_maxlen: 1_000,
        stream_max_bytes: None,
        user_key_prefix: "user:".to_owned(),
        user_object_max_bytes: USER_OBJECT_MAX_BYTES,
        rate_limit: MANY,
        read_rate_limit: MANY,
        ack: Some(ack),
        access: Access::Serve,
    };
    let (store, _) = RedisStore::start(config, Workers::here());
    let health = store.health();
    eventually("the store connects", Duration::from_secs(10), async || {
        matches!(*health.borrow(), StoreHealth::Ready { .. }).then_some(())
    })
    .await;
    store
}
