//! An OAuth 1.0a client by the letter of RFC 5849.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use markread_harness::{MESSAGE, RECIPIENT};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::identity::edge::{Answer, FORM, PATH, Post};

/// All but the unreserved characters: RFC 5849, 3.6.
const RESERVED: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

pub(crate) fn encode(text: &str) -> String {
    utf8_percent_encode(text, &RESERVED).to_string()
}

/// Names and values, decoded.
pub(crate) type Pairs = Vec<(String, String)>;

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Pairs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Twitter's example.
pub(crate) fn example() -> Pairs {
    let [message, recipient] = [MESSAGE, RECIPIENT].map(|id| id.to_string());
    pairs(&[("last_read_event_id", &message), ("recipient_id", &recipient)])
}

pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// The consumer and token that sign.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) consumer_key: String,
    pub(crate) consumer_secret: String,
    pub(crate) token: String,
    pub(crate) token_secret: String,
    /// The token's user.
    pub(crate) user: u64,
}

/// A call to sign and send. Its parts may be changed before.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Scheme, authority and path to sign.
    pub(crate) uri: String,
    pub(crate) query: Pairs,
    pub(crate) body: Pairs,
    /// The `oauth_*` parameters without the signature, in the order of the header.
    pub(crate) oauth: Pairs,
    /// The secrets of consumer and token.
    pub(crate) secrets: [String; 2],
    pub(crate) hash: hmac::Algorithm,
    pub(crate) address: String,
}

/// A signed call. The signature does not cover later changes.
#[derive(Clone, Debug)]
pub(crate) struct Signed {
    pub(crate) post: Post,
    /// The parameters of the `authorization` header, encoded.
    pub(crate) header: Vec<(String, String)>,
    /// The prefix of the header, with the scheme.
    pub(crate) scheme: String,
    pub(crate) address: String,
}

impl Client {
    /// Twitter's example with its parameters in the body, for a server.
    pub(crate) fn call(&self, address: &str) -> Call {
        let timestamp = unix_seconds().to_string();
        let nonce = format!("{:032x}", rand::random::<u128>());
        Call {
            uri: format!("http://{address}{PATH}"),
            query: Vec::new(),
            body: example(),
            oauth: pairs(&[
                ("oauth_consumer_key", &self.consumer_key),
                ("oauth_nonce", &nonce),
                ("oauth_signature_method", "HMAC-SHA1"),
                ("oauth_timestamp", &timestamp),
                ("oauth_token", &self.token),
                ("oauth_version", "1.0"),
            ]),
            secrets: [self.consumer_secret.clone(), self.token_secret.clone()],
            hash: hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            address: address.to_owned(),
        }
    }
}

impl Call {
    /// Replaces the value of an `oauth_*` parameter.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let pair = self.oauth.iter_mut().find(|(known, _)| known == name);
        value.clone_into(&mut pair.expect(name).1);
        self
    }

    /// Adds an `oauth_*` parameter.
    pub(crate) fn and(mut self, name: &str, value: &str) -> Self {
        self.oauth.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes an `oauth_*` parameter.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.oauth.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn value(&self, name: &str) -> &str {
        &self.oauth.iter().find(|(known, _)| known == name).expect(name).1
    }

    /// Sets a timestamp this many seconds from now.
    pub(crate) fn at(self, seconds: i64) -> Self {
        let timestamp = unix_seconds().checked_add_signed(seconds).unwrap().to_string();
        self.with("oauth_timestamp", &timestamp)
    }

    /// Signs for another scheme and authority.
    pub(crate) fn to(self, origin: &str) -> Self {
        Self { uri: format!("{origin}{PATH}"), ..self }
    }

    /// The signature base string: RFC 5849, 3.4.1.
    fn base_string(&self) -> String {
        let all = [&self.query, &self.body, &self.oauth].into_iter().flatten();
        let mut all: Vec<_> = all.map(|(name, value)| (encode(name), encode(value))).collect();
        all.sort();
        let all: Vec<_> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("POST&{}&{}", encode(&self.uri), encode(&all.join("&")))
    }

    pub(crate) fn signature(&self) -> String {
        let [consumer, token] = self.secrets.each_ref().map(|secret| encode(secret));
        let key = hmac::Key::new(self.hash, format!("{consumer}&{token}").as_bytes());
        BASE64_STANDARD.encode(hmac::sign(&key, self.base_string().as_bytes()))
    }

    pub(crate) fn sign(&self) -> Signed {
        let signature = ("oauth_signature".to_owned(), self.signature());
        let header = self.oauth.iter().chain([&signature]);
        let header = header.map(|(name, value)| (encode(name), encode(value))).collect();
        let mut target = PATH.to_owned();
        if !self.query.is_empty() {
            target = format!("{target}?{}", form(&self.query));
        }
        let mut post = Post { target, host: self.address.clone(), ..Post::example(&[]) };
        post.body = form(&self.body);
        if self.body.is_empty() {
            post.headers.retain(|header| !header.contains(FORM));
        }
        Signed { post, header, scheme: "OAuth ".to_owned(), address: self.address.clone() }
    }

    pub(crate) async fn send(&self) -> Answer {
        self.sign().send().await
    }
}

impl Signed {
    /// The value of the `authorization` header.
    pub(crate) fn authorization(&self) -> String {
        let header = self.header.iter().map(|(name, value)| format!(r#"{name}="{value}""#));
        format!("{}{}", self.scheme, header.collect::<Vec<_>>().join(", "))
    }

    /// Replaces a value in the header, without encoding it.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        let pair = self.header.iter_mut().find(|(known, _)| known == name);
        value.clone_into(&mut pair.expect(name).1);
        self
    }

    /// The request to send.
    pub(crate) fn post(&self) -> Post {
        let mut post = self.post.clone();
        post.headers.push(format!("authorization: {}", self.authorization()));
        post
    }

    pub(crate) async fn send(&self) -> Answer {
        self.send_to(&self.address).await
    }

    /// Sends the same bytes to another server.
    pub(crate) async fn send_to(&self, address: &str) -> Answer {
        self.post().send(address).await
    }
}

/// Encodes a form as most clients do: `+` for a space.
pub(crate) fn form(pairs: &Pairs) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Twitter's own example shows that this signer is right.
#[test]
fn the_signer_makes_the_signature_of_twitters_documentation() {
    let call = Call {
        uri: "https://api.twitter.com/1.1/statuses/update.json".to_owned(),
        query: pairs(&[("include_entities", "true")]),
        body: pairs(&[("status", "Hello Ladies + Gentlemen, a signed OAuth request!")]),
        oauth: pairs(&[
            ("oauth_consumer_key", "xvz1evFS4wEEPTGEFPHBog"),
            ("oauth_nonce", "kYjzVBB8Y0ZFabxSWbWovY3uYSQ2pTgmZeNu2VS4cg"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "1318622958"),
            ("oauth_token", "370773112-GmHxMAgYyLbNEtIKZeRNFsMKPR9EyMZeS9weJAEb"),
            ("oauth_version", "1.0"),
        ]),
        secrets: [
            "kAcSOqF21Fu85e7zjz7ZN2U4ZRhfV3WpwPAoE3Z7kBw".to_owned(),
            "LswwdoUaIvS8ltyTt5jkRh4J50vUPVVHtR2YPi5kE".to_owned(),
        ],
        hash: hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        address: String::new(),
    };
    assert_eq!(call.signature(), "hCtSmYh+iHYCEqBWrE7C7hYmtUk=");
}
