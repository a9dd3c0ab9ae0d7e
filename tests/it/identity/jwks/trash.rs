//! A source that answers with something other than keys.

use std::time::Duration;

use markread_harness::{Redis, eventually};
use serde_json::json;

use super::source::Reply;
use super::{Key, Source, serve, set};
use crate::answers::credentials::{assert_invalid, mark};

const LIMIT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn an_invalid_key_set_leaves_the_last_one_in_use() {
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
        ("not an object", Reply::json("[]")),
        ("keys that are not a list", Reply::json(r#"{"keys":{"kid":"new"}}"#)),
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
        // An endless body may end the call by its deadline.
        let endless = ["a flood", "a trickle"].contains(&what);
        if !endless || denied.reason == "CREDENTIALS_INVALID" {
            assert_invalid(Err(denied), what);
        }
        mark(&server, old.token_with(json!({ "jti": what }))).await.expect(what);
        assert_eq!(server.get("/readyz").await.0, 200, "{what}");
        assert_eq!(source.strays(), 0, "{what}: redirects are not followed");

        // Once the source answers well again, the new key works.
        source.publishes(&set(&[&new]));
        eventually(what, LIMIT, async || mark(&server, new.token()).await.ok()).await;
    }
}
