//! A signature is good for one call: its nonce is used up in Redis, for all servers.

use std::time::Duration;

use markread_harness::{READER, Redis, eventually};
use tokio::task::JoinSet;

use super::signer::{Client, pairs, unix_seconds};
use super::{CredentialsFile, client, nonces, reader};

const LIMIT: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_used_nonce_is_one_key_for_15_minutes() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let calls = [-200, 0, 200].map(|seconds| reader().call(&server.address).at(seconds));
    for call in &calls {
        call.send().await.assert_served("a nonce");
    }
    let keys = nonces(&redis).await;
    assert_eq!(keys.len(), 3, "{keys:?}");
    // Keys begin with the timestamp, so they sort by it.
    for (key, call) in keys.iter().zip(&calls) {
        let [markread, oauth1, timestamp, hash] = key.split(':').collect::<Vec<_>>()[..] else {
            panic!("four parts: {key}")
        };
        assert_eq!((markread, oauth1), ("markread", "oauth1"));
        assert_eq!(timestamp, call.value("oauth_timestamp"));
        assert_eq!(hash.len(), 64, "{key}");
        assert!(hash.chars().all(|char| matches!(char, '0'..='9' | 'a'..='f')), "{key}");
        assert_eq!(redis.run::<String>(&format!("TYPE {key}")).await, "string");
        let ttl_ms: i64 = redis.run(&format!("PTTL {key}")).await;
        assert!((840_000..=900_000).contains(&ttl_ms), "{ttl_ms}");
    }
}

#[tokio::test]
async fn a_replay_is_refused_by_every_server() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let [here, there] = [file.serve(&redis, &[]).await, file.serve(&redis, &[]).await];
    // The same bytes are a replay at every server.
    let signed = reader().call(&here.address).sign();
    signed.send().await.assert_served("first");
    for server in [&here, &there, &here, &there] {
        signed.send_to(&server.address).await.assert_refused(401, 32, "again");
    }
    assert_eq!(redis.used(READER).await, Some(1));
    // Another call with the same nonce and timestamp is a replay too.
    let mut other = reader().call(&here.address);
    other.body = pairs(&[("last_read_event_id", "1"), ("recipient_id", "2")]);
    let value = |name: &str| {
        let pair = signed.header.iter().find(|(known, _)| known == name);
        pair.expect(name).1.clone()
    };
    let other = other.with("oauth_nonce", &value("oauth_nonce"));
    let other = other.with("oauth_timestamp", &value("oauth_timestamp"));
    other.send().await.assert_refused(401, 32, "the nonce of another call");
    assert_eq!(redis.used(READER).await, Some(1));
    assert_eq!(nonces(&redis).await.len(), 1);
}

#[tokio::test]
async fn one_of_several_simultaneous_replays_is_served() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let servers = [file.serve(&redis, &[]).await, file.serve(&redis, &[]).await];
    let signed = reader().call(&servers[0].address).sign();
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let (signed, address) = (signed.clone(), servers[n % 2].address.clone());
        calls.spawn(async move { signed.send_to(&address).await });
    }
    let answers = calls.join_all().await;
    let (served, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 204);
    assert_eq!(served.len(), 1, "{served:?}");
    for answer in refused {
        answer.assert_refused(401, 32, "a replay");
    }
    assert_eq!(redis.used(READER).await, Some(1));
}

#[tokio::test]
async fn a_call_that_is_not_served_has_not_used_its_nonce() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &["--rate-limit", "1"]).await;
    for (what, code, body) in [
        ("a missing parameter", 38, pairs(&[("last_read_event_id", "1")])),
        ("no ID", 44, pairs(&[("last_read_event_id", "1"), ("recipient_id", "me")])),
    ] {
        let mut call = reader().call(&server.address);
        call.body = body;
        for _ in 0..2 {
            call.sign().send().await.assert_refused(400, code, what);
        }
    }
    assert_eq!(nonces(&redis).await, [""; 0]);
    let used = reader().call(&server.address).sign();
    used.send().await.assert_served("within the quota");
    let call = reader().call(&server.address).sign();
    // Another server does not know of the denial yet.
    let other = file.serve(&redis, &["--rate-limit", "1"]).await;
    for address in [&server.address, &server.address, &other.address, &other.address] {
        call.send_to(address).await.assert_refused(429, 88, "beyond the quota");
        used.send_to(address).await.assert_refused(429, 88, "a replay, beyond the quota");
    }
    assert_eq!(nonces(&redis).await.len(), 1);

    // The next window serves it, once.
    redis.run::<()>(&format!("DEL markread:quota:{READER}")).await;
    eventually("the servers notice", LIMIT, async || {
        (call.send().await.status == 204).then_some(())
    })
    .await;
    for address in [&server.address, &other.address] {
        assert_ne!(call.send_to(address).await.status, 204, "a replay");
    }
    assert_eq!(nonces(&redis).await.len(), 2);
}

#[tokio::test]
async fn calls_that_race_for_the_rest_of_a_quota_leave_a_key_for_each_served_one() {
    const QUOTA: usize = 10;
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let flags = ["--rate-limit", "10"];
    let servers = [file.serve(&redis, &flags).await, file.serve(&redis, &flags).await];
    let mut calls = JoinSet::new();
    for n in 0..100 {
        let call = reader().call(&servers[n % 2].address);
        calls.spawn(async move { call.send().await });
    }
    let answers = calls.join_all().await;
    let served = answers.iter().filter(|answer| answer.status == 204).count();
    assert_eq!(served, QUOTA);
    for answer in answers.iter().filter(|answer| answer.status != 204) {
        answer.assert_refused(429, 88, "beyond the quota");
    }
    assert_eq!(nonces(&redis).await.len(), QUOTA);
    assert_eq!(redis.used(READER).await, Some(10));
}

#[tokio::test]
async fn a_call_with_a_bad_signature_has_not_used_its_nonce() {
    let redis = Redis::start().await;
    let file = CredentialsFile::of(&[&reader()]);
    let server = file.serve(&redis, &[]).await;
    let call = reader().call(&server.address);
    // Somebody who sees a nonce cannot use it up before its owner.
    let forged = call.sign().with("oauth_signature", "AAAAAAAAAAAAAAAAAAAAAAAAAAA%3D");
    forged.send().await.assert_refused(401, 32, "forged");
    // A request that is refused before its identity is checked does not use it either.
    let mut elsewhere = call.sign();
    elsewhere.post.headers = vec!["content-type: text/plain".to_owned()];
    elsewhere.send().await.assert_refused(415, 44, "a text");
    assert_eq!(nonces(&redis).await, [""; 0]);
    call.send().await.assert_served("the owner's");
}

#[tokio::test]
async fn the_same_nonce_of_another_time_consumer_or_token_is_another() {
    let redis = Redis::start().await;
    let one = reader();
    let same_consumer = Client { token: "second".to_owned(), ..reader() };
    let same_token = Client { consumer_key: "second".to_owned(), ..reader() };
    let (other, now) = (client("other", 42), unix_seconds());
    let clients = [&one, &same_consumer, &same_token, &other];
    let file = CredentialsFile::of(&clients);
    let server = file.serve(&redis, &[]).await;
    let mut count = 0;
    for client in clients {
        for timestamp in [now, now - 1] {
            let call = client.call(&server.address).with("oauth_nonce", "the same");
            let call = call.with("oauth_timestamp", &timestamp.to_string());
            call.send().await.assert_served("first");
            call.send().await.assert_refused(401, 32, "again");
            count += 1;
            assert_eq!(nonces(&redis).await.len(), count);
        }
    }
}

#[tokio::test]
async fn parts_of_a_nonce_and_its_keys_are_kept_apart() {
    let redis = Redis::start().await;
    let clients =
        [("a", "bc"), ("ab", "c"), ("a:b", "c"), ("a", "b:c"), ("a&b", "c"), ("a", "b&c")];
    let clients = clients.map(|(consumer_key, token)| {
        let (consumer_key, token) = (consumer_key.to_owned(), token.to_owned());
        Client { consumer_key, token, ..reader() }
    });
    let file = CredentialsFile::of(&clients.each_ref());
    let server = file.serve(&redis, &[]).await;
    let now = unix_seconds().to_string();
    for client in &clients {
        let call = client.call(&server.address).with("oauth_timestamp", &now);
        call.with("oauth_nonce", "n").send().await.assert_served(&client.token);
    }
    assert_eq!(nonces(&redis).await.len(), clients.len());
}
