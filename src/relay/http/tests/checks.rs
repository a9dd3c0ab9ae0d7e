use super::*;
use crate::relay::signature::is_check_token;

fn token(request: &TestRequest) -> String {
    let target = request.line.split(' ').nth(1).unwrap();
    let (_, token) = target.split_once("crc_token=").unwrap();
    token.to_owned()
}

fn json(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
}

fn right(secret: &[u8], token: &str) -> String {
    Secrets::new(secret, None, &[]).twitter(token.as_bytes())
}

#[tokio::test]
async fn a_receiver_that_signs_the_token_passes() {
    let server = TestServer::answering_with(|request| {
        let signature = right(SECRET, &token(request));
        json(&format!(r#"{{"more":[1],"response_token":"{signature}"}}"#))
    })
    .await;
    let receiver = receiver(&format!("http://{}/hook?a=b", server.address));
    for _ in 0..20 {
        assert_eq!(receiver.check().await, Check::Passed);
    }
    let requests = server.requests.lock().unwrap().clone();
    for request in &requests {
        // Nothing that a URL would have to escape.
        assert!(is_check_token(&token(request)), "{}", request.line);
        assert!(request.line.starts_with("GET /hook?a=b&crc_token="), "{}", request.line);
        assert!(request.body.is_empty());
    }
    assert_ne!(token(&requests[0]), token(&requests[1]));
}

#[tokio::test]
async fn while_a_secret_rotates_either_answer_passes() {
    for answering in [SECRET, b"the secret before"] {
        let server = TestServer::answering_with(|request| {
            let signature = right(answering, &token(request));
            json(&format!(r#"{{"response_token":"{signature}"}}"#))
        })
        .await;
        let secrets = Secrets::new(SECRET, Some(b"the secret before"), &[]);
        let url = server.url();
        let settings = HttpSettings { url: &url, ..HttpSettings::default() };
        let receiver = HttpReceiver::new(settings, secrets, ANY).unwrap();
        assert_eq!(receiver.check().await, Check::Passed);
    }
}

#[tokio::test]
async fn a_wrong_answer_is_refused() {
    let large = format!(r#"{{"response_token":"{}"}}"#, "x".repeat(17 * 1024));
    for (answer, problem) in [
        (json(r#"{"response_token":"sha256=hush"}"#), "is wrong"),
        (json(&format!(r#"{{"response_token":"{}"}}"#, right(SECRET, "other"))), "is wrong"),
        (json(r#"{"response_token":7}"#), "not JSON of the form"),
        (json("{}"), "not JSON of the form"),
        (json("<html>hush</html>"), "not JSON of the form"),
        (json(""), "not JSON of the form"),
        (json(&large), "more than 16 KiB"),
        (b"HTTP/1.1 204 x\r\n\r\n".to_vec(), "answered 204"),
        (b"HTTP/1.1 301 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec(), "answered 301"),
        (b"HTTP/1.1 302 x\r\nlocation: /\r\ncontent-length: 0\r\n\r\n".to_vec(), "answered 302"),
    ] {
        let server = TestServer::answering(answer).await;
        let check = server.receiver().check().await;
        let Check::Refused(found) = check else { panic!("{problem}: {check:?}") };
        assert!(found.contains(problem) && !found.contains("hush"), "{problem}: {found}");
        assert_eq!(server.requests.lock().unwrap().len(), 1);
    }
    // By another secret, whose answer would be right.
    let server = TestServer::answering_with(|request| {
        let signature = right(b"another secret", &token(request));
        json(&format!(r#"{{"response_token":"{signature}"}}"#))
    })
    .await;
    assert!(matches!(server.receiver().check().await, Check::Refused(_)));
}

#[tokio::test]
async fn what_may_pass_fails_without_a_refusal() {
    for (answer, problem) in [
        ("HTTP/1.1 400 x\r\ncontent-length: 0\r\n\r\n", "answered 400"),
        ("HTTP/1.1 404 x\r\ncontent-length: 0\r\n\r\n", "answered 404"),
        ("HTTP/1.1 503 x\r\ncontent-length: 0\r\n\r\n", "answered 503"),
        ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        ("", "closed"),
    ] {
        let check = TestServer::answering(answer).await.receiver().check().await;
        let Check::Failed(found) = check else { panic!("{answer:?}: {check:?}") };
        assert!(found.contains(problem), "{found}");
    }
    let check = receiver("http://127.0.0.1:1/").check().await;
    assert!(matches!(check, Check::Failed(_)), "{check:?}");
}

#[tokio::test(start_paused = true)]
async fn a_check_is_answered_within_3_s() {
    for head in ["", "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{"] {
        let server = TestServer::new(move |mut stream| async move {
            read_request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let began = Instant::now();
        let check = server.receiver().check().await;
        assert!(matches!(check, Check::Failed(_)), "{check:?}");
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
