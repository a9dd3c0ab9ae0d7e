//! What `SECURITY.md` says that a role cannot do, where no other test holds it.

use std::collections::HashMap;
use std::fmt::Write;

use markread_harness::caller::Credentials;
use markread_harness::events::{STREAM, payload, publish};
use markread_harness::receiver::CONSUMER_SECRET;
use markread_harness::server::SECRET;
use markread_harness::{MESSAGE, READER, RECIPIENT, Receiver, Redis, Relay, Server, WebhookFile};

use crate::identity::oauth1::{CredentialsFile, reader};
use crate::relay::SOON;

const ALL: &str = "users = \"all\"";

/// Every byte that someone with access to Redis can read: names of keys, and values.
async fn everything(redis: &Redis) -> String {
    let mut connection = redis.connection().await;
    let mut text = String::new();
    for key in redis.run::<Vec<String>>("KEYS *").await {
        let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut connection).await.unwrap();
        let command = match kind.as_str() {
            "string" => vec!["GET", &key],
            "hash" => vec!["HGETALL", &key],
            "set" => vec!["SMEMBERS", &key],
            "stream" => vec!["XRANGE", &key, "-", "+"],
            other => panic!("{key} is a {other}"),
        };
        let mut read = redis::cmd(command[0]);
        command[1..].iter().for_each(|word| {
            read.arg(*word);
        });
        let value: redis::Value = read.query_async(&mut connection).await.unwrap();
        writeln!(text, "{key} {value:?}").unwrap();
    }
    let clients: String = redis.run("CLIENT LIST").await;
    text + &clients
}

#[tokio::test]
async fn whoever_reads_redis_finds_no_secret() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let clients = CredentialsFile::of_reader();
    let signed = clients.serve(&redis, &[]).await;
    let receiver = Receiver::start().await;
    let webhooks = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on(&redis, &webhooks).await;

    server.caller(READER).mark(RECIPIENT, MESSAGE - 1).await.unwrap();
    let call = reader().call(&signed.address);
    call.send().await.assert_served("a signature");
    receiver.wait_for(2, SOON).await;

    let found = everything(&redis).await;
    for there in ["markread:oauth1:", "markread:relay:state:main", "8754578330382663743"] {
        assert!(found.contains(there), "{there} was written: {found}");
    }
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let client = reader();
    for secret in [
        SECRET,
        CONSUMER_SECRET,
        bearer.rsplit('.').next().unwrap(),
        &client.consumer_key,
        &client.consumer_secret,
        &client.token,
        &client.token_secret,
        call.value("oauth_nonce"),
        &receiver.url(),
    ] {
        assert!(!found.contains(secret), "{secret} is in Redis: {found}");
    }
}

/// The rule that `SECURITY.md` names for whoever may only read.
#[tokio::test]
async fn whoever_may_only_read_redis_changes_nothing() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    redis.run::<()>("ACL SETUSER reader on >hunter2 ~markread:* ~direct_* +@read").await;
    let url = format!("redis://reader:hunter2@127.0.0.1:{}", redis.port);
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let key = format!("markread:cursors:{READER}");
    let read: HashMap<String, String> =
        redis::cmd("HGETALL").arg(&key).query_async(&mut connection).await.unwrap();
    assert_eq!(read.len(), 2);
    let before = redis.contents().await;
    for words in [
        &["HSET", &key, "3805104374", "1"][..],
        &["DEL", &key],
        &["XADD", STREAM, "*", "payload", "x"],
        &["XTRIM", STREAM, "MAXLEN", "0"],
        &["EVAL", "return redis.call('DEL', KEYS[1])", "1", &key],
        &["FLUSHALL"],
        &["CONFIG", "SET", "maxmemory", "1"],
    ] {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(*word);
        });
        let denied = command.query_async::<redis::Value>(&mut connection).await.unwrap_err();
        assert!(denied.to_string().contains("no permissions"), "{words:?}: {denied}");
    }
    assert_eq!(redis.contents().await, before);
}

#[tokio::test]
async fn whoever_writes_redis_does_not_choose_where_events_are_delivered() {
    let redis = Redis::start().await;
    let (receiver, other) = (Receiver::start().await, Receiver::start().await);
    let webhooks = WebhookFile::of(&[("main", &receiver, ALL)]);
    let _relay = Relay::on(&redis, &webhooks).await;
    receiver.wait_for_checks(1, SOON).await;
    let state = "markread:relay:state:main";
    let url = other.url();
    redis.run::<()>(&format!("HSET {state} url {url} webhook_url {url}")).await;
    redis.run::<()>(&format!("SADD markread:subscriptions:{url} {READER}")).await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    receiver.wait_for(1, SOON).await;
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn whoever_writes_redis_gains_no_way_to_call() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let before: HashMap<u64, u64> = redis.cursors(READER).await;
    for key in ["markread:users", "markread:tokens", "markread:oauth1", "user:2244994945"] {
        redis.run::<()>(&format!("SET {key} hunter2")).await;
    }
    redis.run::<String>(&format!("XADD {STREAM} * authorization hunter2")).await;
    for credentials in [
        Credentials::Nothing,
        Credentials::UserId(READER),
        Credentials::Authorization("Bearer hunter2".to_owned()),
    ] {
        let denied = server.stranger(credentials).mark(RECIPIENT, MESSAGE).await.unwrap_err();
        assert_eq!(denied.code, tonic::Code::Unauthenticated, "{denied:?}");
    }
    assert_eq!(redis.cursors(READER).await, before);
}

/// The operators' port has no other answers than its pages, and those name nobody.
#[tokio::test]
async fn whoever_reaches_the_operators_port_reads_no_users() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    for page in ["/livez", "/readyz", "/metrics"] {
        let (status, text) = server.get(page).await;
        assert_eq!(status, 200, "{page}: {text}");
        for id in [READER, RECIPIENT, MESSAGE] {
            assert!(!text.contains(&id.to_string()), "{page}: {text}");
        }
    }
    let before = redis.contents().await;
    for method in ["POST", "PUT", "DELETE"] {
        let request = format!(
            "{method} /livez HTTP/1.1\r\nhost: ops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
        );
        let (head, _) =
            markread_harness::server::http1(&server.ops, &request).await.expect("an answer");
        assert!(head.starts_with("HTTP/1.1 405"), "{method}: {head}");
    }
    assert_eq!(redis.contents().await, before);
}
