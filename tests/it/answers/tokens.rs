//! Tokens that other issuers and forgers would make.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use markread_harness::caller::Credentials;
use markread_harness::server::SECRET;
use markread_harness::{READER, openssl};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The Unix time in seconds, this many from now.
pub(crate) fn seconds_from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// The claims of a token for an hour, with changes; a claim that is null is left out.
pub(crate) fn claims(changes: Value) -> Value {
    let mut claims = json!({ "sub": READER.to_string(), "exp": seconds_from_now(3600) });
    let claims_map = claims.as_object_mut().unwrap();
    let Value::Object(changes) = changes else { panic!("claims are an object") };
    claims_map.extend(changes);
    claims_map.retain(|_, value| !value.is_null());
    claims
}

/// The key that test servers verify with.
pub(crate) fn shared_key() -> EncodingKey {
    EncodingKey::from_secret(SECRET.as_bytes())
}

pub(crate) fn signed(algorithm: Algorithm, claims: &Value, key: &EncodingKey) -> String {
    encode(&Header::new(algorithm), claims, key).unwrap()
}

/// A token of these texts, JSON or not, signed like any other.
pub(crate) fn signed_texts(
    algorithm: Algorithm,
    header: &str,
    claims: &str,
    key: &EncodingKey,
) -> Credentials {
    let [header, claims] = [header, claims].map(|part| BASE64_URL_SAFE_NO_PAD.encode(part));
    let unsigned = format!("{header}.{claims}");
    let signature = jsonwebtoken::crypto::sign(unsigned.as_bytes(), key, algorithm).unwrap();
    bearer(&format!("{unsigned}.{signature}"))
}

pub(crate) fn bearer(token: &str) -> Credentials {
    Credentials::Authorization(format!("Bearer {token}"))
}

/// A token with changed claims, signed with the test servers' key.
pub(crate) fn with_claims(changes: Value) -> Credentials {
    bearer(&signed(Algorithm::HS256, &claims(changes), &shared_key()))
}

/// A key pair in PEM files, made by openssl.
pub(crate) struct KeyPair {
    dir: TempDir,
    private: PathBuf,
    public: PathBuf,
}

impl KeyPair {
    /// Generates a pair; `kind` is an option of `openssl genpkey`, such as `-algorithm ed25519`.
    pub(crate) async fn generate(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (private, public) = (dir.path().join("private"), dir.path().join("public"));
        openssl(dir.path(), &format!("genpkey -out private {kind}")).await;
        openssl(dir.path(), "pkey -in private -pubout -out public").await;
        Self { dir, private, public }
    }

    pub(crate) async fn rsa() -> Self {
        Self::generate("-algorithm RSA -pkeyopt rsa_keygen_bits:2048").await
    }

    pub(crate) async fn p256() -> Self {
        Self::generate("-algorithm EC -pkeyopt ec_paramgen_curve:P-256").await
    }

    pub(crate) async fn ed25519() -> Self {
        Self::generate("-algorithm ed25519").await
    }

    /// The directory of the files `private` and `public`.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn public(&self) -> &Path {
        &self.public
    }

    /// The contents of the public file, which a forger has too.
    pub(crate) fn public_bytes(&self) -> Vec<u8> {
        std::fs::read(&self.public).unwrap()
    }

    /// The public key as DER.
    pub(crate) async fn public_der(&self) -> Vec<u8> {
        openssl(self.dir(), "pkey -pubin -in public -outform DER -out der").await;
        std::fs::read(self.dir().join("der")).unwrap()
    }

    pub(crate) fn key(&self, algorithm: Algorithm) -> EncodingKey {
        let pem = std::fs::read(&self.private).unwrap();
        match algorithm {
            Algorithm::ES256 | Algorithm::ES384 => EncodingKey::from_ec_pem(&pem).unwrap(),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(&pem).unwrap(),
            _ => EncodingKey::from_rsa_pem(&pem).unwrap(),
        }
    }
}
