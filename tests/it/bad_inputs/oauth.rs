//! OAuth 1.0a signatures.

use markread_harness::Redis;
use markread_harness::raw::MARK_READ;

use super::{Section, assert_keys, status_and_codes};
use crate::identity::edge::Post;
use crate::identity::oauth1::signer::{Call, encode};
use crate::identity::oauth1::{CredentialsFile, assert_signature_served, client, reader};

/// What is wrong, and the request.
type Input = (String, Post);

/// Calls that are sent as they were signed.
fn signed_faults(call: &impl Fn() -> Call) -> Vec<Input> {
    let input = |what: String, call: Call| (what, call.sign().post());
    let mut inputs = Vec::new();
    for seconds in [-310, 310, -1_000_000_000] {
        let what = format!(
            "a timestamp that is {} s in the {}",
            i64::abs(seconds),
            if seconds < 0 { "past" } else { "future" }
        );
        inputs.push(input(what, call().at(seconds)));
    }
    for timestamp in ["", "now", "-1", "1.0", "0x65", "99999999999999999999"] {
        let call = call().with("oauth_timestamp", timestamp);
        inputs.push(input(format!("`oauth_timestamp` of `\"{timestamp}\"`"), call));
    }
    for name in [
        "oauth_consumer_key",
        "oauth_nonce",
        "oauth_signature_method",
        "oauth_timestamp",
        "oauth_token",
    ] {
        inputs.push(input(format!("no `{name}`"), call().without(name)));
    }
    for (name, value) in [
        ("oauth_nonce", ""),
        ("oauth_version", "2.0"),
        ("oauth_signature_method", "PLAINTEXT"),
        ("oauth_signature_method", "HMAC-SHA256"),
        ("oauth_signature_method", "RSA-SHA1"),
        ("oauth_consumer_key", "nobody"),
        ("oauth_token", "nobody"),
    ] {
        inputs.push(input(format!("`{name}` of `\"{value}\"`"), call().with(name, value)));
    }
    let again = call().value("oauth_nonce").to_owned();
    inputs.push(input("`oauth_nonce` twice".to_owned(), call().and("oauth_nonce", &again)));
    let [consumer, _] = call().secrets;
    let other = Call { secrets: [consumer, "other".to_owned()], ..call() };
    inputs.push(input("signed with another token's secret".to_owned(), other));
    inputs.push(input("signed for another host".to_owned(), call().to("http://other.test")));
    let theirs = client("other", 42).token;
    inputs.push(input(
        "the token of another consumer".to_owned(),
        call().with("oauth_token", &theirs),
    ));
    inputs
}

/// Calls that were changed after they were signed.
fn changed_later(call: &impl Fn() -> Call) -> Vec<Input> {
    let mut inputs = Vec::new();
    for (what, from, to) in [
        (
            "another message than the one that was signed",
            "last_read_event_id=8",
            "last_read_event_id=7",
        ),
        ("a parameter that was not signed", "last_", "added=1&last_"),
        ("a parameter left out", "&recipient_id=3805104374", ""),
    ] {
        let mut signed = call().sign();
        signed.post.body = signed.post.body.replace(from, to);
        inputs.push((what.to_owned(), signed.post()));
    }
    let signature = call().signature();
    for (what, value) in [
        ("an empty signature", ""),
        ("a signature that is not base64", "!?"),
        ("a signature that is cut", &signature[..20]),
        ("a signature of zeros", "AAAAAAAAAAAAAAAAAAAAAAAAAAA="),
        ("a signature of 4 KiB", &"A".repeat(4096)),
    ] {
        inputs
            .push((what.to_owned(), call().sign().with("oauth_signature", &encode(value)).post()));
    }
    let good = call().sign().authorization();
    for (what, value) in [
        ("`OAuth` alone", "OAuth".to_owned()),
        ("`OAuth ,,,`", "OAuth ,,,".to_owned()),
        ("a parameter without a value", "OAuth oauth_token".to_owned()),
        ("a quote that does not end", good.trim_end_matches('"').to_owned()),
        ("broken percent-encoding", good.replace("oauth_nonce=\"", "oauth_nonce=\"%zz")),
        ("a nonce that is not UTF-8", call().sign().with("oauth_nonce", "%ff").authorization()),
    ] {
        let mut post = call().sign().post;
        post.headers.push(format!("authorization: {value}"));
        inputs.push((what.to_owned(), post));
    }
    let mut two = call().sign().post();
    two.headers.push(format!("authorization: {}", call().sign().authorization()));
    inputs.push(("two signatures, in two headers".to_owned(), two));
    inputs
}

/// The `oauth_*` parameters in other places than the header.
fn elsewhere(call: &impl Fn() -> Call) -> Vec<Input> {
    ["query", "body"]
        .map(|place| {
            let mut call = call();
            let signature = ("oauth_signature".to_owned(), call.signature());
            let oauth: Vec<_> = call.oauth.iter().cloned().chain([signature]).collect();
            if place == "query" { &mut call.query } else { &mut call.body }.extend(oauth);
            (format!("all `oauth_*` in the {place}, and no header"), call.sign().post)
        })
        .into()
}

#[tokio::test]
async fn signatures() {
    let mut section = Section::new(
        "OAuth signatures",
        "A valid form with an OAuth 1.0a signature (`--oauth1-credentials-file`). Nothing is stored and no quota is \
         used; of the nonce that was used before, the first call is.",
        &["`authorization`", "HTTP"],
    );
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader(), &client("other", 42)]);
    let server = file.serve(&redis, &[]).await;
    let call = || reader().call(&server.address);
    let mut inputs = signed_faults(&call);
    inputs.extend(changed_later(&call));
    inputs.extend(elsewhere(&call));
    let mut path = call().sign().post();
    MARK_READ.clone_into(&mut path.target);
    inputs.push(("a signature at a gRPC path".to_owned(), path));
    for (what, post) in inputs {
        let answer = post.send(&server.address).await;
        section.row(&[&what, &status_and_codes(answer.status, &answer.body)]);
    }
    assert_keys(&redis, &[]).await;
    let once = call().sign();
    once.send().await.assert_served("the first time");
    let answer = once.send().await;
    section.row(&["a nonce that was used before", &status_and_codes(answer.status, &answer.body)]);
    assert_signature_served(&server).await;
    assert_eq!(redis.used(reader().user).await, Some(2), "refused calls take no quota");
    section.check();
}
