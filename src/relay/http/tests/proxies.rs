use std::fs::read;

use markread_harness::certificates::Authority;
use tokio::io::copy_bidirectional;

use super::tls::tls_server;
use super::*;

/// Starts a proxy that opens a tunnel to `target`, whatever host it is asked for. It returns the requests
/// that it was sent.
async fn tunneling(target: SocketAddr) -> TestServer {
    let requests: Arc<Mutex<Vec<TestRequest>>> = Arc::default();
    let seen = Arc::clone(&requests);
    let proxy = TestServer::new(move |mut stream| {
        let seen = Arc::clone(&seen);
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            seen.lock().unwrap().push(request);
            let mut target = TcpStream::connect(target).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.unwrap();
            let _ = copy_bidirectional(&mut stream, &mut target).await;
        }
    })
    .await;
    TestServer { requests, ..proxy }
}

/// Returns the receiver at a URL that is reached through a proxy.
fn through(url: &str, proxy: &str, ca: Option<&[u8]>) -> HttpReceiver {
    of_settings(HttpSettings { url, proxy: Some(proxy), ca, identity: None })
}

#[tokio::test]
async fn an_https_receiver_is_reached_by_a_tunnel() {
    let ca = Authority::new().await;
    let ca_pem = read(ca.file()).unwrap();
    let server = tls_server(&ca.issue("server", "DNS:hook.example").await, None).await;
    let proxy = tunneling(server.address).await;
    // Only the proxy knows the name.
    let url = "https://hook.example:8443/path";
    let at = format!("http://us%40er:pass%3Aword@{}", proxy.address);
    let receiver = through(url, &at, Some(&ca_pem));
    for _ in 0..2 {
        assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    }
    let requests = proxy.requests.lock().unwrap().clone();
    assert_eq!(requests.len(), 1, "the tunnel is used again");
    assert_eq!(requests[0].line, "CONNECT hook.example:8443 HTTP/1.1");
    assert_eq!(requests[0].headers["host"], "hook.example:8443");
    let credentials = requests[0].headers["proxy-authorization"].strip_prefix("Basic ").unwrap();
    // `printf us@er:pass:word | base64`
    assert_eq!(credentials, "dXNAZXI6cGFzczp3b3Jk");
    // The certificate is the receiver's, not the proxy's.
    let url = "https://other.example/";
    let (kind, detail) = failure_at(&through(url, &at, Some(&ca_pem))).await;
    assert_eq!(kind, FailureKind::Tls, "{detail}");
}

#[tokio::test]
async fn an_http_receiver_is_asked_for_by_its_whole_url() {
    let proxy = TestServer::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let at = format!("http://user:@{}", proxy.address);
    let receiver = through("http://hook.example/path?a=b", &at, None);
    assert_eq!(receiver.deliver(&delivery()).await, Attempt::Delivered(200));
    let requests = proxy.requests.lock().unwrap().clone();
    assert_eq!(requests[0].line, "POST http://hook.example/path?a=b HTTP/1.1");
    assert_eq!(requests[0].headers["host"], "hook.example");
    // `printf user: | base64`
    assert_eq!(requests[0].headers["proxy-authorization"], "Basic dXNlcjo=");
}

#[tokio::test]
async fn a_proxy_that_opens_no_tunnel_is_a_failure() {
    let header = format!("x: {}\r\n", "y".repeat(1000));
    let large_head = format!("HTTP/1.1 200 OK\r\n{}\r\n", header.repeat(40));
    for (answer, kind, problem) in [
        ("HTTP/1.1 407 hush\r\n\r\n", FailureKind::Connection, "answered 407"),
        ("HTTP/1.1 502 hush\r\n\r\n", FailureKind::Connection, "answered 502"),
        ("HTTP/1.1 301 hush\r\nlocation: /\r\n\r\n", FailureKind::Connection, "answered 301"),
        ("SSH-2.0-OpenSSH_9.2\r\n", FailureKind::Response, "not HTTP"),
        (&large_head, FailureKind::Response, "head is too large"),
        ("", FailureKind::Connection, "closed"),
    ] {
        let proxy = TestServer::answering(answer).await;
        let at = format!("http://user:hush@{}", proxy.address);
        let (found, detail) = failure_at(&through("https://hook.example/", &at, None)).await;
        assert_eq!(found, kind, "{answer:?}: {detail}");
        assert!(detail.contains("the proxy") && detail.contains(problem), "{detail}");
        assert!(!detail.contains("hush"), "{detail}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_is_a_failure_after_10_s() {
    let proxy = TestServer::new(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    for scheme in ["http", "https"] {
        let at = format!("{scheme}://{}", proxy.address);
        let began = Instant::now();
        let (kind, detail) = failure_at(&through("https://hook.example/", &at, None)).await;
        assert_eq!(kind, FailureKind::Timeout, "{detail}");
        assert_eq!(began.elapsed().as_secs(), 10);
    }
}

#[test]
fn the_url_of_a_proxy_is_a_host_and_a_port() {
    for url in [
        "proxy.example:3128",
        "socks5://proxy.example",
        "http://",
        "http://u:hush@proxy.example/path",
        "http://proxy.example/?a",
        "http://proxy.example/#a",
        "http://proxy.example:0",
    ] {
        let settings = HttpSettings {
            url: "https://example.com/",
            proxy: Some(url),
            ..HttpSettings::default()
        };
        let error = HttpReceiver::new(settings, Secrets::new(SECRET, None, &[]), ANY).unwrap_err();
        assert_eq!(error.0, "proxy", "{url}");
        assert!(!error.1.contains("hush"), "{}", error.1);
    }
    // A literal inner address stays refused, whoever connects to it.
    let settings = HttpSettings {
        url: "https://[::ffff:10.0.0.1]/",
        proxy: Some("http://10.0.0.2:3128"),
        ..HttpSettings::default()
    };
    let secrets = Secrets::new(SECRET, None, &[]);
    let error = HttpReceiver::new(settings, secrets, Targets::default()).unwrap_err();
    assert_eq!(error.0, "url");
}
