//! Inner addresses: refused in every spelling and by name, with no connection to them, unless they are
//! allowed.

use std::time::Duration;

use markread_harness::events::{payload, publish};
use markread_harness::relay::webhook;
use markread_harness::{Receiver, Redis, Relay, WebhookFile};
use tokio::time::sleep;

use super::ALL;

/// Hosts of URLs that lead to this machine.
const LOOPBACK: [&str; 15] = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "017700000001",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "0.0.0.0",
    "%31%32%37.0.0.1",
];

/// Hosts that are inner, special or of metadata services, where nothing of the test listens.
const OTHERS: [&str; 30] = [
    "0",
    "[::]",
    "[::1]",
    "[::127.0.0.1]",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "100.64.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "[fe80::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[ff02::1]",
    "[64:ff9b::7f00:1]",
    "[64:ff9b::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2001:db8::1]",
];

const HTTP_ONLY: [&str; 1] = ["--allow-http"];
const ANYWHERE: [&str; 2] = ["--allow-http", "--allow-private"];

/// Names that this machine resolves to loopback, by its file of hosts.
fn inner_names() -> Vec<String> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let lines = hosts.lines().filter(|line| line.starts_with("127."));
    let names = lines.flat_map(|line| line.split_whitespace().skip(1));
    names.take_while(|name| !name.starts_with('#')).map(str::to_owned).collect()
}

fn file_with(host: &str, port: u16) -> WebhookFile {
    let file = WebhookFile::new("");
    file.write(&file.entry("main", &format!("http://{host}:{port}/hook"), ALL));
    file
}

/// Checks a webhook at this host. Returns whether it passed, and what was printed.
async fn check(redis: &Redis, host: &str, port: u16, flags: &[&str]) -> (bool, String) {
    let file = file_with(host, port);
    let path = file.path();
    let own = ["check", "main", "--webhooks", path.to_str().unwrap()];
    let output = webhook(&["--redis-url", &redis.url()], &[&own[..], flags].concat()).await;
    let printed = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(printed).unwrap())
}

#[tokio::test]
async fn every_spelling_of_an_inner_address_is_refused() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    let names = inner_names();
    let literals = LOOPBACK.iter().chain(&OTHERS).copied();
    for host in literals.chain(names.iter().map(String::as_str)) {
        let (passed, printed) = check(&redis, host, receiver.port, &HTTP_ONLY).await;
        assert!(!passed, "{host}: {printed}");
        assert!(
            ["address", "host", "URL", "url"].iter().any(|word| printed.contains(word)),
            "{host}: it is not said why: {printed}"
        );
        assert_eq!(receiver.connections(), 0, "{host} was connected to");
    }
}

/// The twin: where it is allowed, the same URLs do lead to the receiver, so that the table above shows
/// something.
#[tokio::test]
async fn with_allow_private_the_same_urls_are_reached() {
    let redis = Redis::start().await;
    let mut reached = Vec::new();
    for host in LOOPBACK {
        let receiver = Receiver::start().await;
        let (passed, printed) = check(&redis, host, receiver.port, &ANYWHERE).await;
        if passed && receiver.connections() > 0 {
            reached.push(host);
        } else {
            println!("{host}: {printed}");
        }
    }
    for host in
        ["127.0.0.1", "localhost", "LOCALHOST", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"]
    {
        assert!(reached.contains(&host), "{host} is not reached with --allow-private: {reached:?}");
    }
}

/// What a check refuses, the relay itself does too.
#[tokio::test]
async fn a_relay_does_not_deliver_inwards_either() {
    let redis = Redis::start().await;
    let receiver = Receiver::start().await;
    publish(&redis, &[payload(1, 2, 1)]).await;
    let names = inner_names();
    let literals = ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433"];
    for host in literals.into_iter().chain(names.iter().map(String::as_str)) {
        let file = file_with(host, receiver.port);
        let url = redis.url();
        let mut relay = Relay::spawn(&["--redis-url", &url, "--allow-http"], &file, &[]);
        // A name is known to be inner once it is resolved only; an address may be refused at the start.
        sleep(Duration::from_secs(2)).await;
        if relay.is_running() {
            relay.wait_for_line(&["address"]).await;
        } else {
            assert_eq!(relay.exit(Duration::from_secs(1)).await.code(), Some(2), "{host}");
        }
        assert_eq!((receiver.connections(), receiver.attempts()), (0, 0), "{host}");
        redis.run::<()>("DEL markread:relay:state:main").await;
    }
    let file = file_with("localhost", receiver.port);
    let _relay = Relay::on(&redis, &file).await;
    receiver.wait_for(1, super::SOON).await;
}
