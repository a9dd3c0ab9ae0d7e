//! What it costs to check a token.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use markread::identity::jwt::ExpectedClaims;
use markread::identity::key_file::{KeyFile, KeyKind};
use markread::identity::{Bearer, Credentials, Identity};
use markread::net::peer::ClientAuth;
use markread_harness::server::SECRET;

use crate::workloads;

/// The time to authenticate a token that was seen before, in µs.
pub(crate) async fn authentication_us() -> f64 {
    const TIMES: usize = 200_000;
    let file = Path::new("secret");
    let key =
        KeyFile::new(file, SECRET.into(), KeyKind::Secret, ExpectedClaims::default()).unwrap();
    let bearer = Some(Bearer::Configured(Arc::new(key)));
    let identity = Identity::Required { bearer, oauth1: None };
    let callers: Vec<http::HeaderMap> = workloads::tokens()
        .map(|token| [(http::header::AUTHORIZATION, token)].into_iter().collect())
        .collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(600);
    let authenticate = async |headers| {
        let client_auth = ClientAuth::Plaintext;
        let credentials = Credentials { headers, client_auth, signed: None, deadline };
        identity.authenticate(&credentials).await.unwrap();
    };
    for headers in &callers {
        authenticate(headers).await;
    }
    let began = Instant::now();
    for headers in callers.iter().cycle().take(TIMES) {
        authenticate(headers).await;
    }
    began.elapsed().as_secs_f64() * 1e6 / TIMES as f64
}
