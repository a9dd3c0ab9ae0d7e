//! Invalid signatures cost the user nothing and leave no key in Redis.

use aws_lc_rs::hmac;
use markread_harness::{Redis, Server};

use super::signer::{Call, encode, pairs};
use super::{CredentialsFile, assert_nothing_written, client, reader};
use crate::identity::edge::Post;

/// The code for an invalid signature.
const BAD: &[u64] = &[32];

/// The code for a timestamp outside the window.
const LATE: &[u64] = &[135];

/// Where `docs/contract.md` allows both.
const BAD_OR_LATE: &[u64] = &[32, 135];

struct Scene {
    redis: Redis,
    server: Server,
    _file: CredentialsFile,
}

impl Scene {
    async fn new() -> Self {
        let redis = Redis::start().await;
        let file = CredentialsFile::of(&[&reader(), &client("other", 42)]);
        let server = file.serve(&redis, &[]).await;
        Self { redis, server, _file: file }
    }

    fn call(&self) -> Call {
        reader().call(&self.server.address)
    }

    /// Asserts that a call is refused that is sent as it was signed.
    async fn refuses(&self, call: Call, codes: &[u64], what: &str) {
        self.refuses_post(&call.sign().post(), codes, what).await;
    }

    async fn refuses_post(&self, post: &Post, codes: &[u64], what: &str) {
        let answer = post.send(&self.server.address).await;
        answer.assert_refused_as_one_of(401, codes, what);
        let body = &answer.body;
        for secret in [reader().token, reader().consumer_key, reader().user.to_string()] {
            assert!(!body.contains(&secret), "{what}: {body}");
        }
    }

    /// Asserts that nothing was written, and that the call without its fault is served.
    async fn ends(self) {
        assert_nothing_written(&self.redis).await;
        self.call().send().await.assert_served("without a fault");
    }
}

#[tokio::test]
async fn a_timestamp_more_than_300_seconds_off_is_refused_as_such() {
    let scene = Scene::new().await;
    // A few seconds more in the future, since some pass until the server looks.
    for seconds in [-301, -1000, -1_000_000_000, 310, 1000, 1_000_000_000] {
        scene.refuses(scene.call().at(seconds), LATE, &format!("{seconds} s")).await;
    }
    scene.refuses(scene.call().with("oauth_timestamp", "1"), LATE, "1970").await;
    scene.refuses(scene.call().without("oauth_timestamp"), BAD_OR_LATE, "none").await;
    let now = super::signer::unix_seconds();
    for timestamp in [
        String::new(),
        "now".to_owned(),
        format!("{now}.0"),
        format!("-{now}"),
        format!("+{now}"),
        format!(" {now}"),
        format!("{now}000"),
        format!("{now:#x}"),
        "9".repeat(40),
    ] {
        let call = scene.call().with("oauth_timestamp", &timestamp);
        scene.refuses(call, BAD_OR_LATE, &format!("{timestamp:?}")).await;
    }
    assert_nothing_written(&scene.redis).await;
    for seconds in [-290, 290] {
        scene.call().at(seconds).send().await.assert_served(&format!("{seconds} s"));
    }
}

#[tokio::test]
async fn parameters_that_were_not_signed_are_refused() {
    let scene = Scene::new().await;
    for (what, from, to) in [
        ("another message", "last_read_event_id=8", "last_read_event_id=7"),
        ("another recipient", "recipient_id=3", "recipient_id=4"),
        ("added to the body", "last_", "added=1&last_"),
        ("added, empty", "last_", "added&last_"),
        ("renamed", "recipient_id", "Recipient_id"),
        ("left out", "&recipient_id=3805104374", ""),
        ("sent twice", "last_", "recipient_id=3805104374&last_"),
        ("a space", "3805104374", "3805104374+"),
    ] {
        let mut signed = scene.call().sign();
        let changed = signed.post.body.replace(from, to);
        assert_ne!(signed.post.body, changed);
        signed.post.body = changed;
        scene.refuses_post(&signed.post(), BAD, what).await;
    }
    let mut signed = scene.call().sign();
    signed.post.target += "?added=1";
    scene.refuses_post(&signed.post(), BAD, "added to the query").await;
    let mut call = scene.call();
    call.query = pairs(&[("note", "a")]);
    let mut signed = call.sign();
    signed.post.target = signed.post.target.replace("note=a", "note=A");
    scene.refuses_post(&signed.post(), BAD, "changed in the query").await;
    // The header's parameters are signed as well.
    for (name, value) in [
        ("oauth_nonce", "another"),
        ("oauth_version", ""),
        ("oauth_token", &client("other", 42).token),
        ("oauth_consumer_key", &client("other", 42).consumer_key),
    ] {
        scene.refuses_post(&scene.call().sign().with(name, value).post(), BAD, name).await;
    }
    scene.ends().await;
}

#[tokio::test]
async fn wrong_secrets_and_unknown_clients_are_refused() {
    let scene = Scene::new().await;
    let (own, other) = (reader(), client("other", 42));
    let [consumer, token] = [own.consumer_secret, own.token_secret];
    for (what, secrets) in [
        ("another consumer's", [&other.consumer_secret, &token]),
        ("another token's", [&consumer, &other.token_secret]),
        ("both another's", [&other.consumer_secret, &other.token_secret]),
        ("swapped", [&token, &consumer]),
        ("no token's", [&consumer, &String::new()]),
        ("none", [&String::new(), &String::new()]),
        ("a beginning", [&consumer, &token[1..].to_owned()]),
    ] {
        let secrets = secrets.map(Clone::clone);
        scene.refuses(Call { secrets, ..scene.call() }, BAD, what).await;
    }
    for (what, name, value) in [
        ("unknown consumer", "oauth_consumer_key", "nobody"),
        ("unknown token", "oauth_token", "nobody"),
        ("empty consumer", "oauth_consumer_key", ""),
        ("empty token", "oauth_token", ""),
        ("a token in upper case", "oauth_token", &own.token.to_uppercase()),
    ] {
        let call = scene.call().with(name, value);
        scene.refuses(call.clone(), BAD, what).await;
        let secrets = [String::new(), String::new()];
        scene.refuses(Call { secrets, ..call }, BAD, &format!("{what}, without secrets")).await;
    }
    // Both are valid, but do not belong together.
    let mixed = scene.call().with("oauth_token", &other.token);
    let secrets = [consumer, other.token_secret];
    scene.refuses(Call { secrets, ..mixed }, BAD, "another consumer's token").await;
    scene.ends().await;
}

#[tokio::test]
async fn each_oauth_parameter_is_required_exactly_once() {
    let scene = Scene::new().await;
    for name in ["oauth_consumer_key", "oauth_nonce", "oauth_signature_method", "oauth_token"] {
        scene.refuses(scene.call().without(name), BAD, &format!("no {name}")).await;
    }
    let mut signed = scene.call().sign();
    signed.header.retain(|(name, _)| name != "oauth_signature");
    scene.refuses_post(&signed.post(), BAD, "no signature").await;

    for (name, _) in scene.call().oauth {
        let what = format!("{name} twice");
        let call = scene.call();
        let value = call.value(&name).to_owned();
        scene.refuses(call.clone().and(&name, &value), BAD_OR_LATE, &what).await;
        scene.refuses(call.and(&name, "another"), BAD_OR_LATE, &what).await;
        // One of the two was signed.
        for at in [0, 6] {
            let mut signed = scene.call().sign();
            signed.header.insert(at, (name.clone(), "another".to_owned()));
            scene.refuses_post(&signed.post(), BAD_OR_LATE, &what).await;
        }
    }
    let call = scene.call();
    let signature = ("oauth_signature".to_owned(), encode(&call.signature()));
    for other in [signature, ("oauth_signature".to_owned(), "AAAA".to_owned())] {
        let mut signed = call.sign();
        signed.header.insert(0, other);
        scene.refuses_post(&signed.post(), BAD, "two signatures").await;
    }
    scene.refuses(scene.call().with("oauth_nonce", ""), BAD, "an empty nonce").await;
    let mut post = scene.call().sign().post();
    post.headers.push(format!("authorization: {}", scene.call().sign().authorization()));
    // Two headers are ambiguous.
    scene.refuses_post(&post, &[32, 89], "two headers").await;
    scene.ends().await;
}

#[tokio::test]
async fn other_methods_and_versions_are_refused() {
    let scene = Scene::new().await;
    for version in ["2.0", "1.0a", "1", "1.00", ""] {
        scene.refuses(scene.call().with("oauth_version", version), BAD, version).await;
    }
    // First signed as the server expects, under another name; then as that name says.
    for method in ["PLAINTEXT", "HMAC-SHA256", "HMAC-SHA512", "RSA-SHA1", "none", ""] {
        let call = scene.call().with("oauth_signature_method", method);
        scene.refuses(call, BAD, method).await;
    }
    for (method, hash) in [("HMAC-SHA256", hmac::HMAC_SHA256), ("HMAC-SHA512", hmac::HMAC_SHA512)] {
        let call = scene.call().with("oauth_signature_method", method);
        scene.refuses(Call { hash, ..call }, BAD, method).await;
        scene.refuses(Call { hash, ..scene.call() }, BAD, "another hash by its old name").await;
    }
    for method in ["PLAINTEXT", "HMAC-SHA1"] {
        let [consumer, token] = scene.call().secrets;
        let signed = scene.call().with("oauth_signature_method", method).sign();
        let signature = encode(&format!("{}&{}", encode(&consumer), encode(&token)));
        let signed = signed.with("oauth_signature", &signature);
        scene.refuses_post(&signed.post(), BAD, "the secrets themselves").await;
    }
    scene.ends().await;
}

#[tokio::test]
async fn a_malformed_signature_is_refused() {
    let scene = Scene::new().await;
    let good = scene.call();
    let signature = good.signature();
    for (what, signature) in [
        ("empty", String::new()),
        ("not base64", "!?".to_owned()),
        ("cut", signature[..20].to_owned()),
        ("cut, still base64", format!("{}=", &signature[..27 - 4])),
        ("longer", format!("{signature}{signature}")),
        ("one byte", "AA==".to_owned()),
        ("zeros", format!("{}=", "A".repeat(27))),
        ("with a space", format!("{signature} ")),
        ("another's case", signature.to_lowercase()),
        ("long", "A".repeat(4096)),
    ] {
        let signed = good.sign().with("oauth_signature", &encode(&signature));
        scene.refuses_post(&signed.post(), BAD, what).await;
    }
    for (what, authorization) in [
        ("nothing", "OAuth".to_owned()),
        ("commas", "OAuth ,,,".to_owned()),
        ("no value", "OAuth oauth_token".to_owned()),
        ("an open quote", good.sign().authorization().trim_end_matches('"').to_owned()),
        (
            "a broken escape",
            good.sign().authorization().replace("oauth_nonce=\"", "oauth_nonce=\"%zz"),
        ),
        ("no UTF-8", good.sign().with("oauth_nonce", "%ff").authorization()),
        ("a realm alone", "OAuth realm=\"x\"".to_owned()),
    ] {
        let post = Post::example(&[format!("authorization: {authorization}")]);
        let post = Post { host: scene.server.address.clone(), ..post };
        scene.refuses_post(&post, BAD, what).await;
    }
    scene.ends().await;
}

#[tokio::test]
async fn oauth_parameters_are_read_from_the_header_only() {
    let scene = Scene::new().await;
    // All of them elsewhere, with a valid signature.
    for in_query in [true, false] {
        let mut call = scene.call();
        let signature = ("oauth_signature".to_owned(), call.signature());
        let oauth = call.oauth.iter().cloned().chain([signature]).collect::<Vec<_>>();
        let place = if in_query { &mut call.query } else { &mut call.body };
        place.extend(oauth);
        scene.refuses_post(&call.sign().post, BAD, "no header").await;
    }
    // One of them there as well.
    for (name, value) in [
        ("oauth_token", reader().token),
        ("oauth_token", "another".to_owned()),
        ("oauth_version", "1.0".to_owned()),
        ("oauth_callback", "oob".to_owned()),
        ("oauth_signature", "AAAA".to_owned()),
    ] {
        let pair = || pairs(&[(name, &value)]);
        let [mut in_query, mut in_body] = [scene.call(), scene.call()];
        in_query.query = pair();
        in_body.body.extend(pair());
        for call in [in_query, in_body] {
            scene.refuses(call, BAD, &format!("{name} signed, elsewhere")).await;
        }
        // The same, not signed: a server that overlooks it would accept the call.
        let mut signed = scene.call().sign();
        signed.post.target = format!("{}?{name}={}", signed.post.target, encode(&value));
        scene.refuses_post(&signed.post(), BAD, name).await;
        let mut signed = scene.call().sign();
        signed.post.body = format!("{}&{name}={}", signed.post.body, encode(&value));
        scene.refuses_post(&signed.post(), BAD, name).await;
    }
    // One of them there only.
    let mut call = scene.call().without("oauth_version");
    call.body.extend(pairs(&[("oauth_version", "1.0")]));
    scene.refuses(call, BAD, "moved").await;
    scene.ends().await;
}
