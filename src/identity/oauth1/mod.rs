//! OAuth 1.0a signatures (RFC 5849, HMAC-SHA1), as clients of Twitter's v1.1 API send them.

use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use self::credentials_file::{Credential, CredentialsFile};
use super::sha256;
use crate::domain::{Flaw, Nonce, Refusal, UserId};
use crate::files::{FileWatcher, Reread};

mod credentials_file;

/// Largest distance of a signature's time from the clock, in seconds (`docs/contract.md`, "HTTP").
const WINDOW_SECONDS: u64 = 300;

/// The characters that are percent-encoded (RFC 5849 section 3.6).
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const SIGNATURE: &str = "oauth_signature";

/// Verifies signed requests with the credentials of a file.
#[derive(Debug)]
pub struct OAuth1 {
    reread: FileWatcher,
    credentials: ArcSwap<CredentialsFile>,
    public_urls: Vec<Origin>,
}

/// Scheme and authority as clients sign them: the host in lower case, without a default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// The parts of a request that a signature covers.
#[derive(Debug)]
pub struct SignedRequest<'a> {
    /// The request's head.
    pub head: &'a Parts,
    /// Parameters in the query: names and values, decoded.
    pub query: &'a [(String, String)],
    /// Parameters in the body: names and values, decoded.
    pub body: &'a [(String, String)],
    /// Scheme of the connection.
    pub scheme: Scheme,
}

impl OAuth1 {
    /// Creates it from a file's contents. Clients sign one of `public_urls`, or, if there are none,
    /// the host that the request names.
    ///
    /// # Errors
    ///
    /// The problem of the contents, as the end of a sentence that names the file.
    pub fn new(file: &Path, contents: Vec<u8>, public_urls: Vec<Origin>) -> Result<Self, String> {
        let credentials = ArcSwap::from_pointee(CredentialsFile::parse(&contents)?);
        let reread = FileWatcher::new(vec![file.to_owned()], vec![contents]);
        Ok(Self { reread, credentials, public_urls })
    }

    /// Rereads the file when it changes, for ever.
    pub async fn run(self: Arc<Self>, reread: Reread) {
        let apply = |contents: &[Vec<u8>]| {
            let credentials = contents.first().map(Vec::as_slice).unwrap_or_default();
            self.credentials.store(Arc::new(CredentialsFile::parse(credentials)?));
            Ok(())
        };
        self.reread.clone().run(&reread, apply).await;
    }

    /// Returns whether the settings name the URLs that clients sign.
    pub fn has_public_urls(&self) -> bool {
        !self.public_urls.is_empty()
    }

    /// Verifies a request by the part of its `authorization` header after `OAuth`. Returns the user who
    /// signed it, and the nonce, which must not have been used before.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`].
    pub fn verify(
        &self,
        header: &str,
        signed: &SignedRequest<'_>,
    ) -> Result<(UserId, Nonce), Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.verify_at(header, signed, now).map_err(Refusal::CredentialsInvalid)
    }

    fn verify_at(
        &self,
        header: &str,
        signed: &SignedRequest<'_>,
        now_seconds: u64,
    ) -> Result<(UserId, Nonce), Flaw> {
        let parameters = Parameters::parse(header)?;
        if signed.query.iter().chain(signed.body).any(|(name, _)| name.starts_with("oauth_")) {
            return Err(Flaw::Signature(
                "oauth parameters must be in the authorization header only",
            ));
        }
        if parameters.timestamp.abs_diff(now_seconds) > WINDOW_SECONDS {
            return Err(Flaw::Timestamp { window_seconds: WINDOW_SECONDS });
        }
        let credentials = self.credentials.load();
        let Credential { user, signing_key } = credentials
            .get(&parameters.consumer_key, &parameters.token)
            .ok_or(Flaw::Signature("unknown consumer_key or access token"))?;
        let holds = self.origins(signed)?.iter().any(|origin| {
            let base = base_string(signed, origin, &parameters.signed);
            hmac::verify(signing_key, base.as_bytes(), &parameters.signature).is_ok()
        });
        if holds {
            Ok((*user, parameters.nonce()))
        } else {
            Err(Flaw::Signature("the signature does not match"))
        }
    }

    /// Returns the origins that the client may have signed.
    fn origins(&self, signed: &SignedRequest<'_>) -> Result<Vec<Origin>, Flaw> {
        if self.has_public_urls() {
            return Ok(self.public_urls.clone());
        }
        let SignedRequest { head, scheme, .. } = signed;
        let named = head
            .uri
            .authority()
            .cloned()
            .or_else(|| head.headers.get(http::header::HOST)?.to_str().ok()?.parse().ok());
        let origin = named.and_then(|authority| Origin::new(scheme, &authority));
        Ok(vec![origin.ok_or(Flaw::Signature("the request names no host"))?])
    }
}

impl Origin {
    /// Creates an origin. Returns `None` unless the authority is a host with an optional port.
    pub fn new(scheme: &Scheme, authority: &Authority) -> Option<Self> {
        let host = authority.host();
        let rest = authority.as_str().strip_prefix(host)?;
        if host.is_empty() || (!rest.is_empty() && authority.port_u16().is_none()) {
            return None;
        }
        let default_port = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let port = authority.port_u16().filter(|port| *port != default_port);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        Some(Self(format!("{scheme}://{}{port}", host.to_ascii_lowercase())))
    }
}

/// The parameters of the `authorization` header, decoded.
struct Parameters {
    consumer_key: String,
    token: String,
    nonce: String,
    timestamp: u64,
    signature: Vec<u8>,
    /// The parameters that are signed: all but the realm and the signature.
    signed: Vec<(String, String)>,
}

impl Parameters {
    /// Parses `name="value", …` (RFC 5849 section 3.5.1).
    fn parse(header: &str) -> Result<Self, Flaw> {
        const MALFORMED: Flaw = Flaw::Signature("the authorization header is malformed");
        let mut signature = None;
        let mut signed: Vec<(String, String)> = Vec::new();
        for (name, value) in quoted_pairs(header).ok_or(MALFORMED)? {
            let (Some(name), Some(value)) = (decode(name), decode(value)) else {
                return Err(MALFORMED);
            };
            match name.as_str() {
                "realm" => {}
                SIGNATURE if signature.is_none() => signature = Some(value),
                SIGNATURE => return Err(MALFORMED),
                _ if signed.iter().any(|(known, _)| *known == name) => return Err(MALFORMED),
                _ => signed.push((name, value)),
            }
        }
        let value = |name| signed.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        let required = |name| {
            value(name).filter(|value| !value.is_empty()).cloned().ok_or(Flaw::Signature(
                "an oauth parameter is missing: consumer_key, token, nonce, timestamp, \
                 signature_method and signature are required",
            ))
        };
        if required("oauth_signature_method")? != "HMAC-SHA1" {
            return Err(Flaw::Signature("oauth_signature_method is not HMAC-SHA1"));
        }
        if value("oauth_version").is_some_and(|version| version != "1.0") {
            return Err(Flaw::Signature("oauth_version is not 1.0"));
        }
        let timestamp = required("oauth_timestamp")?;
        let timestamp = Some(&timestamp).filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        Ok(Self {
            consumer_key: required("oauth_consumer_key")?,
            token: required("oauth_token")?,
            nonce: required("oauth_nonce")?,
            timestamp: timestamp.and_then(|text| text.parse().ok()).ok_or(MALFORMED)?,
            signature: signature.ok_or(MALFORMED)?,
            signed,
        })
    }

    fn nonce(&self) -> Nonce {
        let scope =
            [&self.nonce, &self.consumer_key, &self.token].map(|text| encode(text)).join("&");
        Nonce { timestamp: self.timestamp, digest: sha256(&scope) }
    }
}

/// Splits `name="value", …` into names and values. A realm may contain a comma.
fn quoted_pairs(header: &str) -> Option<Vec<(&str, &str)>> {
    let mut pairs = Vec::new();
    let mut rest = header.trim();
    loop {
        let (name, value) = rest.split_once('=')?;
        let (value, after) = value.strip_prefix('"')?.split_once('"')?;
        pairs.push((name, value));
        let after = after.trim_start();
        if after.is_empty() {
            return Some(pairs);
        }
        rest = after.strip_prefix(',')?.trim_start();
    }
}

/// Returns the text that is signed (RFC 5849 section 3.4.1).
fn base_string(
    signed: &SignedRequest<'_>,
    Origin(origin): &Origin,
    header: &[(String, String)],
) -> String {
    let SignedRequest { head, query, body, .. } = signed;
    let parameters = header.iter().chain(*query).chain(*body);
    let mut parameters: Vec<_> =
        parameters.map(|(name, value)| (encode(name), encode(value))).collect();
    parameters.sort_unstable();
    let parameters: Vec<_> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let uri = format!("{origin}{}", head.uri.path());
    format!("{}&{}&{}", head.method, encode(&uri), encode(&parameters.join("&")))
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn decode(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests;
