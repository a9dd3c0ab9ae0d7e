//! 404, 405, 413, 415, and the order of checks that `docs/contract.md` promises.

use markread_harness::caller::Credentials;
use markread_harness::raw::{self, MARK_READ};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};

use super::client::{BOTH, HttpRequest, Version};
use super::{EXAMPLE, FORM, PATH, assert_refused, parameters};

#[tokio::test]
async fn faults_are_reported_in_the_documented_order() {
    let mut redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1"]).await;
    let request = |message| HttpRequest::form(parameters(RECIPIENT, message));
    assert_eq!(request(1).over(Version::Http1, &server).await.status, 204);
    assert_eq!(request(2).over(Version::Http1, &server).await.status, 429);
    redis.kill().await;

    // Everything is wrong at first, and corrected one by one in the documented order.
    let large = "x".repeat(8 * 1024 + 1);
    let all_wrong = HttpRequest::post("/unknown")
        .method("PUT")
        .header("content-type", "application/json")
        .body(large);
    let path_right = all_wrong.clone().target(PATH);
    let method_right = path_right.clone().method("POST");
    let type_right = method_right.clone().header("content-type", FORM);
    let size_right = type_right.clone().body("recipient_id=x");
    let nobody_valid = size_right.clone().body(EXAMPLE);
    let token_forged = size_right.clone().header("authorization", "Bearer x");
    let identity_right = size_right.clone().of(READER);
    let parameters_right = identity_right.clone().body(EXAMPLE);
    let quota_right = parameters_right.clone().of(READER + 1);
    for version in BOTH {
        for (request, status, codes) in [
            (&all_wrong, 404, &[34][..]),
            (&path_right, 405, &[86]),
            (&method_right, 415, &[44]),
            (&type_right, 413, &[44]),
            (&size_right, 401, &[32]),
            (&nobody_valid, 401, &[32]),
            (&token_forged, 401, &[89]),
            (&identity_right, 400, &[38, 44]),
            (&parameters_right, 429, &[88]),
            (&quota_right, 503, &[130]),
        ] {
            let answer = request.over(version, &server).await;
            assert_refused(&answer, status, codes);
            if status == 405 {
                assert_eq!(answer.head["allow"], "POST");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_before_identity() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for length in [8 * 1024 + 1, 9 * 1024, 100 * 1024] {
        let form = format!("{EXAMPLE}&x={}", "y".repeat(length));
        let nobodys = HttpRequest::form(form.clone()).by(&Credentials::Nothing);
        for version in BOTH {
            assert_refused(&nobodys.over(version, &server).await, 413, &[44]);
        }
        let chunk = format!("{:x}\r\n{form}\r\n0\r\n\r\n", form.len());
        let chunked = nobodys.body(chunk).header("transfer-encoding", "chunked");
        assert_refused(&chunked.over(Version::Http1, &server).await, 413, &[44]);
    }
}

#[tokio::test]
async fn a_wrong_method_is_405_and_a_wrong_path_404() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for version in BOTH {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "post"]
        {
            for request in super::examples() {
                let request = request.method(method).header("x-http-method-override", "POST");
                let mut answer = request.over(version, &server).await;
                assert_eq!(answer.head["allow"], "POST", "{method}");
                if method == "HEAD" {
                    assert_eq!((answer.status.as_u16(), answer.body.len()), (405, 0));
                } else {
                    assert_refused(&answer, 405, &[86]);
                }
                answer.head.remove("allow");
                assert!(!format!("{:?}", answer.head).contains("access-control"), "{answer:?}");
            }
        }
        for path in [
            "/",
            "/1.1",
            "/1.1/direct_messages/mark_read",
            "/1.1/direct_messages/mark_read.json/",
            "/1.1/direct_messages/mark_read.json/x",
            "/1.1/direct_messages/mark_read.jsonx",
            "/1.1/direct_messages/mark_read.json;x=1",
            "/1.1/direct_messages/mark_read.JSON",
            "/1.1/Direct_Messages/mark_read.json",
            "//1.1/direct_messages/mark_read.json",
            "/1.1//direct_messages/mark_read.json",
            "/./1.1/direct_messages/mark_read.json",
            "/x/../1.1/direct_messages/mark_read.json",
            "/1.1/direct%5Fmessages/mark_read.json",
            "/1.1/direct_messages%2Fmark_read.json",
            "/1.1/direct_messages/mark_read.json%00",
            "/1.1/direct_messages/mark_read%2ejson",
            "/1.1/direct_messages/events/new.json",
            "/1.0/direct_messages/mark_read.json",
            "/%zz",
        ] {
            for request in super::examples() {
                let with_query = format!("{path}?{EXAMPLE}");
                for request in
                    [request.clone().target(path), request.target(&with_query).method("GET")]
                {
                    assert_refused(&request.over(version, &server).await, 404, &[34]);
                }
            }
        }
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}

#[tokio::test]
async fn a_body_of_another_content_type_is_415() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let json = "{\"last_read_event_id\":\"8754578330382663743\",\"recipient_id\":\"3805104374\"}";
    let multipart =
        "--x\r\ncontent-disposition: form-data; name=\"recipient_id\"\r\n\r\n1\r\n--x--";
    let message = raw::frame(&raw::request(RECIPIENT, MESSAGE));
    let mut asks = vec![HttpRequest::form(EXAMPLE).without("content-type")];
    for (content_type, body) in [
        ("application/json", json.as_bytes()),
        ("application/json; charset=utf-8", json.as_bytes()),
        ("multipart/form-data; boundary=x", multipart.as_bytes()),
        ("text/plain", EXAMPLE.as_bytes()),
        ("application/x-www-form-urlencodedx", EXAMPLE.as_bytes()),
        ("application/x-www-form", EXAMPLE.as_bytes()),
        ("x-www-form-urlencoded", EXAMPLE.as_bytes()),
        ("text/plain, application/x-www-form-urlencoded", EXAMPLE.as_bytes()),
        ("*/*", EXAMPLE.as_bytes()),
        ("nonsense", EXAMPLE.as_bytes()),
        ("", EXAMPLE.as_bytes()),
        ("application/grpc", &message),
        ("application/grpc+proto", &message),
        ("application/grpc-web", &message),
        ("application/grpc+json", json.as_bytes()),
    ] {
        asks.push(HttpRequest::form(body.to_vec()).header("content-type", content_type));
    }
    for request in asks {
        for version in BOTH {
            // Even with both parameters in the query.
            for target in [PATH.to_owned(), format!("{PATH}?{EXAMPLE}")] {
                let answer = request.clone().target(&target).over(version, &server).await;
                assert_eq!(answer.status, 415, "{version:?} {request:?}: {answer:?}");
                assert_refused(&answer, 415, &[44]);
            }
        }
    }
    // The other way round: a form sent to a gRPC path.
    for version in BOTH {
        let request = HttpRequest::form(EXAMPLE).target(MARK_READ);
        assert_refused(&request.over(version, &server).await, 415, &[44]);
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}
