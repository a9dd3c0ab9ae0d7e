//! Bytes by chance, the same for the same seed: frames of HTTP/2, requests of HTTP/1.1.
//!
//! `MARKREAD_FUZZ_SEED` sets the seed, which each run prints.

use std::env::var;
use std::sync::Arc;
use std::time::{Duration, Instant};

use markread_harness::raw::MARK_READ;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::calls::{ATTACKER, token};
use crate::case::{Case, case};
use crate::http2::{Call, Connection, DATA, END_HEADERS, HEADERS, Reading, connect, frame};
use crate::stage::{Stage, until};

const CONNECTIONS: u64 = 20;
const LASTS: Duration = Duration::from_secs(6);

/// Most frames, or requests, of a connection.
const FRAMES_MAX: usize = 200;

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("random: frames of HTTP/2", frames).memory_mib(96),
        case!("random: requests of HTTP/1.1", |stage| requests(stage, Port::Calls)).memory_mib(96),
        case!("random: requests of operators", |stage| requests(stage, Port::Operators))
            .memory_mib(96),
    ]
}

/// The seed, which is printed.
fn seed(stage: &Stage) -> u64 {
    let seed = var("MARKREAD_FUZZ_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(rand::random);
    stage.check(true, format!("the seed: MARKREAD_FUZZ_SEED={seed}"));
    seed
}

/// The generator of the nth connection in a place: it depends on nothing else.
fn generator(seed: u64, place: u64, nth: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ (place << 32) ^ nth)
}

/// Connections that begin well, and go on with frames that are valid, nearly, or not at all. Bound: h2 ends a
/// connection at the first error, and the budget of control frames the others.
async fn frames(stage: Arc<Stage>) {
    let seed = seed(&stage);
    let attack = async {
        let (mut all, until) = (JoinSet::new(), until(LASTS));
        for place in 0..CONNECTIONS {
            let address = stage.address().to_owned();
            all.spawn(async move {
                let mut sent = 0;
                for nth in 0.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let mut random = generator(seed, place, nth);
                    let opened = Connection::open(&address, 65_535, Reading::All).await;
                    let Ok(one) = opened else { break };
                    sent += send_frames(&one, &mut random, until).await;
                }
                sent
            });
        }
        let sent: usize = all.join_all().await.into_iter().sum();
        stage.check(sent > 500, format!("frames are sent: {sent} were"));
    };
    stage.attack(attack).await;
}

async fn send_frames(one: &Connection, random: &mut StdRng, until: Instant) -> usize {
    let mut stream = 1;
    for nth in 0..random.random_range(1..FRAMES_MAX) {
        if one.seen.is_cut() || Instant::now() >= until {
            return nth;
        }
        if one.send(&some_frame(random, &mut stream)).await.is_err() {
            return nth;
        }
        if nth % 16 == 0 {
            // What the server says is read, so that a connection that has ended is left.
            sleep(Duration::from_millis(2)).await;
        }
    }
    let _ = one.is_cut_soon().await;
    FRAMES_MAX
}

/// A frame: most often one that belongs here, at times with a bit or a length that does not.
fn some_frame(random: &mut StdRng, stream: &mut u32) -> Vec<u8> {
    let call = Call::new(MARK_READ, Some(&token(ATTACKER)), &[0, 0, 0, 0, 4, 8, 1, 16, 2]);
    let earlier = random.random_range(0..=*stream);
    let mut sent = match random.random_range(0..12) {
        0..4 => {
            *stream += 2;
            call.complete(*stream)
        }
        4 => call.head(random.random_range(0..=*stream + 2)),
        5 => frame(DATA, random.random_range(0..2), earlier, &bytes(random, 64)),
        6 => {
            // HPACK by chance.
            *stream += 2;
            frame(HEADERS, END_HEADERS | random.random_range(0..2), *stream, &bytes(random, 100))
        }
        7 => {
            // SETTINGS that are known, with any value.
            let setting = [0, random.random_range(1..9)];
            let value: u32 = random.random::<u32>() >> random.random_range(0..32);
            frame(4, 0, 0, &[&setting[..], &value.to_be_bytes()].concat())
        }
        8 => frame(8, 0, earlier, &random.random::<u32>().to_be_bytes()),
        9 => frame(3, 0, earlier, &[0, 0, 0, random.random_range(0..14)]),
        10 => frame(random.random_range(0..12), random.random(), earlier, &bytes(random, 40)),
        _ => [frame(6, 0, 0, &[7; 8]), frame(9, 4, earlier, &bytes(random, 40))].concat(),
    };
    if random.random_bool(0.1) {
        let at = random.random_range(0..sent.len());
        sent[at] ^= 1 << random.random_range(0..8);
    }
    sent
}

fn bytes(random: &mut StdRng, most: usize) -> Vec<u8> {
    let count = random.random_range(0..most);
    (0..count).map(|_| random.random()).collect()
}

/// The ports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Calls,
    Operators,
}

/// Requests of which a few bytes are others. Bound: hyper's parser, `--handshake-timeout`, the largest body.
async fn requests(stage: Arc<Stage>, port: Port) {
    let seed = seed(&stage);
    let (address, templates) = match port {
        Port::Calls => (stage.address().to_owned(), requests_of_calls()),
        Port::Operators => (stage.server.ops.clone(), requests_of_operators()),
    };
    let templates = Arc::new(templates);
    let attack = async {
        let (mut all, until) = (JoinSet::new(), until(LASTS));
        for place in 0..CONNECTIONS {
            let (address, templates) = (address.clone(), Arc::clone(&templates));
            all.spawn(async move {
                let mut answered = 0;
                for nth in 0.. {
                    if Instant::now() >= until {
                        break;
                    }
                    let mut random = generator(seed, place, nth);
                    answered += usize::from(is_answered(&address, &templates, &mut random).await);
                }
                answered
            });
        }
        let answered: usize = all.join_all().await.into_iter().sum();
        stage.check(answered > 20, format!("some are answered: {answered} were"));
        if port == Port::Operators {
            let (status, _) = stage.server.get("/livez").await;
            stage.check(status == 200, "the operators' port answers after it");
        }
    };
    stage.attack(attack).await;
}

/// Sends requests on one connection, and returns whether there was an answer.
async fn is_answered(address: &str, templates: &[String], random: &mut StdRng) -> bool {
    let Ok(Ok(mut stream)) = timeout(Duration::from_secs(1), connect(address)).await else {
        return false;
    };
    let mut request = Vec::new();
    for _ in 0..random.random_range(1..4) {
        request.extend_from_slice(templates.choose(random).unwrap().as_bytes());
    }
    for _ in 0..random.random_range(0..6) {
        change(&mut request, random);
    }
    if stream.write_all(&request).await.is_err() {
        return false;
    }
    let mut buffer = [0; 4096];
    let read = timeout(Duration::from_millis(100), stream.read(&mut buffer)).await;
    matches!(read, Ok(Ok(count)) if count > 0)
}

fn change(request: &mut Vec<u8>, random: &mut StdRng) {
    const WORDS: [&str; 8] = [
        "\r\n",
        "\n",
        "content-length: 5\r\n",
        "transfer-encoding: chunked\r\n",
        "%00",
        "18446744073709551616",
        "\r\n\r\n",
        "\u{ff}",
    ];
    let at = random.random_range(0..=request.len());
    let end = random.random_range(at..=request.len().min(at + 16));
    match random.random_range(0..4) {
        0 => drop(request.drain(at..end)),
        1 => request.insert(at, random.random()),
        2 => drop(request.splice(at..at, WORDS.choose(random).unwrap().bytes())),
        _ => drop(request.splice(at..at, request[at..end].to_vec())),
    }
}

fn requests_of_calls() -> Vec<String> {
    let head = "POST /1.1/direct_messages/mark_read.json HTTP/1.1\r\nhost: markread\r\n";
    let form = "content-type: application/x-www-form-urlencoded\r\n";
    let authorization = format!("authorization: {}\r\n", token(ATTACKER));
    let body = "last_read_event_id=5&recipient_id=7";
    let oauth = r#"authorization: OAuth oauth_consumer_key="a", oauth_nonce="b""#;
    vec![
        format!("{head}{form}{authorization}content-length: {}\r\n\r\n{body}", body.len()),
        format!(
            "{head}{form}{authorization}transfer-encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n"
        ),
        format!("{head}{form}{oauth}\r\ncontent-length: 0\r\n\r\n"),
        format!("{head}expect: 100-continue\r\n{form}content-length: 3\r\n\r\na=b"),
        format!(
            "GET {MARK_READ} HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
        ),
    ]
}

fn requests_of_operators() -> Vec<String> {
    ["/livez", "/readyz", "/metrics", "/startupz", "/", "*"]
        .map(|path| format!("GET {path} HTTP/1.1\r\nhost: ops\r\n\r\n"))
        .into()
}
