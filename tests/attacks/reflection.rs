//! Reflection, which needs no credentials.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use markread_harness::raw::frame;
use prost::Message;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

use crate::calls::REFLECTION;
use crate::case::{Case, case};
use crate::http2::{self, Call, Connection, Reading, connect};
use crate::stage::Stage;

/// Most streams of a connection, and of all connections.
const STREAMS_OF_CONNECTION: usize = 8;
const STREAMS: usize = 512;

const HELD: Duration = Duration::from_secs(2);

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case!("reflection: 10,000 requests on a stream", long_streams).memory_mib(64),
        case!("reflection: unread answers", many_streams).memory_mib(64),
        case!("reflection: streams of a connection", streams_of_a_connection),
        case!("reflection: streams of all", streams_of_all),
    ]
}

/// Requests for the largest file, one after the other.
fn requests(count: usize) -> Vec<u8> {
    let symbol = MessageRequest::FileContainingSymbol("markread.v1.MarkReadService".to_owned());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    frame(&request.encode_to_vec()).repeat(count)
}

/// 64 streams ask 10,000 times each for a file and never read an answer. Bound: what a stream may have
/// unread, after which its requests are not read either.
async fn long_streams(stage: Arc<Stage>) {
    let requests = Bytes::from(requests(10_000));
    let attack = async {
        let mut connections = JoinSet::new();
        for _ in 0..8 {
            let address = stage.address().to_owned();
            connections.spawn(ask_without_reading(address, requests.clone()));
        }
        sleep(Duration::from_secs(3)).await;
    };
    stage.attack(attack).await;
}

/// 10,000 streams ask a hundred times each and take one byte. Bound: how many streams there are.
async fn many_streams(stage: Arc<Stage>) {
    // Less than a connection's window, all together.
    let call = Call::new(REFLECTION, None, &requests(100));
    let attack = async {
        let begun = |stream| call.begun(stream);
        let _held = http2::hold(stage.address(), [40, 250], 1, begun).await;
        sleep(Duration::from_secs(6)).await;
    };
    stage.attack(attack).await;
}

async fn ask_without_reading(address: String, requests: Bytes) -> Option<()> {
    let mut http = h2::client::Builder::new();
    let tcp = connect(&address).await.ok()?;
    let (client, connection) = http.initial_window_size(1).handshake(tcp).await.ok()?;
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut held = Vec::new();
    for _ in 0..STREAMS_OF_CONNECTION {
        let request = http::Request::post(format!("http://{address}{REFLECTION}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let mut client = client.clone().ready().await.ok()?;
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).ok()?;
        body.send_data(requests.clone(), false).ok()?;
        held.push((answer, body));
    }
    let _ = driven.join_next().await;
    Some(())
}

/// Opens streams that ask for nothing.
async fn silent_streams(stage: &Stage, count: usize) -> Option<Connection> {
    let call = Call::new(REFLECTION, None, &[]);
    let mut one =
        Connection::open(stage.address(), u32::from(u16::MAX), Reading::All).await.ok()?;
    one.begin(count, |stream| call.head(stream)).await.ok()?;
    Some(one)
}

/// One connection opens 200 streams. Bound: 8 of a connection. Its twin opens 8, which stay.
async fn streams_of_a_connection(stage: Arc<Stage>) {
    const OPENED: usize = 200;
    let attack = async {
        let all = silent_streams(&stage, OPENED).await.expect("it connects");
        let twin = silent_streams(&stage, STREAMS_OF_CONNECTION).await.expect("it connects");
        sleep(HELD).await;
        let open = OPENED - all.seen.done().min(OPENED);
        let ended = all.seen.is_cut() || open <= STREAMS_OF_CONNECTION;
        stage.check(ended, format!("of {OPENED} streams 8 stay: {open} did"));
        let (ended, cut) = (twin.seen.done(), twin.seen.is_cut());
        stage.check(ended == 0 && !cut, format!("of 8 streams all stay, {ended} were ended"));
    };
    stage.attack(attack).await;
}

/// A hundred connections open 7 streams each. Bound: 512 of all connections.
async fn streams_of_all(stage: Arc<Stage>) {
    const CONNECTIONS: usize = 100;
    const OPENED: usize = CONNECTIONS * 7;
    let attack = async {
        let mut all = Vec::new();
        for _ in 0..CONNECTIONS {
            all.extend(silent_streams(&stage, OPENED / CONNECTIONS).await);
        }
        sleep(HELD).await;
        let ended: usize = all.iter().map(|one| one.seen.done()).sum();
        let open = OPENED - ended;
        stage.check(open <= STREAMS, format!("of {OPENED} streams {STREAMS} stay: {open} did"));
        stage.check(open >= STREAMS - 8, format!("no fewer than {STREAMS} stay, got {open}"));
    };
    stage.attack(attack).await;
}
