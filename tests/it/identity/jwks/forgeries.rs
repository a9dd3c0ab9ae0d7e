//! Keys that are not meant for tokens, and tokens that no issuer made.

use std::slice;

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use markread_harness::caller::Credentials;
use markread_harness::{READER, Redis, Server, openssl};
use serde_json::{Value, json};

use super::{Key, Source, base64url, from_base64url, serve, set, set_of};
use crate::answers::assert_untouched;
use crate::answers::credentials::{assert_invalid, mark};
use crate::answers::tokens::{KeyPair, bearer, claims, shared_key, signed_texts};

/// A token of the reader with this algorithm and key ID, signed with this key.
fn forged(algorithm: Algorithm, id: &str, key: &EncodingKey) -> Credentials {
    let header = Header { kid: Some(id.to_owned()), ..Header::new(algorithm) };
    bearer(&encode(&header, &claims(json!({})), key).unwrap())
}

/// The part of a token that is signed.
fn unsigned(header: &Value) -> String {
    format!("{}.{}", base64url(header.to_string()), base64url(claims(json!({})).to_string()))
}

#[tokio::test]
async fn an_rsa_public_key_is_not_accepted_as_an_hmac_secret() {
    let redis = Redis::start().await;
    let rsa = Key::rsa("rsa").await;
    // The same token with the secret of a server that has one.
    let with_secret = Server::on(&redis).await;
    mark(&with_secret, forged(Algorithm::HS256, "rsa", &shared_key())).await.unwrap();
    for (used, jwk) in (1..).zip([rsa.jwk(), rsa.jwk_with(json!({ "alg": null }))]) {
        let source = Source::of(&set_of(slice::from_ref(&jwk))).await;
        let server = serve(&redis, &source, &[]).await;
        let modulus = jwk["n"].as_str().unwrap();
        let pem = rsa.pair.public_bytes();
        for (what, secret) in [
            ("PEM", pem.clone()),
            ("PEM without its newline", pem.trim_ascii_end().to_vec()),
            ("DER", rsa.pair.public_der().await),
            ("modulus", from_base64url(modulus)),
            ("modulus in base64", modulus.as_bytes().to_vec()),
            ("JWK", jwk.to_string().into_bytes()),
        ] {
            let secret = EncodingKey::from_secret(&secret);
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                assert_invalid(mark(&server, forged(algorithm, "rsa", &secret)).await, what);
            }
        }
        // One RSA key can sign with several algorithms; the server accepts one of them.
        for algorithm in [Algorithm::RS384, Algorithm::RS512, Algorithm::PS256] {
            let token = forged(algorithm, "rsa", &rsa.private());
            assert_invalid(mark(&server, token).await, "another algorithm");
        }
        assert_eq!(redis.used(READER).await, Some(used), "a refused call takes no quota");
        mark(&server, forged(Algorithm::RS256, "rsa", &rsa.private())).await.unwrap();
    }
}

#[tokio::test]
async fn keys_that_a_token_brings_itself_are_not_trusted() {
    let redis = Redis::start().await;
    let (key, forger) = (Key::p256("key").await, Key::p256("key").await);
    let forgers_source = Source::of(&set(&[&forger])).await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &[]).await;

    let url = forgers_source.url();
    let headers = [
        json!({}),
        json!({ "jwk": forger.jwk() }),
        json!({ "jku": url }),
        json!({ "x5u": url }),
        json!({ "x5c": ["AA=="] }),
    ];
    let token = |own: &Value, signer: &Key| {
        let mut header = json!({ "typ": "JWT", "alg": "ES256", "kid": "key" });
        header.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let claims = claims(json!({})).to_string();
        signed_texts(Algorithm::ES256, &header.to_string(), &claims, &signer.private())
    };
    for own in &headers {
        assert_invalid(mark(&server, token(own, &forger)).await, &own.to_string());
    }
    // Even the issuer's own signature does not make up for an extension that is not understood.
    let critical = json!({ "crit": ["x-exp"], "x-exp": 1 });
    assert_invalid(mark(&server, token(&critical, &key)).await, "crit");
    for algorithm in ["none", "None", "NONE", ""] {
        for kid in [json!("key"), json!(null)] {
            let unsigned = unsigned(&json!({ "typ": "JWT", "alg": algorithm, "kid": kid }));
            let signature =
                jsonwebtoken::crypto::sign(unsigned.as_bytes(), &key.private(), Algorithm::ES256);
            for signature in ["", "AA", &signature.unwrap()] {
                let token = bearer(&format!("{unsigned}.{signature}"));
                assert_invalid(mark(&server, token).await, algorithm);
            }
        }
    }
    assert_untouched(&redis, READER).await;
    for own in headers.iter().chain([&json!({ "x-exp": 1 })]) {
        mark(&server, token(own, &key)).await.unwrap();
    }
    assert_eq!(forgers_source.fetches(), 0);
}

#[tokio::test]
async fn a_verified_token_is_remembered_with_its_signature() {
    let redis = Redis::start().await;
    let key = Key::ed25519("key").await;
    let source = Source::of(&set(&[&key])).await;
    let server = serve(&redis, &source, &[]).await;
    let Credentials::Authorization(good) = key.token() else { panic!("a token") };
    mark(&server, Credentials::Authorization(good.clone())).await.unwrap();
    let (unsigned, _) = good.rsplit_once('.').unwrap();
    for signature in [base64url([0; 64]), String::new()] {
        let token = Credentials::Authorization(format!("{unsigned}.{signature}"));
        assert_invalid(mark(&server, token).await, "another signature");
    }
}

/// A token signed with RS256 by openssl: other libraries refuse a key that short.
async fn signed_by_openssl(pair: &KeyPair, id: &str) -> Credentials {
    let unsigned = unsigned(&json!({ "typ": "JWT", "alg": "RS256", "kid": id }));
    std::fs::write(pair.dir().join("text"), &unsigned).unwrap();
    openssl(pair.dir(), "dgst -sha256 -sign private -out signature text").await;
    let signature = std::fs::read(pair.dir().join("signature")).unwrap();
    bearer(&format!("{unsigned}.{}", base64url(signature)))
}

#[tokio::test]
async fn keys_of_other_kinds_are_ignored() {
    const SECRET: &[u8] = b"a secret that stands in a public key set";
    let redis = Redis::start().await;
    let good = Key::rsa("good").await;
    let [encrypts, rs512] = [Key::rsa("encrypts").await, Key::rsa("rs512").await];
    let wraps = Key::rsa("wraps").await;
    let short = KeyPair::generate("-algorithm RSA -pkeyopt rsa_keygen_bits:1024").await;
    let p384 = KeyPair::generate("-algorithm EC -pkeyopt ec_paramgen_curve:P-384").await;
    let p384 = Key { id: "p384".to_owned(), algorithm: Algorithm::ES384, pair: p384 };

    // The end of a public key's DER: 128 bytes of modulus, 5 of the exponent 65537.
    let der = short.public_der().await;
    let modulus = &der[der.len() - 133..der.len() - 5];
    let oct = |id: &str| json!({ "kty": "oct", "kid": id, "k": base64url(SECRET), "alg": "HS256" });
    let short_jwk = json!({ "kty": "RSA", "kid": "short", "n": base64url(modulus), "e": "AQAB" });
    let source = Source::of(&set_of(&[
        oct("good"),
        oct("secret"),
        json!({ "kty": "oct", "kid": "bare", "k": base64url(SECRET) }),
        short_jwk,
        p384.jwk(),
        p384.jwk_with(json!({ "kid": "p384-bare", "alg": null })),
        encrypts.jwk_with(json!({ "use": "enc", "alg": null })),
        rs512.jwk_with(json!({ "alg": "RS512" })),
        wraps.jwk_with(json!({ "key_ops": ["wrapKey"], "use": null, "alg": null })),
        json!({ "kty": "EC", "kid": "secp256k1", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "kty": "quantum", "kid": "future", "stuff": [1, 2, 3] }),
        json!({ "kty": "RSA", "kid": "half" }),
        json!("no key at all"),
        good.jwk(),
    ]))
    .await;
    let server = serve(&redis, &source, &[]).await;

    let secret = EncodingKey::from_secret(SECRET);
    for id in ["good", "secret", "bare"] {
        let token = forged(Algorithm::HS256, id, &secret);
        assert_invalid(mark(&server, token).await, "a secret that everybody knows");
    }
    assert_invalid(mark(&server, signed_by_openssl(&short, "short").await).await, "RSA, 1024 bits");
    for id in ["p384", "p384-bare"] {
        let token = forged(Algorithm::ES384, id, &p384.private());
        assert_invalid(mark(&server, token).await, "P-384");
    }
    assert_invalid(mark(&server, encrypts.token()).await, "for encryption");
    assert_invalid(mark(&server, wraps.token()).await, "for keys");
    for algorithm in [Algorithm::RS512, Algorithm::RS256] {
        let token = forged(algorithm, "rs512", &rs512.private());
        assert_invalid(mark(&server, token).await, "a key of RS512");
    }
    assert_untouched(&redis, READER).await;
    mark(&server, good.token()).await.unwrap();
    mark(&server, signed_by_openssl(&good.pair, "good").await).await.unwrap();

    // The same keys, published for tokens.
    let source = Source::of(&set(&[&encrypts, &wraps, &rs512])).await;
    let server = serve(&redis, &source, &[]).await;
    for key in [&encrypts, &wraps, &rs512] {
        mark(&server, key.token()).await.expect(&key.id);
    }
}
