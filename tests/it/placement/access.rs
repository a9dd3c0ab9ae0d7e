//! The rights in Redis that `docs/production.md` lists are enough for whatever servers do, and what lacks
//! rights says so.

use std::time::Duration;

use markread_harness::caller::Caller;
use markread_harness::{RECIPIENT, Server, eventually};

use super::*;
use crate::identity::oauth1::{CredentialsFile, assert_signature_served};
use crate::permissions::{permit_as, rule};
use crate::read_side::watch::watcher::{Watcher, ids};

const NOTICED: Duration = Duration::from_secs(10);

const QUOTAS: [&str; 4] = ["--rate-limit", "1000000", "--read-rate-limit", "1000000"];

/// The last commands that were added to the rule. Servers that keep layout version 1 do without.
const ADDED: &str = " +hrandfield +hscan";

async fn permit(redis: &Redis, rule: &str) -> String {
    permit_as(redis, "markread", rule).await
}

/// A server whose user has these rights, on layout version 1, and 1,100 conversations of the reader, most
/// of which are in one bucket.
async fn served_version_1(rule: &str, flags: &[&str]) -> (Arc<Redis>, String, Server) {
    let redis = redis_of(1).await;
    let url = permit(&redis, rule).await;
    let server = Server::at(&url, &[&QUOTAS, flags].concat(), &[]).await;
    server.wait_until_ready().await;
    let caller = server.caller(READER);
    for to in 1..=80 {
        assert!(caller.mark(to, MESSAGE).await.unwrap().advanced);
    }
    let marks = (2_000..2_120).chain((1..=900).map(picked));
    let marks: Vec<_> = marks.map(|to| (to, MESSAGE)).collect();
    for marks in marks.chunks(500) {
        caller.mark_batch(marks).await.unwrap();
    }
    (redis, url, server)
}

/// How many cursors all pages have.
async fn listed(caller: &Caller) -> usize {
    let (mut cursors, mut token) = (0, String::new());
    loop {
        let page = caller.page(300, &token).await.unwrap().into_inner();
        cursors += page.cursors.len();
        token = page.next_page_token;
        if token.is_empty() {
            return cursors;
        }
    }
}

/// The commands that Redis refused for lack of rights.
async fn refused(redis: &Redis) -> Vec<String> {
    let log: Vec<HashMap<String, redis::Value>> = redis.run("ACL LOG").await;
    log.into_iter().map(|entry| format!("{:?}", entry["object"])).collect()
}

/// Asserts that many lines are one line in the log, which says which right is missing.
async fn assert_warns_once(server: &Server, words: &str) {
    eventually("the log says so", NOTICED, async || {
        let log = server.log();
        let lines: Vec<_> = log.iter().filter(|line| line.contains(words)).collect();
        assert!(lines.len() < 2, "{lines:?}");
        let is_right = |line: &str| line.contains("run the ") || line.contains("run this command");
        lines.first().map(|line| assert!(is_right(line), "{line}"))
    })
    .await;
}

async fn version(redis: &Redis) -> String {
    redis.run("HGET markread:layout version").await
}

#[test]
fn the_rule_of_the_cluster_tests_is_the_documented_one() {
    let cluster = include_str!("../../kubernetes/redis.yaml");
    assert!(cluster.contains(&format!("user markread on \">of a test\" {}\n", rule())));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rule_is_enough() {
    let file = CredentialsFile::of_reader();
    let path = file.path();
    let flags = ["--oauth1-credentials-file", path.to_str().unwrap()];
    let (redis, url, server) = served_version_1(rule(), &flags).await;
    let caller = server.caller(READER);
    assert_eq!(listed(&caller).await, 1_100);
    caller.states(&[1, 2_000, 7_777]).await.unwrap();

    let (status, text) = admin_at(&url, "upgrade-layout").await;
    assert_eq!((status, version(&redis).await.as_str()), (Some(0), "2"), "{text}");
    for to in [1, 9_001, 2_000] {
        assert!(caller.mark(to, MESSAGE + 1).await.unwrap().advanced);
    }
    caller.mark_batch(&[(2, MESSAGE + 1), (9_002, MESSAGE)]).await.unwrap();
    caller.states(&[1, 2_000, 7_777]).await.unwrap();
    assert_eq!(listed(&caller).await, 1_102);
    assert_signature_served(&server).await;
    caller.mark(RECIPIENT, MESSAGE + 5).await.unwrap();
    let mut watcher = Watcher::after(&server, READER, "0-0").await;
    assert_eq!(ids(&watcher.event().await), (READER, 1, MESSAGE));
    let log = server.log().join("\n");
    assert!(!log.contains("cannot be moved") && !log.contains("hashes whole"), "{log}");
    assert_eq!(refused(&redis).await, [""; 0]);
}

/// A server that is replaced by a newer one needs no more rights than before.
#[tokio::test(flavor = "multi_thread")]
async fn the_rule_of_earlier_versions_is_enough_until_the_layout_is_upgraded() {
    let earlier = rule().replace(ADDED, "");
    assert_ne!(earlier, rule());
    let (redis, url, server) = served_version_1(&earlier, &[]).await;
    let caller = server.caller(READER);
    assert_eq!(listed(&caller).await, 1_100);
    assert_warns_once(&server, "pages read large hashes whole").await;
    let (status, text) = admin_at(&url, "upgrade-layout").await;
    assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");
    assert!(text.contains("not changed") && text.contains("HRANDFIELD"), "{text}");
    assert_eq!(version(&redis).await, "1");

    // Another user upgrades. Marks go on; what cannot be moved is in the log.
    administer(&redis, "upgrade-layout").await;
    for n in 0..20 {
        assert!(caller.mark(picked(1 + n), MESSAGE + 1).await.unwrap().advanced);
        caller.mark_batch(&[(2, MESSAGE + 1 + n), (9_002, MESSAGE + n)]).await.unwrap();
    }
    assert_warns_once(&server, "cursors cannot be moved").await;
    let denied = caller.page(300, "").await.unwrap_err();
    assert_eq!(denied.reason, "STORE_UNAVAILABLE");
    redis.run::<()>("ACL SETUSER markread +hrandfield").await;
    assert_eq!(listed(&caller).await, 1_101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_that_could_not_be_completed_is_not_begun() {
    let (redis, readers) = frozen().await;
    administer(&redis, "upgrade-layout").await;
    for (rights, named) in
        [("", "'scan'"), (" +scan -hrandfield", "HRANDFIELD"), (" +scan -hdel", "HDEL")]
    {
        let url = permit(&redis, &format!("{}{rights}", rule())).await;
        let (status, text) = admin_at(&url, "downgrade-layout").await;
        assert_eq!((status, text.lines().count()), (Some(1), 1), "{text}");
        assert!(text.contains("not changed") && text.contains(named), "{text}");
        assert_eq!(version(&redis).await, "2");
    }
    let url = permit(&redis, &format!("{} +scan", rule())).await;
    let (status, text) = admin_at(&url, "downgrade-layout").await;
    assert_eq!((status, version(&redis).await.as_str()), (Some(0), "1"), "{text}");
    for (reader, cursors) in &readers {
        assert_eq!(redis.cursors(*reader).await, *cursors, "of {reader}");
    }
}
