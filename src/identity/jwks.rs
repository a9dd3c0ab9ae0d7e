//! Keys that are fetched: a JWK set (RFC 7517) behind a URL.
//!
//! One task fetches. Calls only look at the set that is there, and where a token names a key that
//! is not in it, ask for another look and wait for that.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::jwt::{Expected, Verified};
use super::keys::{Check, Keys};
use crate::edge::answer::{Flaw, Refusal};
use crate::edge::deadline::Deadline;
use crate::telemetry::Throttle;

/// Between two fetches, unless a token asks for one: CONTRACT section 4, "Identity".
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// Between two tries while there is no key at all, and after one that failed.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a call waits for the set to be looked at again: less than it may take by default.
const LOOK_TIMEOUT: Duration = Duration::from_millis(1500);

/// Fetches that tokens may ask for: 5 at once, then one in 30 s.
const ASKED_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
const ASKED_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// The largest set, in bytes.
const SET_MAX_BYTES: usize = 1024 * 1024;

/// Keys behind a URL.
pub struct Jwks {
    source: Uri,
    expected: Expected,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    keys: ArcSwapOption<Keys>,
    asked: Notify,
    asked_limiter: DefaultDirectRateLimiter,
    /// When the last look at the set began that has ended.
    looked: watch::Sender<Instant>,
    state: watch::Sender<KeysState>,
    failing: Throttle,
}

/// Whether there is anything to verify tokens with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysState {
    /// There is.
    There,
    /// Nothing was ever fetched, for this reason.
    NeverFetched(String),
}

impl Jwks {
    /// Keys behind a URL of http or https, whose certificate one of the system's roots has signed.
    pub fn new(source: Uri, expected: Expected) -> Self {
        let mut roots = RootCertStore::empty();
        // An image without any roots can still fetch over http.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let quota = Quota::per_minute(ASKED_PER_MINUTE).allow_burst(ASKED_AT_ONCE);
        Self {
            source,
            expected,
            // A connection would be idle for minutes, and its end may have moved.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            keys: ArcSwapOption::empty(),
            asked: Notify::new(),
            asked_limiter: RateLimiter::direct(quota),
            looked: watch::Sender::new(Instant::now()),
            state: watch::Sender::new(KeysState::NeverFetched("not fetched yet".to_owned())),
            failing: Throttle::default(),
        }
    }

    /// Whether there is anything to verify tokens with, as it changes.
    pub fn state(&self) -> watch::Receiver<KeysState> {
        self.state.subscribe()
    }

    /// Whom a token was given to.
    ///
    /// # Errors
    ///
    /// [`Refusal::IdentityUnavailable`] where no keys were ever fetched; else what [`Keys::check`]
    /// says, after another look where the token names a key that is not there.
    pub async fn verify(&self, token: &str, deadline: Deadline) -> Result<Verified, Refusal> {
        if let Check::Done(verified) = self.check(token) {
            return verified;
        }
        // On the heap: hardly a call waits for keys, and each would carry the room for it.
        Box::pin(self.look_again(deadline)).await;
        match self.check(token) {
            Check::Done(verified) => verified,
            Check::UnknownKey => {
                Err(Refusal::CredentialsInvalid(Flaw::Token("the token's key is not known")))
            }
        }
    }

    fn check(&self, token: &str) -> Check {
        match &*self.keys.load() {
            Some(keys) => keys.check(token),
            None => Check::Done(Err(Refusal::IdentityUnavailable)),
        }
    }

    /// Waits for a look at the set that begins from now on, which may be one that the limit denies.
    async fn look_again(&self, deadline: Deadline) {
        let now = Instant::now();
        let mut looked = self.looked.subscribe();
        self.asked.notify_one();
        let until = deadline.call_ends_at.min(now + LOOK_TIMEOUT);
        // Where it takes too long, the keys that are there decide.
        let _ = timeout_at(until, looked.wait_for(|began| *began >= now)).await;
    }

    /// Fetches, for ever.
    pub async fn keep(self: Arc<Self>) {
        loop {
            let next = Instant::now() + self.fetch().await;
            loop {
                tokio::select! {
                    () = sleep_until(next) => break,
                    () = self.asked.notified() => {}
                }
                let began = Instant::now();
                if self.asked_limiter.check().is_ok() {
                    self.fetch().await;
                }
                self.looked.send_replace(began);
            }
        }
    }

    /// Fetches once, and says when to do it again. A set that comes replaces the one that is there;
    /// where none comes that one stays.
    async fn fetch(&self) -> Duration {
        let fetched = timeout(FETCH_TIMEOUT, self.get()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = fetched.and_then(|set| Ok(Keys::of_set(&set, &self.expected)?));
        match keys {
            Ok(keys) => {
                self.replace(keys);
                REFRESH_INTERVAL
            }
            Err(cause) if self.keys.load().is_some() => {
                if let Some(silenced) = self.failing.ask() {
                    tracing::warn!(
                        ?cause,
                        silenced,
                        "--jwt-jwks-url: no keys fetched, those that are there stay"
                    );
                }
                RETRY_INTERVAL
            }
            Err(cause) => {
                let state = KeysState::NeverFetched(cause.clone());
                if self.state.send_replace(state.clone()) != state {
                    tracing::warn!(?cause, "--jwt-jwks-url: no keys fetched, no token is verified");
                }
                FIRST_INTERVAL
            }
        }
    }

    fn replace(&self, keys: Keys) {
        let keys = Arc::new(keys);
        let before = self.keys.swap(Some(Arc::clone(&keys)));
        if before.is_none_or(|before| !before.ids().eq(keys.ids())) {
            let ids: Vec<_> = keys.ids().collect();
            tracing::info!(?ids, "--jwt-jwks-url: keys fetched");
        }
        self.state.send_if_modified(|state| {
            let first = *state != KeysState::There;
            *state = KeysState::There;
            first
        });
    }

    async fn get(&self) -> Result<Bytes, String> {
        let request = Request::get(&self.source)
            .header(http::header::ACCEPT, "application/jwk-set+json, application/json")
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| causes(&error))?;
        if response.status() != StatusCode::OK {
            return Err(format!("the answer is HTTP {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), SET_MAX_BYTES).collect().await;
        Ok(body.map_err(|error| format!("the answer broke off: {error}"))?.to_bytes())
    }
}

/// An error with what is behind it: the outermost says no more than that it did not connect.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

impl std::fmt::Debug for Jwks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwks").field("source", &self.source).finish_non_exhaustive()
    }
}
