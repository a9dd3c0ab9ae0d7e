//! The documented ACL rule of a cluster is enough, and each of its own commands is missed.

use std::io::Write;
use std::time::Duration;

use markread_harness::{RedisCluster, Server, eventually};

use crate::one_reader_each;

const MESSAGE: u64 = 8_754_578_330_382_663_743;
const NOTICED: Duration = Duration::from_secs(20);

/// Returns the words of the rule, from the documentation.
fn documented_rule() -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/production.md"));
    let page = page.unwrap();
    let start = "    user markread on >PASSWORD ~markread:* ~direct_message_mark_read_events:* ";
    let rule = page.lines().find(|line| line.starts_with(start)).expect("the rule is documented");
    rule.trim().strip_prefix("user ").unwrap().replace("PASSWORD", "secret")
}

async fn on_all(cluster: &RedisCluster, command: &str) {
    for node in cluster.nodes() {
        node.run::<()>(command).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_rule_is_enough_and_each_command_of_it_is_missed() {
    let cluster = RedisCluster::start(3, 0).await;
    on_all(&cluster, &format!("ACL SETUSER {}", documented_rule())).await;
    let mut password = tempfile::NamedTempFile::new().unwrap();
    password.write_all(b"secret\n").unwrap();
    let file = password.path().to_str().unwrap();
    let flags = ["--redis-username", "markread", "--redis-password-file", file];
    let server = Server::on_cluster(&cluster, &flags).await;
    for reader in one_reader_each() {
        server.caller(reader).mark(7, MESSAGE).await.unwrap();
    }
    for command in ["asking", "cluster|myid", "cluster|nodes", "cluster|slots", "xadd"] {
        on_all(&cluster, &format!("ACL SETUSER markread -{command}")).await;
        eventually("the page names the command", NOTICED, async || {
            let (status, page) = server.get("/readyz").await;
            (status == 503 && page.contains(&format!("+{command}"))).then_some(())
        })
        .await;
        on_all(&cluster, &format!("ACL SETUSER markread +{command}")).await;
        server.wait_until_ready().await;
    }
}
