//! Who the caller is: CONTRACT section 4, "Identity". What it yields, a [`UserId`], is carried on;
//! nothing past this point looks at credentials.

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName};

use crate::ids::UserId;
use crate::status::Refusal;

pub mod jwt;

const USER_ID: HeaderName = HeaderName::from_static("x-user-id");

/// How callers prove who they are.
#[derive(Debug)]
pub enum Identity {
    /// They need not: `serve --dev`. The caller is whom `x-user-id` names, `authorization` is
    /// ignored.
    Dev,
    /// By a bearer token.
    Bearer(Box<jwt::Verifier>),
}

impl Identity {
    /// The authenticated caller.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsMissing`], [`Refusal::CredentialsInvalid`] or
    /// [`Refusal::UserContextRequired`].
    pub fn authenticate(&self, headers: &HeaderMap) -> Result<UserId, Refusal> {
        match self {
            Self::Dev => named_user(headers),
            Self::Bearer(verifier) => verifier.verify(bearer_token(headers)?),
        }
    }
}

fn named_user(headers: &HeaderMap) -> Result<UserId, Refusal> {
    const MALFORMED: Refusal = Refusal::UserContextRequired("x-user-id is no user ID");
    let mut values = headers.get_all(USER_ID).iter();
    let value = values.next().ok_or(Refusal::CredentialsMissing)?;
    if values.next().is_some() {
        return Err(MALFORMED);
    }
    value.to_str().ok().and_then(|text| text.parse().ok()).ok_or(MALFORMED)
}

/// The token of `authorization: Bearer <token>`; RFC 9110 wants the scheme in any case.
fn bearer_token(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = values.next().ok_or(Refusal::CredentialsMissing)?;
    if values.next().is_some() {
        return Err(Refusal::CredentialsInvalid("there is more than one authorization header"));
    }
    let value =
        value.to_str().map_err(|_| Refusal::CredentialsInvalid("authorization is no text"))?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Refusal::CredentialsInvalid("authorization takes the form Bearer <token>")),
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

    #[test]
    fn with_dev_the_caller_is_whom_the_metadata_names() {
        let user = |value| Identity::Dev.authenticate(&headers(&[(USER_ID, value)]));
        assert_eq!(user("2244994945").map(UserId::get), Ok(2_244_994_945));
        for value in ["", "0", "-1", "me", "1 ", "9223372036854775808"] {
            assert!(matches!(user(value), Err(Refusal::UserContextRequired(_))), "{value:?}");
        }
        let twice = headers(&[(USER_ID, "1"), (USER_ID, "2")]);
        assert!(matches!(Identity::Dev.authenticate(&twice), Err(Refusal::UserContextRequired(_))));
        assert_eq!(
            Identity::Dev.authenticate(&headers(&[(AUTHORIZATION, "Bearer x")])),
            Err(Refusal::CredentialsMissing)
        );
    }

    #[test]
    fn a_bearer_token_stands_behind_its_scheme() {
        let token = |value| bearer_token(&headers(&[(AUTHORIZATION, value)])).map(str::to_owned);
        assert_eq!(token("Bearer abc"), Ok("abc".to_owned()));
        assert_eq!(token("bearer abc"), Ok("abc".to_owned()));
        for value in ["", "Bearer", "Basic YTpi", "abc", "Bearerabc x"] {
            assert!(matches!(token(value), Err(Refusal::CredentialsInvalid(_))), "{value:?}");
        }
        assert_eq!(bearer_token(&HeaderMap::new()), Err(Refusal::CredentialsMissing));
        let twice = headers(&[(AUTHORIZATION, "Bearer a"), (AUTHORIZATION, "Bearer b")]);
        assert!(matches!(bearer_token(&twice), Err(Refusal::CredentialsInvalid(_))));
    }
}
