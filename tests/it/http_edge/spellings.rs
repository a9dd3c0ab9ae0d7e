//! The forms that a request may have: parameters, content types, headers, targets. Each is served.

use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};

use super::client::{BOTH, HttpRequest, Version};
use super::{EXAMPLE, PATH, assert_done, assert_refused, parameters};

const MESSAGE_PAIR: &str = "last_read_event_id=8754578330382663743";
const RECIPIENT_PAIR: &str = "recipient_id=3805104374";

/// Sends each form as another reader, and checks that reader's cursor.
pub(super) struct Spellings {
    pub(super) redis: Redis,
    pub(super) server: Server,
    reader: u64,
}

impl Spellings {
    pub(super) async fn start() -> Self {
        let redis = Redis::start().await;
        let server = Server::on(&redis).await;
        Self { redis, server, reader: READER }
    }

    pub(super) fn next_reader(&mut self) -> u64 {
        self.reader += 1;
        self.reader
    }

    pub(super) async fn assert_served(&mut self, request: HttpRequest, version: Version) {
        let request = request.of(self.next_reader());
        let answer = request.over(version, &self.server).await;
        assert_eq!(answer.status, 204, "{version:?} {request:?}: {answer:?}");
        assert_done(&answer);
        self.assert_marked(&format!("{version:?} {request:?}")).await;
    }

    pub(super) async fn assert_marked(&self, what: &str) {
        let cursors = self.redis.cursors(self.reader).await;
        assert_eq!(cursors, [(RECIPIENT, MESSAGE)].into(), "{what}");
    }
}

#[tokio::test]
async fn parameters_may_be_in_the_query_the_body_or_both() {
    let mut spellings = Spellings::start().await;
    let (message, recipient) = (MESSAGE_PAIR, RECIPIENT_PAIR);
    let reversed = format!("{recipient}&{message}");
    let with_others = format!("a=1&{EXAMPLE}&recipient=7&Recipient_Id=8&recipient_id[]=9&a=2&b&=");
    let with_gaps = format!("&&{message}&&{recipient}&&");
    let encoded = "last%5Fread%5fevent_id=%38754578330382663743&recipient_id=3805104%33%374";
    let others_alone = "a=1&id=2&user_id=3&include_entities=true";
    let table: [(&str, &str); 14] = [
        (EXAMPLE, ""),
        ("", EXAMPLE),
        (&reversed, ""),
        ("", &reversed),
        (message, recipient),
        (recipient, message),
        (EXAMPLE, EXAMPLE),
        (EXAMPLE, recipient),
        (encoded, EXAMPLE),
        ("", encoded),
        (others_alone, EXAMPLE),
        (&with_others, "a=4"),
        (others_alone, &with_others),
        ("", &with_gaps),
    ];
    for version in BOTH {
        for (query, body) in table {
            let request = HttpRequest::form(body.to_owned()).target(&format!("{PATH}?{query}"));
            spellings.assert_served(request, version).await;
        }
    }
}

#[tokio::test]
async fn the_least_and_the_greatest_id_are_valid() {
    const MAX_ID: u64 = (1 << 63) - 1;
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    for (n, version) in (0..).zip(BOTH) {
        let reader = READER + n;
        for (recipient, message) in [(1, 1), (1, MAX_ID), (MAX_ID, 1), (reader, MESSAGE)] {
            let request = HttpRequest::form(parameters(recipient, message)).of(reader);
            assert_done(&request.over(version, &server).await);
        }
        let cursors = [(1, MAX_ID), (MAX_ID, 1), (reader, MESSAGE)].into();
        assert_eq!(redis.cursors(reader).await, cursors);
    }
}

#[tokio::test]
async fn a_forms_content_type_may_have_parameters_and_be_in_any_case() {
    let mut spellings = Spellings::start().await;
    for content_type in [
        "application/x-www-form-urlencoded;charset=UTF-8",
        "application/x-www-form-urlencoded; charset=utf-8",
        "application/x-www-form-urlencoded ; charset=\"utf-8\"; x=y",
        "application/x-www-form-urlencoded;",
        "Application/X-WWW-Form-URLEncoded",
        "APPLICATION/X-WWW-FORM-URLENCODED;CHARSET=UTF-8",
    ] {
        for version in BOTH {
            let request = HttpRequest::form(EXAMPLE).header("content-type", content_type);
            spellings.assert_served(request, version).await;
        }
    }
}

#[tokio::test]
async fn headers_without_a_meaning_are_ignored() {
    let mut spellings = Spellings::start().await;
    for (name, value) in [
        // HTTP has no deadline.
        ("grpc-timeout", "1n"),
        ("te", "trailers"),
        ("accept", "text/html"),
        ("accept-encoding", "gzip, br"),
        ("content-encoding", "identity"),
        ("x-http-method-override", "DELETE"),
        ("x-user-id", "7"),
        ("x-forwarded-host", "127.0.0.1"),
        ("origin", "https://twitter.com"),
        ("cookie", "recipient_id=1"),
    ] {
        for version in BOTH {
            spellings.assert_served(HttpRequest::form(EXAMPLE).header(name, value), version).await;
        }
    }
}

#[tokio::test]
async fn a_target_may_be_absolute() {
    let mut spellings = Spellings::start().await;
    // RFC 9112, 3.2.2.
    for host in ["http://markread.test", "http://127.0.0.1:1", "https://markread.test:443"] {
        for target in [format!("{host}{PATH}?"), format!("{host}{PATH}?{RECIPIENT_PAIR}")] {
            spellings
                .assert_served(HttpRequest::form(EXAMPLE).target(&target), Version::Http1)
                .await;
        }
    }
    for target in ["http://markread.test", "http://markread.test/", "http://markread.test/1.1/"] {
        let request = HttpRequest::form(EXAMPLE).target(target);
        assert_refused(&request.over(Version::Http1, &spellings.server).await, 404, &[34]);
    }
}
