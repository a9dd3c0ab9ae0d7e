//! Valid signatures, in every form that they may be sent.

use markread_harness::raw::Raw;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis};

use super::signer::{Client, Signed, encode, example, form, pairs};
use super::{CredentialsFile, client, reader};
use crate::identity::edge::{FORM, PATH};

/// Characters that have a meaning in one of the encodings.
const ODD: &str = "a b+/=&%~*'()!\"\\,;:@?#é🙂%2B%zz";

#[tokio::test]
async fn a_signed_call_is_made_as_its_tokens_user() {
    let redis = Redis::start().await;
    let clients = [reader(), client("other", 42)];
    let file = CredentialsFile::of(&clients.each_ref());
    let server = file.serve(&redis, &[]).await;
    for client in &clients {
        client.call(&server.address).send().await.assert_served(&client.token);
        assert_eq!(redis.cursors(client.user).await, [(RECIPIENT, MESSAGE)].into());
        assert_eq!(redis.used(client.user).await, Some(1));
    }
    assert_eq!(redis.events().await, [READER, 42].map(|user| (user, RECIPIENT, MESSAGE)));
}

#[tokio::test]
async fn one_consumer_may_have_many_tokens_and_a_user_many_too() {
    let redis = Redis::start().await;
    let one = client("one", 1);
    let two = Client { consumer_key: one.consumer_key.clone(), ..client("two", 2) };
    let two = Client { consumer_secret: one.consumer_secret.clone(), ..two };
    let clients = [one, two, client("three", 1)];
    let file = CredentialsFile::of(&clients.each_ref());
    let server = file.serve(&redis, &[]).await;
    for client in &clients {
        client.call(&server.address).send().await.assert_served(&client.token);
    }
    assert_eq!((redis.used(1).await, redis.used(2).await), (Some(2), Some(1)));
}

#[tokio::test]
async fn parameters_are_signed_wherever_they_are() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let call = || reader().call(&server.address);

    let [message, recipient] = &example()[..] else { panic!("two") };
    for (what, query, body) in [
        ("body", vec![], example()),
        ("query", example(), vec![]),
        ("split", vec![message.clone()], vec![recipient.clone()]),
        ("split the other way", vec![recipient.clone()], vec![message.clone()]),
        ("both", example(), example()),
        ("backwards", vec![], vec![recipient.clone(), message.clone()]),
    ] {
        let mut call = call();
        (call.query, call.body) = (query, body);
        call.send().await.assert_served(what);
    }

    // The decoded value is signed, however it was encoded.
    let mut odd = call();
    odd.body.extend(pairs(&[("note", ODD), (ODD, ""), ("note", "b"), ("note", "a")]));
    odd.query.extend(pairs(&[("z", ODD), ("note", "")]));
    odd.send().await.assert_served("odd characters");
    let mut odd = call();
    odd.query = pairs(&[("b", "space + plus")]);
    odd.body.extend(pairs(&[("a", "é/~ *")]));
    let mut odd = odd.sign();
    odd.post.target = format!("{PATH}?b=space%20%2b+plus");
    odd.post.body = format!("{}&%61=%c3%a9/%7e+%2a", form(&example()));
    odd.send().await.assert_served("encoded otherwise");
    let mut empty = call();
    empty.body.extend(pairs(&[("a", ""), ("b", "")]));
    let mut empty = empty.sign();
    empty.post.body = format!("a&&{}&b=&", form(&example()));
    empty.send().await.assert_served("empty pieces");

    let mut charset = call().sign();
    charset.post.headers = vec![format!("content-type: {FORM};charset=UTF-8")];
    charset.send().await.assert_served("with a charset");
}

#[tokio::test]
async fn keys_and_secrets_may_hold_any_character() {
    let redis = Redis::start().await;
    let odd = Client {
        consumer_key: format!("key {ODD}"),
        consumer_secret: format!("consumer {ODD}"),
        token: format!("token {ODD}"),
        token_secret: format!("secret {ODD}"),
        user: READER,
    };
    let file = CredentialsFile::of(&[&odd]);
    let server = file.serve(&redis, &[]).await;
    let call = odd.call(&server.address).with("oauth_nonce", ODD);
    call.send().await.assert_served("odd credentials");
    assert_eq!(redis.used(READER).await, Some(1));
}

#[tokio::test]
async fn the_header_may_be_written_in_many_ways() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let call = || reader().call(&server.address);

    call().without("oauth_version").send().await.assert_served("a version is optional");
    // The realm is not signed: RFC 5849, 3.4.1.3.1.
    let realm = r#"OAuth realm="https://api.example.com/, oauth_token=, a=b","#;
    for scheme in ["oauth ", "OAUTH ", "OAuth   ", "OAuth realm=\"\", ", realm] {
        let signed = Signed { scheme: scheme.to_owned(), ..call().sign() };
        signed.send().await.assert_served(scheme);
    }
    for comma in [",", " ,  \t"] {
        let signed = call().sign();
        let mut post = signed.post.clone();
        let authorization = signed.authorization().replace(", ", comma);
        post.headers.push(format!("authorization: {authorization}"));
        post.send(&server.address).await.assert_served(comma);
    }
    let mut backwards = call().sign();
    backwards.header.reverse();
    backwards.send().await.assert_served("backwards");

    let call = call();
    let signature = encode(&call.signature());
    let lower = signature.replace("%2B", "%2b").replace("%2F", "%2f").replace("%3D", "%3d");
    assert_ne!(lower, signature);
    let signed = call.sign().with("oauth_signature", &lower);
    signed.send().await.assert_served("escapes in lower case");
}

#[tokio::test]
async fn http2_is_signed_as_http1_is() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let raw = Raw::to(&server).await;
    let mut call = reader().call(&server.address);
    call.query = pairs(&[("note", "in the query")]);
    let signed = call.sign();
    let send = async || {
        let head = raw.post(&signed.post.target).header("content-type", FORM);
        let head = head.header("authorization", signed.authorization());
        raw.send(head, signed.post.body.clone()).await.unwrap()
    };
    let answer = send().await;
    assert_eq!(answer.status, 204, "{answer:?}");
    let again = send().await;
    assert_eq!((again.status.as_u16(), again.error_codes()), (401, vec![32]), "{again:?}");
}
