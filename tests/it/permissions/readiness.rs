//! What is missing is named, and the server is not ready until it is mended.

use std::sync::Arc;

use markread_harness::free_port;
use tokio::task::JoinSet;

use super::*;

const QUOTAS: [&str; 4] = ["--rate-limit", "1000000", "--read-rate-limit", "1000000"];

const STREAM: &str = "direct_message_mark_read_events";

/// A command of the rule that Redis lets every user run.
const FREE: &str = "+hello";

/// Takes commands away from a user of its own, one at a time, and gives them back. Marks are tried
/// meanwhile: in a conversation that exists, in the 65th one, and by a reader with no open window.
async fn take_away(redis: Arc<Redis>, user: String, commands: Vec<String>, first_reader: u64) {
    let url = permit_as(&redis, &user, rule()).await;
    let server = Server::at(&url, &QUOTAS, &[]).await;
    server.wait_until_ready().await;
    for (n, command) in (0..).zip(&commands) {
        let reader = first_reader + 10 * n;
        let (full, new) = (server.caller(reader), server.caller(reader + 1));
        full.mark_batch(&(1..=64).map(|to| (to, MESSAGE)).collect::<Vec<_>>()).await.unwrap();
        let name = &command[1..];
        redis.run::<()>(&format!("ACL SETUSER {user} -{name}")).await;
        for _ in 0..20 {
            let _ = full.mark(1, MESSAGE + 1).await;
            let _ = full.mark(65, MESSAGE).await;
            let _ = new.mark(1, MESSAGE).await;
            let _ = new.mark_batch(&[(2, MESSAGE), (3, MESSAGE)]).await;
        }
        wait_until_it_names(&server, command).await;
        let _ = full.mark(1, MESSAGE + 1).await;
        redis.run::<()>(&format!("ACL SETUSER {user} {command}")).await;
        server.wait_until_ready().await;
        for _ in 0..2 {
            full.mark(1, MESSAGE + 1).await.unwrap();
            full.mark(65, MESSAGE).await.unwrap();
            new.mark(1, MESSAGE).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_that_calls_need_is_named_and_noticed_when_it_is_back() {
    let redis = Arc::new(Redis::start().await);
    let mut needed = commands("`serve`");
    needed.retain(|command| command != FREE);
    assert!(needed.len() > 20, "{needed:?}");
    let mut takes = JoinSet::new();
    for (n, part) in (1..).zip(needed.chunks(6)) {
        let (redis, user) = (Arc::clone(&redis), format!("markread{n}"));
        takes.spawn(take_away(redis, user, part.to_vec(), 1_000 * n));
    }
    takes.join_all().await;
    assert_whole(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_what_is_optional_a_server_is_ready() {
    let redis = Redis::start().await;
    let mut rule = format!("{} ", rule());
    let optional = [commands("optional"), commands("`serve --replicas-ack`")].concat();
    for command in optional {
        let shorter = rule.replace(&format!(" {command} "), " ");
        assert_ne!(shorter, rule);
        rule = shorter;
    }
    let url = permit_as(&redis, "markread", &rule).await;
    let server = Server::at(&url, &[], &[]).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(1, MESSAGE).await.unwrap();
    let flagged = Server::at(&url, &["--replicas-ack", "1"], &[]).await;
    wait_until_it_names(&flagged, "+wait").await;
    redis.run::<()>("ACL SETUSER markread +wait").await;
    flagged.wait_until_ready().await;
    assert!(server.is_serving().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_key_that_is_missing_is_named() {
    let redis = Redis::start().await;
    let patterns = [
        "~markread:layout",
        "~direct_message_mark_read_events",
        "~markread:quota:*",
        "~markread:read_quota:*",
        "~markread:cursors:*",
        "~markread:oauth1:*",
        "%R~user:*",
    ];
    let (_, commands) = rule().split_once(" +").unwrap();
    let url = permit_as(&redis, "markread", &format!("+{commands}")).await;
    let server = Server::at(&url, &[], &[]).await;
    let page = wait_until_it_names(&server, "~markread:*").await;
    for pattern in ["~markread:*", patterns[1], patterns[6]] {
        assert!(page.contains(&format!(" {pattern}")), "{page}");
    }
    assert!(!page.contains('+'), "{page}");
    for missing in patterns {
        let others = patterns.iter().filter(|pattern| **pattern != missing);
        let others: Vec<_> = others.copied().collect();
        let keys = format!("ACL SETUSER markread resetkeys {}", others.join(" "));
        redis.run::<()>(&keys).await;
        let page = wait_until_it_names(&server, missing).await;
        assert!(page.trim_end().ends_with(&format!("lacks {missing}")), "{page}");
        redis.run::<()>(&format!("ACL SETUSER markread {missing}")).await;
        server.wait_until_ready().await;
    }
    // Rights to read are too few.
    redis.run::<()>(&format!("ACL SETUSER markread resetkeys %R~* {}", patterns[1])).await;
    wait_until_it_names(&server, "lacks ~markread:*").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_missing_is_named_at_once_and_logged_once() {
    let redis = Redis::start().await;
    let lacking = format!("{} -incrby -xadd -hset -getrange", rule());
    let url = permit_as(&redis, "markread", &lacking).await;
    let server = Server::at(&url, &[], &[]).await;
    let page = wait_until_it_names(&server, "+xadd").await;
    assert!(page.contains("the Redis user lacks +getrange +hset +incrby +xadd"), "{page}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let log = server.log();
    let lines = log.iter().filter(|line| line.contains("Redis refuses what calls need"));
    assert_eq!(lines.count(), 1, "{log:?}");

    // Nothing was run or written for it, not even the layout.
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
    assert_eq!(redis.run::<Vec<redis::Value>>("ACL LOG").await, []);
    redis.run::<()>("ACL SETUSER markread +incrby +xadd +hset +getrange").await;
    server.wait_until_ready().await;
    server.caller(READER).mark(1, MESSAGE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_writes_nothing() {
    // Pings would be sent to the replica too.
    let redis = Redis::with(&["--repl-ping-replica-period", "3600"]).await;
    let replica = Redis::start().await;
    replica.run::<()>(&format!("REPLICAOF 127.0.0.1 {}", redis.port)).await;
    eventually("the replica is in sync", NOTICED, async || {
        let info: String = redis.run("INFO replication").await;
        info.contains("state=online").then_some(())
    })
    .await;
    let server = Server::on(&redis).await;
    server.caller(READER).mark(1, MESSAGE).await.unwrap();
    let changes = async || {
        let info: String = redis.run("INFO").await;
        let names = ["rdb_changes_since_last_save:", "master_repl_offset:"];
        let is_wanted = |line: &&str| names.iter().any(|name| line.starts_with(name));
        let lines: Vec<_> = info.lines().filter(is_wanted).map(str::to_owned).collect();
        assert_eq!(lines.len(), 2);
        lines
    };
    let before = (redis.contents().await, changes().await);
    let probes = redis.calls("eval").await;
    eventually("some probes", NOTICED, async || {
        (redis.calls("eval").await > probes + 6).then_some(())
    })
    .await;
    assert_eq!((redis.contents().await, changes().await), before);
    let ((), commands) = redis.script_commands(tokio::time::sleep(Duration::from_secs(2))).await;
    // The looks at the stream only read.
    let reads = ["EXISTS", "HGET", "TIME", "XINFO", "XREVRANGE"];
    let others: Vec<_> =
        commands.into_iter().filter(|words| !reads.contains(&words[0].as_str())).collect();
    assert_eq!(others, Vec::<Vec<String>>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_was_renamed_is_named() {
    for command in ["EVALSHA", "HSET", "GETRANGE", "XREAD"] {
        let redis = Redis::with(&["--rename-command", command, ""]).await;
        let server = Server::at(&redis.url(), &[], &[]).await;
        let page = wait_until_it_names(&server, command).await;
        assert!(page.contains(&format!("Redis does not have {command}: rename-command")), "{page}");
        let denied = server.caller(READER).mark(1, MESSAGE).await.unwrap_err();
        assert_eq!(denied.reason, "STORE_UNAVAILABLE", "{}", denied.message);
        assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_need_one_way_to_be_sent() {
    let redis = Redis::start().await;
    let lacking = format!("{} -eval -evalsha -script|load", rule());
    let url = permit_as(&redis, "markread", &lacking).await;
    let server = Server::at(&url, &[], &[]).await;
    wait_until_it_names(&server, "lacks +eval +evalsha +script|load").await;
    redis.run::<()>("ACL SETUSER markread +evalsha").await;
    wait_until_it_names(&server, "lacks +eval +script|load").await;
    redis.run::<()>("ACL SETUSER markread +script|load -hset").await;
    wait_until_it_names(&server, "lacks +eval +hset").await;
    redis.run::<()>("ACL SETUSER markread +eval +hset").await;
    server.wait_until_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_a_cluster_is_not_ready() {
    let redis =
        Redis::with(&["--cluster-enabled", "yes", "--cluster-port", &free_port().to_string()])
            .await;
    let server = Server::at(&redis.url(), &[], &[]).await;
    wait_until_it_names(&server, "Redis is in cluster mode: set --redis-mode cluster").await;
    redis.run::<()>("CLUSTER ADDSLOTSRANGE 0 16383").await;
    eventually("the cluster is up", NOTICED, async || {
        let info: String = redis.run("CLUSTER INFO").await;
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    wait_until_it_names(&server, "Redis is in cluster mode: set --redis-mode cluster").await;
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_takes_no_event_is_named() {
    let redis = Redis::start().await;
    let server = Server::on(&redis).await;
    let caller = server.caller(READER);
    let last = u64::MAX;
    for (breaks, named) in [
        (format!("SET {STREAM} x"), "is not a stream"),
        (format!("XADD {STREAM} {last}-{last} payload x"), "has the last possible ID"),
    ] {
        redis.run::<redis::Value>(&breaks).await;
        wait_until_it_names(&server, named).await;
        caller.mark(1, MESSAGE).await.unwrap_err();
        redis.run::<()>(&format!("DEL {STREAM}")).await;
        server.wait_until_ready().await;
    }
    assert!(caller.mark(1, MESSAGE).await.unwrap().advanced);
}
