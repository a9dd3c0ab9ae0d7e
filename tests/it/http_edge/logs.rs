//! Log lines and metrics of HTTP requests reveal nothing of who sent what.

use std::time::Duration;

use markread_harness::caller::Credentials;
use markread_harness::server::SECRET;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};

use super::client::{BOTH, HttpRequest};
use super::{EXAMPLE, PATH, examples, parameters};

/// Makes requests of every kind, each with values that would reveal the sender.
async fn make_requests(server: &Server, failing: u64) {
    for version in BOTH {
        for request in examples() {
            let mut asks = vec![
                request.clone(),
                request.clone().of(failing),
                request.clone().by(&Credentials::Nothing),
                request.clone().header("authorization", "Bearer hunter2"),
                request.clone().method("BREW"),
                request.clone().target(&format!("/unknown/{READER}?{EXAMPLE}")),
                request.header("content-type", "text/hunter2"),
            ];
            let invalid = format!("recipient_id={RECIPIENT}x&last_read_event_id={MESSAGE}1");
            asks.extend([HttpRequest::form(invalid.clone()), HttpRequest::query(&invalid)]);
            asks.push(HttpRequest::form(parameters(RECIPIENT, MESSAGE).repeat(200)));
            for request in asks {
                request.over(version, server).await;
            }
        }
    }
}

const FAILING: u64 = 7_777_777_777_777;

#[tokio::test]
async fn neither_logs_nor_metrics_reveal_who_sent_what() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = Server::on(&redis).await;
    redis.run::<()>(&format!("SET markread:quota:{FAILING} garbage")).await;
    make_requests(&server, FAILING).await;
    redis.kill().await;
    make_requests(&server, FAILING).await;
    eventually("the outage is logged", Duration::from_secs(10), async || {
        server.log().iter().any(|line| line.contains("WARN")).then_some(())
    })
    .await;
    let (_, metrics) = server.get("/metrics").await;
    assert!(metrics.contains("markread_mark_read_total"), "{metrics}");
    let ids = [READER, RECIPIENT, MESSAGE, FAILING].map(|id| id.to_string());
    let words = ["hunter2", "BREW", "unknown/"].map(str::to_owned);
    for text in server.log().iter().chain([&metrics]) {
        for secret in ids.iter().chain(&words) {
            assert!(!text.contains(secret.as_str()), "{secret}: {text}");
        }
    }
    let lines = server.log();
    // At most one line a second says that calls fail.
    assert!(lines.len() <= 20, "{}", lines.join("\n"));
}

#[tokio::test]
async fn no_token_is_logged_whatever_the_level() {
    let redis = Redis::start().await;
    let server = Server::on_in(&redis, &[], &[("RUST_LOG", "trace")]).await;
    server.wait_until_ready().await;
    let Credentials::Authorization(bearer) = Credentials::token_of(READER) else { panic!() };
    let signature = bearer.rsplit('.').next().unwrap();
    for version in BOTH {
        for authorization in [bearer.as_str(), "Basic hunter2", "OAuth oauth_token=\"hunter2\""] {
            let by = Credentials::Authorization(authorization.to_owned());
            for target in [PATH, "/unknown"] {
                HttpRequest::form(EXAMPLE).target(target).by(&by).over(version, &server).await;
            }
        }
    }
    let log = eventually("the marks are logged", Duration::from_secs(10), async || {
        let marks = |log: &[String]| log.iter().filter(|line| line.contains("Mark {")).count();
        Some(server.log()).filter(|log| marks(log) >= BOTH.len())
    })
    .await;
    for line in log {
        for secret in [signature, "hunter2", SECRET] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}
