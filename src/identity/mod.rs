//! Who the caller is: CONTRACT section 4, "Identity". What it yields, a [`Proof`], is carried on;
//! nothing past this point looks at credentials.

use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};
use tokio::sync::watch;

use self::jwks::{Jwks, KeysState};
use self::jwt::Verified;
use self::keys::{Check, Keys};
use self::oauth1::{OAuth1, Signed};
use crate::domain::{Nonce, UserId};
use crate::edge::answer::{Flaw, Refusal};
use crate::edge::deadline::Deadline;
use crate::net::peer::Security;

pub mod credentials;
pub mod jwks;
pub mod jwt;
pub mod keys;
pub mod oauth1;

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// How callers prove who they are.
#[derive(Debug)]
pub enum Identity {
    /// They need not: `serve --dev`. The caller is whom `x-user-id` names, `authorization` is
    /// ignored.
    Dev,
    /// By what they send, or by their certificate.
    Proven {
        /// What verifies bearer tokens.
        bearer: Option<Bearer>,
        /// What verifies signed requests, which the HTTP edge takes.
        oauth1: Option<Arc<OAuth1>>,
    },
}

/// What verifies bearer tokens.
#[derive(Debug)]
pub enum Bearer {
    /// A key of the configuration.
    Configured(Keys),
    /// Keys that are fetched.
    Fetched(Arc<Jwks>),
}

/// What a caller shows.
#[derive(Debug)]
pub struct Presented<'a> {
    /// Headers, or metadata.
    pub headers: &'a HeaderMap,
    /// What TLS tells.
    pub security: Security,
    /// The request, where it may be signed as a whole.
    pub signed: Option<Signed<'a>>,
    /// How long the call may take.
    pub deadline: Deadline,
}

/// Who the caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// The authenticated caller.
    pub reader: UserId,
    /// What proves it only as long as it was not used before.
    pub nonce: Option<Nonce>,
    /// Until when, where it is a token that does.
    pub until: Option<SystemTime>,
}

impl From<UserId> for Proof {
    fn from(reader: UserId) -> Self {
        Self { reader, nonce: None, until: None }
    }
}

impl From<Verified> for Proof {
    fn from(Verified { user, until }: Verified) -> Self {
        Self { reader: user, nonce: None, until: Some(until) }
    }
}

impl Identity {
    /// Starts whatever keeps keys and credentials up to date, and tells whether there are any.
    pub fn start(&self) -> watch::Receiver<KeysState> {
        let Self::Proven { bearer, oauth1 } = self else { return always_there() };
        if let Some(oauth1) = oauth1 {
            tokio::spawn(Arc::clone(oauth1).keep());
        }
        match bearer {
            Some(Bearer::Fetched(jwks)) => {
                tokio::spawn(Arc::clone(jwks).keep());
                jwks.state()
            }
            Some(Bearer::Configured(_)) | None => always_there(),
        }
    }

    /// The authenticated caller. An `authorization` header, where there is one, decides alone.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsMissing`], [`Refusal::CredentialsInvalid`],
    /// [`Refusal::UserContextRequired`] or [`Refusal::IdentityUnavailable`].
    pub async fn authenticate(&self, presented: &Presented<'_>) -> Result<Proof, Refusal> {
        let Presented { headers, security, signed, deadline } = presented;
        let Self::Proven { bearer, oauth1 } = self else {
            let reader = named_user(headers)?.ok_or(Refusal::CredentialsMissing)?;
            return Ok(reader.into());
        };
        match (Authorization::of(headers)?, bearer, oauth1, signed) {
            (None, ..) => Ok(user_of_client(*security, headers)?.into()),
            (Some(Authorization::Bearer(token)), Some(Bearer::Configured(keys)), ..) => {
                match keys.check(token) {
                    Check::Done(verified) => verified.map(Into::into),
                    Check::UnknownKey => Err(invalid_token("the token's key is not known")),
                }
            }
            (Some(Authorization::Bearer(token)), Some(Bearer::Fetched(jwks)), ..) => {
                jwks.verify(token, *deadline).await.map(Into::into)
            }
            (Some(Authorization::Bearer(_)), None, ..) => {
                Err(invalid_token("bearer tokens are not taken"))
            }
            (Some(Authorization::OAuth1(header)), _, Some(oauth1), Some(signed)) => {
                let (reader, nonce) = oauth1.verify(header, signed)?;
                Ok(Proof { reader, nonce: Some(nonce), until: None })
            }
            (Some(Authorization::OAuth1(_)), ..) => {
                Err(Refusal::CredentialsInvalid(Flaw::Signature("signatures are not taken here")))
            }
        }
    }
}

/// What a text is remembered by that must not be kept itself.
fn sha256(text: &str) -> [u8; SHA256_OUTPUT_LEN] {
    let mut bytes = [0; SHA256_OUTPUT_LEN];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

fn always_there() -> watch::Receiver<KeysState> {
    watch::Sender::new(KeysState::There).subscribe()
}

fn invalid_token(problem: &'static str) -> Refusal {
    Refusal::CredentialsInvalid(Flaw::Token(problem))
}

/// Whom a client names that its certificate speaks for. Without a verified certificate a name is
/// worth nothing.
fn user_of_client(security: Security, headers: &HeaderMap) -> Result<UserId, Refusal> {
    match security {
        Security::TrustedClient => named_user(headers)?
            .ok_or(Refusal::UserContextRequired("x-user-id is missing: it names the reader")),
        Security::UntrustedClient if headers.contains_key(USER_ID) => {
            Err(Refusal::UserContextRequired("this client may not name a user"))
        }
        Security::UntrustedClient | Security::Tls | Security::Plain => {
            Err(Refusal::CredentialsMissing)
        }
    }
}

/// The user whom `x-user-id` names, where it is there.
fn named_user(headers: &HeaderMap) -> Result<Option<UserId>, Refusal> {
    const MALFORMED: Refusal = Refusal::UserContextRequired("x-user-id is no user ID");
    let mut values = headers.get_all(USER_ID).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MALFORMED);
    }
    value.to_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or(MALFORMED)
}

/// What an `authorization` header holds. RFC 9110 wants its scheme in any case.
#[derive(Debug, PartialEq, Eq)]
enum Authorization<'a> {
    /// A token.
    Bearer(&'a str),
    /// The parameters of a signature.
    OAuth1(&'a str),
}

impl<'a> Authorization<'a> {
    fn of(headers: &'a HeaderMap) -> Result<Option<Self>, Refusal> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(invalid_token("there is more than one authorization header"));
        }
        let value = value.to_str().map_err(|_| invalid_token("authorization is no text"))?;
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("bearer") {
            Ok(Some(Self::Bearer(rest.trim())))
        } else if scheme.eq_ignore_ascii_case("oauth") {
            Ok(Some(Self::OAuth1(rest)))
        } else {
            Err(invalid_token("the authorization's scheme is none that is known"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;
    use tokio::time::Instant;

    use super::*;
    use crate::edge::routing::Wire;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[tokio::test]
    async fn with_dev_the_caller_is_whom_the_metadata_names() {
        let user = async |pairs: &[_]| {
            let headers = headers(pairs);
            let security = Security::Plain;
            let deadline =
                Deadline::of_call(Instant::now(), Wire::Http, &headers, Duration::from_secs(1));
            let presented = Presented { headers: &headers, security, signed: None, deadline };
            Identity::Dev.authenticate(&presented).await.map(|proof| proof.reader.get())
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
    fn only_a_trusted_clients_word_counts() {
        let user =
            |security, pairs: &[_]| user_of_client(security, &headers(pairs)).map(UserId::get);
        let named = [(USER_ID, "7")];
        let missing = Err(Refusal::CredentialsMissing);
        for security in [Security::Plain, Security::Tls] {
            assert_eq!(user(security, &named), missing);
            assert_eq!(user(security, &[(USER_ID, "x")]), missing);
        }
        assert_eq!(user(Security::TrustedClient, &named), Ok(7));
        assert_eq!(user(Security::UntrustedClient, &[]), missing);
        for (security, pairs) in [
            (Security::TrustedClient, &[][..]),
            (Security::TrustedClient, &[(USER_ID, "x")]),
            (Security::TrustedClient, &[(USER_ID, "1"), (USER_ID, "2")]),
            (Security::UntrustedClient, &named),
            (Security::UntrustedClient, &[(USER_ID, "x")]),
        ] {
            let refused = user(security, pairs);
            assert!(matches!(refused, Err(Refusal::UserContextRequired(_))), "{refused:?}");
        }
    }

    #[test]
    fn credentials_stand_behind_their_scheme() {
        let of = |pairs: &[_]| {
            let headers = headers(pairs);
            Authorization::of(&headers).map(|found| found.map(|found| format!("{found:?}")))
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
