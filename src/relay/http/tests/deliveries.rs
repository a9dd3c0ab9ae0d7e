use tokio::time::sleep;

use super::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nOK";

#[tokio::test]
async fn a_delivery_is_a_signed_post() {
    let server = TestServer::answering(OK).await;
    let receiver = receiver(&format!("http://{}/hook?a=b", server.address));
    for _ in 0..2 {
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    }
    let requests = server.requests.lock().unwrap().clone();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let secrets = Secrets::new(SECRET, None, &[]);
    for TestRequest { line, headers, body } in &requests {
        assert_eq!(line, "POST /hook?a=b HTTP/1.1");
        assert_eq!(body[..], delivery().body[..]);
        let get = |name: &str| headers[name].as_str();
        assert_eq!(get("host"), server.address.to_string());
        assert_eq!(get("content-type"), "application/json");
        assert_eq!(get("content-length"), body.len().to_string());
        assert_eq!(get("user-agent"), concat!("markread/", env!("CARGO_PKG_VERSION")));
        assert_eq!(get("x-twitter-webhooks-signature"), secrets.twitter(body));
        assert_eq!(get("webhook-id"), "3-1518127183443-7-42");
        let at: u64 = get("webhook-timestamp").parse().unwrap();
        assert!(now - at <= 2, "{at}");
        assert_eq!(get("webhook-signature"), secrets.standard(get("webhook-id"), at, body));
        assert_eq!(headers.len(), 8, "{headers:?}");
    }
    assert_eq!(requests.len(), 2);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "a connection is used again");
}

#[tokio::test]
async fn only_2xx_is_success() {
    use FailureKind::{Status, Throttled};
    let attempt_at = async |head: &str| {
        let server = TestServer::answering(format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n"));
        server.await.receiver().deliver(&delivery()).await
    };
    for status in [200, 201, 202, 204, 299] {
        assert_eq!(attempt_at(&format!("{status} x")).await, Attempt::Delivered(status));
    }
    assert_eq!(attempt_at("410 Gone").await, Attempt::Gone);
    for (status, kind) in [
        (300, Status),
        (304, Status),
        (400, Status),
        (401, Status),
        (404, Status),
        (429, Throttled),
        (500, Status),
        (502, Throttled),
        (503, Status),
        (504, Throttled),
        (599, Status),
        (999, Status),
    ] {
        let failure = failed(attempt_at(&format!("{status} x\r\nretry-after: 7")).await);
        let expected = (kind, Some(status), Some(Duration::from_secs(7)));
        assert_eq!((failure.kind, failure.status, failure.retry_after), expected, "{status}");
        assert!(failure.detail.contains(&status.to_string()), "{failure:?}");
    }
    assert_eq!(failed(attempt_at("500 x").await).retry_after, None);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let server = TestServer::answering_with(move |request| {
            let to = format!("http://{}/hook", request.headers["host"]);
            format!("HTTP/1.1 {status} x\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n").into()
        })
        .await;
        let (kind, detail) = failure_at(&server.receiver()).await;
        assert_eq!(kind, FailureKind::Status);
        assert_eq!(detail, format!("answered {status}: redirects are not followed"));
        assert_eq!(server.requests.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_response_that_is_too_large_or_not_http_is_a_failure() {
    use FailureKind::{Connection, Response};
    let header = format!("x: {}\r\n", "y".repeat(1000));
    let large_head = format!("HTTP/1.1 200 OK\r\n{}\r\n", header.repeat(40));
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: y\r\n".repeat(101));
    let large_body = format!("HTTP/1.1 200 OK\r\n\r\n{}", "z".repeat(65 * 1024));
    for (answer, kind) in [
        ("SSH-2.0-OpenSSH_9.2\r\n", Response),
        ("hush hush\r\n\r\n", Response),
        ("HTTP/2 200 OK\r\n\r\n", Response),
        ("HTTP/1.1 2000 OK\r\n\r\n", Response),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", Response),
        ("HTTP/1.1 200 OK\r\ncontent-length: 65537\r\n\r\nhush", Response),
        (&large_head, Response),
        (&many_headers, Response),
        (&large_body, Response),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nhush\r\n", Response),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhush", Connection),
        ("HTTP/1.1 200", Connection),
        ("", Connection),
    ] {
        let answered = answer.to_owned();
        let server = TestServer::new(move |mut stream| {
            let answer = answered.clone();
            async move {
                read_request(&mut stream).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                // What it is still sent is no reset.
                while stream.read_u8().await.is_ok() {}
            }
        })
        .await;
        let (found, detail) = failure_at(&server.receiver()).await;
        let start = &answer[..answer.len().min(60)];
        assert_eq!(found, kind, "{start:?}: {detail}");
        assert!(!detail.contains("hush"), "{detail}");
    }
}

/// Starts a server that answers with a head, then sends a part again and again.
async fn endless(head: &'static str, part: &'static str, pause: Duration) -> TestServer {
    TestServer::new(move |mut stream| async move {
        read_request(&mut stream).await;
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(part.as_bytes()).await.is_ok() {
            sleep(pause).await;
        }
    })
    .await
}

#[tokio::test]
async fn an_endless_response_is_a_failure() {
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    for (head, part) in [
        ("HTTP/1.1 200 OK\r\n\r\n", "0123456789"),
        (chunked, "4\r\n0123\r\n"),
        ("HTTP/1.1 200 OK\r\n", "x: y\r\n"),
        ("HTTP/1.1 200 OK\r\nx: ", "yyyyyyyyyy"),
        (chunked, "0;"),
    ] {
        let server = endless(head, part.repeat(1000).leak(), Duration::ZERO).await;
        let began = Instant::now();
        let (kind, detail) = failure_at(&server.receiver()).await;
        assert_eq!(kind, FailureKind::Response, "{head:?} {part:?}: {detail}");
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn interim_responses_without_an_end_are_a_failure_at_once() {
    let part = "HTTP/1.1 100 Continue\r\n\r\n";
    let server = endless("", part.repeat(1000).leak(), Duration::ZERO).await;
    let receiver = server.receiver();
    let began = Instant::now();
    let (kind, detail) = failure_at(&receiver).await;
    assert_eq!((kind, &*detail), (FailureKind::Response, "the response has more than 256 KiB"));
    let check = receiver.check().await;
    assert!(matches!(&check, Check::Failed(found) if found.contains("256 KiB")), "{check:?}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_connection_carries_any_number_of_large_responses() {
    let body = "z".repeat(60 * 1024);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(100);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let server = TestServer::answering(format!("{interim}{head}{body}")).await;
    let receiver = server.receiver();
    for _ in 0..10 {
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_response_that_is_not_complete_in_10_s_is_a_failure() {
    let second = Duration::from_secs(1);
    for (head, part, status) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "x", Some(200)),
        ("HTTP/1.1 200 OK\r\nx:", "x", None),
        ("HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", None),
        ("", "", None),
    ] {
        let server = endless(head, part, second).await;
        let began = Instant::now();
        let failure = failed(server.receiver().deliver(&delivery()).await);
        assert_eq!((failure.kind, failure.status), (FailureKind::Timeout, status), "{head:?}");
        assert_eq!(began.elapsed().as_secs(), 10, "{head:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_status_of_a_response_without_an_end_counts() {
    for (status, kind) in [(500, FailureKind::Status), (429, FailureKind::Throttled)] {
        let head = format!("HTTP/1.1 {status} x\r\ncontent-length: 100\r\n\r\n").leak();
        let server = endless(head, "x", Duration::from_secs(1)).await;
        assert_eq!(failure_at(&server.receiver()).await.0, kind);
    }
    let head = "HTTP/1.1 410 Gone\r\ncontent-length: 100\r\n\r\n";
    let server = endless(head, "x", Duration::from_secs(1)).await;
    assert_eq!(server.receiver().deliver(&delivery()).await, Attempt::Gone);
}

#[tokio::test]
async fn nothing_listens_is_a_failure() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let (kind, detail) = failure_at(&receiver(&url)).await;
    assert_eq!(kind, FailureKind::Connection);
    assert!(detail.contains("could not connect"), "{detail}");
    let (kind, detail) = failure_at(&receiver("http://no-such-host.invalid/")).await;
    assert_eq!(kind, FailureKind::Connection);
    assert!(detail.contains("was not found"), "{detail}");
}

#[tokio::test]
async fn a_name_with_an_inner_address_is_refused_in_the_connector() {
    let server = TestServer::answering(OK).await;
    let port = server.address.port();
    for host in ["localhost", "LOCALHOST", "127.0.0.1", "2130706433", "[::ffff:7f00:1]"] {
        let receiver = receiver(&format!("http://{host}:{port}/"));
        let connector = connector(&receiver, false);
        let receiver = with_connector(receiver, connector);
        let (kind, detail) = failure_at(&receiver).await;
        assert_eq!(kind, FailureKind::Address, "{host}: {detail}");
        assert!(detail.contains("loopback"), "{host}: {detail}");
        let check = receiver.check().await;
        assert!(matches!(check, Check::RefusedHere(_)), "{host}: {check:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

/// An address at which nobody answers: a listener whose queue is full drops the first packet of a connection.
struct DeadAddress {
    address: SocketAddr,
    _sockets: Vec<socket2::Socket>,
}

impl DeadAddress {
    fn new() -> Self {
        use socket2::{Domain, Socket, Type};
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut sockets = vec![listener];
        for _ in 0..4 {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let _ = socket.connect(&address.into());
            sockets.push(socket);
        }
        Self { address, _sockets: sockets }
    }
}

#[tokio::test]
async fn a_dead_address_of_a_name_does_not_keep_the_others_from_being_used() {
    let dead = DeadAddress::new();
    let connecting = TcpStream::connect(dead.address);
    assert!(tokio::time::timeout(Duration::from_millis(400), connecting).await.is_err());
    let server = TestServer::answering_with(|request| {
        let Some((_, token)) = request.line.split_once("crc_token=") else { return OK.into() };
        let token = token.split(' ').next().unwrap().as_bytes();
        let body = format!(r#"{{"response_token":"{}"}}"#, secrets().twitter(token));
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
    })
    .await;
    for (addresses, most) in [
        (vec![dead.address, server.address], 1000),
        (vec![dead.address, dead.address, server.address], 1250),
        // One that refuses is passed at once.
        (vec!["127.0.0.1:1".parse().unwrap(), server.address], 200),
    ] {
        let receiver = receiver("http://receiver.invalid/hook");
        let connector = connector(&receiver, true);
        connector.resolve_to(addresses.clone());
        let receiver = with_connector(receiver, connector);
        let began = Instant::now();
        assert_eq!(receiver.check().await, Check::Passed, "{addresses:?}");
        assert!(began.elapsed() < Duration::from_millis(most), "{:?}", began.elapsed());
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    }
}

#[tokio::test]
async fn each_address_of_a_name_is_checked_before_one_is_connected_to() {
    let server = TestServer::answering(OK).await;
    let receiver = receiver("http://receiver.invalid/hook");
    let connector = connector(&receiver, false);
    connector.resolve_to(vec!["1.1.1.1:80".parse().unwrap(), server.address]);
    let receiver = with_connector(receiver, connector);
    assert_eq!(failure_at(&receiver).await.0, FailureKind::Address);
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn no_address_that_answers_is_a_timeout() {
    let receiver = receiver("http://receiver.invalid/hook");
    let connector = connector(&receiver, true);
    let dead = DeadAddress::new();
    connector.resolve_to(vec![dead.address; 3]);
    let receiver = with_connector(receiver, connector);
    let began = Instant::now();
    assert_eq!(failure_at(&receiver).await.0, FailureKind::Timeout);
    assert_eq!(began.elapsed().as_secs(), 10);
}
