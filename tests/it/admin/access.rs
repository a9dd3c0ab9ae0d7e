//! The rights in Redis that `docs/production.md` lists for `markread admin` are enough.

use super::*;

fn rule() -> &'static str {
    let page = include_str!("../../../docs/production.md");
    let rule =
        page.lines().find_map(|line| line.strip_prefix("    user markread-admin on >PASSWORD "));
    rule.expect("the page has the rule")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rule_is_enough_for_each_command() {
    let (redis, subject) = filled(1).await;
    redis.run::<()>("SADD markread:subscriptions:one 1000").await;
    redis.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {}", rule())).await;
    let url = redis.url().replace("redis://", "redis://markread-admin:PASSWORD@");
    let run = async |words: &[&str]| ended(admin_command(&url, words)).await.done();
    assert_eq!(lines(&run(&["export"]).await).len(), FILLED);
    run(&["upgrade-layout"]).await;
    subject.mark_one(mark(1_000, 1, 1)).await;
    let text = run(&["export"]).await;
    assert_eq!(lines(&text).len(), FILLED);
    let more: String = (0..300).map(|to| line(77, 5_000 + to, 5, 5)).collect();
    let files = Files::new();
    let file = files.write("cursors.jsonl", text + &more);
    run(&["import", &file]).await;
    run(&["set", "--user", "77", "--recipient", "5000", "--last-read-event-id", "4", "--force"])
        .await;
    assert_eq!(lines(&run(&["cursors", "--user", "77"]).await).len(), 300);
    assert_eq!(lines(&run(&["cursors", "--user", &READER.to_string()]).await).len(), 600);
    let line = run(&["erase", "--user", "1000", "--events", "--as-recipient"]).await;
    assert!(line.starts_with("user 1000: 1000 cursors, 1 quota, 1 subscription"), "{line}");
    run(&["downgrade-layout"]).await;
    let log: Vec<redis::Value> = redis.run("ACL LOG").await;
    assert!(log.is_empty(), "{log:?}");

    // Without one of the commands it is named, and nothing is changed.
    let fewer = rule().replace(" +unlink", "");
    redis.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {fewer}")).await;
    let line = ended(admin_command(&url, &["erase", "--user", "64"])).await.failed();
    assert!(line.contains("permissions") || line.contains("can't run"), "{line}");
    assert_eq!(redis.cursors(64).await.len(), 64);
}
