//! Programs that speak to the seed's endpoint already: real client libraries, as they come from
//! their registries, pointed at a server. Each does one mark and prints what its library made of the
//! answer (`tests/clients`).

use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::harness::caller::Credentials;
use super::harness::certificates::Authority;
use super::harness::tools::{self, output, tool};
use super::harness::{MESSAGE, READER, RECIPIENT, Redis, Server};

/// How many marks the reader has.
const QUOTA: u64 = 2;

const CREDENTIALS: &str = r#"
    [[credential]]
    consumer_key = "consumer"
    consumer_secret = "the consumer's secret & more"
    access_token = "2244994945-token"
    access_token_secret = "the token's secret + more"
    user_id = "2244994945"
"#;

/// A server behind TLS, as most clients insist on it.
struct Endpoint {
    redis: Redis,
    server: Server,
    authority: Authority,
    _credentials: NamedTempFile,
}

impl Endpoint {
    async fn start() -> Self {
        let authority = Authority::new().await;
        let certificate = authority.issue("server", "IP:127.0.0.1").await;
        let credentials = NamedTempFile::new().unwrap();
        std::fs::write(&credentials, CREDENTIALS).unwrap();
        let redis = Redis::start().await;
        let quota = QUOTA.to_string();
        let flags = [
            ["--oauth1-credentials-file", credentials.path().to_str().unwrap()],
            ["--tls-cert", &certificate.chain],
            ["--tls-key", &certificate.key],
            ["--rate-limit", &quota],
        ]
        .concat();
        let server = Server::on_with(&redis, &flags).await;
        Self { redis, server, authority, _credentials: credentials }
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    fn ca(&self) -> String {
        self.authority.file()
    }
}

/// A client library.
#[derive(Clone, Copy)]
enum Client {
    TwitterApiV2,
    Tweepy,
    RequestsOauthlib { flag: Option<&'static str> },
}

impl Client {
    /// Marks, and gives what the library told.
    async fn mark(self, at: &Endpoint, auth: &Value, message: &str, recipient: &str) -> Value {
        let (program, script, flag) = match self {
            Self::TwitterApiV2 => ("node".into(), "twitter_api_v2.cjs", None),
            Self::Tweepy => (tools::python(), "tweepy_mark.py", None),
            Self::RequestsOauthlib { flag } => (tools::python(), "requests_oauthlib_mark.py", flag),
        };
        let mut client = Command::new(program);
        client
            .arg(tools::file("tests/clients").join(script))
            .args([&at.url(), &auth.to_string(), message, recipient])
            .args(flag)
            .env("NODE_PATH", tool("MARKREAD_TEST_NODE_PATH", ""))
            .env("NODE_EXTRA_CA_CERTS", at.ca())
            .env("REQUESTS_CA_BUNDLE", at.ca());
        serde_json::from_str(&output(client).await).unwrap()
    }
}

fn signed() -> Value {
    json!({
        "consumer_key": "consumer",
        "consumer_secret": "the consumer's secret & more",
        "access_token": "2244994945-token",
        "access_token_secret": "the token's secret + more",
    })
}

fn signed_by_another() -> Value {
    let mut auth = signed();
    auth["consumer_secret"] = json!("another consumer's secret");
    auth
}

fn bearer(credentials: Credentials) -> Value {
    let Credentials::Authorization(header) = credentials else { panic!("a token") };
    json!({ "bearer": header.strip_prefix("Bearer ").unwrap() })
}

/// A token of somebody who is no user.
fn of_no_user() -> Value {
    bearer(super::answers::tokens::with_claims(json!({ "sub": "me" })))
}

/// What a library makes of each status of the endpoint.
struct Errors {
    bad_request: &'static str,
    unauthorized: &'static str,
    forbidden: &'static str,
    too_many_requests: &'static str,
    unavailable: &'static str,
}

#[track_caller]
fn assert_refused(told: &Value, error: &str, status: u16, code: u16) {
    assert_eq!(told["ok"], false, "{told}");
    assert_eq!((&told["error"], &told["status"]), (&json!(error), &json!(status)), "{told}");
    assert_eq!(told["codes"], json!([code]), "{told}");
    assert!(!told["messages"][0].as_str().unwrap().is_empty(), "{told}");
}

/// Leads a client from refusals that cost nothing to its last mark, and past it.
async fn leads_through_every_answer(client: Client, auth: &Value, forged: &Value, errors: &Errors) {
    let (message, recipient) = (MESSAGE.to_string(), RECIPIENT.to_string());
    let mut at = Endpoint::start().await;
    let told = client.mark(&at, auth, &message, "").await;
    assert_refused(&told, errors.bad_request, 400, 38);
    let told = client.mark(&at, auth, "1e3", &recipient).await;
    assert_refused(&told, errors.bad_request, 400, 44);
    let told = client.mark(&at, forged, &message, &recipient).await;
    assert_refused(&told, errors.unauthorized, 401, if auth == &signed() { 32 } else { 89 });
    if auth["bearer"].is_string() {
        let told = client.mark(&at, &of_no_user(), &message, &recipient).await;
        assert_refused(&told, errors.forbidden, 403, 220);
    }
    assert_eq!(at.redis.used(READER).await, None, "what was refused took no quota");

    for left in (0..QUOTA).rev() {
        let told = client.mark(&at, auth, &message, &recipient).await;
        assert_eq!(told["ok"], true, "{told}");
        assert!(told["status"].is_null() || told["status"] == 204, "{told}");
        assert_eq!(told["rate_limit"]["limit"], QUOTA, "{told}");
        assert_eq!(told["rate_limit"]["remaining"], left, "{told}");
    }
    assert_eq!(at.redis.events().await, [(READER, RECIPIENT, MESSAGE)]);
    let told = client.mark(&at, auth, &message, &recipient).await;
    assert_refused(&told, errors.too_many_requests, 429, 88);
    assert_eq!(told["rate_limit"]["remaining"], 0, "{told}");
    let reset = told["rate_limit"]["reset"].as_u64().unwrap();
    let window_ms: u64 = at.redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(reset, window_ms.div_ceil(1000), "when the window ends: {told}");

    at.redis.kill().await;
    // The reader's denial is remembered, and answers while Redis is away; a signature's nonce is not
    // looked up in memory.
    if auth == &signed() {
        let told = client.mark(&at, auth, &message, &recipient).await;
        assert_refused(&told, errors.unavailable, 503, 130);
    } else {
        let other = bearer(Credentials::token_of(RECIPIENT));
        let told = client.mark(&at, &other, &message, &recipient).await;
        assert_refused(&told, errors.unavailable, 503, 130);
    }
}

const TWITTER_API_V2: Errors = Errors {
    bad_request: "ApiResponseError",
    unauthorized: "ApiResponseError",
    forbidden: "ApiResponseError",
    too_many_requests: "ApiResponseError",
    unavailable: "ApiResponseError",
};

const TWEEPY: Errors = Errors {
    bad_request: "BadRequest",
    unauthorized: "Unauthorized",
    forbidden: "Forbidden",
    too_many_requests: "TooManyRequests",
    unavailable: "TwitterServerError",
};

const REQUESTS: Errors = Errors {
    bad_request: "HTTPError",
    unauthorized: "HTTPError",
    forbidden: "HTTPError",
    too_many_requests: "HTTPError",
    unavailable: "HTTPError",
};

fn garbage() -> Value {
    json!({ "bearer": "garbage" })
}

fn token() -> Value {
    bearer(Credentials::token_of(READER))
}

#[tokio::test]
async fn twitter_api_v2_marks_with_signatures() {
    let (client, forged) = (Client::TwitterApiV2, signed_by_another());
    leads_through_every_answer(client, &signed(), &forged, &TWITTER_API_V2).await;
}

#[tokio::test]
async fn twitter_api_v2_marks_with_a_bearer_token() {
    leads_through_every_answer(Client::TwitterApiV2, &token(), &garbage(), &TWITTER_API_V2).await;
}

#[tokio::test]
async fn tweepy_marks_with_signatures() {
    leads_through_every_answer(Client::Tweepy, &signed(), &signed_by_another(), &TWEEPY).await;
}

#[tokio::test]
async fn tweepy_marks_with_a_bearer_token() {
    leads_through_every_answer(Client::Tweepy, &token(), &garbage(), &TWEEPY).await;
}

#[tokio::test]
async fn requests_oauthlib_marks_with_parameters_in_the_body() {
    let client = Client::RequestsOauthlib { flag: None };
    leads_through_every_answer(client, &signed(), &signed_by_another(), &REQUESTS).await;
}

#[tokio::test]
async fn requests_oauthlib_marks_with_parameters_in_the_query() {
    let client = Client::RequestsOauthlib { flag: Some("--query") };
    leads_through_every_answer(client, &signed(), &signed_by_another(), &REQUESTS).await;
}

#[tokio::test]
async fn curl_marks_over_every_version_of_http() {
    let at = Endpoint::start().await;
    let credentials = Credentials::token_of(READER);
    let Credentials::Authorization(token) = credentials else { panic!("a token") };
    let parameters = format!("last_read_event_id={MESSAGE}&recipient_id={RECIPIENT}");
    for (version, left) in [("--http1.1", 1), ("--http2", 0)] {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", version, "--cacert"]).arg(at.ca());
        curl.args(["-H", &format!("authorization: {token}"), "-d", &parameters]);
        curl.arg(format!("{}/1.1/direct_messages/mark_read.json", at.url()));
        let answer = output(curl).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap();
        assert_eq!((status, body), ("204", ""), "{version}: {answer}");
        assert!(head.contains(&format!("x-rate-limit-remaining: {left}")), "{version}: {head}");
    }
    assert_eq!(at.redis.events().await, [(READER, RECIPIENT, MESSAGE)]);
}
