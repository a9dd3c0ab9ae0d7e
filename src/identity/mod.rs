//! Authentication (`docs/contract.md`, "Identity"). Its result is an [`Authenticated`] caller: no other
//! room reads credentials.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tokio::sync::watch;
use tokio::time::Instant;

use self::jwks::{Jwks, KeysState};
use self::jwt::VerifiedClaims;
use self::key_file::KeyFile;
use self::keys::Check;
use self::oauth1::{OAuth1, SignedRequest};
use crate::domain::{Flaw, Nonce, Refusal, UserId};
use crate::files::Reread;
use crate::net::peer::ClientAuth;

mod jwk_set;
pub mod jwks;
pub mod jwt;
pub mod key_file;
pub mod keys;
pub mod oauth1;
pub mod verifier;

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// How callers authenticate.
#[derive(Debug)]
pub enum Identity {
    /// Not at all: `serve --dev`. The caller is the user in `x-user-id`, and `authorization` is
    /// ignored.
    Dev,
    /// By an `authorization` header or by a client certificate.
    Required {
        /// Verifies bearer tokens.
        bearer: Option<Bearer>,
        /// Verifies signed requests, over plain HTTP only.
        oauth1: Option<Arc<OAuth1>>,
    },
}

/// Verifies bearer tokens.
#[derive(Debug)]
pub enum Bearer {
    /// With the key of a file.
    Configured(Arc<KeyFile>),
    /// With keys that are fetched.
    Fetched(Arc<Jwks>),
}

/// The credentials that a caller presents.
#[derive(Debug)]
pub struct Credentials<'a> {
    /// Headers, or metadata.
    pub headers: &'a HeaderMap,
    /// How the client authenticated itself to TLS.
    pub client_auth: ClientAuth,
    /// The request, where it may be signed.
    pub signed: Option<SignedRequest<'a>>,
    /// When the call ends.
    pub deadline: Instant,
}

/// An authenticated caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The caller.
    pub reader: UserId,
    /// Nonce of the signature, which must not have been used before.
    pub nonce: Option<Nonce>,
    /// When the token expires.
    pub expires_at: Option<SystemTime>,
}

impl From<UserId> for Authenticated {
    fn from(reader: UserId) -> Self {
        Self { reader, nonce: None, expires_at: None }
    }
}

impl From<VerifiedClaims> for Authenticated {
    fn from(VerifiedClaims { user, expires_at }: VerifiedClaims) -> Self {
        Self { reader: user, nonce: None, expires_at: Some(expires_at) }
    }
}

impl Identity {
    /// Starts the tasks that keep keys and credentials up to date; files are also read on request. Returns
    /// the state of the keys, as it changes.
    pub fn start(&self, reread: &Reread) -> watch::Receiver<KeysState> {
        let Self::Required { bearer, oauth1 } = self else { return always_available() };
        if let Some(oauth1) = oauth1 {
            tokio::spawn(Arc::clone(oauth1).run(reread.clone()));
        }
        match bearer {
            Some(Bearer::Fetched(jwks)) => {
                tokio::spawn(Arc::clone(jwks).run());
                jwks.state()
            }
            Some(Bearer::Configured(key)) => {
                tokio::spawn(Arc::clone(key).run(reread.clone()));
                always_available()
            }
            None => always_available(),
        }
    }

    /// Authenticates the caller. An `authorization` header, if there is one, decides alone.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsMissing`], [`Refusal::CredentialsInvalid`],
    /// [`Refusal::UserContextRequired`] or [`Refusal::IdentityUnavailable`].
    pub async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<Authenticated, Refusal> {
        let Credentials { headers, client_auth, signed, deadline } = credentials;
        let Self::Required { bearer, oauth1 } = self else {
            let reader = named_user(headers)?.ok_or(Refusal::CredentialsMissing)?;
            return Ok(reader.into());
        };
        match (Authorization::from_headers(headers)?, bearer, oauth1, signed) {
            (None, ..) => Ok(user_of_client(*client_auth, headers)?.into()),
            (Some(Authorization::Bearer(token)), Some(Bearer::Configured(key)), ..) => {
                match key.check(token) {
                    Check::Done(verified) => verified.map(Into::into),
                    Check::UnknownKey => Err(invalid_token("unknown key of the token")),
                }
            }
            (Some(Authorization::Bearer(token)), Some(Bearer::Fetched(jwks)), ..) => {
                jwks.verify(token, *deadline).await.map(Into::into)
            }
            (Some(Authorization::Bearer(_)), None, ..) => {
                Err(invalid_token("bearer tokens are not accepted"))
            }
            (Some(Authorization::OAuth1(header)), _, Some(oauth1), Some(signed)) => {
                let (reader, nonce) = oauth1.verify(header, signed)?;
                Ok(Authenticated { reader, nonce: Some(nonce), expires_at: None })
            }
            (Some(Authorization::OAuth1(_)), ..) => Err(Refusal::CredentialsInvalid(
                Flaw::Signature("signatures are not accepted here"),
            )),
        }
    }
}

/// Returns the SHA-256 of a text.
fn sha256(text: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

fn always_available() -> watch::Receiver<KeysState> {
    watch::Sender::new(KeysState::Available).subscribe()
}

const fn invalid_token(problem: &'static str) -> Refusal {
    Refusal::CredentialsInvalid(Flaw::Token(problem))
}

/// Returns the user that a trusted client names. Without a verified certificate `x-user-id` is ignored.
fn user_of_client(client_auth: ClientAuth, headers: &HeaderMap) -> Result<UserId, Refusal> {
    match client_auth {
        ClientAuth::Trusted => named_user(headers)?
            .ok_or(Refusal::UserContextRequired("x-user-id is missing: it must name the reader")),
        ClientAuth::Untrusted if headers.contains_key(USER_ID) => {
            Err(Refusal::UserContextRequired("this client is not trusted to name a user"))
        }
        ClientAuth::Untrusted | ClientAuth::Anonymous | ClientAuth::Plaintext => {
            Err(Refusal::CredentialsMissing)
        }
    }
}

/// Parses `x-user-id`, if it is present.
fn named_user(headers: &HeaderMap) -> Result<Option<UserId>, Refusal> {
    const MALFORMED: Refusal = Refusal::UserContextRequired("x-user-id is not a user ID");
    let mut values = headers.get_all(USER_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MALFORMED);
    }
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(MALFORMED)
}

/// An `authorization` header. Its scheme is case-insensitive (RFC 9110 section 11.1).
#[derive(Debug, PartialEq, Eq)]
enum Authorization<'a> {
    /// A token.
    Bearer(&'a str),
    /// The parameters of a signature.
    OAuth1(&'a str),
}

impl<'a> Authorization<'a> {
    fn from_headers(headers: &'a HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(invalid_token("there is more than one authorization header"));
        }
        let value = value.to_str().map_err(|_| invalid_token("authorization is not ASCII text"))?;
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Some(Self::Bearer(rest.trim())))
        } else if scheme.eq_ignore_ascii_case("oauth") {
            Ok(Some(Self::OAuth1(rest)))
        } else {
            Err(invalid_token("unsupported authorization scheme"))
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[tokio::test]
    async fn with_dev_the_caller_is_the_user_in_the_metadata() {
        let user = async |pairs: &[_]| {
            let credentials = Credentials {
                headers: &headers(pairs),
                client_auth: ClientAuth::Plaintext,
                signed: None,
                deadline: Instant::now(),
            };
            Identity::Dev.authenticate(&credentials).await.map(|caller| caller.reader.get())
        };
        assert_eq!(user(&[(USER_ID, "2244994945")]).await, Ok(2_244_994_945));
        for value in ["", "0", "-1", "me", "1 ", "9223372036854775808"] {
            let refused = user(&[(USER_ID, value)]).await;
            assert!(matches!(refused, Err(Refusal::UserContextRequired(_))), "{value:?}");
        }
        let twice = user(&[(USER_ID, "1"), (USER_ID, "2")]).await;
        assert!(matches!(twice, Err(Refusal::UserContextRequired(_))));
        assert_eq!(user(&[(AUTHORIZATION, "Bearer x")]).await, Err(Refusal::CredentialsMissing));
    }

    #[test]
    fn only_a_trusted_client_names_the_reader() {
        let user = |client_auth, pairs: &[_]| {
            user_of_client(client_auth, &headers(pairs)).map(UserId::get)
        };
        let named = [(USER_ID, "7")];
        let missing = Err(Refusal::CredentialsMissing);
        for client_auth in [ClientAuth::Plaintext, ClientAuth::Anonymous] {
            assert_eq!(user(client_auth, &named), missing);
            assert_eq!(user(client_auth, &[(USER_ID, "x")]), missing);
        }
        assert_eq!(user(ClientAuth::Trusted, &named), Ok(7));
        assert_eq!(user(ClientAuth::Untrusted, &[]), missing);
        for (client_auth, pairs) in [
            (ClientAuth::Trusted, &[][..]),
            (ClientAuth::Trusted, &[(USER_ID, "x")]),
            (ClientAuth::Trusted, &[(USER_ID, "1"), (USER_ID, "2")]),
            (ClientAuth::Untrusted, &named),
            (ClientAuth::Untrusted, &[(USER_ID, "x")]),
        ] {
            let refused = user(client_auth, pairs);
            assert!(matches!(refused, Err(Refusal::UserContextRequired(_))), "{refused:?}");
        }
    }

    #[test]
    fn an_authorization_header_is_scheme_and_credentials() {
        let of = |pairs: &[_]| {
            let headers = headers(pairs);
            Authorization::from_headers(&headers)
                .map(|found| found.map(|found| format!("{found:?}")))
        };
        for (value, expected) in [
            ("Bearer abc", "Bearer(\"abc\")"),
            ("bearer abc", "Bearer(\"abc\")"),
            ("OAuth a=\"b\"", "OAuth1(\"a=\\\"b\\\"\")"),
            ("oauth x", "OAuth1(\"x\")"),
            ("Bearer", "Bearer(\"\")"),
            ("OAuth", "OAuth1(\"\")"),
        ] {
            assert_eq!(of(&[(AUTHORIZATION, value)]), Ok(Some(expected.to_owned())));
        }
        for value in ["", "Basic YTpi", "abc", "Bearerabc x", "OAuth1 x"] {
            let refused = of(&[(AUTHORIZATION, value)]);
            assert!(matches!(refused, Err(Refusal::CredentialsInvalid(_))), "{value:?}");
        }
        assert_eq!(of(&[]), Ok(None));
        let twice = of(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")]);
        assert!(matches!(twice, Err(Refusal::CredentialsInvalid(_))));
    }
}
