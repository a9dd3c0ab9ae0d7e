//! Answers that their client does not read.

use std::time::Duration;

use h2::{Reason, RecvStream};
use markread::proto::WatchMarkReadEventsRequest;
use markread_harness::caller::Credentials;
use markread_harness::raw;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::refused;
use crate::answers::tokens::{seconds_from_now, with_claims};

const LIMIT: Duration = Duration::from_secs(20);

const LIST: &str = "/markread.v1.MarkReadService/ListReadCursors";
const WATCH: &str = "/markread.v1.MarkReadService/WatchMarkReadEvents";

/// A connection whose streams have small windows.
struct Client {
    requests: h2::client::SendRequest<bytes::Bytes>,
    address: String,
}

impl Client {
    async fn connect(server: &Server, window_bytes: u32) -> Self {
        let stream = TcpStream::connect(&server.address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window_bytes).initial_connection_window_size(1 << 20);
        let (requests, connection) = builder.handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { requests, address: server.address.clone() }
    }

    async fn call(&self, path: &str, credentials: &Credentials, message: &[u8]) -> RecvStream {
        let (name, value) = match credentials {
            Credentials::Authorization(value) => ("authorization", value.clone()),
            Credentials::UserId(user) => ("x-user-id", user.to_string()),
            Credentials::Nothing => ("x-none", String::new()),
        };
        let request = http::Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header(name, value);
        let mut requests = self.requests.clone().ready().await.unwrap();
        let (answer, mut body) = requests.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(raw::frame(message).into(), true).unwrap();
        timeout(LIMIT, answer).await.unwrap().unwrap().into_body()
    }
}

/// Reads what there is without giving a window back, until the stream ends.
async fn end_of(mut stream: RecvStream) -> Result<usize, Option<Reason>> {
    let read = async {
        let mut read = 0;
        while let Some(data) = stream.data().await {
            read += data.map_err(|error| error.reason())?.len();
        }
        Ok(read)
    };
    timeout(LIMIT, read).await.expect("the stream ends in time")
}

#[tokio::test]
async fn one_stalled_stream_ends_no_other_of_its_connection() {
    let server = Server::dev(&["--send-timeout", "1s"]).await;
    let reader = Credentials::UserId(READER);
    for recipient in 1..=10 {
        server.caller(READER).mark(recipient, MESSAGE).await.unwrap();
    }
    let client = Client::connect(&server, 64).await;
    let stalled = client.call(LIST, &reader, &[]).await;
    // Others are served meanwhile.
    for message in 1..=5 {
        let mark = raw::request(RECIPIENT, message);
        assert!(end_of(client.call(raw::MARK_READ, &reader, &mark).await).await.is_ok());
    }
    assert_eq!(end_of(stalled).await, Err(Some(Reason::ENHANCE_YOUR_CALM)));
    assert!((refused(&server, "send_timeout").await - 1.0).abs() < 0.5);
    assert!(
        end_of(client.call(raw::MARK_READ, &reader, &raw::request(RECIPIENT, 6)).await)
            .await
            .is_ok()
    );
    // With a window for the whole answer nothing is ended.
    let whole = Client::connect(&server, 65_535).await.call(LIST, &reader, &[]).await;
    assert!(end_of(whole).await.unwrap() > 64);
    assert!((refused(&server, "send_timeout").await - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn a_client_that_takes_no_byte_is_closed() {
    // The kernel's buffers hold answers to tens of thousands of requests, each of which takes time.
    const LIMIT: Duration = Duration::from_secs(90);
    let server = Server::dev(&["--send-timeout", "1s"]).await;
    let head = "GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n";
    // More answers than the buffers of both kernels hold.
    let mut deaf = TcpStream::connect(&server.address).await.unwrap();
    let many = head.repeat(100);
    let mut count = 0;
    let ended = async {
        while refused(&server, "send_timeout").await < 0.5 {
            let write = deaf.write(many.as_bytes());
            // A write that waits may wait for a busy server.
            if let Ok(written) = timeout(Duration::from_millis(200), write).await {
                count += written.unwrap_or_default();
            }
        }
    };
    timeout(LIMIT, ended).await.expect("it is closed");
    // One that reads gets as many answers.
    let (mut read, mut write) = TcpStream::connect(&server.address).await.unwrap().into_split();
    let requests = count / head.len();
    let last = "GET /nothing HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let send = async {
        write.write_all(head.repeat(requests).as_bytes()).await.unwrap();
        write.write_all(last.as_bytes()).await.unwrap();
    };
    let mut answers = Vec::new();
    let receive = timeout(LIMIT, read.read_to_end(&mut answers));
    let ((), received) = tokio::join!(send, receive);
    received.unwrap().unwrap();
    assert_eq!(String::from_utf8(answers).unwrap().matches("HTTP/1.1 404").count(), requests + 1);
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_told_at_once_that_its_queue_is_full() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1000000"]).await;
    let reader = Credentials::token_of(READER);
    // The windows hold the first heartbeat, and not a dozen events.
    let slow = Client::connect(&server, 300).await;
    let slow = slow.call(WATCH, &reader, &[]).await;
    let wide = Client::connect(&server, 1 << 20).await;
    let wide = wide.call(WATCH, &reader, &[]).await;
    let caller = server.caller(READER);
    for message in 1..=2200 {
        caller.mark(RECIPIENT, message).await.unwrap();
    }
    // Long before `--send-timeout`.
    assert_eq!(end_of(slow).await, Err(Some(Reason::ENHANCE_YOUR_CALM)));
    assert!((refused(&server, "watch_queue").await - 1.0).abs() < 0.5);
    assert!(refused(&server, "send_timeout").await < 0.5);
    assert!(timeout(Duration::from_secs(1), end_of(wide)).await.is_err(), "the other goes on");
}

#[tokio::test]
async fn a_watch_ends_with_its_token_though_the_client_does_not_read() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    // Servers allow for clocks that differ by 30 s.
    let token = with_claims(serde_json::json!({ "exp": seconds_from_now(-27) }));
    let message = WatchMarkReadEventsRequest { after: String::new() }.encode_to_vec();
    let client = Client::connect(&server, 0).await;
    let short = client.call(WATCH, &token, &message).await;
    let long = client.call(WATCH, &Credentials::token_of(READER), &message).await;
    assert_eq!(end_of(short).await, Err(Some(Reason::CANCEL)));
    assert!(timeout(Duration::from_secs(1), end_of(long)).await.is_err(), "the other goes on");
}
