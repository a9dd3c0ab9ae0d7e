//! A client's connection, which it leaves for another server after a failure.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tonic::transport::{Channel, Endpoint};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Pings find out a server or a proxy that has gone silent.
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_LIMIT: Duration = Duration::from_secs(2);

/// A connection to one of the servers.
pub(super) struct Connection {
    addresses: Vec<String>,
    at: usize,
    channel: Channel,
    /// Chooses the servers, and whatever else its client chooses.
    pub(super) random: StdRng,
}

impl Connection {
    /// A connection to any of the servers, opened with the first call.
    pub(super) fn new(addresses: &[String], mut random: StdRng) -> Self {
        let at = random.random_range(0..addresses.len());
        Self { addresses: addresses.to_vec(), at, channel: channel(&addresses[at]), random }
    }

    /// The channel.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Goes on to another server, or to the same one on a new connection.
    pub(super) fn move_on(&mut self) {
        self.at = self.random.random_range(0..self.addresses.len());
        self.channel = channel(&self.addresses[self.at]);
    }
}

fn channel(address: &str) -> Channel {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    endpoint
        .connect_timeout(CONNECT_LIMIT)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_LIMIT)
        .keep_alive_while_idle(true)
        .connect_lazy()
}
