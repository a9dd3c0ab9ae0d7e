//! Connections that are used again, and those that are not.

use markread_harness::certificates::Authority;
use tokio::time::{sleep, timeout};

use super::tls::acceptor;
use super::*;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK";

#[tokio::test]
async fn a_connection_whose_response_was_not_read_is_closed() {
    let server = TestServer::answering("HTTP/1.1 500 x\r\ncontent-length: 70000\r\n\r\nx").await;
    let receiver = server.receiver();
    for attempts in 1..=3 {
        assert_eq!(failure_at(&receiver).await.0, FailureKind::Status);
        assert_eq!(server.connections.load(Ordering::SeqCst), attempts);
    }
    let server = TestServer::answering("HTTP/1.1 500 x\r\ncontent-length: 1\r\n\r\nx").await;
    let receiver = server.receiver();
    for _ in 1..=3 {
        assert_eq!(failure_at(&receiver).await.0, FailureKind::Status);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

/// A server that closes each connection after a response, so long later, without a word before.
async fn closing(pause: Duration) -> (TestServer, Arc<AtomicUsize>) {
    let bodies = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&bodies);
    let server = TestServer::new(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            if read_request(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                stream.write_all(OK).await.unwrap();
                sleep(pause).await;
            }
        }
    })
    .await;
    (server, bodies)
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_failed_attempt() {
    let (server, bodies) = closing(Duration::from_millis(5)).await;
    let receiver = server.receiver();
    for _ in 0..20 {
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
        sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(bodies.load(Ordering::SeqCst), 20, "each is sent once");
    assert_eq!(server.connections.load(Ordering::SeqCst), 20);
}

#[tokio::test]
async fn a_close_that_the_runtime_has_not_seen_is_no_failed_attempt() {
    for answer in ["", "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = receiver(&format!("http://{}/", listener.local_addr().unwrap()));
        for _ in 0..10 {
            let serve = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                read_request(&mut stream).await.unwrap();
                stream.write_all(OK).await.unwrap();
                stream
            };
            let delivery = delivery();
            let both = async { tokio::join!(serve, receiver.deliver(&delivery)) };
            // Without a new connection the server waits.
            let (stream, attempt) = timeout(Duration::from_secs(10), both).await.unwrap();
            assert_eq!(attempt, Attempt::Delivered(200));
            sleep(Duration::from_millis(1)).await;
            // From here on the runtime does not look at its sockets until the request is written.
            std::thread::sleep(Duration::from_millis(10));
            let stream = stream.into_std().unwrap();
            std::io::Write::write_all(&mut &stream, answer.as_bytes()).unwrap();
            drop(stream);
        }
    }
}

#[tokio::test]
async fn the_same_over_tls() {
    let ca = Authority::new().await;
    let ca_pem = std::fs::read(ca.file()).unwrap();
    let acceptor = acceptor(&ca.issue("server", "DNS:localhost").await, None);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let ca = Some(&ca_pem[..]);
    let receiver = of_settings(HttpSettings { url: &url, ca, ..HttpSettings::default() });
    for _ in 0..5 {
        let serve = async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_request(&mut stream).await.unwrap();
            stream.write_all(OK).await.unwrap();
            stream
        };
        let delivery = delivery();
        let both = async { tokio::join!(serve, receiver.deliver(&delivery)) };
        // Without a new connection the server waits.
        let (stream, attempt) = timeout(Duration::from_secs(10), both).await.unwrap();
        assert_eq!(attempt, Attempt::Delivered(200));
        sleep(Duration::from_millis(1)).await;
        std::thread::sleep(Duration::from_millis(10));
        let (stream, mut session) = stream.into_inner();
        session.send_close_notify();
        session.write_tls(&mut stream.into_std().unwrap()).unwrap();
    }
}

#[tokio::test]
async fn a_request_that_was_sent_is_not_sent_again_in_the_same_attempt() {
    let requests = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&requests);
    // It answers the first request on a connection, and reads the second one without an answer.
    let server = TestServer::new(move |mut stream| {
        let count = Arc::clone(&count);
        async move {
            for answer in [OK, b""] {
                if read_request(&mut stream).await.is_some() {
                    count.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
    .await;
    let receiver = server.receiver();
    for sent in [1, 3, 5] {
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
        assert_eq!(requests.load(Ordering::SeqCst), sent);
        assert_eq!(failure_at(&receiver).await.0, FailureKind::Connection);
        assert_eq!(requests.load(Ordering::SeqCst), sent + 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_connections_close_each_delivery_that_arrives_is_sent_once() {
    let (server, bodies) = closing(Duration::ZERO).await;
    let receiver = server.receiver();
    let mut delivered = 0;
    for _ in 0..200 {
        match receiver.deliver(&delivery()).await {
            Attempt::Delivered(200) => delivered += 1,
            // The receiver closed while the request was on its way: what became of it is unknown.
            attempt => assert_eq!(failed(attempt).kind, FailureKind::Connection),
        }
    }
    assert_eq!(bodies.load(Ordering::SeqCst), delivered);
    assert!(delivered >= 100, "{delivered}");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let server = TestServer::answering(OK).await;
    let receiver = server.receiver();
    let attempts = (0..8).map(|_| async { receiver.deliver(&delivery()).await });
    futures_util::future::join_all(attempts).await;
    let opened = server.connections.load(Ordering::SeqCst);
    assert!(opened > 1, "{opened}");
    sleep(IDLE_TIMEOUT + Duration::from_secs(1)).await;
    assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    assert_eq!(server.connections.load(Ordering::SeqCst), opened + 1);
}
