//! A peer: <https://github.com/envoyproxy/ratelimit>, a gRPC rate limiter on Redis, which the reader of the
//! report may build. `docs/development.md` says how.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use markread_harness::{Redis, eventually, free_port};
use prost::Message;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::load::Calls;
use crate::workloads::{Method, PEER, READERS, frame};

/// A quota for each reader that none uses up, as a mark's is here.
const CONFIG: &str = "domain: markread
descriptors:
  - key: reader
    rate_limit:
      unit: hour
      requests_per_unit: 4000000000
";

const START_LIMIT: Duration = Duration::from_secs(10);

/// The process, with its defaults except for addresses, statistics and the grouping of writes, which its
/// documentation recommends.
pub(crate) struct Peer {
    process: Child,
    pub(crate) address: String,
    _dir: TempDir,
}

impl Peer {
    pub(crate) async fn start(binary: &Path, redis: &Redis) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("ratelimit/config");
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("config.yaml"), CONFIG).unwrap();
        let [grpc, http, debug] = [(); 3].map(|()| free_port().to_string());
        let url = format!("127.0.0.1:{}", redis.port);
        let process = Command::new(binary)
            .env_clear()
            .env("RUNTIME_ROOT", dir.path())
            .envs([("RUNTIME_SUBDIRECTORY", "ratelimit"), ("RUNTIME_WATCH_ROOT", "false")])
            .envs([("USE_STATSD", "false"), ("LOG_LEVEL", "error")])
            .envs([("REDIS_SOCKET_TYPE", "tcp"), ("REDIS_URL", &url)])
            .envs([("REDIS_PIPELINE_WINDOW", "150us")])
            .envs([("GRPC_HOST", "127.0.0.1"), ("HOST", "127.0.0.1"), ("DEBUG_HOST", "127.0.0.1")])
            .envs([("GRPC_PORT", &grpc), ("PORT", &http), ("DEBUG_PORT", &debug)])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("--peer is a program");
        let address = format!("127.0.0.1:{grpc}");
        eventually("the peer listens", START_LIMIT, async || {
            TcpStream::connect(&address).await.ok()
        })
        .await;
        Self { process, address, _dir: dir }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id().expect("it runs")
    }

    /// Calls that take one of a reader's quota, for as many readers as mark.
    pub(crate) fn calls() -> Arc<Calls> {
        let method = Method {
            name: PEER,
            path: "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit".parse().unwrap(),
            content_type: "application/grpc",
            status: "0",
        };
        method.calls(|number| {
            let value = (number % READERS).to_string();
            let entries = vec![Entry { key: "reader".to_owned(), value }];
            let descriptors = vec![Descriptor { entries }];
            frame(&RateLimitRequest { domain: "markread".to_owned(), descriptors })
        })
    }
}

/// `envoy.service.ratelimit.v3.RateLimitRequest`, as far as it is used here.
#[derive(Clone, PartialEq, Message)]
struct RateLimitRequest {
    #[prost(string, tag = "1")]
    domain: String,
    #[prost(message, repeated, tag = "2")]
    descriptors: Vec<Descriptor>,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    entries: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(string, tag = "2")]
    value: String,
}
