//! Keys that are fetched from a URL: a JWK set (RFC 7517).
//!
//! One task fetches it. Calls use the current set; if a token names an unknown key, they request a refresh
//! and wait for it.

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

use super::jwt::{ExpectedClaims, VerifiedClaims};
use super::keys::{Check, Keys};
use crate::domain::{Flaw, Refusal};
use crate::telemetry::LogThrottle;

/// Time between refreshes (`docs/contract.md`, "Identity").
const REFRESH_INTERVAL: Duration = Duration::from_secs(300);

/// Time between attempts while the source is away: before the first set, and after it.
const FIRST_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_secs(30);

/// Time to the next attempt after an answer without a usable key: doubled each time, up to
/// [`RETRY_INTERVAL`].
const UNUSABLE_INTERVAL: Duration = Duration::from_secs(2);

/// Longest time of a fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time that a call waits for a refresh: less than the default call timeout.
const REFRESH_WAIT: Duration = Duration::from_millis(1500);

/// Refreshes that tokens may request: 5 at once, then one in 30 s.
const REQUESTED_AT_ONCE: NonZeroU32 = NonZeroU32::MIN.saturating_add(4);
const REQUESTED_PER_MINUTE: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// Largest set, in bytes.
const SET_MAX_BYTES: usize = 1024 * 1024;

/// Keys that are fetched from a URL.
pub struct Jwks {
    source: Uri,
    expected: ExpectedClaims,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    keys: ArcSwapOption<Keys>,
    refresh_requested: Notify,
    request_limiter: DefaultDirectRateLimiter,
    /// Start of the last completed refresh.
    refreshed: watch::Sender<Instant>,
    state: watch::Sender<KeysState>,
    failure_log: LogThrottle,
}

/// State of the keys that verify tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeysState {
    /// There are keys.
    Available,
    /// None have been fetched yet, with the reason.
    NeverFetched(String),
}

/// Why no keys were fetched.
enum Problem {
    /// The source did not answer with a set.
    Away(String),
    /// The answer is not a set with a usable key.
    Unusable(String),
}

impl Problem {
    fn cause(&self) -> &str {
        match self {
            Self::Away(cause) | Self::Unusable(cause) => cause,
        }
    }
}

impl Jwks {
    /// Creates it for an `http://` or `https://` URL; the certificate must be signed by a system root.
    pub fn new(source: Uri, expected: ExpectedClaims) -> Self {
        let mut roots = RootCertStore::empty();
        // Without any roots it can still fetch over http.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let tls = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let quota = Quota::per_minute(REQUESTED_PER_MINUTE).allow_burst(REQUESTED_AT_ONCE);
        Self {
            source,
            expected,
            // A pooled connection would be idle for minutes, and the server may move.
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build(connector),
            keys: ArcSwapOption::empty(),
            refresh_requested: Notify::new(),
            request_limiter: RateLimiter::direct(quota),
            refreshed: watch::Sender::new(Instant::now()),
            state: watch::Sender::new(KeysState::NeverFetched("not fetched yet".to_owned())),
            failure_log: LogThrottle::default(),
        }
    }

    /// Returns the state of the keys, as it changes.
    pub fn state(&self) -> watch::Receiver<KeysState> {
        self.state.subscribe()
    }

    /// Verifies a token, after a refresh if it names an unknown key.
    ///
    /// # Errors
    ///
    /// [`Refusal::IdentityUnavailable`] if no keys have been fetched yet; otherwise those of
    /// [`Keys::check`].
    pub async fn verify(&self, token: &str, deadline: Instant) -> Result<VerifiedClaims, Refusal> {
        if let Check::Done(verified) = self.check(token) {
            return verified;
        }
        // Boxed: few calls wait for a refresh, and its future would enlarge every call's.
        Box::pin(self.refresh(deadline)).await;
        match self.check(token) {
            Check::Done(verified) => verified,
            Check::UnknownKey => {
                Err(Refusal::CredentialsInvalid(Flaw::Token("unknown key of the token")))
            }
        }
    }

    fn check(&self, token: &str) -> Check {
        match &*self.keys.load() {
            Some(keys) => keys.check(token),
            None => Check::Done(Err(Refusal::IdentityUnavailable)),
        }
    }

    /// Requests a refresh and waits for one that starts from now on; the limit may skip its fetch.
    async fn refresh(&self, deadline: Instant) {
        let now = Instant::now();
        let mut refreshed = self.refreshed.subscribe();
        self.refresh_requested.notify_one();
        let until = deadline.min(now + REFRESH_WAIT);
        // If it takes too long, the current keys decide.
        let _ = timeout_at(until, refreshed.wait_for(|began| *began >= now)).await;
    }

    /// Fetches the set, for ever.
    pub async fn run(self: Arc<Self>) {
        let mut next = Instant::now();
        let mut unusable_interval = UNUSABLE_INTERVAL;
        loop {
            let requested = tokio::select! {
                () = sleep_until(next) => false,
                () = self.refresh_requested.notified() => true,
            };
            let began = Instant::now();
            if !requested || self.request_limiter.check().is_ok() {
                let fetched = self.fetch().await;
                let interval = match fetched {
                    Ok(()) => REFRESH_INTERVAL,
                    Err(Problem::Unusable(_)) => unusable_interval,
                    Err(Problem::Away(_)) if self.keys.load().is_none() => FIRST_INTERVAL,
                    Err(Problem::Away(_)) => RETRY_INTERVAL,
                };
                unusable_interval = match fetched {
                    Err(Problem::Unusable(_)) => RETRY_INTERVAL.min(unusable_interval * 2),
                    _ => UNUSABLE_INTERVAL,
                };
                next = Instant::now() + interval;
            }
            if requested {
                self.refreshed.send_replace(began);
            }
        }
    }

    /// Fetches once. A new set replaces the current one; if there is none that is usable, the current one
    /// stays.
    async fn fetch(&self) -> Result<(), Problem> {
        let fetched = timeout(FETCH_TIMEOUT, self.get()).await;
        let fetched = fetched.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let keys = fetched
            .map_err(Problem::Away)
            .and_then(|set| Keys::from_set(&set, &self.expected).map_err(Problem::Unusable));
        keys.map(|keys| self.replace(keys)).inspect_err(|problem| self.log(problem.cause()))
    }

    fn replace(&self, keys: Keys) {
        let keys = Arc::new(keys);
        let before = self.keys.swap(Some(Arc::clone(&keys)));
        let left_out = keys.left_out();
        if before.is_none_or(|before| !before.ids().eq(keys.ids()) || before.left_out() != left_out)
        {
            let ids: Vec<_> = keys.ids().collect();
            tracing::info!(?ids, left_out, "--jwt-jwks-url: keys fetched");
        }
        self.state.send_if_modified(|state| {
            let first = *state != KeysState::Available;
            *state = KeysState::Available;
            first
        });
    }

    /// Logs that no keys were fetched, and says so where there have been none yet.
    fn log(&self, cause: &str) {
        let text = if self.keys.load().is_some() {
            "--jwt-jwks-url: no keys fetched, the current ones stay"
        } else {
            self.state.send_if_modified(|state| {
                let new = KeysState::NeverFetched(cause.to_owned());
                let changed = *state != new;
                *state = new;
                changed
            });
            "--jwt-jwks-url: no keys fetched, tokens cannot be verified"
        };
        if let Some(suppressed) = self.failure_log.permit() {
            tracing::warn!(?cause, suppressed, "{text}");
        }
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

/// Returns an error with its causes: the outermost says only that it did not connect.
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
