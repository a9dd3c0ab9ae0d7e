//! Ready means that a call would succeed: the rights and commands that calls need in Redis, by the rule and
//! the table in `docs/production.md`.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use markread_harness::{MESSAGE, READER, Redis, Server, eventually};

mod halves;
mod readiness;

/// Longer than probes take to notice a change.
const NOTICED: Duration = Duration::from_secs(15);

const PAGE: &str = include_str!("../../../docs/production.md");

/// The rule of the documentation: keys and commands.
pub(crate) fn rule() -> &'static str {
    let rule = PAGE.lines().find_map(|line| line.strip_prefix("    user markread on >PASSWORD "));
    rule.expect("the page has the rule")
}

/// The commands that the table names in the rows of this kind, as in ACL rules.
fn commands(needed_by: &str) -> Vec<String> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix(&format!("| {needed_by} | ")));
    let commands: Vec<_> = rows
        .flat_map(|row| row.split(" | ").next().unwrap().split(' '))
        .map(|word| word.trim_matches('`').replace("\\|", "|"))
        .collect();
    assert!(!commands.is_empty(), "{needed_by}");
    commands
}

/// Gives a user these rights and no others. Returns the URL that logs in as this user.
pub(crate) async fn permit_as(redis: &Redis, user: &str, rule: &str) -> String {
    redis.run::<()>(&format!("ACL SETUSER {user} reset on >PASSWORD {rule}")).await;
    redis.url().replace("redis://", &format!("redis://{user}:PASSWORD@"))
}

/// Waits until a server is not ready and says why, with this word or text.
pub(crate) async fn wait_until_it_names(server: &Server, text: &str) -> String {
    let page = eventually(text, NOTICED, async || {
        let (status, page) = server.get("/readyz").await;
        // `+hget` is not named by `+hgetall`.
        let is_end = |rest: &str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '|');
        let is_named =
            page.match_indices(text).any(|(start, _)| is_end(&page[start + text.len()..]));
        (status == 503 && is_named).then_some(page)
    })
    .await;
    assert!(!server.is_serving().await, "{page}");
    assert_eq!(server.get("/livez").await.0, 200);
    page
}

/// Asserts that each cursor has its last event, each event its cursor, and no advance two events.
async fn assert_whole(redis: &Redis) {
    let mut last: BTreeMap<u64, HashMap<u64, u64>> = BTreeMap::new();
    for (reader, recipient, message) in redis.events().await {
        let before = last.entry(reader).or_default().insert(recipient, message);
        assert!(before < Some(message), "{before:?} before {message} of {reader} and {recipient}");
    }
    for (reader, cursors) in last {
        assert_eq!(redis.cursors(reader).await, cursors, "of {reader}");
    }
}
