//! Clients that try to fill the log.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use markread_harness::certificates::Authority;
use markread_harness::wire::{PREFACE, SETTINGS};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::case::{Case, case};
use crate::http2::{GOAWAY, connect, frame};
use crate::stage::Stage;

/// Lines that an attack of some seconds may add: one of each kind, and those of the start.
const LINES: usize = 6;

pub(crate) async fn cases() -> Vec<Case> {
    let authority = Authority::new().await;
    let certificate = authority.issue("server", "DNS:localhost").await;
    let tls = format!("--tls-cert {} --tls-key {}", certificate.chain, certificate.key);
    vec![
        case!("logs: TLS handshakes that fail", handshakes).flags(&tls).without_neighbour(),
        case!("logs: TLS renegotiation", renegotiations)
            .flags(&tls)
            .without_neighbour()
            .keeping(authority),
        case!("logs: connections", connections).flags("--max-connections 50"),
    ]
}

/// Notes how many lines were added, and whether one has a path of the build.
fn check(stage: &Stage, before: usize) {
    let lines = stage.server.log();
    let new = lines.get(before..).unwrap_or_default();
    let last = new.last().cloned().unwrap_or_default();
    let count = new.len();
    stage.check(count <= LINES, format!("at most {LINES} lines are added: {count}, {last:.300}"));
    let path =
        new.iter().find(|line| [".cargo", "/src/", ".rs:"].iter().any(|at| line.contains(at)));
    stage.check(path.is_none(), format!("no line has a path of the build: {path:?}"));
}

/// 300 connections whose handshake fails, each in one of three ways.
async fn handshakes(stage: Arc<Stage>) {
    let before = stage.server.log().len();
    let attack = async {
        for nth in 0..300 {
            let Ok(mut stream) = connect(stage.address()).await else { continue };
            let start: &[u8] = match nth % 3 {
                0 => b"GET / HTTP/1.1\r\n\r\n",
                // A record of a handshake that is none.
                1 => &[22, 3, 1, 0, 4, 1, 0, 0, 0],
                _ => &[21, 3, 3, 0, 2, 2, 40],
            };
            let _ = stream.write_all(start).await;
        }
        sleep(Duration::from_secs(1)).await;
    };
    stage.attack(attack).await;
    check(&stage, before);
}

/// Clients of TLS 1.2 that ask for a renegotiation, which rustls refuses and warns of.
async fn renegotiations(stage: Arc<Stage>) {
    let before = stage.server.log().len();
    let attack = async {
        let mut clients = JoinSet::new();
        for _ in 0..15 {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-connect", stage.address(), "-tls1_2"]);
            client.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut client = client.kill_on_drop(true).spawn().expect("openssl is installed");
            clients.spawn(async move {
                let mut stdin = client.stdin.take().unwrap();
                sleep(Duration::from_millis(500)).await;
                let _ = stdin.write_all(b"R\n").await;
                let _ = timeout(Duration::from_secs(2), client.wait()).await;
            });
        }
        clients.join_all().await;
    };
    stage.attack(attack).await;
    check(&stage, before);
}

/// Connections past the bound, garbage, and HTTP/2 that breaks the protocol.
async fn connections(stage: Arc<Stage>) {
    let before = stage.server.log().len();
    let attack = async {
        let goaway = frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 11]);
        let starts = [
            b"garbage \x1b[2J \r\n\r\n".to_vec(),
            [PREFACE, SETTINGS, &frame(0, 0, 0, b"x")].concat(),
            [PREFACE, SETTINGS, &goaway].concat(),
        ];
        for _ in 0..5 {
            let mut held = Vec::new();
            for nth in 0..100 {
                let Ok(mut stream) = connect(stage.address()).await else { continue };
                let _ = stream.write_all(&starts[nth % starts.len()]).await;
                held.push(stream);
            }
            sleep(Duration::from_millis(400)).await;
        }
    };
    stage.attack(attack).await;
    check(&stage, before);
}
