//! What a server logs, and what it never logs.

use std::process::Stdio;
use std::time::Duration;

use markread_harness::binary::command;
use markread_harness::caller::{Caller, Credentials};
use markread_harness::raw::MARK_READ;
use markread_harness::server::{SECRET, http1};
use markread_harness::wire;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually, free_port};
use serde_json::Value;
use tokio::io::AsyncReadExt;

const LIMIT: Duration = Duration::from_secs(10);

/// A text that would clear a terminal, colour it, and forge a line.
const EVIL: &str = "\u{1b}[2J\u{9b}31m\u{202e}\"level\":\"ERROR\"";

fn contains_id(line: &str, ids: &[u64]) -> bool {
    ids.iter().any(|id| line.contains(&id.to_string()))
}

#[tokio::test]
async fn hundreds_of_calls_leave_a_handful_of_lines_and_no_id() {
    const FAILING: u64 = 7_777_777_777_777;
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "100"]).await;
    let before = server.log().len();
    redis.run::<()>(&format!("SET markread:quota:{FAILING} garbage")).await;
    let [good, failing] = [READER, FAILING].map(|reader| server.caller(reader));
    let anonymous = server.stranger(Credentials::Nothing);
    let forged = server.stranger(Credentials::Authorization("Bearer forged".to_owned()));
    for n in 0..150 {
        let _ = good.mark(RECIPIENT, MESSAGE - 200 + n).await;
        good.mark(0, MESSAGE).await.unwrap_err();
        anonymous.mark(RECIPIENT, MESSAGE).await.unwrap_err();
        forged.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    }
    for _ in 0..50 {
        failing.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    }
    http1(&server.address, "GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    http1(&server.address, "nonsense\r\n\r\n").await;

    let log = server.log();
    // One line a minute says that calls fail, and one that the server listens may be late.
    assert!(log.len() - before <= 3, "{}", log.join("\n"));
    for line in &log {
        serde_json::from_str::<Value>(line).expect(line);
        assert!(!contains_id(line, &[READER, RECIPIENT, MESSAGE, FAILING]), "{line}");
        assert!(!line.contains(&(MESSAGE - 200).to_string()[..12]), "{line}");
    }
}

#[tokio::test]
async fn an_outage_of_redis_is_logged_once_not_per_call() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let before = server.log().len();
    redis.kill().await;
    for _ in 0..200 {
        caller.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    }
    eventually("the outage is logged", LIMIT, async || {
        server.log()[before..]
            .iter()
            .any(|line| line.contains("Redis does not answer"))
            .then_some(())
    })
    .await;
    redis.restart().await;
    server.wait_until_ready().await;
    eventually("calls are served again", LIMIT, async || {
        caller.mark(RECIPIENT, MESSAGE).await.ok()
    })
    .await;
    let log = server.log().split_off(before);
    assert!((1..=6).contains(&log.len()), "{}", log.join("\n"));
    assert!(!log.iter().any(|line| contains_id(line, &[READER, MESSAGE])), "{}", log.join("\n"));
}

#[tokio::test]
async fn every_log_line_of_a_call_carries_its_trace() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let redis = Redis::start().await;
    let server = Server::on_in(&redis, &[], &[("RUST_LOG", "debug")]).await;
    server.wait_until_ready().await;
    let caller = server.caller(READER);
    let mut request = caller.request(RECIPIENT, MESSAGE);
    let traceparent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
    caller.send(request).await.unwrap();
    let about = |log: &[String], id: u64| -> Vec<String> {
        log.iter().filter(|line| contains_id(line, &[id])).cloned().collect()
    };
    let lines = eventually("the call is logged at debug", LIMIT, async || {
        Some(about(&server.log(), MESSAGE)).filter(|lines| !lines.is_empty())
    })
    .await;
    assert!(lines.iter().all(|line| line.contains(TRACE)), "{}", lines.join("\n"));

    // Calls without a trace, or with a malformed one, get a new one each.
    for (message, traceparent) in [(1_000_000_001, None), (1_000_000_002, Some("00-nonsense"))] {
        let mut request = caller.request(RECIPIENT + 1, message);
        if let Some(traceparent) = traceparent {
            request.metadata_mut().insert("traceparent", traceparent.parse().unwrap());
        }
        caller.send(request).await.unwrap();
        let lines = eventually("the call is logged at debug", LIMIT, async || {
            Some(about(&server.log(), message)).filter(|lines| !lines.is_empty())
        })
        .await;
        for line in lines {
            let trace = trace_id(&serde_json::from_str(&line).unwrap());
            assert_eq!(trace.len(), 32, "{line}");
            assert!(trace.chars().all(|char| char.is_ascii_hexdigit()) && trace != TRACE, "{line}");
        }
    }
    let answered: Vec<_> =
        server.log().into_iter().filter(|line| line.contains("\"answered\"")).collect();
    assert_eq!(answered.len(), 3, "{}", answered.join("\n"));
    let traces = answered.iter().map(|line| trace_id(&serde_json::from_str(line).unwrap()));
    let traces: std::collections::HashSet<_> = traces.collect();
    assert_eq!(traces.len(), 3, "{}", answered.join("\n"));
}

#[tokio::test]
async fn a_failed_call_is_logged_with_its_trace_at_level_warn() {
    let redis = Redis::start().await;
    let warnings = [("RUST_LOG", "warn,markread::cli::serve=info")];
    let server = Server::on_in(&redis, &[], &warnings).await;
    server.wait_until_ready().await;
    redis.run::<()>(&format!("SET markread:cursors:{READER} x")).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    let line = eventually("the failure is logged", LIMIT, async || {
        server.log().into_iter().find(|line| line.contains("a call failed"))
    })
    .await;
    assert_eq!(trace_id(&serde_json::from_str(&line).unwrap()).len(), 32, "{line}");
}

fn trace_id(line: &Value) -> String {
    let trace_id = line.get("trace_id").unwrap_or_else(|| &line["span"]["trace_id"]);
    trace_id.as_str().unwrap_or_default().to_owned()
}

/// A server that logs as text, as on a terminal, without JSON's escapes.
#[tokio::test]
async fn nothing_that_a_caller_sends_is_logged_raw() {
    let ports = [free_port(), free_port()].map(|port| format!("127.0.0.1:{port}"));
    let mut server = command(&["serve", "--dev", "--log-format", "text"])
        .args(["--listen", &ports[0], "--ops-listen", &ports[1]])
        .env("RUST_LOG", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    eventually("it listens", LIMIT, async || tokio::net::TcpStream::connect(&ports[0]).await.ok())
        .await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", ports[0]));
    let caller = Caller::new(channel.unwrap().connect_lazy(), Credentials::UserId(READER));
    for name in ["x-user-id", "traceparent", "user-agent", "grpc-timeout", "x-other"] {
        let mut request = caller.request(RECIPIENT, MESSAGE);
        // HTTP/2 allows no control characters below 0x20, but those above 0x7f.
        let value = EVIL.trim_start_matches('\u{1b}');
        let value = http::HeaderValue::from_bytes(value.as_bytes()).unwrap();
        let metadata = request.metadata_mut();
        metadata.remove(name);
        metadata.as_mut().insert(name, value);
        let _ = caller.send(request).await;
    }
    for request in [
        format!("GET /{EVIL} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {EVIL}\r\nconnection: close\r\n\r\n"),
        format!("{EVIL} / HTTP/1.1\r\nhost: x\r\n\r\n"),
        "GET /%1b[2J%0aERROR HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".to_owned(),
    ] {
        for port in &ports {
            http1(port, &request).await;
        }
    }
    server.start_kill().unwrap();
    let mut log = String::new();
    server.stderr.take().unwrap().read_to_string(&mut log).await.unwrap();
    assert!(log.contains("answered"), "{log}");
    let raw = log.chars().find(|char| char.is_control() && *char != '\n' || *char == '\u{202e}');
    assert_eq!(raw, None, "{log}");
    for line in log.lines() {
        assert!(line.starts_with("20"), "each line begins with its time: {line}");
    }
}

#[tokio::test]
async fn no_secret_is_logged_whatever_the_level() {
    let redis = Redis::start().await;
    let variables = [("RUST_LOG", "trace")];
    let server = Server::on_in(&redis, &[], &variables).await;
    server.wait_until_ready().await;
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let good = server.stranger(Credentials::Authorization(bearer.clone()));
    good.mark(RECIPIENT, MESSAGE).await.unwrap();
    let bad = ["Bearer forged.token.hunter2", "Basic hunter2", "hunter2"];
    for authorization in bad {
        let bad = server.stranger(Credentials::Authorization(authorization.to_owned()));
        bad.mark(RECIPIENT, MESSAGE).await.unwrap_err();
    }
    for authorization in bad.into_iter().chain([bearer.as_str()]) {
        let request = format!(
            "POST {MARK_READ} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\
             authorization: {authorization}\r\n\r\n"
        );
        http1(&server.address, &request).await.unwrap();
    }
    // A connection that does not speak HTTP.
    wire::tcp(&server.address, format!("authorization: {bearer}\r\n\r\n").as_bytes()).await;

    let log = eventually("the last connection is logged", LIMIT, async || {
        Some(server.log()).filter(|log| log.iter().any(|line| line.contains("connection ended")))
    })
    .await;
    let signature = bearer.rsplit('.').next().unwrap();
    for line in &log {
        for secret in [signature, "hunter2", SECRET] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[tokio::test]
async fn the_password_in_the_url_of_redis_is_not_logged() {
    let redis = Redis::start().await;
    let url = format!("redis://reader:hunter2@127.0.0.1:{}", redis.port);
    let server = Server::at(&url, &[], &[("RUST_LOG", "trace")]).await;
    // Redis has no such user.
    eventually("the cause is logged", LIMIT, async || {
        let (status, cause) = server.get("/readyz").await;
        assert!(status == 503 && !cause.contains("hunter2"), "{cause}");
        cause.contains("WRONGPASS").then_some(())
    })
    .await;
    let denied = server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert!(!denied.message.contains("hunter2"));
    let log = server.log();
    assert!(!log.iter().any(|line| line.contains("hunter2")), "{}", log.join("\n"));
}
