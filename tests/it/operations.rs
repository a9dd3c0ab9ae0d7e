//! What an operator sees of a server: health, reflection, the operators' pages, metrics.

use std::collections::BTreeSet;
use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::operator::{Operator, grpcurl};
use markread_harness::{MESSAGE, OUTCOMES, READER, RECIPIENT, Redis, Server, eventually};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const SERVICE: &str = "markread.v1.MarkReadService";

/// Longer than a probe of Redis or a reconnection takes.
const NOTICED: Duration = Duration::from_secs(10);

/// Waits until server and service have this health, as seen without credentials.
async fn health_becomes(operator: &Operator, status: ServingStatus) {
    for service in ["", SERVICE] {
        eventually("the health changes", NOTICED, async || {
            (operator.health(service).await.unwrap() == status).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn readiness_follows_redis_and_liveness_does_not() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let operator = Operator::new(&server);
    health_becomes(&operator, ServingStatus::Serving).await;

    redis.kill().await;
    health_becomes(&operator, ServingStatus::NotServing).await;
    let (status, cause) = server.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(cause.trim_end().len() > "not ready: ".len(), "no cause: {cause}");
    assert_eq!(server.get("/livez").await.0, 200);

    redis.restart().await;
    health_becomes(&operator, ServingStatus::Serving).await;
    assert_eq!(server.get("/readyz").await.0, 200);
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
}

#[tokio::test]
async fn a_server_started_before_redis_becomes_ready_by_itself() {
    let mut redis = Redis::down(&[]);
    let server = Server::on_unready(&redis, &[]).await;
    let operator = Operator::new(&server);
    health_becomes(&operator, ServingStatus::NotServing).await;
    assert_eq!(server.get("/readyz").await.0, 503);
    assert_eq!(server.get("/livez").await.0, 200);
    let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!((denied.code, denied.reason.as_str()), (Code::Unavailable, "STORE_UNAVAILABLE"));
    redis.restart().await;
    health_becomes(&operator, ServingStatus::Serving).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
}

#[tokio::test]
async fn health_can_be_watched_and_knows_no_other_service() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let operator = Operator::new(&server);
    health_becomes(&operator, ServingStatus::Serving).await;
    let unknown = operator.health("markread.v1.Nothing").await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);

    let mut health = operator.watch_health(SERVICE).await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
    redis.kill().await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    redis.restart().await;
    assert_eq!(health.next().await.unwrap().unwrap().status(), ServingStatus::Serving);
}

#[tokio::test]
async fn the_operators_port_has_three_pages() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    assert_eq!(server.get("/livez").await.0, 200);
    assert_eq!(server.get("/metrics").await.0, 200);
    for unknown in ["/", "/metrics/", "/healthz", "/../livez", "/%0a"] {
        assert_eq!(server.get(unknown).await.0, 404, "{unknown}");
    }
}

#[tokio::test]
async fn a_redis_that_may_lose_cursors_is_ready_with_warnings() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let server = Server::on(&redis).await;
    warnings_become(&server, 2.0).await;
    eventually("the page and the log warn", NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        assert_eq!(status, 200);
        let logged = server.log().iter().any(|line| line.contains("maxmemory-policy"));
        let warned = page.contains("maxmemory-policy") && page.contains("persists");
        (logged && warned).then_some(())
    })
    .await;

    redis.run::<()>("CONFIG SET maxmemory-policy noeviction").await;
    redis.run::<()>("CONFIG SET appendonly yes").await;
    warnings_become(&server, 0.0).await;
    eventually("the page warns no more", NOTICED, async || {
        (server.get("/readyz").await == (200, "ok\n".to_owned())).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_keeps_everything_has_no_warnings() {
    let redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = Server::on(&redis).await;
    warnings_become(&server, 0.0).await;
    assert_eq!(server.get("/readyz").await, (200, "ok\n".to_owned()));
}

async fn warnings_become(server: &Server, warnings: f64) {
    eventually("the metric follows", NOTICED, async || {
        (server.metric("markread_store_warnings").await == Some(warnings)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn reflection_lists_the_service_without_credentials() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let (asks, mut answers) = Operator::new(&server).open_reflection().await;
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { message_request: Some(list), host: String::new() };
    asks.send(request).await.unwrap();
    let answer = answers.next().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: BTreeSet<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.is_superset(&BTreeSet::from([SERVICE, "grpc.health.v1.Health"])), "{names:?}");
}

#[tokio::test]
async fn the_older_reflection_lists_the_service_as_well() {
    use tonic_reflection::pb::v1alpha as older;
    let server = Server::dev(&[]).await;
    let list = older::server_reflection_request::MessageRequest::ListServices(String::new());
    let request =
        older::ServerReflectionRequest { message_request: Some(list), host: String::new() };
    let mut client = older::server_reflection_client::ServerReflectionClient::new(server.channel());
    let answers = client.server_reflection_info(tokio_stream::once(request)).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    let Some(older::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.message_response
    else {
        panic!("a list of services")
    };
    assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");
}

#[tokio::test]
async fn grpcurl_needs_no_files() {
    let redis = Redis::start().await;
    let [dev, token] = [Server::dev(&[]).await, Server::on(&redis).await];
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let bearer = format!("authorization: {bearer}");
    let user_id = format!("x-user-id: {READER}");
    let example = format!(r#"{{"last_read_event_id":"{MESSAGE}","recipient_id":"{RECIPIENT}"}}"#);
    let method = format!("{SERVICE}/MarkRead");
    for (server, credentials) in [(dev, user_id), (token, bearer)] {
        let list = grpcurl(&server, &[], &["list"]).await;
        let list = String::from_utf8(list.stdout).unwrap();
        assert!(list.lines().any(|line| line == SERVICE), "{list}");
        let words = grpcurl(&server, &[], &["describe", SERVICE]).await;
        assert!(String::from_utf8(words.stdout).unwrap().contains("rpc MarkRead ("));

        for advanced in [true, false] {
            let flags = ["-H", &credentials, "-d", &example];
            let marked = grpcurl(&server, &flags, &[&method]).await;
            assert!(marked.status.success(), "{marked:?}");
            let answer: serde_json::Value = serde_json::from_slice(&marked.stdout).unwrap();
            assert_eq!(answer["cursor"]["recipientId"], RECIPIENT.to_string());
            assert_eq!(answer["cursor"]["lastReadEventId"], MESSAGE.to_string());
            assert!(answer["cursor"]["readAt"].is_string(), "{answer}");
            let expected = if advanced { true.into() } else { serde_json::Value::Null };
            assert_eq!(answer["advanced"], expected, "{answer}");
        }

        // An error's details are shown as well.
        let denied = grpcurl(&server, &["-d", &example], &[&method]).await;
        let denied = String::from_utf8(denied.stderr).unwrap();
        assert!(denied.contains("Code: Unauthenticated"), "{denied}");
        assert!(denied.contains("CREDENTIALS_MISSING"), "{denied}");
    }
}

#[tokio::test]
async fn every_metric_exists_from_the_start() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for outcome in OUTCOMES {
        assert_eq!(marks(&server, outcome).await, Some(0.0), "{outcome}");
    }
    for name in [
        "markread_events_published_total",
        "markread_edge_limited_total",
        r#"markread_store_duration_seconds_count{operation="mark_read"}"#,
    ] {
        assert_eq!(server.metric(name).await, Some(0.0), "{name}");
    }
    // This metric comes from Redis, right after the server is ready.
    eventually("the stream's length is reported", NOTICED, async || {
        (server.metric("markread_stream_length").await == Some(0.0)).then_some(())
    })
    .await;
    let (_, page) = server.get("/metrics").await;
    let info = page.lines().find(|line| line.starts_with("markread_build_info{")).unwrap();
    assert!(info.contains(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\"")), "{info}");
    assert!(info.contains("revision=\"") && !info.contains("revision=\"\""), "{info}");
    assert!(info.ends_with(" 1"), "{info}");
}

async fn marks(server: &Server, outcome: &str) -> Option<f64> {
    server.metric(&format!("markread_mark_read_total{{outcome=\"{outcome}\"}}")).await
}

#[tokio::test]
async fn calls_are_counted_by_outcome_without_naming_users() {
    let redis = Redis::start().await;
    let flags = ["--rate-limit", "5", "--edge-rate", "1", "--edge-burst", "11"];
    let server = Server::on_with(&redis, &flags).await;
    let caller = server.caller(READER);
    for message in [MESSAGE - 2, MESSAGE - 1, MESSAGE, MESSAGE, 1, MESSAGE, MESSAGE] {
        let _ = caller.mark(RECIPIENT, message).await;
    }
    caller.mark(RECIPIENT, 0).await.unwrap_err();
    server.stranger(Credentials::Nothing).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    for _ in 0..2 {
        let nonsense = Credentials::Authorization("Bearer nonsense".to_owned());
        server.stranger(nonsense).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    }

    for (outcome, calls) in [
        ("advanced", 3.0),
        ("noop", 2.0),
        ("limited", 2.0),
        ("invalid", 1.0),
        ("unauthenticated", 3.0),
        ("deadline", 0.0),
        ("forbidden", 0.0),
    ] {
        assert_eq!(marks(&server, outcome).await, Some(calls), "{outcome}");
    }
    let stopped = eventually("the edge guard stops it", NOTICED, async || {
        let denied = caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
        (denied.reason == "EDGE_LIMIT_EXCEEDED").then_some(denied)
    })
    .await;
    assert_eq!(stopped.code, Code::ResourceExhausted);
    let edge_limited = marks(&server, "edge_limited").await.unwrap();
    assert!(edge_limited >= 1.0);
    assert_eq!(server.metric("markread_edge_limited_total").await, Some(edge_limited));
    assert_eq!(server.metric("markread_events_published_total").await, Some(3.0));
    let duration = |code: &str| {
        format!(
            "rpc_server_call_duration_seconds_count{{rpc_method=\"{SERVICE}/MarkRead\",\
             rpc_response_status_code=\"{code}\"}}"
        )
    };
    assert_eq!(server.metric(&duration("OK")).await, Some(5.0));
    assert_eq!(server.metric(&duration("INVALID_ARGUMENT")).await, Some(1.0));
    assert_eq!(server.metric(&duration("UNAUTHENTICATED")).await, Some(3.0));
    assert!(server.metric(&duration("RESOURCE_EXHAUSTED")).await.unwrap() >= 3.0);
    eventually("the stream's length is reported", NOTICED, async || {
        (server.metric("markread_stream_length").await == Some(3.0)).then_some(())
    })
    .await;

    let (_, page) = server.get("/metrics").await;
    for id in [READER, RECIPIENT, MESSAGE, MESSAGE - 1] {
        assert!(!page.contains(&id.to_string()), "{page}");
    }
}

#[tokio::test]
async fn an_unknown_method_makes_no_series_of_its_own() {
    let server = Server::dev(&[]).await;
    for n in 0..20 {
        let path = format!("/markread.v1.MarkReadService/Method{n}");
        let mut grpc = tonic::client::Grpc::new(server.channel());
        grpc.ready().await.unwrap();
        let request = tonic::Request::new(markread::proto::MarkReadRequest::default());
        let codec = tonic_prost::ProstCodec::default();
        let answered: Result<tonic::Response<markread::proto::MarkReadResponse>, _> =
            grpc.unary(request, path.parse().unwrap(), codec).await;
        assert_eq!(answered.unwrap_err().code(), Code::Unimplemented);
    }
    let (_, page) = server.get("/metrics").await;
    assert!(!page.contains("Method1"), "{page}");
}
