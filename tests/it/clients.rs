//! Real client libraries of Twitter's v1.1 API, as published, pointed at a server. Each makes one
//! mark and prints what its library made of the answer (`tests/clients`).

use std::time::Duration;

use markread_harness::caller::{Caller, Credentials};
use markread_harness::certificates::Authority;
use markread_harness::tls::TlsClient;
use markread_harness::tools::{self, output, tool};
use markread_harness::{MESSAGE, READER, RECIPIENT, Redis, Server};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::sleep;

mod health;
mod rolling_restart;
mod webhooks;

/// How many marks the reader has.
const QUOTA: u64 = 2;

const CREDENTIALS: &str = r#"
    [[credential]]
    consumer_key = "consumer"
    consumer_secret = "the consumer's secret & more"
    access_token = "2244994945-token"
    access_token_secret = "the token's secret + more"
    user_id = "2244994945"

    [[credential]]
    consumer_key = "consumer"
    consumer_secret = "the consumer's secret & more"
    access_token = "3805104374-token"
    access_token_secret = "another token's secret"
    user_id = "3805104374"
"#;

/// A server behind TLS, which most clients insist on.
struct Endpoint {
    redis: Redis,
    server: Server,
    authority: Authority,
    _credentials: NamedTempFile,
}

impl Endpoint {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same as [`Endpoint::start`], with more flags.
    async fn start_with(flags: &[&str]) -> Self {
        let authority = Authority::new().await;
        let certificate = authority.issue("server", "IP:127.0.0.1,DNS:localhost").await;
        let credentials = NamedTempFile::new().unwrap();
        std::fs::write(&credentials, CREDENTIALS).unwrap();
        let redis = Redis::start().await;
        let quota = QUOTA.to_string();
        let own = [
            ["--oauth1-credentials-file", credentials.path().to_str().unwrap()],
            ["--tls-cert", &certificate.chain],
            ["--tls-key", &certificate.key],
            ["--rate-limit", &quota],
        ]
        .concat();
        let server = Server::on_with(&redis, &[own.as_slice(), flags].concat()).await;
        Self { redis, server, authority, _credentials: credentials }
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.address)
    }

    /// A user of gRPC, with a connection of its own.
    fn caller(&self, user: u64) -> Caller {
        let client = TlsClient::new(&self.authority, None);
        client.caller(&self.server.address, Credentials::token_of(user))
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
    /// Marks, and returns what the library made of the answer.
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

fn signed_for_the_recipient() -> Value {
    let mut auth = signed();
    auth["access_token"] = json!("3805104374-token");
    auth["access_token_secret"] = json!("another token's secret");
    auth
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

/// A token whose subject is not a user.
fn without_user() -> Value {
    bearer(crate::answers::tokens::with_claims(json!({ "sub": "me" })))
}

/// The error that a library makes of each status of the endpoint.
struct Errors {
    bad_request: &'static str,
    unauthorized: &'static str,
    forbidden: &'static str,
    too_many_requests: &'static str,
    unavailable: &'static str,
}

#[track_caller]
fn assert_refused(result: &Value, error: &str, status: u16, code: u16) {
    assert_eq!(result["ok"], false, "{result}");
    assert_eq!((&result["error"], &result["status"]), (&json!(error), &json!(status)), "{result}");
    assert_eq!(result["codes"], json!([code]), "{result}");
    assert!(!result["messages"][0].as_str().unwrap().is_empty(), "{result}");
    if [429, 503].contains(&status) {
        let seconds = result["retry_after"].as_str().and_then(|seconds| seconds.parse().ok());
        assert!(seconds.is_some_and(|seconds: u64| seconds >= 1), "{result}");
    }
}

/// Leads a client through refusals that cost nothing, to the end of its quota and beyond.
async fn lead_through_every_answer(client: Client, auth: &Value, forged: &Value, errors: &Errors) {
    let (message, recipient) = (MESSAGE.to_string(), RECIPIENT.to_string());
    let mut at = Endpoint::start().await;
    let result = client.mark(&at, auth, &message, "").await;
    assert_refused(&result, errors.bad_request, 400, 38);
    let result = client.mark(&at, auth, "1e3", &recipient).await;
    assert_refused(&result, errors.bad_request, 400, 44);
    let result = client.mark(&at, forged, &message, &recipient).await;
    assert_refused(&result, errors.unauthorized, 401, if auth == &signed() { 32 } else { 89 });
    if auth["bearer"].is_string() {
        let result = client.mark(&at, &without_user(), &message, &recipient).await;
        assert_refused(&result, errors.forbidden, 403, 220);
    }
    assert_eq!(at.redis.used(READER).await, None, "a refused call takes no quota");

    for left in (0..QUOTA).rev() {
        let result = client.mark(&at, auth, &message, &recipient).await;
        assert_eq!(result["ok"], true, "{result}");
        assert!(result["status"].is_null() || result["status"] == 204, "{result}");
        assert_eq!(result["rate_limit"]["limit"], QUOTA, "{result}");
        assert_eq!(result["rate_limit"]["remaining"], left, "{result}");
    }
    assert_eq!(at.redis.events().await, [(READER, RECIPIENT, MESSAGE)]);
    let result = client.mark(&at, auth, &message, &recipient).await;
    assert_refused(&result, errors.too_many_requests, 429, 88);
    assert_eq!(result["rate_limit"]["remaining"], 0, "{result}");
    let reset = result["rate_limit"]["reset"].as_u64().unwrap();
    let window_ms: u64 = at.redis.run(&format!("PEXPIRETIME markread:quota:{READER}")).await;
    assert_eq!(reset, window_ms.div_ceil(1000), "the end of the window: {result}");

    at.redis.kill().await;
    // While Redis is down, a remembered denial is still answered, and others are not.
    let result = client.mark(&at, auth, &message, &recipient).await;
    assert_refused(&result, errors.too_many_requests, 429, 88);
    let other = if auth == &signed() {
        signed_for_the_recipient()
    } else {
        bearer(Credentials::token_of(RECIPIENT))
    };
    let result = client.mark(&at, &other, &message, &recipient).await;
    assert_refused(&result, errors.unavailable, 503, 130);
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

/// Leads a client past the edge guard and past the calls that a reader may have waiting.
async fn lead_past_the_bounds(client: Client, errors: &Errors) {
    let (message, recipient) = (MESSAGE.to_string(), RECIPIENT.to_string());
    let at = Endpoint::start_with(&["--edge-rate", "1", "--edge-burst", "1"]).await;
    let other = at.caller(RECIPIENT);
    let mut busy = JoinSet::new();
    busy.spawn(async move {
        // Takes each call that the guard allows meanwhile.
        loop {
            let _ = other.mark(READER, MESSAGE).await;
            sleep(Duration::from_millis(20)).await;
        }
    });
    let result = client.mark(&at, &token(), &message, &recipient).await;
    assert_refused(&result, errors.too_many_requests, 429, 88);
    drop(busy);

    let flags = ["--reader-concurrency", "1", "--call-timeout", "20s"];
    let at = Endpoint::start_with(&flags).await;
    at.redis.freeze();
    // One is under way, and all that may wait do.
    let mut waiting = JoinSet::new();
    for _ in 0..5 {
        let caller = at.caller(READER);
        for _ in 0..210 {
            let caller = caller.clone();
            waiting.spawn(async move { caller.mark(RECIPIENT, MESSAGE).await });
        }
    }
    let refused = waiting.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(refused.reason, "CONCURRENCY_LIMIT_EXCEEDED");
    let result = client.mark(&at, &token(), &message, &recipient).await;
    assert_refused(&result, errors.too_many_requests, 429, 88);
    assert_eq!(result["retry_after"], "1", "less than a second, rounded up: {result}");
    at.redis.thaw();
}

#[tokio::test]
async fn twitter_api_v2_is_told_when_to_come_again() {
    lead_past_the_bounds(Client::TwitterApiV2, &TWITTER_API_V2).await;
}

#[tokio::test]
async fn tweepy_is_told_when_to_come_again() {
    lead_past_the_bounds(Client::Tweepy, &TWEEPY).await;
}

#[tokio::test]
async fn twitter_api_v2_marks_with_signatures() {
    let (client, forged) = (Client::TwitterApiV2, signed_by_another());
    lead_through_every_answer(client, &signed(), &forged, &TWITTER_API_V2).await;
}

#[tokio::test]
async fn twitter_api_v2_marks_with_a_bearer_token() {
    lead_through_every_answer(Client::TwitterApiV2, &token(), &garbage(), &TWITTER_API_V2).await;
}

#[tokio::test]
async fn tweepy_marks_with_signatures() {
    lead_through_every_answer(Client::Tweepy, &signed(), &signed_by_another(), &TWEEPY).await;
}

#[tokio::test]
async fn tweepy_marks_with_a_bearer_token() {
    lead_through_every_answer(Client::Tweepy, &token(), &garbage(), &TWEEPY).await;
}

#[tokio::test]
async fn requests_oauthlib_marks_with_parameters_in_the_body() {
    let client = Client::RequestsOauthlib { flag: None };
    lead_through_every_answer(client, &signed(), &signed_by_another(), &REQUESTS).await;
}

#[tokio::test]
async fn requests_oauthlib_marks_with_parameters_in_the_query() {
    let client = Client::RequestsOauthlib { flag: Some("--query") };
    lead_through_every_answer(client, &signed(), &signed_by_another(), &REQUESTS).await;
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
