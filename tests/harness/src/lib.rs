//! What the end-to-end tests and the benches share: a real Redis, real servers, real clients. Each
//! ends what it has started.
//!
//! A test usually needs no more than these:
//!
//! ```no_run
//! # async fn example() {
//! use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
//!
//! let redis = Redis::start().await;
//! let server = Server::on(&redis).await;
//! let answer = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
//! assert!(answer.advanced);
//! # }
//! ```

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics, and says where"
)]

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;

pub mod binary;
pub mod caller;
pub mod certificates;
pub mod cluster;
pub mod collector;
pub mod events;
pub mod operator;
pub mod proxy;
pub mod raw;
pub mod receiver;
pub mod redis;
pub mod relay;
pub mod schema;
pub mod sentinels;
pub mod server;
pub mod tls;
pub mod tools;
pub mod wire;

pub use crate::cluster::RedisCluster;
pub use crate::proxy::Proxy;
pub use crate::raw::Raw;
pub use crate::receiver::Receiver;
pub use crate::redis::Redis;
pub use crate::relay::{Relay, WebhookFile};
pub use crate::sentinels::Sentinels;
pub use crate::server::Server;

/// The reader in the example request of Twitter's documentation.
pub const READER: u64 = 2_244_994_945;

/// The recipient in Twitter's example.
pub const RECIPIENT: u64 = 3_805_104_374;

/// The message in Twitter's example.
pub const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// The values of the label `outcome` of `markread_mark_read_total`.
pub const OUTCOMES: [&str; 10] = [
    "advanced",
    "noop",
    "limited",
    "edge_limited",
    "invalid",
    "unauthenticated",
    "forbidden",
    "unavailable",
    "deadline",
    "internal",
];

/// Runs the openssl command line in a directory; spaces separate its arguments.
pub async fn openssl(dir: &Path, args: &str) {
    let made = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().await;
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{args}: {}", String::from_utf8_lossy(&made.stderr));
}

/// Returns a port that nothing listens on. It is outside the system's ephemeral range, so that no
/// other socket takes it while its server is down.
pub fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Calls `probe` until it returns a value, and panics after `limit`.
pub async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let began = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(began.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
