//! `markread mark`, `state` and `watch`: output and exit status.

use std::process::{Output, Stdio};
use std::time::Duration;

use markread_harness::binary::command;
use markread_harness::caller::Credentials;
use markread_harness::certificates::Authority;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(20);

async fn run(words: &[&str]) -> Output {
    timeout(LIMIT, command(words).output()).await.expect("it ends").unwrap()
}

/// Runs a command that succeeds, and returns what it printed.
async fn printed(words: &[&str]) -> String {
    let output = run(words).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.is_empty(), "{words:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that fails, and returns its exit status and its one line.
async fn failed(words: &[&str]) -> (Option<i32>, String) {
    let output = run(words).await;
    assert!(output.stdout.is_empty());
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    (output.status.code(), text)
}

/// Replaces the times in a text.
fn timeless(text: &str) -> String {
    let words = text.split(' ').map(|word| {
        let is_time = word.trim_end().len() == 24 && word.trim_end().ends_with('Z');
        if is_time { word.replace(word.trim_end(), "TIME") } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn mark_prints_its_outcome_and_state_prints_a_table() {
    let server = Server::dev(&[]).await;
    let (address, recipient) = (server.address.clone(), RECIPIENT.to_string());
    let (reader, message) = (READER.to_string(), MESSAGE.to_string());
    let as_user = async |user: &str, words: &[&str]| {
        printed(&[words, &["--address", &address, "--user", user]].concat()).await
    };
    let mark = ["mark", "--recipient", &recipient, "--last-read-event-id", &message];
    let advanced = timeless(&as_user(&reader, &mark).await);
    assert_eq!(advanced, format!("advanced to {MESSAGE} at TIME\n"));
    let unchanged = timeless(&as_user(&reader, &mark).await);
    assert_eq!(unchanged, format!("unchanged at {MESSAGE} since TIME\n"));

    let state = ["state", "--recipient", &recipient, "--recipient", "7"];
    let table = as_user(&reader, &state).await;
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["RECIPIENT", "MINE", "AT", "THEIRS", "AT"]);
    assert_eq!(lines[1][..2], [&*recipient, &*message]);
    assert_eq!(lines[1][3..], ["never", "-"]);
    assert_eq!(lines[2], ["7", "never", "-", "never", "-"]);
    let table = as_user(&reader, &["state"]).await;
    let line: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((table.lines().count(), &line[..2]), (2, &[&*recipient, &*message][..]));
    let table = as_user(&recipient, &["state", "--recipient", &reader]).await;
    let line: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!(line[..4], [&*reader, "never", "-", &*message]);
}

#[tokio::test]
async fn exit_statuses_tell_scripts_how_a_call_ended() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token").to_str().unwrap().to_owned();
    let Credentials::Authorization(header) = Credentials::token_of(READER) else { panic!() };
    std::fs::write(&token, header.trim_start_matches("Bearer ")).unwrap();
    server.caller(READER).mark(7, 5).await.unwrap();
    let at = ["--address", &server.address];
    let state = [&["state", "--recipient", "7"], &at[..]].concat();
    let known = [&state[..], &["--token-file", &token]].concat();
    for at_least in ["1", "5"] {
        printed(&[&known[..], &["--at-least", at_least]].concat()).await;
    }
    for more in [&["--at-least", "6"][..], &["--at-least", "5", "--recipient", "8"]] {
        let output = run(&[&known[..], more].concat()).await;
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("has not read up to"), "{text}");
    }

    let expected = ["--expect-status", "UNAUTHENTICATED"];
    let text = printed(&[&state[..], &expected].concat()).await;
    assert!(text.contains("CREDENTIALS_MISSING"), "{text}");
    let mark = ["mark", "--recipient", "7", "--last-read-event-id", "9"];
    printed(&[&mark[..], &at, &expected].concat()).await;
    let output = run(&[&known[..], &expected].concat()).await;
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("answered OK, expected UNAUTHENTICATED"), "{text}");

    for (more, flag) in [
        (&["--expect-status", "Unauthenticated"], "--expect-status"),
        (&["--at-least", "x"], "--at-least"),
    ] {
        let (status, text) = failed(&[&known[..], more].concat()).await;
        assert!(status == Some(2) && text.contains(flag), "{text}");
    }
    let (status, text) = failed(&["state", "--at-least", "5"]).await;
    assert!(
        status == Some(2) && text.contains("--at-least must be set together with --recipient"),
        "{text}"
    );
}

#[tokio::test]
async fn a_healthcheck_says_whether_the_server_is_serving() {
    let mut redis = Redis::start().await;
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "DNS:markread.example").await;
    let flags = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    let (plain, tls) = (Server::on(&redis).await, Server::on_with(&redis, &flags).await);
    let ca = authority.file();
    let secure = ["--tls-ca", &ca, "--tls-server-name", "markread.example"];
    let check = ["healthcheck", "--listen"];
    let (_, port) = plain.address.rsplit_once(':').unwrap();
    // The address as the server got it, or a name.
    for listen in [&plain.address, &format!("0.0.0.0:{port}"), &format!("localhost:{port}")] {
        assert_eq!(printed(&[&check[..], &[listen]].concat()).await, "");
    }
    printed(&[&check[..], &[&tls.address], &secure].concat()).await;
    let environment = command(&["healthcheck"]).env("MARKREAD_LISTEN", &plain.address).output();
    assert!(environment.await.unwrap().status.success());

    // Another name, plaintext to a TLS port, no server, and a server that is not ready.
    for words in [
        [&check[..], &[&tls.address], &["--tls-ca", &ca]].concat(),
        [&check[..], &[&tls.address]].concat(),
        [&check[..], &["127.0.0.1:1"]].concat(),
    ] {
        let (status, text) = failed(&words).await;
        assert_eq!(status, Some(1), "{text}");
    }
    redis.kill().await;
    eventually("it is not serving", LIMIT, async || {
        let output = run(&[&check[..], &[&plain.address]].concat()).await;
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code() == Some(1) && text.contains("NOT_SERVING")).then_some(())
    })
    .await;
    for listen in ["", "localhost", "a b:1", "user@host:1", "http://host:1"] {
        let (status, text) = failed(&[&check[..], &[listen]].concat()).await;
        assert!(status == Some(2) && text.contains("--listen"), "{listen}: {text}");
    }
}

#[tokio::test]
async fn a_token_and_a_certificate_come_from_files() {
    let redis = Redis::start().await;
    let (servers, clients) = (Authority::new().await, Authority::new().await);
    let certificate = servers.issue("server", "DNS:localhost").await;
    let client_ca = clients.file();
    let flags = [
        ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key],
        ["--client-ca", &client_ca, "--trusted-client", "gateway.example"],
    ]
    .concat();
    let server = Server::on_with(&redis, &flags).await;
    let port = server.address.rsplit(':').next().unwrap();
    let address = format!("https://localhost:{port}");
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token").to_str().unwrap().to_owned();
    let Credentials::Authorization(header) = Credentials::token_of(READER) else { panic!() };
    std::fs::write(&token, format!("{}\n", header.trim_start_matches("Bearer "))).unwrap();

    let ca = servers.file();
    let mark = ["mark", "--recipient", "7", "--last-read-event-id", "5", "--tls-ca", &ca];
    let mark = [&mark[..], &["--address", &address]].concat();
    printed(&[&mark[..], &["--token-file", &token]].concat()).await;
    let gateway = clients.issue("client", "DNS:gateway.example").await;
    let certificate = ["--tls-cert", &gateway.chain, "--tls-key", &gateway.key, "--user", "42"];
    printed(&[&mark[..], &certificate].concat()).await;
    assert_eq!(redis.events().await, [(READER, 7, 5), (42, 7, 5)]);
}

#[tokio::test]
async fn a_failure_is_one_line_with_the_servers_reason() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let address = format!("http://{}", server.address);
    let state = ["state", "--recipient", "7"];
    let (status, text) = failed(&[&state[..], &["--address", &address]].concat()).await;
    assert_eq!(status, Some(1));
    assert!(text.contains("CREDENTIALS_MISSING"), "{text}");
    let (status, text) = failed(&[&state[..], &["--address", "http://127.0.0.1:1"]].concat()).await;
    assert_eq!(status, Some(1), "{text}");

    let missing = ["--token-file", "/nowhere/token"];
    for (words, flag) in [
        (&["state", "--recipient", "0"][..], "--recipient"),
        (&["state", "--recipient", "7,x"], "--recipient"),
        (&["mark", "--recipient", "7", "--last-read-event-id", "1e3"], "--last-read-event-id"),
        (&["state", "--recipient", "7", "--user", "me"], "--user"),
        (&["state", "--recipient", "7", "--address", "localhost:1/path"], "--address"),
        (&["state", "--recipient", "7", "--address", "ftp://localhost:1"], "--address"),
        (&["state", "--recipient", "7", "--tls-ca", "/nowhere/ca"], "--tls-ca"),
        (&[&state[..], &missing].concat(), "--token-file"),
    ] {
        let (status, text) = failed(words).await;
        assert_eq!(status, Some(2), "{text}");
        assert!(text.contains(flag), "{words:?}: {text}");
    }
}

#[tokio::test]
async fn a_watch_prints_a_line_per_event_until_the_server_exits() {
    let mut server = Server::dev(&[]).await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, 5).await.unwrap();
    let user = RECIPIENT.to_string();
    let words = ["watch", "--address", &server.address, "--user", &user, "--after", "0-0"];
    let mut watches = Vec::new();
    for more in [&[][..], &["--json"]] {
        let mut process = command(&[&words[..], more].concat())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        watches.push((process, lines));
    }
    let mut seen = Vec::new();
    for (_, lines) in &mut watches {
        seen.push(timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap());
    }
    let text = format!("{READER} read up to 5 of {RECIPIENT}");
    assert!(seen[0].contains(&text), "{}", seen[0]);
    let event: serde_json::Value = serde_json::from_str(&seen[1]).unwrap();
    assert_eq!(event["sender_id"], READER.to_string());
    assert_eq!(event["last_read_event_id"], "5");

    // The watch resumes and goes on.
    caller.mark(RECIPIENT, 6).await.unwrap();
    let (_, lines) = &mut watches[0];
    let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap().unwrap();
    assert!(line.contains("read up to 6"), "{line}");
    server.signal(Signal::SIGTERM);
    server.exit(LIMIT).await;
    for (process, _) in watches {
        let output = timeout(LIMIT, process.wait_with_output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("DRAINING"), "{output:?}");
    }
    let (status, text) = failed(&["watch", "--after", "x"]).await;
    assert!(status == Some(2) && text.contains("--after"), "{text}");
}

#[tokio::test]
async fn a_watch_goes_on_when_its_connection_has_reached_its_age() {
    let flags = ["--max-connection-age", "1s", "--max-connection-age-grace", "0s"];
    let server = Server::dev(&flags).await;
    let user = RECIPIENT.to_string();
    let mut process = command(&["watch", "--address", &server.address, "--user", &user])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let mut ended = 0.0;
    for message in 1..=3 {
        // Each mark comes after the age of one more connection.
        ended = eventually("a watch ends", LIMIT, async || {
            let refused = server.metric("markread_refused_total{bound=\"connection_age\"}").await;
            refused.filter(|now| *now > ended)
        })
        .await;
        server.caller(READER).mark(RECIPIENT, message).await.unwrap();
        // The same event a second time would be the next line.
        let line = timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
        let line = line.expect("the process goes on");
        assert!(line.contains(&format!("read up to {message} of")), "{line}");
    }
    assert!(process.try_wait().unwrap().is_none());
}
