//! Frames that make no call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::{MESSAGE, RECIPIENT};
use tokio::task::{JoinSet, yield_now};
use tokio::time::sleep;

use crate::calls::{ATTACKER, mark, page, watch};
use crate::case::{Case, case};
use crate::http2::{
    CONTINUATION, Connection, END_HEADERS, ENHANCE_YOUR_CALM, HEADERS, PING, PRIORITY, Reading,
    SETTINGS, WINDOW_UPDATE, frame, literals,
};
use crate::stage::{Stage, until};

const CONNECTIONS: usize = 100;
const LASTS: Duration = Duration::from_secs(3);

/// Who was cut comes again, as often as this.
const AGAIN: Duration = Duration::from_secs(1);

/// An attack of a hundred connections that send nothing but these frames, and are cut for it.
macro_rules! flood {
    ($name:expr, $frames:expr) => {
        case!(concat!("control frames: ", $name), |stage| flood(stage, $frames))
    };
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        flood!("PING", |_| frame(PING, 0, 0, &[7; 8])),
        flood!("SETTINGS", |_| frame(SETTINGS, 0, 0, &[])),
        flood!("PRIORITY", |_| frame(PRIORITY, 0, 1, &[0, 0, 0, 3, 16])),
        // The connection's window was widened to its maximum at the start: not on stream 0.
        flood!("WINDOW_UPDATE", |stream| frame(WINDOW_UPDATE, 0, stream, &[0, 0, 0, 1])),
        flood!("an unknown type", |_| frame(0xfa, 0, 0, b"?")),
        case!("control frames: refused header lists", refused_header_lists),
        case!("control frames: windows of one byte", windows_of_one_byte),
        case!("control frames: twins", twins),
    ]
}

/// Sends the same frame on a hundred connections, as fast as the server reads. Bound: a budget of
/// control frames for each connection, past which it is ended, at best with
/// `ENHANCE_YOUR_CALM`.
async fn flood(stage: Arc<Stage>, one: fn(u32) -> Vec<u8>) {
    // A watch, so that the connection is in use and has a stream.
    let watch = watch(ATTACKER, "");
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for nth in 0..CONNECTIONS {
            let (address, watch) = (stage.address().to_owned(), watch.clone());
            floods.spawn(async move {
                let (mut cut, mut calm) = (true, false);
                while Instant::now() < until {
                    let begun = Instant::now();
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(mut opened) = opened else { break };
                    // More than 64 watches of a reader would be refused.
                    if nth < 50 {
                        let _ = opened.begin(1, |stream| watch.complete(stream)).await;
                    } else {
                        let _ = opened.begin(1, |stream| watch.head(stream)).await;
                    }
                    let frames = one(1).repeat(1000);
                    opened.repeat(&frames, until).await;
                    cut &= opened.is_cut_soon().await;
                    calm |= opened.seen.goaway() == Some(ENHANCE_YOUR_CALM);
                    sleep(AGAIN.saturating_sub(begun.elapsed())).await;
                }
                (cut, calm)
            });
        }
        let ended = floods.join_all().await;
        let count = |of: fn(&(bool, bool)) -> bool| ended.iter().filter(|one| of(one)).count();
        let (cut, calm) = (count(|(cut, _)| *cut), count(|(_, calm)| *calm));
        stage.check(
            cut == CONNECTIONS,
            format!("each is cut: {cut} of 100 were, {calm} told ENHANCE_YOUR_CALM"),
        );
    };
    stage.attack(attack).await;
}

/// Header lists of 20 KiB, each refused, on a hundred connections.
async fn refused_header_lists(stage: Arc<Stage>) {
    let value = "x".repeat(10_000);
    let block = literals(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/"),
        ("a", &value),
        ("b", &value),
    ]);
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for _ in 0..CONNECTIONS {
            let (address, block) = (stage.address().to_owned(), block.clone());
            floods.spawn(async move {
                let mut cut = true;
                while Instant::now() < until {
                    let begun = Instant::now();
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(mut opened) = opened else { break };
                    while Instant::now() < until && !opened.seen.is_cut() {
                        let sent = opened.begin(10, |stream| {
                            let (first, rest) = block.split_at(16_000);
                            // END_STREAM on HEADERS, END_HEADERS on what continues it.
                            let head = frame(HEADERS, 1, stream, first);
                            [head, frame(CONTINUATION, END_HEADERS, stream, rest)].concat()
                        });
                        if sent.await.is_err() {
                            break;
                        }
                        // The reader has its turn, which notices the end.
                        yield_now().await;
                    }
                    cut &= opened.is_cut_soon().await;
                    sleep(AGAIN.saturating_sub(begun.elapsed())).await;
                }
                cut
            });
        }
        let cut = floods.join_all().await.iter().filter(|cut| **cut).count();
        stage.check(cut == CONNECTIONS, format!("each is cut: {cut} of 100 were"));
    };
    stage.attack(attack).await;
}

/// A hundred readers of pages whose windows are one byte, so that each byte is a DATA frame and asks
/// for a `WINDOW_UPDATE`.
async fn windows_of_one_byte(stage: Arc<Stage>) {
    let caller = stage.server.caller(ATTACKER);
    let marks: Vec<_> = (1..=500).map(|recipient| (recipient, MESSAGE)).collect();
    caller.mark_batch(&marks).await.unwrap();
    let page = page(ATTACKER, 500);
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for _ in 0..CONNECTIONS {
            let (address, page) = (stage.address().to_owned(), page.clone());
            floods.spawn(async move {
                let opened = Connection::open(&address, 1, Reading::ByDrops).await;
                let Ok(mut opened) = opened else { return };
                opened.flood(&page, 20, until).await;
            });
        }
        floods.join_all().await;
    };
    stage.attack(attack).await;
}

/// Clients that must not be cut: a watcher with as many PINGs as one sends in an hour, in a few
/// seconds; a receiver whose window is 64 bytes; one that widens its window after each answer.
async fn twins(stage: Arc<Stage>) {
    const PINGS: u32 = 720;
    let (watch, mark) = (watch(ATTACKER, ""), mark(Some(ATTACKER), RECIPIENT, 1));
    let caller = stage.server.caller(ATTACKER + 1);
    let marks: Vec<_> = (1..=200).map(|recipient| (recipient, MESSAGE)).collect();
    caller.mark_batch(&marks).await.unwrap();
    let page = page(ATTACKER + 1, 200);
    let attack = async {
        let address = stage.address();
        let mut pings = Connection::open(address, 65_535, Reading::All).await.unwrap();
        pings.begin(1, |stream| watch.complete(stream)).await.unwrap();
        let mut drops = Connection::open(address, 64, Reading::ByDrops).await.unwrap();
        let mut updates = Connection::open(address, 65_535, Reading::All).await.unwrap();
        let until = until(Duration::from_secs(5));
        let receiving = async {
            drops.flood(&page, 1, until).await;
            drops.seen.done()
        };
        let pinging = async {
            for _ in 0..PINGS / 10 {
                let _ = pings.send(&frame(PING, 0, 0, &[1; 8]).repeat(10)).await;
                sleep(LASTS / (PINGS / 10)).await;
            }
            pings.seen.count(PING)
        };
        let updating = async {
            let mut calls = 0;
            while Instant::now() < until && !updates.seen.is_cut() {
                let _ = updates.begin(1, |stream| mark.complete(stream)).await;
                // Legal on a stream that has just ended.
                let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]);
                let _ = updates.send(&update).await;
                calls += 1;
                sleep(Duration::from_millis(5)).await;
            }
            calls
        };
        let (pages, answers, calls) = tokio::join!(receiving, pinging, updating);
        let alive = !pings.seen.is_cut() && answers >= PINGS as usize;
        stage.check(alive, format!("an hour of PINGs is answered: {answers} of {PINGS}"));
        let alive = !drops.seen.is_cut() && pages > 1;
        stage.check(alive, format!("a window of 64 bytes is served: {pages} pages"));
        let alive = !updates.seen.is_cut() && updates.seen.done() >= calls - 1;
        stage.check(alive, format!("a WINDOW_UPDATE for each call is fine: {calls} calls"));
    };
    stage.attack(attack).await;
}
