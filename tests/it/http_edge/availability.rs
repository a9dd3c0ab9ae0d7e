//! 503 and 500: Redis is down, the server drains, a key has a wrong type.

use std::time::{Duration, Instant};

use markread_harness::caller::Credentials;
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server, eventually};
use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::client::{BOTH, Http1, HttpRequest};
use super::{EXAMPLE, PATH, assert_done, assert_refused, examples, number, parameters};

const LIMIT: Duration = Duration::from_secs(15);

async fn assert_served_again(server: &Server) {
    eventually("marks are served again", LIMIT, async || {
        let answer = HttpRequest::form(EXAMPLE).over(BOTH[0], server).await;
        (answer.status == 204).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_down_is_503_with_130() {
    let mut redis = Redis::start().await;
    let server = Server::on(&redis).await;
    assert_done(&HttpRequest::form(parameters(RECIPIENT, 1)).over(BOTH[0], &server).await);
    redis.kill().await;
    for version in BOTH {
        for request in examples() {
            let answer = request.over(version, &server).await;
            assert_refused(&answer, 503, &[130]);
            assert!((1..=2).contains(&number(&answer.head, "retry-after")), "{answer:?}");
        }
    }
    redis.restart().await;
    assert_served_again(&server).await;
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    assert_eq!(redis.payloads().await.len(), 1, "a refused call leaves no event");
}

#[tokio::test]
async fn a_hanging_redis_is_503_at_the_call_timeout() {
    let redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--call-timeout", "1s"]).await;
    assert_done(&HttpRequest::form(parameters(RECIPIENT, 1)).over(BOTH[0], &server).await);
    redis.freeze();
    let timed = async |request: HttpRequest, version| {
        let began = Instant::now();
        (request.over(version, &server).await, began.elapsed())
    };
    let [form, query] = examples();
    let [http1, http2] = BOTH;
    let (first, second, third) = tokio::join!(
        timed(form.clone(), http1),
        timed(form.header("grpc-timeout", "30S"), http2),
        timed(query, http1),
    );
    for (answer, took) in [first, second, third] {
        assert_refused(&answer, 503, &[130]);
        assert!((1..=2).contains(&number(&answer.head, "retry-after")), "{answer:?}");
        assert!((Duration::from_millis(900)..Duration::from_secs(5)).contains(&took), "{took:?}");
    }
    redis.thaw();
    assert_served_again(&server).await;
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_503_with_130() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    redis.run::<()>("CONFIG SET maxmemory 1").await;
    let before = redis.contents().await;
    for version in BOTH {
        assert_refused(&HttpRequest::form(EXAMPLE).over(version, &server).await, 503, &[130]);
    }
    assert_eq!(redis.contents().await, before);
}

#[tokio::test]
async fn a_key_of_a_wrong_type_is_500_with_131() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (reader, key) in [
        (1, "SET markread:cursors:1 text"),
        (2, "RPUSH markread:quota:2 1"),
        (3, "SET markread:quota:3 text"),
        (4, "HSET markread:cursors:4 3805104374 text -3805104374 1"),
    ] {
        redis.run::<()>(key).await;
        let before = redis.contents().await;
        for version in BOTH {
            let answer = HttpRequest::form(EXAMPLE).of(reader).over(version, &server).await;
            assert_refused(&answer, 500, &[131]);
        }
        assert_eq!(redis.contents().await, before, "{key}: nothing was changed");
    }
    assert_done(&HttpRequest::form(EXAMPLE).over(BOTH[0], &server).await);
}

/// A request whose head begins before the drain and ends in it. Draining comes before every other
/// check: other faults of the request do not matter.
#[tokio::test]
async fn a_request_during_the_drain_is_503_with_130() {
    let redis = Redis::start().await;
    let flags = ["--drain-delay", "0s", "--drain", "30s", "--call-timeout", "30s"];
    let edge = ["--handshake-timeout", "30s", "--edge-rate", "1", "--edge-burst", "1"];
    let mut server = Server::on_with(&redis, &[&flags[..], &edge].concat()).await;
    let valid = HttpRequest::form(EXAMPLE);
    let mut late = Vec::new();
    for request in [
        valid.clone(),
        valid.clone().by(&Credentials::Nothing),
        valid.clone().target("/unknown"),
        valid.clone().header("content-type", "text/plain"),
        valid.body("recipient_id=x"),
        HttpRequest::post(PATH).method("GET"),
        HttpRequest::query(EXAMPLE),
    ] {
        let mut connection = Http1::to(&server).await;
        let sent = request.bytes();
        let (start, rest) = sent.split_at(sent.len() / 3);
        connection.write(start).await;
        late.push((connection, rest.to_vec()));
    }
    // From outside nothing shows that the server has read the beginning.
    tokio::time::sleep(Duration::from_secs(1)).await;
    server.signal(Signal::SIGTERM);
    eventually("the drain begins", LIMIT, async || {
        TcpStream::connect(&server.address).await.is_err().then_some(())
    })
    .await;
    for (connection, rest) in &mut late {
        connection.write(rest).await;
        let answer = connection.answer().await.expect("an answer");
        assert_refused(&answer, 503, &[130]);
        assert!(number(&answer.head, "retry-after") >= 1);
        assert!(connection.is_closed().await, "the connection takes no more requests");
    }
    assert_eq!(redis.used(READER).await, None, "a refused call takes no quota");
    assert!(server.exit(LIMIT).await.success());
}

#[tokio::test]
async fn a_request_in_flight_is_finished_in_the_drain() {
    let redis = Redis::start().await;
    let flags = ["--drain-delay", "0s", "--drain", "30s", "--call-timeout", "30s"];
    let mut server = Server::on_with(&redis, &flags).await;
    let sent = HttpRequest::form(EXAMPLE).header("expect", "100-continue").bytes();
    let (head, body) = sent.split_at(sent.len() - EXAMPLE.len());
    let mut connection = Http1::to(&server).await;
    connection.write(head).await;
    assert_eq!(connection.answer().await.unwrap().status, 100, "it is in flight");
    server.signal(Signal::SIGTERM);
    eventually("the drain begins", LIMIT, async || {
        TcpStream::connect(&server.address).await.is_err().then_some(())
    })
    .await;
    connection.write(body).await;
    assert_done(&connection.answer().await.expect("an answer"));
    assert_eq!(redis.cursors(READER).await, [(RECIPIENT, MESSAGE)].into());
    assert!(server.exit(LIMIT).await.success());
}
