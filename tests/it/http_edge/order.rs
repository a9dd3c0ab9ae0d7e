//! 404, 405, 413, 415; and what is looked at first, as the contract has it.

use super::super::harness::caller::Credentials;
use super::super::harness::raw::{self, MARK_READ};
use super::super::harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use super::client::{Ask, BOTH, Version};
use super::{EXAMPLE, FORM, PATH, assert_refused, parameters};

#[tokio::test]
async fn each_thing_that_is_wrong_is_told_before_those_behind_it() {
    let mut redis = Redis::start().await;
    let server = Server::on_with(&redis, &["--rate-limit", "1"]).await;
    let ask = |message| Ask::form(parameters(RECIPIENT, message));
    assert_eq!(ask(1).over(Version::Http1, &server).await.status, 204);
    assert_eq!(ask(2).over(Version::Http1, &server).await.status, 429);
    redis.kill().await;

    // All is wrong, and mended one by one, in the contract's order.
    let large = "x".repeat(8 * 1024 + 1);
    let all_wrong =
        Ask::post("/unknown").method("PUT").header("content-type", "application/json").body(large);
    let path_mended = all_wrong.clone().target(PATH);
    let method_mended = path_mended.clone().method("POST");
    let type_mended = method_mended.clone().header("content-type", FORM);
    let size_mended = type_mended.clone().body("recipient_id=x");
    let nobody_valid = size_mended.clone().body(EXAMPLE);
    let token_forged = size_mended.clone().header("authorization", "Bearer x");
    let identity_mended = size_mended.clone().of(READER);
    let parameters_mended = identity_mended.clone().body(EXAMPLE);
    let quota_mended = parameters_mended.clone().of(READER + 1);
    for version in BOTH {
        for (ask, status, codes) in [
            (&all_wrong, 404, &[34][..]),
            (&path_mended, 405, &[86]),
            (&method_mended, 415, &[44]),
            (&type_mended, 413, &[44]),
            (&size_mended, 401, &[32]),
            (&nobody_valid, 401, &[32]),
            (&token_forged, 401, &[89]),
            (&identity_mended, 400, &[38, 44]),
            (&parameters_mended, 429, &[88]),
            (&quota_mended, 503, &[130]),
        ] {
            let answer = ask.over(version, &server).await;
            assert_refused(&answer, status, codes);
            if status == 405 {
                assert_eq!(answer.head["allow"], "POST");
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_that_before_anyone_asks_who_sent_it() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for length in [8 * 1024 + 1, 9 * 1024, 100 * 1024] {
        let form = format!("{EXAMPLE}&x={}", "y".repeat(length));
        let nobodys = Ask::form(form.clone()).by(&Credentials::Nothing);
        for version in BOTH {
            assert_refused(&nobodys.over(version, &server).await, 413, &[44]);
        }
        let chunk = format!("{:x}\r\n{form}\r\n0\r\n\r\n", form.len());
        let chunked = nobodys.body(chunk).header("transfer-encoding", "chunked");
        assert_refused(&chunked.over(Version::Http1, &server).await, 413, &[44]);
    }
}

#[tokio::test]
async fn another_method_than_post_is_405_and_another_path_404() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for version in BOTH {
        for method in ["GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW", "post"]
        {
            for ask in super::examples() {
                let ask = ask.method(method).header("x-http-method-override", "POST");
                let mut answer = ask.over(version, &server).await;
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
            for ask in super::examples() {
                let with_query = format!("{path}?{EXAMPLE}");
                for ask in [ask.clone().target(path), ask.target(&with_query).method("GET")] {
                    assert_refused(&ask.over(version, &server).await, 404, &[34]);
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
    let mut asks = vec![Ask::form(EXAMPLE).without("content-type")];
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
        asks.push(Ask::form(body.to_vec()).header("content-type", content_type));
    }
    for ask in asks {
        for version in BOTH {
            // With all that it takes in its query, too.
            for target in [PATH.to_owned(), format!("{PATH}?{EXAMPLE}")] {
                let answer = ask.clone().target(&target).over(version, &server).await;
                assert_eq!(answer.status, 415, "{version:?} {ask:?}: {answer:?}");
                assert_refused(&answer, 415, &[44]);
            }
        }
    }
    // The other way round: a form where gRPC is served.
    for version in BOTH {
        let ask = Ask::form(EXAMPLE).target(MARK_READ);
        assert_refused(&ask.over(version, &server).await, 415, &[44]);
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}
