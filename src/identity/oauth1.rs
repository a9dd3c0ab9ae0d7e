//! OAuth 1.0a signatures (RFC 5849, HMAC-SHA1): what the seed's own clients send.

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

use super::credentials::{Credential, Credentials};
use super::sha256;
use crate::domain::{Nonce, UserId};
use crate::edge::answer::{Flaw, Refusal};
use crate::edge::http::form::Form;
use crate::files::Reread;

/// How far a signature's time may be from ours, in seconds: CONTRACT section 8.
const WINDOW_SECONDS: u64 = 300;

/// What is not encoded: RFC 5849 section 3.6.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

const SIGNATURE: &str = "oauth_signature";

/// Verifies signed requests with the credentials of a file.
#[derive(Debug)]
pub struct OAuth1 {
    reread: Reread,
    credentials: ArcSwap<Credentials>,
    public_urls: Vec<Origin>,
}

/// A scheme and an authority, as signed: the host in lower case, no default port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// What of a request is signed.
#[derive(Debug)]
pub struct Signed<'a> {
    /// The request's head.
    pub head: &'a Parts,
    /// Its parameters.
    pub form: &'a Form,
    /// Whether it came over TLS.
    pub scheme: Scheme,
}

impl OAuth1 {
    /// Credentials in a file's contents. Where `public_urls` are given, clients sign one of them;
    /// else they sign what the request names.
    ///
    /// # Errors
    ///
    /// What is wrong with the contents, as the end of a sentence that names the file.
    pub fn new(file: &Path, contents: Vec<u8>, public_urls: Vec<Origin>) -> Result<Self, String> {
        let credentials = ArcSwap::from_pointee(Credentials::parse(&contents)?);
        let reread = Reread::new(vec![file.to_owned()], vec![contents]);
        Ok(Self { reread, credentials, public_urls })
    }

    /// Takes the file again whenever it changes, for ever.
    pub async fn keep(self: Arc<Self>) {
        let take = |contents: &[Vec<u8>]| {
            let credentials = contents.first().map(Vec::as_slice).unwrap_or_default();
            self.credentials.store(Arc::new(Credentials::parse(credentials)?));
            Ok(())
        };
        self.reread.clone().keep(take).await;
    }

    /// Whether what clients sign is told by the configuration.
    pub fn knows_public_urls(&self) -> bool {
        !self.public_urls.is_empty()
    }

    /// The user who signed a request, by the part of `authorization` behind `OAuth`; and the nonce,
    /// which must not have been used before.
    ///
    /// # Errors
    ///
    /// [`Refusal::CredentialsInvalid`].
    pub fn verify(&self, header: &str, signed: &Signed<'_>) -> Result<(UserId, Nonce), Refusal> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.verify_at(header, signed, now).map_err(Refusal::CredentialsInvalid)
    }

    fn verify_at(
        &self,
        header: &str,
        signed: &Signed<'_>,
        now_seconds: u64,
    ) -> Result<(UserId, Nonce), Flaw> {
        let parameters = Parameters::parse(header)?;
        let Signed { form, .. } = signed;
        if form.query.iter().chain(&form.body).any(|(name, _)| name.starts_with("oauth_")) {
            return Err(Flaw::Signature(
                "oauth parameters stand in the authorization header alone",
            ));
        }
        if parameters.timestamp.abs_diff(now_seconds) > WINDOW_SECONDS {
            return Err(Flaw::Timestamp { window_seconds: WINDOW_SECONDS });
        }
        let credentials = self.credentials.load();
        let Credential { user, signing_key } = credentials
            .of(&parameters.consumer_key, &parameters.token)
            .ok_or(Flaw::Signature("the consumer key or the token is not known"))?;
        let holds = self.origins(signed)?.iter().any(|origin| {
            let base = base_string(signed, origin, &parameters.signed);
            hmac::verify(signing_key, base.as_bytes(), &parameters.signature).is_ok()
        });
        if holds {
            Ok((*user, parameters.nonce()))
        } else {
            Err(Flaw::Signature("the signature does not hold"))
        }
    }

    /// Where the request went, as its client may have seen it.
    fn origins(&self, signed: &Signed<'_>) -> Result<Vec<Origin>, Flaw> {
        if self.knows_public_urls() {
            return Ok(self.public_urls.clone());
        }
        let Signed { head, scheme, .. } = signed;
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
    /// An origin, where the authority is a host, and a port or none: no user, and no port that is
    /// none.
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

/// The parameters of the protocol, decoded.
struct Parameters {
    consumer_key: String,
    token: String,
    nonce: String,
    timestamp: u64,
    signature: Vec<u8>,
    /// All that is signed of the header: not the realm, not the signature.
    signed: Vec<(String, String)>,
}

impl Parameters {
    /// `name="value", …`: RFC 5849 section 3.5.1.
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
            return Err(Flaw::Signature("the signature method is not HMAC-SHA1"));
        }
        if value("oauth_version").is_some_and(|version| version != "1.0") {
            return Err(Flaw::Signature("the version of OAuth is not 1.0"));
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
        let whose =
            [&self.nonce, &self.consumer_key, &self.token].map(|text| encode(text)).join("&");
        Nonce { timestamp: self.timestamp, digest: sha256(&whose) }
    }
}

/// Names and values of `name="value", …`. A realm may hold a comma.
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

/// What is signed: RFC 5849 section 3.4.1.
fn base_string(
    signed: &Signed<'_>,
    Origin(origin): &Origin,
    header: &[(String, String)],
) -> String {
    let Signed { head, form, .. } = signed;
    let parameters = header.iter().chain(&form.query).chain(&form.body);
    let mut parameters: Vec<_> =
        parameters.map(|(name, value)| (encode(name), encode(value))).collect();
    parameters.sort_unstable();
    let parameters: Vec<_> =
        parameters.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let uri = format!("{origin}{}", head.uri.path());
    format!("{}&{}&{}", head.method, encode(&uri), encode(&parameters.join("&")))
}

pub(super) fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

fn decode(text: &str) -> Option<String> {
    Some(percent_decode_str(text).decode_utf8().ok()?.into_owned())
}

#[cfg(test)]
mod tests;
