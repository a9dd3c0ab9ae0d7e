//! The addresses of a host: looked up by ourselves, so that the address that is checked is the one that is
//! connected to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::lookup_host;
use tokio::sync::Mutex;
use tokio::time::{Duration, Instant};
use url::Host;

use super::addresses::special;
use super::failure::ConnectError;
use super::target::Endpoint;
use crate::relay::receiver::FailureKind;

/// How long a result is used: many connections that are made at once need one look-up.
const RESULT_TTL: Duration = Duration::from_secs(1);

/// Addresses of a name that are used.
const ADDRESSES_MAX: usize = 8;

/// Looks up the addresses of one host.
pub(super) struct Resolver {
    endpoint: Endpoint,
    allow_private: bool,
    last: Arc<Mutex<Option<Answer>>>,
}

struct Answer {
    at: Instant,
    addresses: Result<Vec<SocketAddr>, String>,
}

impl Resolver {
    pub(super) fn new(endpoint: Endpoint, allow_private: bool) -> Self {
        Self { endpoint, allow_private, last: Arc::default() }
    }

    /// Returns the addresses that may be connected to.
    ///
    /// # Errors
    ///
    /// If the name has none, or if one of them is special: who mixes inner and public addresses has no
    /// business here.
    pub(super) async fn addresses(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let addresses = match self.endpoint.literal() {
            Some(address) => vec![address],
            None => self.look_up().await?,
        };
        if self.allow_private {
            return Ok(addresses);
        }
        match addresses.iter().find_map(|address| special(address.ip())) {
            None => Ok(addresses),
            Some(what) => Err(ConnectError::new(
                FailureKind::Address,
                format!("the host has an address that is {what}"),
            )),
        }
    }

    /// Sets the result of the look-up, for an hour.
    #[cfg(test)]
    pub(super) fn resolve_to(&self, addresses: Vec<SocketAddr>) {
        let at = Instant::now() + Duration::from_secs(3600);
        *self.last.try_lock().unwrap() = Some(Answer { at, addresses: Ok(addresses) });
    }

    /// The system's look-up takes a thread and cannot be ended. There is one at a time, however many wait for
    /// it or have given up.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        let Host::Domain(name) = &self.endpoint.host else { return Ok(Vec::new()) };
        let mut last = Arc::clone(&self.last).lock_owned().await;
        let addresses = match &*last {
            Some(answer) if answer.at.elapsed() < RESULT_TTL => answer.addresses.clone(),
            _ => {
                let host = (name.clone(), self.endpoint.port);
                let looking = tokio::spawn(async move {
                    let found = lookup_host(host).await.map_err(|error| error.to_string());
                    let addresses = found.map(|found| found.take(ADDRESSES_MAX).collect());
                    *last = Some(Answer { at: Instant::now(), addresses: addresses.clone() });
                    addresses
                });
                looking.await.unwrap_or_else(|error| Err(error.to_string()))
            }
        };
        let failed = |detail: String| ConnectError::new(FailureKind::Connection, detail);
        match addresses {
            Ok(addresses) if addresses.is_empty() => {
                Err(failed("the host has no address".to_owned()))
            }
            Ok(addresses) => Ok(addresses),
            Err(problem) => Err(failed(format!("the host was not found: {problem}"))),
        }
    }
}
