//! Tokens whose keys are fetched from `--jwt-jwks-url`.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use markread_harness::caller::Credentials;
use markread_harness::{Redis, Server};
use serde_json::{Value, json};

use crate::answers::tokens::{KeyPair, bearer, claims};

mod absence;
mod choice;
mod forgeries;
mod rotation;
pub(crate) mod source;
mod tokens;
mod trash;
mod unknown_keys;
mod unusable;

use source::Source;

/// A key pair with its ID and algorithm.
pub(crate) struct Key {
    id: String,
    algorithm: Algorithm,
    pair: KeyPair,
}

impl Key {
    pub(crate) async fn rsa(id: &str) -> Self {
        Self { id: id.to_owned(), algorithm: Algorithm::RS256, pair: KeyPair::rsa().await }
    }

    pub(crate) async fn p256(id: &str) -> Self {
        Self { id: id.to_owned(), algorithm: Algorithm::ES256, pair: KeyPair::p256().await }
    }

    pub(crate) async fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), algorithm: Algorithm::EdDSA, pair: KeyPair::ed25519().await }
    }

    fn private(&self) -> EncodingKey {
        self.pair.key(self.algorithm)
    }

    /// The public key as an issuer publishes it.
    pub(crate) fn jwk(&self) -> Value {
        let jwk = Jwk::from_encoding_key(&self.private(), self.algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(self.id);
        jwk["use"] = json!("sig");
        jwk
    }

    /// The same with changes; a member that is null is left out.
    pub(crate) fn jwk_with(&self, changes: Value) -> Value {
        let Value::Object(changes) = changes else { panic!("members are an object") };
        let mut jwk = self.jwk();
        jwk.as_object_mut().unwrap().extend(changes);
        jwk.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        jwk
    }

    /// A token of the reader.
    pub(crate) fn token(&self) -> Credentials {
        self.token_with(json!({}))
    }

    /// The same with changed claims.
    fn token_with(&self, changes: Value) -> Credentials {
        self.token_named(Some(&self.id), changes)
    }

    /// The same with another key ID, or none.
    fn token_named(&self, id: Option<&str>, changes: Value) -> Credentials {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(self.algorithm) };
        bearer(&encode(&header, &claims(changes), &self.private()).unwrap())
    }
}

fn base64url(bytes: impl AsRef<[u8]>) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

fn from_base64url(text: &str) -> Vec<u8> {
    BASE64_URL_SAFE_NO_PAD.decode(text).unwrap()
}

/// A key set of these keys.
pub(crate) fn set(keys: &[&Key]) -> Value {
    set_of(&keys.iter().map(|key| key.jwk()).collect::<Vec<_>>())
}

pub(crate) fn set_of(keys: &[Value]) -> Value {
    json!({ "keys": keys })
}

/// Starts a server that verifies tokens with this source's keys, and waits until it has them.
async fn serve(redis: &Redis, source: &Source, flags: &[&str]) -> Server {
    let server = serve_unready(redis, source, flags).await;
    server.wait_until_ready().await;
    server
}

pub(crate) async fn serve_unready(redis: &Redis, source: &Source, flags: &[&str]) -> Server {
    let own = ["--redis-url", &redis.url(), "--jwt-jwks-url", &source.url()];
    Server::spawn(&[&own, flags].concat(), false).await
}
