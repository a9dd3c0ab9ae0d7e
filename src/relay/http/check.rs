//! The check that a receiver knows the secret (Twitter's challenge-response check, CRC).

use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;

use super::HttpReceiver;
use super::response::send;
use crate::relay::receiver::{Check, FailureKind};

/// Time for a check, from its begin to the end of the response.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Largest body of the response, in bytes.
const BODY_MAX_BYTES: usize = 16 * 1024;

/// The response. It may have more members.
#[derive(Deserialize)]
struct Answer {
    response_token: String,
}

impl HttpReceiver {
    /// Checks that the receiver signs a random token.
    pub(super) async fn check_crc(&self) -> Check {
        let deadline = Instant::now() + CHECK_TIMEOUT;
        let mut random = [0; 32];
        if rand::fill(&mut random).is_err() {
            return Check::Failed("no random numbers".to_owned());
        }
        // What a receiver signs: nothing of this form is a delivery, nor what Standard Webhooks sign
        // (docs/webhooks.md).
        let token = BASE64_URL_SAFE_NO_PAD.encode(random);
        let Some(uri) = self.target.uri_with("crc_token", &token) else {
            return Check::Refused("the URL cannot have the parameter crc_token".to_owned());
        };
        let request = || self.request(Method::GET, uri.clone(), Bytes::new());
        let response = match send(&self.client, request, deadline).await {
            Ok(response) => response,
            Err(failure) => {
                return match failure.kind {
                    FailureKind::Address | FailureKind::Tls => Check::RefusedHere(failure.detail),
                    _ => Check::Failed(failure.detail),
                };
            }
        };
        match response.status {
            StatusCode::OK => {}
            status if status.is_client_error() || status.is_server_error() => {
                return Check::Failed(format!("answered {}", status.as_u16()));
            }
            status => {
                return Check::Refused(format!("answered {}, not 200", status.as_u16()));
            }
        }
        let body = match response.into_body(BODY_MAX_BYTES, deadline).await {
            Ok(body) => body,
            Err(failure) if failure.kind == FailureKind::Response => {
                return Check::Refused(failure.detail);
            }
            Err(failure) => return Check::Failed(failure.detail),
        };
        let Ok(answer) = serde_json::from_slice::<Answer>(&body) else {
            let form = r#"{"response_token":"sha256=…"}"#;
            return Check::Refused(format!("the body is not JSON of the form {form}"));
        };
        if self.secrets.verify_twitter(token.as_bytes(), &answer.response_token) {
            Check::Passed
        } else {
            Check::Refused("the response_token is wrong: it has another secret".to_owned())
        }
    }
}
