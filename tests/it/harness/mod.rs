//! What every test needs: a Redis of its own, servers, callers. Each ends what it started.

use std::future::Future;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::process::Command;

pub(crate) mod caller;
pub(crate) mod certificates;
pub(crate) mod collector;
pub(crate) mod operator;
pub(crate) mod raw;
pub(crate) mod redis;
pub(crate) mod schema;
pub(crate) mod server;
pub(crate) mod tls;
pub(crate) mod tools;
pub(crate) mod wire;

pub(crate) use raw::Raw;
pub(crate) use redis::Redis;
pub(crate) use server::Server;

/// The seed's example: caller, recipient, message.
pub(crate) const READER: u64 = 2_244_994_945;
pub(crate) const RECIPIENT: u64 = 3_805_104_374;
pub(crate) const MESSAGE: u64 = 8_754_578_330_382_663_743;

/// What `markread_mark_read_total` tells apart: CONTRACT section 10.
pub(crate) const OUTCOMES: [&str; 10] = [
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

/// Runs the openssl command line in a directory: words by spaces.
pub(crate) async fn openssl(dir: &Path, args: &str) {
    let made = Command::new("openssl").args(args.split(' ')).current_dir(dir).output().await;
    let made = made.expect("openssl is installed");
    assert!(made.status.success(), "{args}: {}", String::from_utf8_lossy(&made.stderr));
}

/// A port that nothing listens on at the moment. It is none of those that the system chooses from,
/// so that no other socket takes it while what listens on it is down.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Waits until `probe` gives something, and fails after `limit`.
pub(crate) async fn eventually<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> T
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
