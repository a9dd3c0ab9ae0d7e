//! Asks all Sentinels where the master is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::AsyncConnectionConfig;
use tokio::time::timeout;

use super::claims::{Choice, Claim, Claims};
use super::{ANSWER_MAX, SentinelGroup, ask, connect, no_answer};
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::connection::address::RedisAddress;
use crate::telemetry::LogThrottle;

/// Sentinels that a message names.
const NAMED_MAX: usize = 3;

/// The Sentinels.
#[derive(Debug)]
pub(crate) struct Sentinels {
    pub(super) group: SentinelGroup,
    /// The master that was last connected to.
    used: Mutex<Option<Found>>,
    /// Places that answered no connection since, or as no master.
    failed: Mutex<Vec<Address>>,
    pub(super) watch_log: LogThrottle,
}

/// Where the master is, and the number of the Sentinel that says so.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) claim: Claim,
    pub(crate) sentinel: usize,
}

impl Sentinels {
    pub(crate) fn new(group: SentinelGroup) -> Self {
        let (used, failed, watch_log) = Default::default();
        Self { group, used, failed, watch_log }
    }

    pub(crate) fn group(&self) -> &SentinelGroup {
        &self.group
    }

    /// Asks all at once, until more than half of them agree or all have had their time.
    pub(crate) async fn find(&self) -> Result<Found, String> {
        let mut claims = Claims::new(self.count());
        let mut problems = Vec::new();
        let mut asking: FuturesUnordered<_> =
            (0..self.count()).map(|sentinel| self.ask_one(sentinel)).collect();
        while let Some((sentinel, answer)) = asking.next().await {
            match answer {
                Ok(claim) => claims.set(sentinel, Some(claim)),
                Err(problem) => problems.push((sentinel, problem)),
            }
            if claims.agree() {
                break;
            }
        }
        // In the order of the setting: the log tells each cause once.
        problems.sort_unstable();
        self.choose(&claims).ok_or_else(|| self.no_master(&problems))
    }

    fn choose(&self, claims: &Claims) -> Option<Found> {
        let used = self.used();
        let mut failed = lock(&self.failed);
        let found = match claims.choose(used.as_ref().map(|used| &used.claim), &failed)? {
            Choice::Follow(claim, sentinel) => Found { claim, sentinel },
            Choice::Stay => used?,
        };
        if failed.contains(&found.claim.place) {
            // All have failed: once more from the beginning.
            failed.clear();
        }
        Some(found)
    }

    async fn ask_one(&self, sentinel: usize) -> (usize, Result<Claim, String>) {
        let asked = timeout(ANSWER_MAX, async {
            let address = self.address(sentinel)?;
            let mut connection = connect(address, &AsyncConnectionConfig::new()).await?;
            ask(&mut connection, &self.group.master_name).await
        });
        (sentinel, asked.await.unwrap_or_else(|late| Err(no_answer(late))))
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

    pub(super) fn count(&self) -> usize {
        self.group.sentinels.len()
    }

    pub(super) fn address(&self, sentinel: usize) -> Result<&RedisAddress, String> {
        let address = self.group.sentinels.get(sentinel);
        address.ok_or_else(|| "there is no such Sentinel".to_owned())
    }

    /// Returns a Sentinel's name in messages.
    pub(crate) fn name(&self, sentinel: usize) -> String {
        let address = self.group.sentinels.get(sentinel);
        let (host, port) = address.map(RedisAddress::host_and_port).unwrap_or_default();
        Address { host, port: port.unwrap_or_default() }.to_string()
    }

    /// Returns the master that was last connected to.
    pub(super) fn used(&self) -> Option<Found> {
        lock(&self.used).clone()
    }

    /// Notes that this is a master, and is connected to.
    pub(crate) fn note_use(&self, found: &Found) {
        *lock(&self.used) = Some(found.clone());
        lock(&self.failed).clear();
    }

    /// Notes that this did not answer, or is no master: another that is named as well comes before it.
    pub(crate) fn note_failure(&self, found: &Found) {
        let mut failed = lock(&self.failed);
        if !failed.contains(&found.claim.place) {
            // Each lookup adds one, and ends in one that failed before once all are here.
            if failed.len() > self.count() {
                failed.clear();
            }
            failed.push(found.claim.place.clone());
        }
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is safe to use: nothing that holds it panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
