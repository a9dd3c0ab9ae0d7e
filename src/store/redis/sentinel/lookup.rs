//! Asks Sentinels, one after another, where the master is.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use tokio::time::{Instant, timeout};

use super::{ANSWER_MAX, SentinelGroup, ask, connect, no_answer};
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::connection::address::RedisAddress;
use crate::telemetry::LogThrottle;

/// Time after which no other Sentinel is asked: the attempt to connect goes on without, and the next one
/// asks those that were not.
const LOOKUP_MAX: Duration = Duration::from_millis(1200);

/// Sentinels that a message names.
const NAMED_MAX: usize = 3;

/// The Sentinels, in the order in which they are asked.
#[derive(Debug)]
pub(crate) struct Sentinels {
    pub(super) group: SentinelGroup,
    /// Their numbers. The one that has answered last is the first.
    order: Mutex<Vec<usize>>,
    /// Where the master was last found.
    found: Mutex<Option<Address>>,
    pub(super) watch_log: LogThrottle,
}

/// Where the master is, and the number of the Sentinel that says so.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) place: Address,
    pub(crate) sentinel: usize,
}

impl Sentinels {
    pub(crate) fn new(group: SentinelGroup) -> Self {
        let order = Mutex::new((0..group.sentinels.len()).collect());
        Self { group, order, found: Mutex::default(), watch_log: LogThrottle::default() }
    }

    pub(crate) fn group(&self) -> &SentinelGroup {
        &self.group
    }

    /// Asks until one names the master.
    pub(crate) async fn find(&self) -> Result<Found, String> {
        let began = Instant::now();
        let mut problems = Vec::new();
        for sentinel in self.in_order() {
            if began.elapsed() >= LOOKUP_MAX {
                break;
            }
            match timeout(ANSWER_MAX, self.ask_one(sentinel))
                .await
                .unwrap_or_else(|late| Err(no_answer(late)))
            {
                Ok(place) => {
                    self.prefer(sentinel);
                    *lock(&self.found) = Some(place.clone());
                    return Ok(Found { place, sentinel });
                }
                Err(problem) => {
                    self.distrust(sentinel);
                    problems.push((sentinel, problem));
                }
            }
        }
        // In the order of the setting: the log tells each cause once.
        problems.sort_unstable();
        Err(self.no_master(&problems))
    }

    async fn ask_one(&self, sentinel: usize) -> Result<Address, String> {
        let address = self.group.sentinels.get(sentinel).ok_or("there is no such Sentinel")?;
        let mut connection = connect(address, &AsyncConnectionConfig::new()).await?;
        ask(&mut connection, &self.group.master_name).await
    }

    fn no_master(&self, problems: &[(usize, String)]) -> String {
        let named = problems.iter().take(NAMED_MAX);
        let mut parts: Vec<_> = named
            .map(|(sentinel, problem)| format!("{}: {problem}", self.name(*sentinel)))
            .collect();
        if problems.len() > NAMED_MAX {
            parts.push(format!("{} more", problems.len() - NAMED_MAX));
        }
        format!("no Sentinel names the master {}: {}", self.group.master_name, parts.join("; "))
    }

    /// Returns a Sentinel's name in messages.
    pub(crate) fn name(&self, sentinel: usize) -> String {
        let address = self.group.sentinels.get(sentinel);
        let (host, port) = address.map(RedisAddress::host_and_port).unwrap_or_default();
        Address { host, port: port.unwrap_or_default() }.to_string()
    }

    /// Returns where the master was last found.
    pub(super) fn found(&self) -> Option<Address> {
        lock(&self.found).clone()
    }

    pub(super) fn in_order(&self) -> Vec<usize> {
        lock(&self.order).clone()
    }

    /// Asks this Sentinel first from now on.
    pub(super) fn prefer(&self, sentinel: usize) {
        let mut order = lock(&self.order);
        order.retain(|&other| other != sentinel);
        order.insert(0, sentinel);
    }

    /// Asks this Sentinel last from now on: it did not answer, or named what is no master.
    pub(crate) fn distrust(&self, sentinel: usize) {
        let mut order = lock(&self.order);
        order.retain(|&other| other != sentinel);
        order.push(sentinel);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use: nothing that holds it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
