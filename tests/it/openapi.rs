//! `docs/openapi.yaml` describes the endpoint: schemathesis, which reads the document only, finds
//! no answer that is not described.

use std::path::PathBuf;

use markread_harness::caller::Credentials;
use markread_harness::tools::{self, file, output};
use markread_harness::{READER, Redis, Server};
use tokio::process::Command;

/// The least requests of a run: fewer would cover little.
const REQUESTS_MIN: u64 = 1000;

/// Runs schemathesis with these options, and returns the number of requests that it sent.
async fn schemathesis(server: &Server, words: &[&str]) -> u64 {
    let Credentials::Authorization(token) = Credentials::token_of(READER) else {
        panic!("a token")
    };
    let dir = tempfile::tempdir().unwrap();
    // It is installed beside its Python interpreter.
    let program = PathBuf::from(tools::python()).with_file_name("schemathesis");
    let mut run = Command::new(program);
    run.args(["--no-color", "--config-file"])
        .arg(file("tests/clients/schemathesis.toml"))
        .arg("run")
        .arg(file("docs/openapi.yaml"))
        .args(["--url", &format!("http://{}", server.address)])
        .args(words)
        .current_dir(dir.path())
        .env("HYPOTHESIS_STORAGE_DIRECTORY", dir.path().join("hypothesis"))
        .env("MARKREAD_TOKEN", token.trim_start_matches("Bearer "));
    let printed = output(run).await;
    // "1535 generated, 1535 passed, 4 skipped"
    let count = printed.lines().find_map(|line| line.trim().split_once(" generated, "));
    count.and_then(|(count, _)| count.parse().ok()).unwrap_or_else(|| panic!("{printed}"))
}

#[tokio::test]
async fn requests_of_all_kinds_are_answered_as_the_document_says() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let sent = schemathesis(&server, &[]).await;
    assert!(sent >= REQUESTS_MIN, "{sent} requests");
    assert!(redis.used(READER).await > Some(100), "many of them were marks");
}

#[tokio::test]
async fn invalid_parameters_are_answered_as_the_document_says() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let words = ["--mode", "negative", "--generation-with-security-parameters", "false"];
    let sent = schemathesis(&server, &words).await;
    assert!(sent >= REQUESTS_MIN, "{sent} requests");
    let invalid = server.metric("markread_mark_read_total{outcome=\"invalid\"}").await;
    assert!(invalid > Some(100.0), "{invalid:?} of them were invalid");
}
