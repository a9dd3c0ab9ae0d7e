//! A bad network, between clients and servers, and between servers and Redis.

use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{NotRun, Reach, choose, duration};
use crate::proxies::{BINARY, Stream};
use crate::world::World;

/// What the network does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Trouble {
    /// It delays.
    Slow,
    /// It has little bandwidth.
    Narrow,
    /// It cuts a connection off, in the middle of a reply.
    Cut,
    /// It passes nothing on, and closes nothing.
    Silent,
}

/// A proxy of one server: `client` or `store` is what is on the other side.
pub(super) async fn trouble(
    world: &mut World,
    random: &mut StdRng,
    between: &str,
    trouble: Trouble,
) -> Result<Reach, NotRun> {
    let proxy = format!("{between}-{}", random.random_range(0..world.servers.len()));
    let Some(proxies) = &world.proxies else {
        return Err(NotRun(format!("{BINARY} does not name toxiproxy")));
    };
    let toxics = toxics(random, trouble);
    let time = duration(random, 1000..=3000);
    for (stream, kind, attributes) in toxics {
        proxies.toxic(&proxy, stream, kind, attributes).await;
    }
    sleep(time).await;
    proxies.heal(&proxy).await;
    Ok(None)
}

fn toxics(random: &mut StdRng, trouble: Trouble) -> Vec<(Stream, &'static str, Value)> {
    let either = choose(random, &[Stream::Up, Stream::Down]);
    match trouble {
        Trouble::Slow => {
            let latency: u64 = random.random_range(50..=300);
            let delay = json!({"latency": latency, "jitter": random.random_range(0..=latency / 2)});
            vec![(either, "latency", delay)]
        }
        Trouble::Narrow => {
            // In KB/s: less than the load of a server needs.
            let rate = json!({"rate": random.random_range(1..=10)});
            vec![(Stream::Up, "bandwidth", rate.clone()), (Stream::Down, "bandwidth", rate)]
        }
        Trouble::Cut if random.random_bool(0.5) => {
            let reset = json!({"timeout": random.random_range(0..=100)});
            vec![(either, "reset_peer", reset)]
        }
        Trouble::Cut => {
            let limit = json!({"bytes": random.random_range(1..=400)});
            vec![(Stream::Down, "limit_data", limit)]
        }
        Trouble::Silent => vec![(either, "timeout", json!({"timeout": 0}))],
    }
}
