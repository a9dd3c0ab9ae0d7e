//! A source that answers, and not with keys.

use std::time::Duration;

use serde_json::json;

use super::super::super::answers::credentials::{assert_invalid, mark};
use super::super::super::harness::{Redis, eventually};
use super::source::Reply;
use super::{Key, Source, serve, set};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_is_no_key_set_keeps_the_last_one() {
    let redis = Redis::start().await;
    let (old, new) = (Key::ed25519("old").await, Key::ed25519("new").await);
    let fresh = set(&[&new]).to_string();
    let redirect = |status: &str| format!("{status}\r\nlocation: /elsewhere");
    let padded = fresh.clone() + &" ".repeat(2 * 1024 * 1024);
    let short = fresh.len() + 100;
    for (what, reply) in [
        ("not JSON", Reply::json("<html></html>")),
        ("half of it", Reply::json(&fresh[..fresh.len() / 2])),
        ("nothing", Reply::json("")),
        ("another object", Reply::json("{}")),
        ("no object", Reply::json("[]")),
        ("keys that are no list", Reply::json(r#"{"keys":{"kid":"new"}}"#)),
        ("2 MiB", Reply::json(padded)),
        ("a fault", Reply::new("500 Internal Server Error", fresh.clone())),
        ("not found", Reply::new("404 Not Found", fresh.clone())),
        ("moved", Reply::new(&redirect("301 Moved Permanently"), fresh.clone())),
        ("found", Reply::new(&redirect("302 Found"), "")),
        ("redirected", Reply::new(&redirect("307 Temporary Redirect"), "")),
        ("cut off", Reply::new(&format!("200 OK\r\ncontent-length: {short}"), fresh.clone())),
        ("a flood", Reply::endless(&b" ".repeat(64 * 1024), Duration::ZERO)),
        ("a trickle", Reply::endless(b" ", Duration::from_millis(50))),
    ] {
        let source = Source::of(&set(&[&old])).await;
        let server = serve(&redis, &source, &[]).await;
        let before = source.fetches();
        source.replies(reply);
        let denied = mark(&server, new.token()).await.expect_err(what);
        eventually(what, LIMIT, async || (source.fetches() > before).then_some(())).await;
        // What never ends may end the call by its deadline.
        let endless = ["a flood", "a trickle"].contains(&what);
        if !endless || denied.reason == "CREDENTIALS_INVALID" {
            assert_invalid(Err(denied), what);
        }
        mark(&server, old.token_with(json!({ "jti": what }))).await.expect(what);
        assert_eq!(server.get("/readyz").await.0, 200, "{what}");
        assert_eq!(source.strays(), 0, "{what}: redirects are not followed");

        // When the source has its wits again, so has the server.
        source.publishes(&set(&[&new]));
        eventually(what, LIMIT, async || mark(&server, new.token()).await.ok()).await;
    }
}
