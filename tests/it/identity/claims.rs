//! Headers and claims that RFC 7515 and RFC 7519 allow, or forbid, and common libraries differ in.

use std::time::Duration;

use jsonwebtoken::Algorithm;
use markread::proto::mark_read_service_client::MarkReadServiceClient;
use markread::proto::watch_mark_read_events_response::Update;
use markread::proto::{WatchMarkReadEventsRequest, WatchMarkReadEventsResponse};
use markread_harness::caller::Credentials;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};

use crate::answers::credentials::{assert_invalid, mark};
use crate::answers::tokens::{claims, seconds_from_now, shared_key, signed_texts};
use crate::answers::{assert_denied, assert_untouched};
use crate::identity::edge::Post;

/// A token of these texts, signed with the test servers' key.
fn token(header: &Value, claims: &str) -> Credentials {
    signed_texts(Algorithm::HS256, &header.to_string(), claims, &shared_key())
}

/// A token of the reader whose claims are these, which stand in the text as they are.
fn with_claims(changes: &[(&str, &str)]) -> Credentials {
    let reader = format!("\"{READER}\"");
    let expiry = seconds_from_now(3600).to_string();
    let mut members = vec![("sub", &*reader), ("exp", &expiry)];
    members.retain(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
    members.extend(changes);
    let members: Vec<_> =
        members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    token(&json!({ "alg": "HS256" }), &format!("{{{}}}", members.join(",")))
}

/// The next update of a watch.
async fn next(watch: &mut Streaming<WatchMarkReadEventsResponse>) -> Update {
    let message = timeout(Duration::from_secs(20), watch.message()).await.expect("in time");
    message.expect("the watch goes on").unwrap().update.unwrap()
}

#[tokio::test]
async fn a_critical_extension_is_refused() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let token = |more: &Value| {
        let mut header = json!({ "alg": "HS256", "typ": "JWT", "x-exp": 1, "b64": true });
        header.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        token(&header, &claims(json!({})).to_string())
    };
    for crit in [
        json!(["x-exp"]),
        json!(["b64"]),
        json!(["exp"]),
        json!(["x-exp", "unknown"]),
        json!([]),
        json!("x-exp"),
        json!({}),
        json!(1),
        json!(null),
    ] {
        let (token, what) = (token(&json!({ "crit": crit })), crit.to_string());
        Post::by(&token).send(&server.address).await.assert_refused(401, 89, &what);
        assert_invalid(mark(&server, token).await, &what);
    }
    assert_untouched(&redis, READER).await;
    mark(&server, token(&json!({}))).await.unwrap();
    mark(&server, token(&json!({ "criteria": ["x-exp"] }))).await.unwrap();
}

#[tokio::test]
async fn an_end_beyond_time_is_the_end_of_time() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (n, exp) in (1..).zip([
        "253402300800",
        "9223372036854775000",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "9223372036854775807.5",
        "1e19",
        "1e300",
        "1e400",
    ]) {
        let token = with_claims(&[("exp", exp)]);
        let caller = server.stranger(token.clone());
        let request = caller.authenticated(WatchMarkReadEventsRequest::default());
        let mut client = MarkReadServiceClient::new(server.channel());
        let mut watch = client.watch_mark_read_events(request).await.expect(exp).into_inner();
        assert!(matches!(next(&mut watch).await, Update::Heartbeat(_)), "{exp}");
        // A timer that is due at once fires within a millisecond.
        sleep(Duration::from_millis(20)).await;
        caller.mark(RECIPIENT, MESSAGE + n).await.expect(exp);
        assert!(matches!(next(&mut watch).await, Update::Event(_)), "{exp}");
        // Once more, as a token that was verified before.
        mark(&server, token).await.expect(exp);
    }
    for (name, date) in
        [("exp", "-1"), ("exp", "-1e400"), ("exp", "0"), ("nbf", "1e400"), ("nbf", "1e19")]
    {
        assert_invalid(mark(&server, with_claims(&[(name, date)])).await, date);
    }
}

#[tokio::test]
async fn a_date_is_a_number() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let [soon, before] = [seconds_from_now(3600), seconds_from_now(-3600)];
    for (exp, nbf) in [(format!("{soon}"), format!("{before}")), (format!("{soon}.5"), "-1".into())]
    {
        mark(&server, with_claims(&[("exp", &exp), ("nbf", &nbf)])).await.unwrap();
        for (name, number) in [("exp", &exp), ("nbf", &nbf)] {
            for value in
                [format!("\"{number}\""), format!("[{number}]"), "true".into(), "{}".into()]
            {
                assert_invalid(mark(&server, with_claims(&[(name, &value)])).await, &value);
            }
        }
    }
    assert_eq!(redis.used(READER).await, Some(2), "a refused call takes no quota");
}

#[tokio::test]
async fn a_claim_that_is_null_is_absent() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for name in ["nbf", "iat", "iss", "aud", "jti"] {
        mark(&server, with_claims(&[(name, "null")])).await.expect(name);
    }
    assert_invalid(mark(&server, with_claims(&[("exp", "null")])).await, "exp is required");
    let denied = mark(&server, with_claims(&[("sub", "null")])).await.unwrap_err();
    assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");

    let flags = ["--jwt-issuer", "issuer", "--jwt-audience", "markread"];
    let strict = Server::on_with(&redis, &flags).await;
    let both = [("iss", "\"issuer\""), ("aud", "\"markread\"")];
    mark(&strict, with_claims(&both)).await.unwrap();
    for name in ["iss", "aud"] {
        let changes =
            both.map(|(claim, value)| (claim, if claim == name { "null" } else { value }));
        assert_invalid(mark(&strict, with_claims(&changes)).await, name);
    }
}

#[tokio::test]
async fn an_issuer_is_one_string() {
    let redis = Redis::start().await;
    let any = Server::on(&redis).await;
    let one = Server::on_with(&redis, &["--jwt-issuer", "issuer"]).await;
    for server in [&any, &one] {
        for iss in [r#"["issuer"]"#, r#"["issuer","other"]"#, "[]", r#"{"issuer":1}"#, "1", "true"]
        {
            assert_invalid(mark(server, with_claims(&[("iss", iss)])).await, iss);
        }
        mark(server, with_claims(&[("iss", "\"issuer\"")])).await.unwrap();
    }
    let audience = Server::on_with(&redis, &["--jwt-audience", "markread"]).await;
    for aud in [r#"["markread",1]"#, r#"{"markread":1}"#, "[]", r#"[["markread"]]"#, "1"] {
        assert_invalid(mark(&audience, with_claims(&[("aud", aud)])).await, aud);
    }
    for aud in [r#""markread""#, r#"["markread"]"#] {
        mark(&audience, with_claims(&[("aud", aud)])).await.unwrap();
    }
}

#[tokio::test]
async fn a_subject_of_another_type_is_no_user() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let id = READER.to_string();
    for sub in [
        id.clone(),
        format!("{id}.0"),
        format!("[\"{id}\"]"),
        format!("{{\"id\":\"{id}\"}}"),
        "true".to_owned(),
        "1e400".to_owned(),
        format!("\"{id} \""),
        format!("\"+{id}\""),
        format!("\"0{id}\""),
        format!("\"{id}.0\""),
    ] {
        let denied = mark(&server, with_claims(&[("sub", &sub)])).await.expect_err(&sub);
        assert_denied(&denied, Code::PermissionDenied, "USER_CONTEXT_REQUIRED");
    }
    assert_untouched(&redis, READER).await;
    mark(&server, with_claims(&[("sub", &format!("\"{id}\""))])).await.unwrap();
}

#[tokio::test]
async fn a_member_that_stands_twice_is_refused() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (claims, key) = (claims(json!({})).to_string(), shared_key());
    let signed = |header: &str, claims: &str| signed_texts(Algorithm::HS256, header, claims, &key);
    let header = r#"{"alg":"HS256"}"#;
    mark(&server, signed(header, &claims)).await.unwrap();
    for twice in [r#"{"alg":"none","alg":"HS256"}"#, r#"{"alg":"HS256","alg":"HS256"}"#] {
        assert_invalid(mark(&server, signed(twice, &claims)).await, twice);
    }
    let twice = claims.replacen('{', r#"{"sub":"1","#, 1);
    assert_invalid(mark(&server, signed(header, &twice)).await, &twice);
    for (header, claims) in [("[]", &*claims), ("", &claims), (header, "[]"), (header, "")] {
        assert_invalid(mark(&server, signed(header, claims)).await, "not an object");
    }
}
