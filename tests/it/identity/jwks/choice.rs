//! Which keys of a set a token is tried with.

use jsonwebtoken::Algorithm;
use markread_harness::caller::Credentials;
use markread_harness::{READER, Redis};
use serde_json::json;

use super::{Key, Source, base64url, from_base64url, serve, set, set_of};
use crate::answers::credentials::{assert_invalid, mark};
use crate::answers::tokens::{claims, signed_texts};

/// A token without `kid`.
fn nameless(key: &Key) -> Credentials {
    key.token_named(None, json!({}))
}

#[tokio::test]
async fn a_token_without_a_key_id_is_tried_with_the_keys_of_its_kind() {
    let redis = Redis::start().await;
    let kinds = [Key::rsa("rsa").await, Key::p256("p256").await, Key::ed25519("ed25519").await];
    let more = [Key::rsa("rsa-2").await, Key::ed25519("ed25519-2").await];
    let all: Vec<_> = kinds.iter().chain(&more).collect();
    let source = Source::of(&set(&all)).await;
    let server = serve(&redis, &source, &[]).await;
    for key in &all {
        mark(&server, nameless(key)).await.expect(&key.id);
    }
    for stranger in [Key::rsa("rsa").await, Key::p256("p256").await, Key::ed25519("ed25519").await]
    {
        assert_invalid(mark(&server, nameless(&stranger)).await, "another's key");
    }
    // Signed as one kind, named as another.
    let claims = claims(json!({})).to_string();
    for (alg, key) in [("RS256", &kinds[1]), ("ES256", &kinds[2]), ("EdDSA", &kinds[0])] {
        let header = json!({ "alg": alg }).to_string();
        let token = signed_texts(key.algorithm, &header, &claims, &key.private());
        assert_invalid(mark(&server, token).await, alg);
    }
    let header = json!({ "alg": "ES256" }).to_string();
    let token = signed_texts(Algorithm::ES256, &header, &claims, &kinds[1].private());
    mark(&server, token).await.unwrap();
    assert_eq!(redis.used(READER).await, Some(6), "a refused call takes no quota");
}

#[tokio::test]
async fn a_token_without_a_key_id_is_tried_with_four_keys() {
    let redis = Redis::start().await;
    let mut keys = vec![Key::rsa("rsa").await, Key::p256("p256").await];
    for n in 1..=5 {
        keys.push(Key::ed25519(&format!("ed25519-{n}")).await);
    }
    let source = Source::of(&set(&keys.iter().collect::<Vec<_>>())).await;
    let server = serve(&redis, &source, &[]).await;
    let (fifth, first_four) = keys.split_last().unwrap();
    for key in first_four {
        mark(&server, nameless(key)).await.expect(&key.id);
    }
    assert_invalid(mark(&server, nameless(fifth)).await, "the fifth of its kind");
    mark(&server, fifth.token()).await.unwrap();
}

#[tokio::test]
async fn keys_with_the_same_id_are_all_tried() {
    let redis = Redis::start().await;
    let [old, new] = [Key::ed25519("same").await, Key::ed25519("same").await];
    let (rsa, p256) = (Key::rsa("same").await, Key::p256("same").await);
    let other = Key::ed25519("other").await;
    let source = Source::of(&set(&[&rsa, &old, &new, &p256, &other])).await;
    let server = serve(&redis, &source, &[]).await;
    for key in [&old, &new, &rsa, &p256] {
        mark(&server, key.token()).await.expect(&key.id);
    }
    let forger = Key::ed25519("same").await;
    assert_invalid(mark(&server, forger.token()).await, "another's key");
    let by_other = other.token_named(Some("same"), json!({}));
    assert_invalid(mark(&server, by_other).await, "a key of the set with another ID");
    assert_eq!(source.fetches(), 1, "known IDs are not fetched again");
}

#[tokio::test]
async fn keys_are_read_as_common_libraries_write_them() {
    let redis = Redis::start().await;
    let (rsa, p256) = (Key::rsa("rsa").await, Key::p256("p256").await);
    let with_zero = |member: &serde_json::Value| {
        let bytes = from_base64url(member.as_str().unwrap());
        base64url([&[0], &bytes[..]].concat())
    };
    let (jwk, point) = (rsa.jwk(), p256.jwk());
    let source = Source::of(&set_of(&[
        rsa.jwk_with(json!({ "kid": "n", "n": with_zero(&jwk["n"]) })),
        rsa.jwk_with(json!({ "kid": "e", "e": "AAEAAQ" })),
        rsa.jwk_with(json!({ "kid": "both", "n": with_zero(&jwk["n"]), "e": "AAABAAE" })),
        p256.jwk_with(json!({ "kid": "x", "x": with_zero(&point["x"]) })),
        p256.jwk_with(json!({ "kid": "y", "y": with_zero(&point["y"]) })),
        jwk,
        point,
    ]))
    .await;
    let server = serve(&redis, &source, &[]).await;
    let (other_rsa, other_p256) = (Key::rsa("rsa").await, Key::p256("p256").await);
    for (key, other, ids) in [
        (&rsa, &other_rsa, &["rsa", "n", "e", "both"][..]),
        (&p256, &other_p256, &["p256", "x", "y"]),
    ] {
        for id in ids {
            mark(&server, key.token_named(Some(id), json!({}))).await.expect(id);
            let forged = other.token_named(Some(id), json!({}));
            assert_invalid(mark(&server, forged).await, id);
        }
    }
}
