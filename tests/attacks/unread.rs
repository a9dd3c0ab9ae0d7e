//! Answers that nobody reads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::{MESSAGE, RECIPIENT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};

use crate::calls::{ATTACKER, invalid_batch, mark, page, states, watch};
use crate::case::{Case, case};
use crate::http2::{self, Call, Connection, DATA, Reading};
use crate::stage::Stage;

const CONNECTIONS: usize = 40;
const STREAMS: usize = 250;

/// Longer than the `--send-timeout` of these attacks, with what a busy machine adds.
const SEND_TIMEOUT: &str = "--send-timeout 2s";
const CUT_WITHIN: Duration = Duration::from_secs(6);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("unread: batches of invalid marks", invalid_batches),
        case!("unread: the answer to an invalid batch", size_of_an_invalid_batch),
        case!("unread: pages", pages),
        case!("unread: states", unread_states).flags(SEND_TIMEOUT),
        case!("unread: streams end in time", streams_end).flags(SEND_TIMEOUT),
        case!("unread: watches end in time", watches_end).flags(SEND_TIMEOUT),
        case!("unread: pipelined HTTP/1.1", pipelined).flags(SEND_TIMEOUT),
        case!("unread: a stream among others", among_others).flags(SEND_TIMEOUT),
    ]
}

/// Makes calls on many connections whose streams take one byte, and holds them.
async fn hold(stage: &Stage, call: &Call, held_for: Duration) {
    let many = [CONNECTIONS, STREAMS];
    let _held = http2::hold(stage.address(), many, 1, |stream| call.complete(stream)).await;
    sleep(held_for).await;
}

/// A kilobyte of empty marks is answered by 131 KiB of errors, 10,000 times. Bound: a batch without a
/// valid item is refused as a whole.
async fn invalid_batches(stage: Arc<Stage>) {
    let batch = invalid_batch(ATTACKER);
    stage.attack(hold(&stage, &batch, Duration::from_secs(5))).await;
}

/// What one of them is answered with.
async fn size_of_an_invalid_batch(stage: Arc<Stage>) {
    let batch = invalid_batch(ATTACKER);
    let attack = async {
        let window = 1 << 20;
        let mut one = Connection::open(stage.address(), window, Reading::All).await.unwrap();
        one.begin(1, |stream| batch.complete(stream)).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let bytes = one.seen.data_bytes();
        stage.check(one.seen.done() == 1, "the batch is answered");
        stage.check(bytes <= 8 * 1024, format!("the answer has at most 8 KiB: {bytes} bytes"));
    };
    stage.attack(attack).await;
}

/// Gives the attacker this many cursors.
async fn fill(stage: &Stage, count: u64) {
    let caller = stage.server.caller(ATTACKER);
    let recipients: Vec<u64> = (1..=count).collect();
    for recipients in recipients.chunks(500) {
        let marks: Vec<_> = recipients.iter().map(|&recipient| (recipient, MESSAGE)).collect();
        caller.mark_batch(&marks).await.unwrap();
    }
}

/// 10,000 pages of 1,000 cursors. Bound: what waits to be sent, per stream and connection, and how many
/// calls of a reader are under way.
async fn pages(stage: Arc<Stage>) {
    fill(&stage, 1000).await;
    let page = page(ATTACKER, 1000);
    stage.attack(hold(&stage, &page, Duration::from_secs(3))).await;
}

/// 10,000 answers with 500 states each.
async fn unread_states(stage: Arc<Stage>) {
    let states = states(ATTACKER);
    stage.attack(hold(&stage, &states, Duration::from_secs(3))).await;
}

/// Ten connections on which nothing moves. Bound: `--send-timeout`, after which their streams are reset
/// or they are closed.
async fn streams_end(stage: Arc<Stage>) {
    fill(&stage, 100).await;
    let page = page(ATTACKER, 100);
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut one = Connection::open(stage.address(), 0, Reading::All).await.unwrap();
            one.begin(2, |stream| page.complete(stream)).await.unwrap();
            held.push(one);
        }
        sleep(CUT_WITHIN).await;
        let ended = held.iter().filter(|one| one.seen.is_cut() || one.seen.done() == 2).count();
        stage.check(ended == held.len(), format!("10 stalled connections are ended: {ended} were"));
    };
    stage.attack(attack).await;
}

/// Ten watchers that never widen their window, while events come. Bound: the watcher's queue and
/// `--send-timeout`.
async fn watches_end(stage: Arc<Stage>) {
    let watch = watch(ATTACKER, "");
    let attack = async {
        let mut held = Vec::new();
        for _ in 0..10 {
            let mut one = Connection::open(stage.address(), 0, Reading::All).await.unwrap();
            one.begin(1, |stream| watch.complete(stream)).await.unwrap();
            held.push(one);
        }
        let began = Instant::now();
        let caller = stage.server.caller(ATTACKER);
        for message in 1..900 {
            let _ = caller.mark(RECIPIENT, message).await;
        }
        sleep(CUT_WITHIN.saturating_sub(began.elapsed())).await;
        let ended = held.iter().filter(|one| one.seen.is_cut() || one.seen.done() == 1).count();
        stage.check(ended == held.len(), format!("10 stalled watches are ended: {ended} were"));
    };
    stage.attack(attack).await;
}

/// A client of HTTP/1.1 that sends request after request and reads nothing. Bound: `--send-timeout`,
/// and the server reads no more requests meanwhile. Its twin reads, slowly.
async fn pipelined(stage: Arc<Stage>) {
    const REQUEST: &[u8] = b"GET /nothing HTTP/1.1\r\nhost: markread\r\n\r\n";
    let requests = REQUEST.repeat(500);
    let connect = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        socket.connect(stage.address().parse().unwrap()).await.unwrap()
    };
    let attack = async {
        let (mut unread, mut twin) = (connect().await, connect().await);
        let (mut sent, mut read, mut closed) = (0, 0, false);
        let (mut answered, began) = (true, Instant::now());
        while began.elapsed() < Duration::from_secs(8) && !closed {
            match timeout(Duration::from_millis(300), unread.write_all(&requests)).await {
                Ok(Ok(())) => sent += requests.len(),
                Ok(Err(_)) => closed = true,
                // The server reads no more. A write to a closed connection fails.
                Err(_) => {}
            }
            let mut buffer = [0; 256];
            let asked = twin.write_all(REQUEST).await.is_ok();
            let one = timeout(Duration::from_secs(1), twin.read(&mut buffer)).await;
            let one = one.ok().and_then(Result::ok).unwrap_or(0);
            read += one;
            answered &= asked && one > 0;
        }
        stage.check(closed, format!("a client that does not read is closed: sent {sent} bytes"));
        stage.check(answered, format!("a client that reads slowly is not: read {read} bytes"));
    };
    stage.attack(attack).await;
}

/// One stream of a connection waits for its reader, who does not come; other calls go on there, as
/// behind a proxy. Bound: `--send-timeout` ends the stream and nobody else's call.
async fn among_others(stage: Arc<Stage>) {
    fill(&stage, 200).await;
    let (page, others) = (page(ATTACKER, 200), mark(Some(ATTACKER + 1), RECIPIENT, MESSAGE));
    let attack = async {
        // Enough for the answer to a mark, not for a page.
        let mut one = Connection::open(stage.address(), 512, Reading::All).await.unwrap();
        one.begin(1, |stream| page.complete(stream)).await.unwrap();
        let (mut begun, until) = (0, Instant::now() + CUT_WITHIN);
        while Instant::now() < until && !one.seen.is_cut() {
            if one.begin(1, |stream| others.complete(stream)).await.is_err() {
                break;
            }
            begun += 1;
            sleep(Duration::from_millis(20)).await;
        }
        sleep(Duration::from_millis(500)).await;
        let ended = one.seen.ended();
        stage.check(!one.seen.is_cut(), "the connection stays open for the others");
        stage.check(ended >= begun, format!("others' calls are answered: {ended} of {begun}"));
        let answered = one.seen.count(DATA);
        stage.check(answered > begun, "the page was begun, and the marks had a message");
    };
    stage.attack(attack).await;
}
