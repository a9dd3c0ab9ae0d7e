//! Requests that arrive a byte at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::raw::MARK_READ;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::{ATTACKER, token};
use crate::case::{Case, case};
use crate::http2::{Call, Connection, DATA, END_STREAM, Reading, connect, frame};
use crate::stage::Stage;

const CONNECTIONS: usize = 50;

/// Calls on each connection of HTTP/2.
const STREAMS: usize = 10;

const PAUSE: Duration = Duration::from_millis(250);

/// Longer than the timeouts of these attacks, with what a busy machine adds.
const CUT_WITHIN: Duration = Duration::from_secs(6);

/// The endpoint of plain HTTP.
const HEAD: &str = "POST /1.1/direct_messages/mark_read.json HTTP/1.1\r\nhost: markread\r\n\
                    content-type: application/x-www-form-urlencoded\r\n";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("slow: messages of gRPC", messages).flags("--call-timeout 2s").memory_mib(64),
        case!("slow: bodies of HTTP/1.1", |stage| http1(stage, Part::Body))
            .flags("--call-timeout 2s")
            .memory_mib(64),
        case!("slow: heads of HTTP/1.1", |stage| http1(stage, Part::Head))
            .flags("--handshake-timeout 2s")
            .memory_mib(64),
    ]
}

/// Five hundred calls whose message of 64 KiB comes a byte at a time, for ever. Bound: `--call-timeout`.
async fn messages(stage: Arc<Stage>) {
    let head = [0, 0, 1, 0, 0];
    let call = Call::new(MARK_READ, Some(&token(ATTACKER)), &head);
    let attack = async {
        let mut slow = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (address, call) = (stage.address().to_owned(), call.clone());
            slow.spawn(async move {
                let opened = Connection::open(&address, 65_535, Reading::All).await;
                let Ok(mut one) = opened else { return true };
                let _ = one.begin(STREAMS, |stream| call.begun(stream)).await;
                let bytes: Vec<u8> =
                    (0..STREAMS).flat_map(|nth| frame(DATA, 0, 1 + 2 * nth as u32, b"x")).collect();
                let began = Instant::now();
                while began.elapsed() < CUT_WITHIN && !one.seen.is_cut() {
                    if one.seen.done() >= STREAMS || one.send(&bytes).await.is_err() {
                        break;
                    }
                    sleep(PAUSE).await;
                }
                one.seen.is_cut() || one.seen.done() >= STREAMS
            });
        }
        let ended = slow.join_all().await.iter().filter(|ended| **ended).count();
        stage.check(
            ended == CONNECTIONS,
            format!("calls end with the call timeout: on {ended} of {CONNECTIONS} connections"),
        );
        twin(&stage).await;
    };
    stage.attack(attack).await;
}

/// A client whose message comes in two halves, within the timeout, is served.
async fn twin(stage: &Stage) {
    let message = [0, 0, 0, 0, 4, 8, 1, 16, 2];
    let call = Call::new(MARK_READ, Some(&token(ATTACKER + 1)), &message[..7]);
    let mut one = Connection::open(stage.address(), 65_535, Reading::All).await.unwrap();
    let _ = one.begin(1, |stream| call.begun(stream)).await;
    sleep(PAUSE).await;
    let _ = one.send(&frame(DATA, END_STREAM, 1, &message[7..])).await;
    let began = Instant::now();
    while one.seen.done() == 0 && began.elapsed() < CUT_WITHIN {
        sleep(Duration::from_millis(20)).await;
    }
    stage.check(one.seen.ended() == 1, "a message in two halves is answered");
}

/// What comes slowly.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Body,
}

/// Fifty connections of HTTP/1.1 with a byte now and then. Bound: `--handshake-timeout` for a head,
/// `--call-timeout` for a body.
async fn http1(stage: Arc<Stage>, part: Part) {
    let authorization = token(ATTACKER);
    let begin = match part {
        Part::Head => HEAD.to_owned(),
        Part::Body => {
            format!("{HEAD}authorization: {authorization}\r\ncontent-length: 4000\r\n\r\n")
        }
    };
    let attack = async {
        let mut slow = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let (address, begin) = (stage.address().to_owned(), begin.clone());
            slow.spawn(async move {
                let Ok(mut stream) = connect(&address).await else { return true };
                let _ = stream.write_all(begin.as_bytes()).await;
                let (mut buffer, opened) = ([0; 1024], Instant::now());
                while opened.elapsed() < CUT_WITHIN {
                    if stream.write_all(b"a").await.is_err() {
                        return true;
                    }
                    // An answer ends the request, and the connection with it.
                    if timeout(PAUSE, stream.read(&mut buffer)).await.is_ok() {
                        return true;
                    }
                }
                false
            });
        }
        let ended = slow.join_all().await.iter().filter(|ended| **ended).count();
        stage.check(
            ended == CONNECTIONS,
            format!("each is answered or closed in time: {ended} of {CONNECTIONS} were"),
        );
    };
    stage.attack(attack).await;
}
