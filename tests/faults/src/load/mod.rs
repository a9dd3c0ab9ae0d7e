//! What clients call during a run, and what watchers hear.

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::history::{Operation, Watch};
use crate::world::World;

mod client;
mod connection;
mod outcome;
mod population;
mod settle;
mod watcher;

use self::client::Client;
use self::connection::Connection;
use self::population::Population;
pub use self::settle::settle;
use self::watcher::Watcher;

/// How many clients call at the same time.
const CLIENTS: usize = 24;

/// What runs beside the faults.
pub struct Load {
    clients: JoinSet<Vec<Operation>>,
    watchers: Vec<Watcher>,
    is_over: watch::Sender<bool>,
}

impl Load {
    /// Opens the watches, then lets the clients begin.
    pub async fn start(world: &World, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let population = Population::new(&mut random);
        population.limit_quotas(world).await;
        let (is_over, over) = watch::channel(false);
        let mut connection = || {
            let random = StdRng::seed_from_u64(random.random());
            Connection::new(&world.client_addresses, random)
        };
        let watched = Population::watched();
        let watchers: Vec<_> = watched
            .into_iter()
            .map(|user| Watcher::start(user, connection(), world.began, &population))
            .collect();
        for watcher in &watchers {
            watcher.wait_until_open().await;
        }
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            let client = Client::new(number, connection(), world.began, population.clone());
            clients.spawn(client.run(over.clone()));
        }
        Self { clients, watchers, is_over }
    }

    /// Ends the clients after the calls that they have begun, and returns all that they recorded. Watches go
    /// on.
    pub async fn end_calls(&mut self) -> Vec<Operation> {
        self.is_over.send_replace(true);
        let mut operations = Vec::new();
        while let Some(of_client) = self.clients.join_next().await {
            operations.extend(of_client.expect("a client goes on until it is ended"));
        }
        operations
    }

    /// What the watchers have heard so far.
    pub fn watches(&self) -> Vec<Watch> {
        self.watchers.iter().map(Watcher::heard).collect()
    }
}

/// The clock of a run.
#[derive(Clone, Copy)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> crate::history::Moment {
        self.0.elapsed()
    }
}
