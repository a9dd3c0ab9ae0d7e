//! Access to Sentinels and to the master that they name: what is wrong is said in one line.

use std::time::{Duration, Instant};

use markread_harness::binary::command;
use markread_harness::certificates::Authority;
use markread_harness::redis::default_server;
use markread_harness::sentinels::MASTER_NAME;
use markread_harness::{
    MESSAGE, READER, RECIPIENT, Redis, Sentinels, Server, eventually, free_port,
};

use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::command_line::Files;
use crate::permissions::rule;

const NOTICED: Duration = Duration::from_secs(15);

const MODE: [&str; 2] = ["--redis-mode", "sentinel"];

/// The rule for Sentinels in the documentation.
fn sentinel_rule() -> &'static str {
    let page = include_str!("../../docs/production.md");
    let rule = "    user markread on >PASSWORD resetchannels ";
    page.lines().find_map(|line| line.strip_prefix(rule)).expect("the page has the rule")
}

async fn start(url: &str, master: &str, flags: &[&str]) -> Server {
    Server::at(url, &[&MODE[..], &["--redis-sentinel-master", master], flags].concat(), &[]).await
}

/// Waits until the page of a server has these words, in one line.
async fn assert_not_ready(server: &Server, words: &[&str]) {
    let last = eventually(&format!("the page says {words:?}"), NOTICED, async || {
        let (status, cause) = server.get("/readyz").await;
        (status == 503 && cause != "not ready: not connected yet\n").then_some(cause)
    })
    .await;
    assert_eq!(last.lines().count(), 1, "{last}");
    assert!(words.iter().all(|word| last.contains(word)), "{words:?}: {last}");
    let log = server.log().join("\n");
    assert!(words.iter().all(|word| log.contains(word)), "{words:?}: {log}");
}

/// Makes all Sentinels watch another master.
async fn monitor(group: &Sentinels, name: &str, port: u16) {
    for sentinel in 0..3 {
        let watch = format!("SENTINEL MONITOR {name} 127.0.0.1 {port} 2");
        group.sentinel(sentinel).run::<()>(&watch).await;
    }
}

#[tokio::test]
async fn what_is_wrong_is_named_in_one_line() {
    let files = Files::new();
    let wrong = files.write("wrong", "wrong");
    let group = Sentinels::start(1).await;
    let away = free_port();
    monitor(&group, "away", away).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap().port();
    monitor(&group, "silent", silent).await;
    let url = group.url();
    let user = ["--redis-sentinel-username", "u", "--redis-sentinel-password-file", &wrong];
    let password = ["--redis-username", "u", "--redis-password-file", &wrong[..]];

    let none = start(&format!("redis://127.0.0.1:{away}"), MASTER_NAME, &[]).await;
    let other_name = start(&url, "other", &[]).await;
    let no_sentinel = start(&group.node(0).url(), MASTER_NAME, &[]).await;
    let wrong_user = start(&url, MASTER_NAME, &user).await;
    let unreachable = start(&url, "away", &[]).await;
    let unanswered = start(&url, "silent", &[]).await;
    let wrong_password = start(&url, MASTER_NAME, &password).await;
    let named = format!("no Sentinel names the master {MASTER_NAME}: 127.0.0.1:{away}: ");
    assert_not_ready(&none, &[&named, "Connection refused"]).await;
    assert_not_ready(&other_name, &["the master other: 127.0.0.1:", "knows no master"]).await;
    assert_not_ready(&no_sentinel, &["it is no Sentinel"]).await;
    assert_not_ready(&wrong_user, &["no Sentinel names", "WRONGPASS"]).await;
    let named = format!("the master away is at 127.0.0.1:{away}, says the Sentinel 127.0.0.1:");
    assert_not_ready(&unreachable, &[&named, "Connection refused"]).await;
    let named = format!("the master silent is at 127.0.0.1:{silent}, says the Sentinel 127.0.0.1:");
    assert_not_ready(&unanswered, &[&named, ": no answer"]).await;
    let named = format!("the master {MASTER_NAME} is at 127.0.0.1:");
    assert_not_ready(&wrong_password, &[&named, "WRONGPASS"]).await;
    let denied = none.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(denied.reason, "STORE_UNAVAILABLE");
    // No failover corrects a password: a call does not wait for one.
    let began = Instant::now();
    let denied = wrong_password.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap_err();
    assert_eq!(denied.reason, "STORE_UNAVAILABLE");
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());

    // A Sentinel that names a replica, as one that was cut off does.
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {}", group.node(0).port)]).await;
    monitor(&group, "behind", replica.port).await;
    let behind = start(&url, "behind", &[]).await;
    assert_not_ready(&behind, &["the master behind is at 127.0.0.1:", "it is a replica"]).await;
}

/// Whether a server subscribes to this Sentinel.
async fn is_heard(sentinel: &Redis) -> bool {
    let clients: String = sentinel.run("CLIENT LIST").await;
    clients.lines().any(|line| line.contains("user=markread") && line.contains(" sub=1 "))
}

#[tokio::test]
async fn the_documented_rules_suffice_and_a_sentinel_may_be_gone() {
    let files = Files::new();
    let password = files.write("password", "PASSWORD\n");
    let mut group = Sentinels::start(1).await;
    for sentinel in 0..3 {
        let user = format!("ACL SETUSER markread reset on >PASSWORD {}", sentinel_rule());
        group.sentinel(sentinel).run::<()>(&user).await;
    }
    for node in 0..2 {
        let user = format!("ACL SETUSER markread reset on >PASSWORD {} +role", rule());
        group.node(node).run::<()>(&user).await;
    }
    let flags = [
        ["--redis-username", "markread", "--redis-password-file", &password],
        ["--redis-sentinel-username", "markread", "--redis-sentinel-password-file", &password],
    ]
    .concat();
    let server = start(&group.url(), MASTER_NAME, &flags).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    eventually("it subscribes", NOTICED, async || is_heard(group.sentinel(0)).await.then_some(()))
        .await;

    // Another one is heard then, and asked.
    group.sentinel_mut(0).kill().await;
    eventually("it subscribes to another", NOTICED, async || {
        let others = is_heard(group.sentinel(1)).await || is_heard(group.sentinel(2)).await;
        others.then_some(())
    })
    .await;
    server.caller(READER).mark(RECIPIENT, MESSAGE + 1).await.unwrap();
    let lost = group.kill_master().await;
    group.wait_for_failover(lost).await;
    eventually("marks are served", NOTICED, async || {
        server.caller(READER).mark(RECIPIENT, MESSAGE + 2).await.ok()
    })
    .await;
    server.wait_until_ready().await;

    // One right less is named.
    for (node, right) in [(1 - lost, "-role"), (1 - lost, "-incrby")] {
        group.node(node).run::<()>(&format!("ACL SETUSER markread {right}")).await;
        let lacking = start(&group.url(), MASTER_NAME, &flags).await;
        let named = format!("lacks +{}", &right[1..]);
        assert_not_ready(&lacking, &[&named]).await;
        let given_back = right.replace('-', "+");
        group.node(node).run::<()>(&format!("ACL SETUSER markread {given_back}")).await;
    }
    for sentinel in 1..3 {
        let less = "ACL SETUSER markread -sentinel|get-master-addr-by-name";
        group.sentinel(sentinel).run::<()>(less).await;
    }
    let lacking = start(&group.url(), MASTER_NAME, &flags).await;
    assert_not_ready(&lacking, &["no Sentinel names", "NOPERM", "sentinel"]).await;
}

#[tokio::test]
async fn one_sentinel_is_no_reason_to_leave_a_living_master() {
    let mut group = Sentinels::start(0).await;
    let (used, other) = (Redis::start().await, Redis::start().await);
    for (sentinel, redis) in [(0, &used), (1, &other)] {
        let watch = format!("SENTINEL MONITOR split 127.0.0.1 {} 1", redis.port);
        group.sentinel(sentinel).run::<()>(&watch).await;
    }
    let server = start(&group.urls()[..2].join(","), "split", &[]).await;
    server.wait_until_ready().await;
    let caller = server.caller(READER);
    caller.mark(RECIPIENT, MESSAGE).await.unwrap();

    // The only one that answers names the other, which says that it is a master too.
    group.sentinel_mut(0).kill().await;
    sleep(Duration::from_secs(3)).await;
    caller.mark(RECIPIENT, MESSAGE + 1).await.unwrap();
    used.run::<i64>("CLIENT KILL TYPE normal").await;
    eventually("marks are served", NOTICED, async || {
        caller.mark(RECIPIENT, MESSAGE + 2).await.ok()
    })
    .await;
    let events = (MESSAGE..MESSAGE + 3).map(|message| (READER, RECIPIENT, message));
    assert_eq!(used.events().await, events.collect::<Vec<_>>());
    assert!(other.events().await.is_empty());
}

#[tokio::test]
async fn a_later_failover_is_followed_though_the_first_sentinel_and_its_master_do_not_know() {
    let mut group = Sentinels::start(0).await;
    let (former, later) = (Redis::start().await, Redis::start().await);
    monitor(&group, "split", former.port).await;
    let server = start(&group.url(), "split", &[]).await;
    server.wait_until_ready().await;
    group.sentinel(0).freeze();
    for sentinel in 1..3 {
        let watch = [
            format!("sentinel monitor split 127.0.0.1 {} 2", later.port),
            "sentinel config-epoch split 5".to_owned(),
        ];
        let sentinel = group.sentinel_mut(sentinel);
        sentinel.kill().await;
        std::fs::write(sentinel.sentinel_file(), watch.join("\n") + "\n").unwrap();
        sentinel.restart().await;
    }
    eventually("marks reach the later master", NOTICED, async || {
        let _ = server.caller(READER).mark(RECIPIENT, MESSAGE).await;
        (!later.events().await.is_empty()).then_some(())
    })
    .await;
    let log = server.log().join("\n");
    assert!(log.contains("Sentinel says that the master split is at"), "{log}");
}

#[tokio::test]
async fn operators_commands_find_the_master() {
    let group = Sentinels::start(1).await;
    let server = Server::on_sentinels(&group, &[]).await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    let urls = group.url();
    let admin = |name: &str, urls: &str| {
        let mut admin = command(&["admin", "cursors", "--user", &READER.to_string()]);
        admin.args(MODE).args(["--redis-sentinel-master", name, "--redis-url", urls]);
        admin
    };
    let output = admin(MASTER_NAME, &urls).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains(&MESSAGE.to_string()));

    // One that is away, or names what is no master, is passed over.
    let urls = format!("redis://127.0.0.1:{},{urls}", free_port());
    let output = admin(MASTER_NAME, &urls).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let output = admin("other", &urls).output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let line = String::from_utf8(output.stderr).unwrap();
    assert!(line.contains("no Sentinel names the master other: 127.0.0.1:"), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
}

#[tokio::test]
async fn each_side_has_its_own_tls() {
    let (of_redis, of_sentinel) = (Authority::new().await, Authority::new().await);
    let [redis, sentinel] = [
        of_redis.issue("redis", "DNS:localhost").await,
        of_sentinel.issue("sentinel", "DNS:localhost").await,
    ];
    let (redis_ca, sentinel_ca) = (of_redis.file(), of_sentinel.file());
    let port = free_port().to_string();
    let tls = [
        ["--tls-port", &port, "--tls-cert-file", &redis.chain, "--tls-key-file", &redis.key],
        ["--tls-ca-cert-file", &redis_ca, "--tls-auth-clients", "no", "--tls-replication", "yes"],
    ];
    let _redis = Redis::with(&tls.concat()[..]).await;
    let mut sentinel_process = Redis::sentinel(default_server());
    let sentinel_port = free_port().to_string();
    let configuration = [
        "sentinel resolve-hostnames yes".to_owned(),
        "sentinel announce-hostnames yes".to_owned(),
        "tls-replication yes".to_owned(),
        "tls-auth-clients no".to_owned(),
        format!("tls-port {sentinel_port}"),
        format!("tls-cert-file {}", sentinel.chain),
        format!("tls-key-file {}", sentinel.key),
        format!("tls-ca-cert-file {redis_ca}"),
        format!("sentinel monitor {MASTER_NAME} localhost {port} 1"),
    ];
    std::fs::write(sentinel_process.sentinel_file(), configuration.join("\n") + "\n").unwrap();
    sentinel_process.restart().await;

    let both = ["--redis-ca", &redis_ca, "--redis-sentinel-ca", &sentinel_ca];
    let url = format!("rediss://localhost:{sentinel_port}");
    let server = start(&url, MASTER_NAME, &both).await;
    server.wait_until_ready().await;
    server.caller(READER).mark(RECIPIENT, MESSAGE).await.unwrap();
    // Through a Sentinel without TLS, the master's own flags say that it speaks TLS.
    let plain = sentinel_process.url();
    let server = start(&plain, MASTER_NAME, &both[..2]).await;
    server.wait_until_ready().await;

    let swapped = ["--redis-ca", &sentinel_ca, "--redis-sentinel-ca", &redis_ca];
    let server = start(&url, MASTER_NAME, &swapped).await;
    assert_not_ready(&server, &["no Sentinel names", "certificate"]).await;
    let server = start(&url, MASTER_NAME, &[&swapped[..2], &both[2..]].concat()).await;
    let named =
        format!("the master {MASTER_NAME} is at localhost:{port}, says the Sentinel localhost");
    assert_not_ready(&server, &[&named, "certificate"]).await;
}
