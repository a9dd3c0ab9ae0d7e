//! h2spec, a conformance test of HTTP/2, finds nothing but what `h2spec.txt` lists and explains.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::Duration;

use markread_harness::Server;
use markread_harness::certificates::Authority;
use markread_harness::tools::tool;
use tokio::process::Command;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(120);

/// The least cases of a run: fewer would cover little.
const CASES_MIN: usize = 140;

/// Cases that may fail, and those of them that always do.
struct Exceptions {
    all: BTreeSet<&'static str>,
    always: BTreeSet<&'static str>,
}

impl Exceptions {
    fn read() -> Self {
        let lines = include_str!("h2spec.txt").lines();
        let (mut all, mut always) = (BTreeSet::new(), BTreeSet::new());
        for line in lines.filter(|line| !line.starts_with(['#', ' ']) && !line.is_empty()) {
            let (when, case) = line.split_once(' ').expect(line);
            assert!(["always", "sometimes"].contains(&when), "{line}");
            all.insert(case);
            if when == "always" {
                always.insert(case);
            }
        }
        Self { all, always }
    }
}

/// Runs h2spec with these options, and returns its cases and those that failed.
async fn h2spec(server: &Server, options: &[&str]) -> (usize, BTreeSet<String>) {
    let report = tempfile::NamedTempFile::new().unwrap();
    let (host, port) = server.address.rsplit_once(':').unwrap();
    let mut run = Command::new(tool("MARKREAD_TEST_H2SPEC", "h2spec"));
    run.args(["--strict", "--timeout", "2", "--host", host, "--port", port])
        .args(["--path", "/1.1/direct_messages/mark_read.json", "--junit-report"])
        .arg(report.path())
        .args(options)
        .stdout(Stdio::null())
        .kill_on_drop(true);
    // Its status tells whether all cases pass.
    timeout(LIMIT, run.status()).await.expect("h2spec ends").expect("h2spec is installed");
    let report = std::fs::read_to_string(report.path()).unwrap();
    let cases: Vec<&str> = report.split("<testcase ").skip(1).collect();
    let failed = cases.iter().filter(|case| case.contains("<error>") || case.contains("<failure>"));
    (cases.len(), failed.map(|case| name(case)).collect())
}

/// The name of a case of the report: its section and its title.
fn name(case: &str) -> String {
    let attribute = |name: &str| {
        let (_, value) = case.split_once(&format!("{name}=\"")).expect(case);
        value.split('"').next().unwrap().replace("&#34;", "\"")
    };
    format!("{}: {}", attribute("package"), attribute("classname"))
}

async fn assert_only_known_exceptions(server: &Server, options: &[&str]) {
    let (cases, failed) = h2spec(server, options).await;
    assert!(cases >= CASES_MIN, "{cases} cases");
    let known = Exceptions::read();
    let new: Vec<_> = failed.iter().filter(|case| !known.all.contains(case.as_str())).collect();
    assert!(new.is_empty(), "not in h2spec.txt: {new:#?}");
    let passed: Vec<_> = known.always.iter().filter(|case| !failed.contains(**case)).collect();
    assert!(passed.is_empty(), "passes now, so h2spec.txt should not list it: {passed:#?}");
}

#[tokio::test]
async fn clear_text_conforms() {
    assert_only_known_exceptions(&Server::dev(&[]).await, &[]).await;
}

#[tokio::test]
async fn tls_conforms() {
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "IP:127.0.0.1").await;
    let flags = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    assert_only_known_exceptions(&Server::dev(&flags).await, &["--tls", "--insecure"]).await;
}
