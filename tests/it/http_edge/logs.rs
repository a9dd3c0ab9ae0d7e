//! What HTTP requests leave in the log and on the page of metrics: nothing of who sent what.

use std::time::Duration;

use super::super::harness::caller::Credentials;
use super::super::harness::server::SECRET;
use super::super::harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use super::client::{Ask, BOTH};
use super::{EXAMPLE, PATH, examples, parameters};

/// Requests of every kind, each with what would tell of its sender.
async fn ask_everything(server: &Server, failing: u64) {
    for version in BOTH {
        for ask in examples() {
            let mut asks = vec![
                ask.clone(),
                ask.clone().of(failing),
                ask.clone().by(&Credentials::Nothing),
                ask.clone().header("authorization", "Bearer hunter2"),
                ask.clone().method("BREW"),
                ask.clone().target(&format!("/unknown/{READER}?{EXAMPLE}")),
                ask.header("content-type", "text/hunter2"),
            ];
            let invalid = format!("recipient_id={RECIPIENT}x&last_read_event_id={MESSAGE}1");
            asks.extend([Ask::form(invalid.clone()), Ask::query(&invalid)]);
            asks.push(Ask::form(parameters(RECIPIENT, MESSAGE).repeat(200)));
            for ask in asks {
                ask.over(version, server).await;
            }
        }
    }
}

const FAILING: u64 = 7_777_777_777_777;

#[tokio::test]
async fn no_line_and_no_metric_tells_who_sent_what() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = Server::on(&redis).await;
    redis.run::<()>(&format!("SET markread:quota:{FAILING} garbage")).await;
    ask_everything(&server, FAILING).await;
    redis.kill().await;
    ask_everything(&server, FAILING).await;
    eventually("the outage is told of", Duration::from_secs(10), async || {
        server.log().iter().any(|line| line.contains("WARN")).then_some(())
    })
    .await;
    let (_, metrics) = server.get("/metrics").await;
    assert!(metrics.contains("markread_mark_read_total"), "{metrics}");
    let ids = [READER, RECIPIENT, MESSAGE, FAILING].map(|id| id.to_string());
    let words = ["hunter2", "BREW", "unknown/"].map(str::to_owned);
    for told in server.log().iter().chain([&metrics]) {
        for secret in ids.iter().chain(&words) {
            assert!(!told.contains(secret.as_str()), "{secret}: {told}");
        }
    }
    let lines = server.log();
    // A line a second, at most, tells that calls fail.
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
                Ask::form(EXAMPLE).target(target).by(&by).over(version, &server).await;
            }
        }
    }
    let log = eventually("the marks are told of", Duration::from_secs(10), async || {
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
