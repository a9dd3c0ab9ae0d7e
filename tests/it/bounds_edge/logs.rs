//! No client writes more than a line a minute of a kind, and no line says where the program was built.

use std::process::Stdio;
use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::{Server, eventually};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::LIMIT;

/// Connects with TLS 1.2 and asks for another handshake.
async fn renegotiate(address: &str) {
    let mut client = Command::new("openssl")
        .args(["s_client", "-tls1_2", "-connect", address])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("openssl is installed");
    let mut stdin = client.stdin.take().unwrap();
    until(client.stdout.take().unwrap(), "Verify return code").await;
    stdin.write_all(b"R\n").await.unwrap();
    until(client.stderr.take().unwrap(), "RENEGOTIATING").await;
    // It waits for an answer, which the server refuses to give.
    sleep(Duration::from_millis(500)).await;
}

/// Reads until a text appears.
async fn until(mut output: impl AsyncRead + Unpin, text: &str) {
    let mut printed = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&printed).contains(text) {
            assert_ne!(output.read_buf(&mut printed).await.unwrap(), 0, "{text}");
        }
    };
    timeout(LIMIT, read).await.expect(text);
}

#[tokio::test]
async fn a_client_that_renegotiates_writes_nothing() {
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "DNS:localhost").await;
    let tls = ["--tls-cert", &certificate.chain, "--tls-key", &certificate.key];
    let server = Server::dev(&tls).await;
    let before = eventually("it has started", Duration::from_secs(10), async || {
        Some(server.log().len()).filter(|lines| *lines >= 2)
    })
    .await;
    for _ in 0..3 {
        renegotiate(&server.address).await;
    }
    let log = server.log();
    assert_eq!(log.len(), before, "{log:#?}");
}
