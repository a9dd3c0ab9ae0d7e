//! The commands on a cluster, and moves to and from one.

use markread_harness::cluster::{RedisCluster, partition_of, slot_of, tags};

use super::*;

const MODE: [&str; 2] = ["--redis-mode", "cluster"];

/// Runs a command of `markread admin` on a cluster to its end.
async fn on_cluster(cluster: &RedisCluster, words: &[&str]) -> Ended {
    ended(admin_command(&cluster.url(), &[words, &MODE].concat())).await
}

async fn exported_of(cluster: &RedisCluster) -> BTreeSet<String> {
    lines(&on_cluster(cluster, &["export"]).await.done())
}

/// Readers with few cursors and with buckets, in many partitions.
fn many_lines() -> String {
    let of = |reader: u64, cursors: u64| {
        (1..=cursors).map(move |recipient| line(reader, 1_000 + recipient, reader + recipient, 7))
    };
    (1..=300).flat_map(|reader| of(reader, if reader % 50 == 0 { 400 } else { 5 })).collect()
}

async fn import_into(cluster: &RedisCluster, text: &str) {
    let files = Files::new();
    let file = files.write("cursors.jsonl", text);
    on_cluster(cluster, &["import", &file]).await.done();
    // A move wants to see the stream, which the first mark would have made.
    let stream = format!("direct_message_mark_read_events:{{{}}}", tags(64)[0]);
    let make = format!("XGROUP CREATE {stream} one 0 MKSTREAM");
    cluster.run_on_key::<()>(&stream, &make).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_works_on_all_partitions() {
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    let text = many_lines();
    import_into(&cluster, &text).await;
    assert_eq!(exported_of(&cluster).await, lines(&text));
    let own: BTreeSet<_> = text
        .lines()
        .filter(|line| line.contains("\"reader_id\":\"50\""))
        .map(str::to_owned)
        .collect();
    let printed = on_cluster(&cluster, &["cursors", "--user", "50"]).await.done();
    assert_eq!(lines(&printed), own);

    let set = ["set", "--user", "7", "--recipient", "50", "--last-read-event-id", "9"];
    on_cluster(&cluster, &set).await.done();
    for (reader, recipient) in [(50, 7), (8, 50), (9, 10)] {
        server.caller(reader).mark(recipient, MESSAGE).await.unwrap();
    }
    cluster
        .run_on_key::<()>("markread:subscriptions:one", "SADD markread:subscriptions:one 50")
        .await;
    for webhook in ["one", "two", "three"] {
        let key = format!("markread:dead_letters:{webhook}");
        let add = format!("XADD {key} * webhook_id 0-1-0-50 reason max_age attempts 1");
        cluster.run_on_key::<()>(&key, &add).await;
    }
    let erased =
        on_cluster(&cluster, &["erase", "--user", "50", "--events", "--as-recipient"]).await.done();
    let expected = "user 50: 401 cursors, 1 quota, 1 subscription, 2 cursors of other readers, \
                    2 events, 3 dead letters";
    assert!(erased.starts_with(expected), "{erased}");
    let left = exported_of(&cluster).await;
    assert_eq!(left.len(), text.lines().count() - 400 + 1);
    assert!(!left.iter().any(|line| line.contains("_id\":\"50\",\"recipient")));
    assert!(!left.iter().any(|line| line.contains("recipient_id\":\"50\"")));
    assert!(on_cluster(&cluster, &["upgrade-layout"]).await.done().contains("2 already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_moved_to_a_cluster_and_back() {
    let (from, subject) = filled(1).await;
    let cluster = RedisCluster::start(3, 0).await;
    let (url, before) = (cluster.url(), exported(&from).await);
    let words = ["move", "--to", &url, "--to-mode", "cluster", "--finish"];
    let moved = admin(&from, &words).await.done();
    let counts = format!("{FILLED} cursors of 6 readers");
    let expected = format!("moved: {counts}; at the destination {counts}, none behind; ");
    assert!(moved.starts_with(&expected), "{moved}");
    assert_eq!(exported_of(&cluster).await, before);
    drop(subject);

    let server = Server::on_cluster(&cluster, &[]).await;
    let back = Redis::start().await;
    let words = ["move", "--to", &back.url(), "--follow"];
    let mut following = admin_command(&url, &[&words[..], &MODE].concat());
    let mut following = following.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // In each partition of the first readers, followed as it happens.
    for reader in [1, 2, 64, 65, 1_000, 77, 78, 79] {
        let marked = server.caller(reader).mark(1, MESSAGE + 1).await.unwrap();
        assert!(marked.advanced);
    }
    for reader in [1, 2, 64, 65, 1_000, 77, 78, 79] {
        eventually("it is followed", ENDS, async || {
            (back.cursors(reader).await.get(&1) == Some(&(MESSAGE + 1))).then_some(())
        })
        .await;
    }
    following.kill().await.unwrap();
    let words = ["move", "--to", &back.url(), "--finish"];
    let moved = on_cluster(&cluster, &words).await.done();
    assert!(moved.contains("none behind; ") && !moved.contains("first put"), "{moved}");
    assert_eq!(exported(&back).await.len(), before.len() + 3);
    let refused = server.caller(1).mark(1, MESSAGE + 2).await.unwrap_err();
    assert_eq!(refused.code, tonic::Code::Unavailable, "{refused:?}");
    assert_eq!(on_cluster(&cluster, &["export"]).await.status, Some(2));
    on_cluster(&cluster, &["move", "--undo"]).await.done();
    eventually("it serves again", ENDS, async || server.caller(1).mark(1, MESSAGE + 2).await.ok())
        .await;
}

/// What a user may not do is not taken for a change of the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() {
    let cluster = RedisCluster::start(3, 0).await;
    import_into(&cluster, &many_lines()).await;
    for node in 0..3 {
        cluster.node(node).run::<()>("ACL SETUSER default -scan").await;
    }
    let to = Redis::start().await;
    for words in [&["export"][..], &["move", "--to", &to.url()]] {
        let refused = on_cluster(&cluster, words).await;
        assert!(!refused.stderr.contains("again"), "{refused:?}");
        let line = refused.failed();
        assert!(line.contains("NOPERM") && line.contains("scan"), "{line}");
    }
}

/// Slots go from one master to another while their keys are copied.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_missed_while_slots_are_moved() {
    let cluster = Arc::new(RedisCluster::start(3, 0).await);
    let text = many_lines();
    import_into(&cluster, &text).await;
    let slots: Vec<_> = tags(64).iter().map(|tag| slot_of(tag)).collect();
    let moves = {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            let mut moved = 0;
            for reader in 1..=12 {
                let slot = slots[partition_of(reader, 64)];
                let to = (cluster.owner(slot).await + 1) % 3;
                moved += cluster.move_slot(slot, to).await;
            }
            moved
        })
    };
    let mut rounds = 0;
    while !moves.is_finished() || rounds == 0 {
        let to = Redis::start().await;
        let copied = on_cluster(&cluster, &["move", "--to", &to.url()]).await.done();
        assert!(copied.contains("all are copied"), "{copied}");
        assert_eq!(exported(&to).await, lines(&text));
        let all: BTreeSet<_> =
            on_cluster(&cluster, &["export"]).await.done().lines().map(str::to_owned).collect();
        assert_eq!(all, lines(&text));
        rounds += 1;
    }
    assert!(moves.await.unwrap() > 12, "keys were moved");
}

/// A slot goes from a node that is not scanned yet to one that was: its keys are on neither's list.
#[tokio::test(flavor = "multi_thread")]
async fn keys_that_went_behind_the_scan_are_copied_too() {
    let cluster = RedisCluster::start(3, 0).await;
    // They are scanned in the order of their addresses.
    let mut nodes = [0, 1, 2];
    nodes.sort_by_key(|node| cluster.node(*node).port);
    let [first, second, last] = nodes;
    let slots: Vec<_> = tags(64).iter().map(|tag| slot_of(tag)).collect();
    let mut owners = Vec::new();
    for slot in &slots {
        owners.push((0..3).find(|node| cluster.share(*node).contains(slot)).unwrap());
    }
    let mut of_node: HashMap<usize, Vec<u64>> = HashMap::new();
    for reader in 1..=600 {
        let owner = owners[partition_of(reader, 64)];
        of_node.entry(owner).or_default().push(reader);
    }
    let (many, one) = (&of_node[&second], of_node[&last][0]);
    let cursors = |reader: u64| (1..=60).map(move |recipient| line(reader, recipient, 5, 5));
    let text: String =
        many.iter().copied().flat_map(cursors).collect::<String>() + &line(one, 1, 5, 5);
    import_into(&cluster, &text).await;

    let to = Redis::start().await;
    let words = ["move", "--to", &to.url()];
    let mut command = admin_command(&cluster.url(), &[&words[..], &MODE].concat());
    let moving = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let signal = |signal| {
        let id = nix::unistd::Pid::from_raw(moving.id().unwrap().try_into().unwrap());
        nix::sys::signal::kill(id, signal).unwrap();
    };
    eventually("the second node is copied", ENDS, async || {
        (to.run::<u64>("DBSIZE").await > 5).then_some(())
    })
    .await;
    signal(nix::sys::signal::Signal::SIGSTOP);
    let keys = to.run::<usize>("DBSIZE").await;
    assert!(keys < many.len(), "it is not at the last node");
    cluster.move_slot(slots[partition_of(one, 64)], first).await;
    signal(nix::sys::signal::Signal::SIGCONT);
    let ended = timeout(ENDS, moving.wait_with_output()).await.unwrap().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert!(ended.status.success(), "{said}");
    assert!(
        said.contains("slots of the cluster were moved: all cursors are copied again"),
        "{said}"
    );
    assert_eq!(exported(&to).await, lines(&text));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rule_is_enough_on_a_cluster() {
    let page = include_str!("../../../docs/production.md");
    let mut rules =
        page.lines().filter_map(|line| line.strip_prefix("    user markread-admin on >PASSWORD "));
    let rule = rules.next_back().unwrap();
    assert!(rule.contains("+cluster|nodes"), "{rule}");
    let cluster = RedisCluster::start(3, 0).await;
    let server = Server::on_cluster(&cluster, &[]).await;
    server.caller(50).mark(7, MESSAGE).await.unwrap();
    drop(server);
    for node in cluster.nodes() {
        node.run::<()>(&format!("ACL SETUSER markread-admin reset on >PASSWORD {rule}")).await;
    }
    let url = cluster.url().replace("redis://", "redis://markread-admin:PASSWORD@");
    let to = Redis::start().await;
    let files = Files::new();
    let file = files.write("cursors.jsonl", many_lines());
    for words in [
        &["import", &file][..],
        &["export"],
        &["cursors", "--user", "50"],
        &["set", "--user", "7", "--recipient", "50", "--last-read-event-id", "9"],
        &["erase", "--user", "50", "--events", "--as-recipient"],
        &["move", "--to", &to.url(), "--finish"],
        &["move", "--undo"],
        &["upgrade-layout"],
    ] {
        ended(admin_command(&url, &[words, &MODE].concat())).await.done();
    }
    for node in cluster.nodes() {
        let log: Vec<redis::Value> = node.run("ACL LOG").await;
        assert!(log.is_empty(), "{log:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clusters_are_named() {
    let (from, _subject) = filled(2).await;
    let cluster = RedisCluster::start(3, 0).await;
    let url = cluster.url();
    import_into(&cluster, &line(1, 2, 3, 4)).await;
    let to_cluster = ["--to-mode", "cluster"];
    for (to, flags, status, said) in [
        (&*url, &to_cluster[..], 1, "has cursors that are not of a move from this Redis"),
        (&url, &["--to-mode", "cluster", "--to-partitions", "32"], 2, "\"64\" partitions"),
        (&cluster.node(0).url(), &[], 1, "cluster mode"),
        (&from.url(), &to_cluster, 1, "set --to-mode standalone"),
    ] {
        let refused = admin(&from, &[&["move", "--to", to], flags].concat()).await;
        assert_eq!(refused.status, Some(status), "{said}: {refused:?}");
        assert!(refused.stderr.contains(said), "{said}: {refused:?}");
    }
    on_cluster(&cluster, &["erase", "--user", "1"]).await.done();
    admin(&from, &[&["move", "--to", &url], &to_cluster[..]].concat()).await.done();
    // A cluster is no other store than itself.
    let words = ["move", "--to", &url, "--to-mode", "cluster"];
    let refused = on_cluster(&cluster, &words).await.failed();
    assert!(refused.contains("--to is the Redis of --redis-url"), "{refused}");
}
