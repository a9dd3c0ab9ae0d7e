//! The relay's rule in `docs/production.md` is enough, and the probe misses each command of it.

use super::operations::{pass_of_feed, pass_of_webhook};
use super::*;
use markread::store::{EventLogs, StoreHealth};

const PAGE: &str = include_str!("../../../docs/production.md");

/// The rule for one Redis, or for a cluster.
fn rule(is_cluster: bool) -> &'static str {
    let mut rules =
        PAGE.lines().filter_map(|line| line.strip_prefix("    user markread-relay on >PASSWORD "));
    let rule = rules.find(|rule| rule.contains("+asking") == is_cluster);
    rule.expect("the page has the rule")
}

async fn permit(redis: &Redis, rule: &str) {
    redis.run::<()>(&format!("ACL SETUSER markread-relay reset on >PASSWORD {rule}")).await;
}

fn as_relay(url: &str) -> String {
    url.replace("redis://", "redis://markread-relay:PASSWORD@")
}

async fn assert_nothing_was_denied(redis: &Redis) {
    let log: Vec<redis::Value> = redis.run("ACL LOG").await;
    assert!(log.is_empty(), "{log:?}");
}

/// Waits as the relay does until it reads.
async fn wait_for_entries(subject: &Subject, partition: usize, after: EntryId) {
    let log = subject.store.clone().logs().swap_remove(partition);
    let found = log.wait_for_entries(after.into(), 1, LONG).await.unwrap();
    assert_eq!(found.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_is_enough_on_one_redis() {
    let redis = Redis::start().await;
    permit(&redis, rule(false)).await;
    let store = store_at(&as_relay(&redis.url())).await;
    let subject = Subject::of(store, Servers::One(Box::new(redis)));
    let added = subject.add_many(0, 3).await;
    pass_of_feed(&*subject.store, &feed(0), &added).await;
    pass_of_webhook(&*subject.store, &webhook()).await;
    wait_for_entries(&subject, 0, added[0]).await;
    assert_nothing_was_denied(subject.redis()).await;
    // The loss of entries sets the counter of the group.
    let lease = subject.acquire(&feed(0), "a").await;
    subject.add_many(0, 4).await;
    subject.redis().run::<()>(&format!("XTRIM {STREAM} MAXLEN 1")).await;
    assert_eq!(subject.new_entries(&lease, 9).await.missed, 3);
    assert_nothing_was_denied(subject.redis()).await;
    // Other keys are none of its business.
    let mut connection = redis::Client::open(as_relay(&subject.redis().url()))
        .unwrap()
        .get_multiplexed_async_connection()
        .await
        .unwrap();
    for key in ["markread:cursors:1", "markread:quota:1", "user:1", "other"] {
        let read = cmd("GET").arg(key).query_async::<redis::Value>(&mut connection).await;
        assert_eq!(read.unwrap_err().code(), Some("NOPERM"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rule_is_enough_on_a_cluster() {
    let cluster = RedisCluster::start(3, 0).await;
    for node in cluster.nodes() {
        permit(node, rule(true)).await;
    }
    let urls: Vec<_> = cluster.urls().iter().map(|url| as_relay(url)).collect();
    let store = store_of_cluster(&urls).await;
    let subject = Subject::of(store, Servers::Cluster(cluster));
    for partition in [0, 30, 63] {
        let added = subject.add_many(partition, 3).await;
        pass_of_feed(&*subject.store, &feed(partition), &added).await;
        wait_for_entries(&subject, partition, added[0]).await;
    }
    for name in ["one", "two", "three", "four", "five", "six"] {
        pass_of_webhook(&*subject.store, &name.parse().unwrap()).await;
    }
    let Servers::Cluster(cluster) = &subject.servers else { panic!("a cluster") };
    for node in cluster.nodes() {
        assert_nothing_was_denied(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_rule_is_missed_or_optional() {
    let redis = Redis::start().await;
    let (keys, commands) = rule(false).split_once(" +").unwrap();
    let commands: Vec<_> = commands.split(" +").collect();
    let mut stores = Vec::new();
    for (n, command) in commands.iter().enumerate() {
        // Redis lets every user run HELLO.
        if *command == "hello" {
            continue;
        }
        let user = format!("relay{n}");
        let all = commands.join(" +");
        let set = format!("ACL SETUSER {user} on >PASSWORD {keys} +{all}");
        redis.run::<()>(&set).await;
        let url = redis.url().replace("redis://", &format!("redis://{user}:PASSWORD@"));
        stores.push((*command, user, store_at(&url).await));
    }
    assert!(stores.len() > 30, "{}", stores.len());
    for (command, user, _) in &stores {
        redis.run::<()>(&format!("ACL SETUSER {user} -{command}")).await;
    }
    for (command, user, store) in &stores {
        if ["info", "config|get"].contains(command) {
            continue;
        }
        let health = store.health();
        eventually(command, Duration::from_secs(20), async || {
            let StoreHealth::Away(cause) = &*health.borrow() else { return None };
            cause.ends_with(&format!("lacks +{command}")).then_some(())
        })
        .await;
        redis.run::<()>(&format!("ACL SETUSER {user} +{command}")).await;
    }
    for (command, _, store) in &stores {
        let health = store.health();
        eventually(command, Duration::from_secs(20), async || {
            matches!(&*health.borrow(), StoreHealth::Ready { .. }).then_some(())
        })
        .await;
    }
}
