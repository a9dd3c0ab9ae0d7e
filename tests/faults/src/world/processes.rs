//! Ends and starts of servers and relays.

use std::time::Duration;

use markread_harness::binary::command_of;
use markread_harness::relay::TO_LOOPBACK;
use markread_harness::sentinels::MASTER_NAME;
use markread_harness::{Relay, Server};
use nix::sys::signal::Signal;

use super::settings::{PARTITIONS, server_flags};
use super::{Store, World};

/// The longest time of a drain, after which the process must be gone.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

impl World {
    /// The flags by which a process reaches Redis without a proxy.
    fn redis_flags(&self) -> Vec<String> {
        let partitions = PARTITIONS.to_string();
        match &self.store {
            Store::Standalone(redis) => vec!["--redis-url".to_owned(), redis.url()],
            Store::Sentinel(group) => {
                let mode = ["--redis-mode", "sentinel", "--redis-sentinel-master", MASTER_NAME];
                let url = ["--redis-url", &group.url()].map(str::to_owned);
                mode.map(str::to_owned).into_iter().chain(url).collect()
            }
            Store::Cluster(cluster) => {
                let mode = ["--redis-mode", "cluster", "--partitions", &partitions];
                let url = ["--redis-url", &cluster.url()].map(str::to_owned);
                mode.map(str::to_owned).into_iter().chain(url).collect()
            }
        }
    }

    /// Starts a server that is dead, at its address, with these environment variables besides, and waits
    /// until it listens.
    pub async fn start_server(&mut self, server: usize, variables: &[(&str, &str)]) {
        assert!(self.servers[server].is_none(), "it runs already");
        let mut command = command_of(&self.options.binary, &[]);
        command.envs(variables.iter().copied());
        let mut flags = match self.store_urls.get(server) {
            Some(url) => vec!["--redis-url".to_owned(), url.clone()],
            None => self.redis_flags(),
        };
        let own = ["--listen", &self.server_addresses[server]].map(str::to_owned);
        flags.extend(own);
        flags.extend(server_flags(self.options.durability));
        self.servers[server] = Some(Server::with_secret(command, &words(&flags)).await);
    }

    /// `kill -9` of a server.
    pub async fn kill_server(&mut self, server: usize) {
        self.servers[server].take().expect("it runs").kill().await;
    }

    /// Ends a server by SIGTERM, and waits until it has drained.
    pub async fn drain_server(&mut self, server: usize) {
        let mut process = self.servers[server].take().expect("it runs");
        process.signal(Signal::SIGTERM);
        process.exit(DRAIN_LIMIT).await;
    }

    /// A server that runs.
    pub fn server(&self, server: usize) -> &Server {
        self.servers[server].as_ref().expect("it runs")
    }

    /// A relay that runs.
    pub fn relay(&self, relay: usize) -> &Relay {
        self.relays[relay].as_ref().expect("it runs")
    }

    /// Starts a relay that is dead, and waits until it is ready.
    pub async fn start_relay(&mut self, relay: usize) {
        assert!(self.relays[relay].is_none(), "it runs already");
        let redis = self.redis_flags();
        let mut flags = words(&redis);
        flags.extend(TO_LOOPBACK);
        let started = Relay::of_binary(&self.options.binary, &flags, &self.webhook_file, &[]);
        started.wait_until_ready().await;
        self.relays[relay] = Some(started);
    }

    /// `kill -9` of a relay.
    pub async fn kill_relay(&mut self, relay: usize) {
        self.relays[relay].take().expect("it runs").kill().await;
    }

    /// Ends a relay by SIGTERM, and waits until it has drained.
    pub async fn drain_relay(&mut self, relay: usize) {
        self.relays[relay].take().expect("it runs").stop(DRAIN_LIMIT).await;
    }

    /// Ends everything, in the order in which nothing complains.
    pub async fn end(mut self) {
        for server in self.servers.iter_mut().flatten() {
            server.kill().await;
        }
        for relay in self.relays.iter_mut().flatten() {
            relay.kill().await;
        }
        for redis in self.redis_processes() {
            redis.kill().await;
        }
    }
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}
