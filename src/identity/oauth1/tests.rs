//! Requests as real clients signed them, captured on loopback, and the example of the RFC.

use http::Request;

use super::*;

/// The first two lines of a captured request, and its body.
struct Captured {
    scheme: Scheme,
    host: &'static str,
    query: &'static str,
    authorization: &'static str,
    body: &'static str,
    timestamp: u64,
}

const CREDENTIALS: &str = r#"
    [[credential]]
    consumer_key = "testConsumerKey0123456789"
    consumer_secret = "testConsumerSecret0123456789abcdefghijklmnopqrstuv"
    access_token = "42-testAccessToken0123456789"
    access_token_secret = "testAccessTokenSecret0123456789"
    user_id = "42"

    [[credential]]
    consumer_key = "ck&1"
    consumer_secret = "c s/1"
    access_token = "3805104374-tok"
    access_token_secret = "t+s%2"
    user_id = "3805104374"
"#;

/// npm twitter-api-v2 1.29.1: parameters in the body.
fn twitter_api_v2() -> Captured {
    Captured {
        scheme: Scheme::HTTPS,
        host: "localhost:18443",
        query: "",
        authorization: r#"oauth_consumer_key="testConsumerKey0123456789",oauth_nonce="iccMs9UGueg73ubHEG6i0AU1E2e2oGCX",oauth_signature="p7P1PmVxOhZkXOtMz%2BBBjfuLWGY%3D",oauth_signature_method="HMAC-SHA1",oauth_timestamp="1795543731",oauth_token="42-testAccessToken0123456789",oauth_version="1.0""#,
        body: "last_read_event_id=8754578330382663743&recipient_id=3805104374",
        timestamp: 1_795_543_731,
    }
}

/// The same, with every character that is escaped somewhere, and such secrets.
fn twitter_api_v2_awkward() -> Captured {
    Captured {
        authorization: r#"oauth_consumer_key="ck%261",oauth_nonce="zN0jNiwLwlriZUGJKMtVt1Djb1jZyHdV",oauth_signature="S0YUyW8J2ymux4ILPa3FB3ykxXU%3D",oauth_signature_method="HMAC-SHA1",oauth_timestamp="1795543733",oauth_token="3805104374-tok",oauth_version="1.0""#,
        body: "last_read_event_id=a+b%2Bc%7E%2A%C3%A9%28%21%29%27%26%3D%2525%22&recipient_id=a+b%2Bc%7E%2A%C3%A9%28%21%29%27%26%3D%2525%22",
        timestamp: 1_795_543_733,
        ..twitter_api_v2()
    }
}

/// `PyPI` tweepy 4.17.0: parameters in the query.
fn tweepy() -> Captured {
    Captured {
        scheme: Scheme::HTTPS,
        host: "localhost:18443",
        query: "?last_read_event_id=8754578330382663743&recipient_id=3805104374",
        authorization: r#"oauth_nonce="101125475714321662171795543732", oauth_timestamp="1795543732", oauth_version="1.0", oauth_signature_method="HMAC-SHA1", oauth_consumer_key="testConsumerKey0123456789", oauth_token="42-testAccessToken0123456789", oauth_signature="Bl9U%2Bm5QSxJRd4x5nKy45pAfjMY%3D""#,
        body: "",
        timestamp: 1_795_543_732,
    }
}

/// The same, with every character that is escaped somewhere, and such secrets.
fn tweepy_awkward() -> Captured {
    Captured {
        query: "?last_read_event_id=a+b%2Bc~%2A%C3%A9%28%21%29%27%26%3D%2525%22&recipient_id=a+b%2Bc~%2A%C3%A9%28%21%29%27%26%3D%2525%22",
        authorization: r#"oauth_nonce="11404851846539868271795543734", oauth_timestamp="1795543734", oauth_version="1.0", oauth_signature_method="HMAC-SHA1", oauth_consumer_key="ck%261", oauth_token="3805104374-tok", oauth_signature="kSn9zHjHdulF5gSNwnpMCars0VA%3D""#,
        timestamp: 1_795_543_734,
        ..tweepy()
    }
}

/// `PyPI` requests-oauthlib 2.0.0, to port 80 of plain HTTP.
fn requests_oauthlib() -> Captured {
    Captured {
        scheme: Scheme::HTTP,
        host: "localhost",
        query: "",
        authorization: r#"oauth_nonce="66723718623656201071795543736", oauth_timestamp="1795543736", oauth_version="1.0", oauth_signature_method="HMAC-SHA1", oauth_consumer_key="testConsumerKey0123456789", oauth_token="42-testAccessToken0123456789", oauth_signature="X6EKIkDz6yG1GTAjfZXYMmrDj6Y%3D""#,
        body: "last_read_event_id=8754578330382663743&recipient_id=3805104374",
        timestamp: 1_795_543_736,
    }
}

fn verifier(public_urls: &[&str]) -> OAuth1 {
    let origin = |url: &&str| {
        let url: http::Uri = url.parse().unwrap();
        Origin::new(url.scheme().unwrap(), url.authority().unwrap()).unwrap()
    };
    let public_urls = public_urls.iter().map(origin).collect();
    OAuth1::new(Path::new("file"), CREDENTIALS.into(), public_urls).unwrap()
}

fn pairs(encoded: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(encoded.as_bytes()).into_owned().collect()
}

impl Captured {
    fn verify_with(&self, oauth1: &OAuth1, now_seconds: u64) -> Result<u64, Flaw> {
        let uri = format!("/1.1/direct_messages/mark_read.json{}", self.query);
        let request = Request::post(uri).header("host", self.host).body(()).unwrap();
        let (head, ()) = request.into_parts();
        let (query, body) = (pairs(self.query.trim_start_matches('?')), pairs(self.body));
        let scheme = self.scheme.clone();
        let signed = SignedRequest { head: &head, query: &query, body: &body, scheme };
        let verified = oauth1.verify_at(self.authorization, &signed, now_seconds);
        verified.map(|(user, _)| user.get())
    }

    fn verify(&self) -> Result<u64, Flaw> {
        self.verify_with(&verifier(&[]), self.timestamp)
    }
}

#[test]
fn signatures_of_real_clients_are_valid() {
    assert_eq!(twitter_api_v2().verify(), Ok(42));
    assert_eq!(twitter_api_v2_awkward().verify(), Ok(3_805_104_374));
    assert_eq!(tweepy().verify(), Ok(42));
    assert_eq!(tweepy_awkward().verify(), Ok(3_805_104_374));
    assert_eq!(requests_oauthlib().verify(), Ok(42));
    for host in ["LocalHost", "localhost:80"] {
        assert_eq!(Captured { host, ..requests_oauthlib() }.verify(), Ok(42), "{host}");
    }
}

#[test]
fn nothing_that_is_signed_can_be_changed() {
    let broken = Err(Flaw::Signature("the signature does not match"));
    for changed in [
        Captured { scheme: Scheme::HTTP, ..twitter_api_v2() },
        Captured { host: "localhost", ..twitter_api_v2() },
        Captured { host: "other:18443", ..twitter_api_v2() },
        Captured { query: "?x=", ..twitter_api_v2() },
        Captured {
            body: "last_read_event_id=8754578330382663743&recipient_id=1",
            ..twitter_api_v2()
        },
        Captured { body: "", ..twitter_api_v2() },
        Captured { query: "?recipient_id=3805104374", ..tweepy() },
    ] {
        assert_eq!(changed.verify(), broken, "{} {}", changed.host, changed.body);
    }
    let parameter = |from: &str, to: &str| {
        let authorization = twitter_api_v2().authorization.replace(from, to).leak();
        Captured { authorization, ..twitter_api_v2() }.verify()
    };
    assert_eq!(parameter("iccMs9", "iccMs8"), broken);
    assert_eq!(parameter("1795543731", "1795543730"), broken);
    assert_eq!(parameter("\",oauth_version=\"1.0\"", "\""), broken);
    assert_eq!(parameter("p7P1", "p7P2"), broken);
    assert_eq!(parameter("oauth_token", "extra=\"1\",oauth_token"), broken);
    // The realm is none of the signed.
    assert_eq!(parameter("oauth_token", "realm=\"a, b\", oauth_token"), Ok(42));
}

#[test]
fn a_header_that_is_malformed_or_lacks_something_is_refused() {
    let refused = |from: &str, to: &str| {
        let authorization = twitter_api_v2().authorization.replace(from, to).leak();
        let Err(Flaw::Signature(problem)) = Captured { authorization, ..twitter_api_v2() }.verify()
        else {
            panic!("{from} to {to}")
        };
        problem
    };
    let malformed = "the authorization header is malformed";
    for (from, to) in [
        ("\",oauth_token", "\" oauth_token"),
        ("oauth_version=\"1.0\"", "oauth_version=1.0"),
        ("oauth_version=\"1.0\"", "oauth_version=\"1.0"),
        ("oauth_version=\"1.0\"", "oauth_version=\"1.0\","),
        ("oauth_version=\"1.0\"", "oauth_version=\"%ff\""),
        ("oauth_version=\"1.0\"", "oauth_nonce=\"2\""),
        ("oauth_version=\"1.0\"", "oauth_signature=\"p7P1PmVxOhZkXOtMz%2BBBjfuLWGY%3D\""),
        ("\"1795543731\"", "\"+1795543731\""),
        ("\"1795543731\"", "\"99999999999999999999\""),
        ("p7P1PmVxOhZkXOtMz%2BBBjfuLWGY%3D", "not%20base64"),
        ("oauth_signature=", "other="),
    ] {
        assert_eq!(refused(from, to), malformed, "{from} to {to}");
    }
    for name in ["consumer_key", "nonce", "signature_method", "timestamp", "token"] {
        assert!(refused(&format!("oauth_{name}="), "other=").contains("is missing"), "{name}");
    }
    assert_eq!(refused("HMAC-SHA1", "PLAINTEXT"), "oauth_signature_method is not HMAC-SHA1");
    assert_eq!(refused("\"1.0\"", "\"2.0\""), "oauth_version is not 1.0");
    assert_eq!(refused("\"42-", "\"43-"), "unknown consumer_key or access token");
    for elsewhere in [
        Captured { query: "?oauth_token=x", ..twitter_api_v2() },
        Captured { body: "oauth_anything", ..twitter_api_v2() },
    ] {
        let problem = "oauth parameters must be in the authorization header only";
        assert_eq!(elsewhere.verify(), Err(Flaw::Signature(problem)));
    }
}

#[test]
fn a_signature_holds_for_5_minutes_around_its_time() {
    let (oauth1, captured) = (verifier(&[]), tweepy());
    for (now, holds) in [(-301, false), (-300, true), (0, true), (300, true), (301, false)] {
        let verified = captured.verify_with(&oauth1, captured.timestamp.saturating_add_signed(now));
        let late = Err(Flaw::Timestamp { window_seconds: 300 });
        assert_eq!(verified, if holds { Ok(42) } else { late }, "{now}");
    }
}

#[test]
fn behind_a_proxy_clients_sign_a_public_url() {
    let behind = Captured { scheme: Scheme::HTTP, host: "10.0.0.7:50051", ..tweepy() };
    let public = verifier(&["https://api.example", "https://LOCALHOST:18443/"]);
    assert_eq!(behind.verify_with(&public, behind.timestamp), Ok(42));
    let other = verifier(&["https://api.example"]);
    // Even where it is what the request names.
    assert!(tweepy().verify_with(&other, tweepy().timestamp).is_err());
}

#[test]
fn the_base_string_is_that_of_the_rfc() {
    // RFC 5849 section 3.4.1.1, with the parameters of its section 3.4.1.3.1.
    let request = Request::post("/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b").body(()).unwrap();
    let (head, ()) = request.into_parts();
    let (query, body) = (pairs("b5=%3D%253D&a3=a&c%40=&a2=r%20b"), pairs("c2&a3=2+q"));
    let signed = SignedRequest { head: &head, query: &query, body: &body, scheme: Scheme::HTTP };
    let header = [
        ("oauth_consumer_key", "9djdj82h48djs9d2"),
        ("oauth_token", "kkk9d7dh3k39sjv7"),
        ("oauth_signature_method", "HMAC-SHA1"),
        ("oauth_timestamp", "137131201"),
        ("oauth_nonce", "7d8f3e4a"),
    ];
    let header = header.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let origin = Origin::new(&Scheme::HTTP, &Authority::from_static("EXAMPLE.COM:80")).unwrap();
    assert_eq!(
        base_string(&signed, &origin, &header),
        "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D\
         %25253D%26c%2540%3D%26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3\
         e4a%26oauth_signature_method%3DHMAC-SHA1%26oauth_timestamp%3D137131201%26oauth_token%3Dkk\
         k9d7dh3k39sjv7"
    );
}

#[test]
fn a_nonce_is_one_persons_at_one_time() {
    let parameters = |header: &str| Parameters::parse(header).unwrap().nonce();
    let header = twitter_api_v2().authorization;
    let nonce = parameters(header);
    assert_eq!(nonce.timestamp, 1_795_543_731);
    assert_eq!(parameters(header), nonce);
    for (from, to) in
        [("iccMs9", "other"), ("1795543731", "1795543732"), ("testConsumer", "c"), ("42-", "43-")]
    {
        assert_ne!(parameters(&header.replace(from, to)), nonce, "{from}");
    }
}
