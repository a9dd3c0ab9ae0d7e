//! The rights in Redis that `docs/production.md` lists for `markread admin` are enough.

use markread_harness::free_port;

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
    let to = Redis::start().await;
    to.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {}", rule())).await;
    let to_url = to.url().replace("redis://", "redis://markread-admin:PASSWORD@");
    run(&["move", "--to", &to_url]).await;
    run(&["move", "--to", &to_url, "--finish"]).await;
    run(&["move", "--undo"]).await;
    run(&["downgrade-layout"]).await;
    let log: Vec<redis::Value> = to.run("ACL LOG").await;
    assert!(log.is_empty(), "{log:?}");
    let log: Vec<redis::Value> = redis.run("ACL LOG").await;
    assert!(log.is_empty(), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_a_command_fails_and_changes_nothing_else() {
    let (redis, _subject) = filled(2).await;
    redis.run::<()>("SADD markread:subscriptions:one 64").await;
    let state = async || {
        let there: (u64, u64) = (
            redis.run("SISMEMBER markread:subscriptions:one 64").await,
            redis.run("XLEN direct_message_mark_read_events").await,
        );
        (redis.cursors(64).await.len(), there.0, there.1, exported(&redis).await.len())
    };
    let before = state().await;
    let (_, _, events, all) = before;
    let erase = ["erase", "--user", "64", "--events"];
    // What comes before the step that needs the right is done.
    for (right, words, after) in [
        ("scan", &["export"][..], before),
        ("unlink", &erase, before),
        ("scan", &erase, (0, 1, events, all - 64)),
        ("srem", &erase, (0, 1, events, all - 64)),
        ("xdel", &erase, (0, 0, events, all - 64)),
    ] {
        let fewer = rule().replace(&format!(" +{right}"), "");
        assert_ne!(fewer, rule());
        redis.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {fewer}")).await;
        let url = redis.url().replace("redis://", "redis://markread-admin:PASSWORD@");
        let line = ended(admin_command(&url, words)).await.failed();
        assert!(line.contains("permissions") || line.contains("can't run"), "{line}");
        assert_eq!(state().await, after, "without {right}");
    }
    redis.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {}", rule())).await;
    let url = redis.url().replace("redis://", "redis://markread-admin:PASSWORD@");
    ended(admin_command(&url, &erase)).await.done();
    assert_eq!(state().await, (0, 0, events - 64 - 2, all - 64));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_a_move_is_not_finished_by_half() {
    let (redis, subject) = filled(2).await;
    let to = Redis::start().await;
    let url = redis.url().replace("redis://", "redis://markread-admin:PASSWORD@");
    let finish = async |rule: &str| {
        redis.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {rule}")).await;
        ended(admin_command(&url, &["move", "--to", &to.url(), "--finish"])).await
    };
    for (right, name) in [("rename", "RENAME"), ("set", "SET"), ("type", "TYPE")] {
        let fewer = rule().replace(&format!(" +{right} "), " ");
        let fewer = fewer.strip_suffix(&format!(" +{right}")).unwrap_or(&fewer);
        assert_ne!(fewer, rule());
        let line = finish(fewer).await.failed();
        let expected = format!("nothing was changed: Redis refuses {name}, without");
        assert!(line.contains(&expected), "{line}");
        subject.mark_one(mark(64, 1, MESSAGE + 1)).await;
    }
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "2");
    finish(rule()).await.done();
    assert_eq!(redis.run::<String>("HGET markread:layout version").await, "2-moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_refused_and_nothing_is_written() {
    let redis =
        Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()])
            .await;
    redis.run::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
    eventually("the cluster is up", Duration::from_secs(10), async || {
        let info: String = redis.run("CLUSTER INFO").await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let files = Files::new();
    let file = files.write("cursors.jsonl", line(1, 2, 3, 4));
    for words in [
        &["import", &file][..],
        &["export"],
        &["cursors", "--user", "1"],
        &["erase", "--user", "1"],
        &["set", "--user", "1", "--recipient", "2", "--last-read-event-id", "3"],
        &["upgrade-layout"],
        &["downgrade-layout"],
    ] {
        let refused = admin(&redis, words).await.failed();
        assert!(refused.contains("cluster mode"), "{refused}");
    }
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
}
