//! The operators' port while the other is in trouble.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::server::http1;
use markread_harness::{MESSAGE, RECIPIENT};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::{mark, watch};
use crate::case::{Case, case};
use crate::http2::{Connection, PRIORITY, Reading, connect, connect_from, frame};
use crate::stage::{Stage, until};

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n";

/// A probe of Kubernetes waits so long by default.
const PROBE: Duration = Duration::from_secs(1);

/// Connections to the operators' port that may be open, at most.
const HELD_MAX: usize = 128;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        // The neighbour is not what is looked at here.
        case!("operators: calls flood the other port", flooded).p50_times(f64::MAX).refusals(10),
        case!("operators: no descriptors left", no_descriptors),
        case!("operators: 200 connections held open", held).flags("--handshake-timeout 2s"),
    ]
}

/// The server's open descriptors.
fn descriptors(stage: &Stage) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", stage.server.id())).unwrap().count()
}

/// How long `/livez` takes, or `None` where it does not answer in time.
async fn livez(ops: &str) -> Option<Duration> {
    let began = Instant::now();
    let (head, _) = timeout(PROBE, http1(ops, LIVEZ)).await.ok()??;
    head.contains(" 200 ").then(|| began.elapsed())
}

/// The median of probes until then, and how many failed.
async fn probe(ops: &str, until: Instant) -> (Duration, usize) {
    let (mut times, mut failed) = (Vec::new(), 0);
    while Instant::now() < until {
        match livez(ops).await {
            Some(took) => times.push(took),
            None => failed += 1,
        }
        sleep(Duration::from_millis(30)).await;
    }
    times.sort_unstable();
    (times.get(times.len() / 2).copied().unwrap_or(PROBE), failed)
}

/// Forty connections send calls without credentials, 250 at once each, and PRIORITY frames. Bound: a
/// thread of its own for the operators' port.
async fn flooded(stage: Arc<Stage>) {
    let ops = stage.server.ops.clone();
    let call = mark(None, RECIPIENT, MESSAGE);
    let (alone, _) = probe(&ops, until(Duration::from_secs(1))).await;
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(Duration::from_secs(3)));
        for nth in 0..40 {
            let (address, call) = (stage.address().to_owned(), call.clone());
            floods.spawn(async move {
                while Instant::now() < until {
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(mut one) = opened else { return };
                    if nth % 2 == 0 {
                        one.flood(&call, 250, until).await;
                    } else {
                        let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16]).repeat(1000);
                        one.repeat(&priority, until).await;
                        sleep(Duration::from_millis(200)).await;
                    }
                }
            });
        }
        let (flooded, failed) = probe(&ops, until).await;
        floods.join_all().await;
        let most = 5 * alone.max(Duration::from_millis(2));
        stage.check(failed == 0, format!("every probe of /livez is answered: {failed} were not"));
        stage.check(
            flooded <= most,
            format!("/livez takes at most {most:?}: {flooded:?}, alone {alone:?}"),
        );
    };
    stage.attack(attack).await;
}

/// Connections take all descriptors that the process may have. Bound: a reserve for the operators'
/// port.
async fn no_descriptors(stage: Arc<Stage>) {
    let process = stage.server.id().to_string();
    let limited = Command::new("prlimit").args(["--pid", &process, "--nofile=200:200"]).status();
    assert!(limited.await.expect("prlimit is installed").success());
    let attack = async {
        let mut all = Vec::new();
        for _ in 0..300 {
            all.extend(timeout(PROBE, connect(stage.address())).await.ok().and_then(Result::ok));
        }
        sleep(Duration::from_millis(500)).await;
        let mut answered = 0;
        for _ in 0..5 {
            answered += usize::from(livez(&stage.server.ops).await.is_some());
            sleep(Duration::from_millis(100)).await;
        }
        stage.check(answered == 5, format!("/livez is answered: {answered} of 5"));
        all
    };
    stage.attack(attack).await;
}

/// 200 connections to the operators' port, half of them with half a request, and a watch that must not
/// notice. Bound: the port's connections, and the time for a request.
async fn held(stage: Arc<Stage>) {
    let watch = watch(crate::calls::ATTACKER, "");
    let attack = async {
        let mut watcher = Connection::open(stage.address(), 65_535, Reading::All).await.unwrap();
        watcher.begin(1, |stream| watch.complete(stream)).await.unwrap();
        let before = descriptors(&stage);
        let mut all = Vec::new();
        for nth in 0..200 {
            let opened = timeout(PROBE, connect_from("127.0.0.2:0", &stage.server.ops)).await;
            let Ok(Ok(mut stream)) = opened else { continue };
            if nth % 2 == 0 {
                let _ = stream.write_all(b"GET /livez HTTP/1.1\r\n").await;
            }
            all.push(stream);
        }
        sleep(Duration::from_millis(300)).await;
        let open = descriptors(&stage) - before;
        stage.check(open <= HELD_MAX, format!("at most {HELD_MAX} of 200 stay open: {open} did"));
        let (began, mut answered) = (Instant::now(), false);
        while !answered && began.elapsed() < Duration::from_secs(6) {
            answered = livez(&stage.server.ops).await.is_some();
        }
        let took = began.elapsed();
        stage.check(answered, format!("/livez answers when --handshake-timeout is over: {took:?}"));
        stage.check(!watcher.seen.is_cut(), "a watch on the other port goes on");
    };
    stage.attack(attack).await;
}
