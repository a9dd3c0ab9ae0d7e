//! Sentinels: who the master is, asked before each connection, and heard when it changes.
//!
//! The redis crate's client of Sentinels asks too, but never leaves a connection to a former master.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, cmd};

use super::cluster::topology::{Address, is_host};
use super::connection::address::RedisAddress;
use super::errors::{server_text, shortened};

mod claims;
mod lookup;
mod watch;

use self::claims::Claim;
pub(crate) use self::lookup::{Found, Sentinels};

/// The Sentinels that know a master.
#[derive(Clone, Debug)]
pub struct SentinelGroup {
    /// Their addresses.
    pub sentinels: Vec<RedisAddress>,
    /// The master's name in their configuration.
    pub master_name: String,
    /// The master, but for its host and port.
    pub master: RedisAddress,
}

impl SentinelGroup {
    /// Returns a client of the master at this place. Its files are read now.
    pub(crate) fn master_at(&self, place: &Address) -> Result<Client, String> {
        self.master.at(place).client()
    }
}

/// Longest time to connect to a Sentinel, and for its answer.
const ANSWER_MAX: Duration = Duration::from_millis(400);

const UNKNOWN_MASTER: &str = "it knows no master of this name";

/// Opens a connection to a Sentinel. Its files are read now.
async fn connect(
    sentinel: &RedisAddress,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, String> {
    let client = sentinel.client()?;
    let connected = client.get_multiplexed_async_connection_with_config(config).await;
    connected.map_err(|error| cause(&error))
}

/// Asks a Sentinel where the master is, and by which failover.
async fn ask(connection: &mut MultiplexedConnection, name: &str) -> Result<Claim, String> {
    let explain = |error: RedisError| {
        let text = cause(&error);
        let starts = |start| text.starts_with(start);
        match () {
            () if starts("ERR unknown command") => "it is no Sentinel".to_owned(),
            () if starts("ERR No such master") => UNKNOWN_MASTER.to_owned(),
            () => text,
        }
    };
    // The epoch first: with a former place it must not be a later one.
    let mut ask = cmd("SENTINEL");
    ask.arg("MASTER").arg(name);
    let master: HashMap<String, String> = ask.query_async(connection).await.map_err(explain)?;
    let epoch = master.get("config-epoch").and_then(|epoch| epoch.parse().ok());
    let epoch = epoch.ok_or("it tells no epoch")?;
    // During a failover only this command names the new one.
    let mut ask = cmd("SENTINEL");
    ask.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let place: Option<(String, String)> = ask.query_async(connection).await.map_err(explain)?;
    let (host, port) = place.ok_or(UNKNOWN_MASTER)?;
    let place = parse(host, &port).ok_or("it names no valid address")?;
    Ok(Claim { place, epoch })
}

/// Parses what a Sentinel names. The text comes into messages.
pub(super) fn parse(host: String, port: &str) -> Option<Address> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && is_host(&host)).then_some(Address { host, port })
}

/// Returns the text of an error, as a part of a sentence.
fn cause(error: &RedisError) -> String {
    server_text(error).unwrap_or_else(|| shortened(error.to_string()))
}

fn no_answer<T>(_: T) -> String {
    "no answer".to_owned()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const PAGE: &str = include_str!("../../../../docs/production.md");
    const SOURCES: [&str; 3] =
        [include_str!("mod.rs"), include_str!("lookup.rs"), include_str!("watch.rs")];

    #[test]
    fn a_place_is_taken_only_if_it_is_one() {
        let place = |host: &str, port| parse(host.to_owned(), port).map(|place| place.to_string());
        assert_eq!(place("10.0.0.1", "6379").as_deref(), Some("10.0.0.1:6379"));
        assert_eq!(place("redis-1.example.com", "1").as_deref(), Some("redis-1.example.com:1"));
        assert_eq!(place("fe80::1%eth0", "65535").as_deref(), Some("fe80::1%eth0:65535"));
        for (host, port) in [("", "1"), ("a b", "1"), ("a\n", "1"), ("a", "0"), ("a", "65536")] {
            assert_eq!(place(host, port), None, "{host:?} {port}");
        }
        assert_eq!(place(&"a".repeat(256), "1"), None);
    }

    #[test]
    fn the_documented_rule_has_what_is_sent_and_nothing_else() {
        let mut sent = BTreeSet::new();
        for source in SOURCES {
            let source = source.split("#[cfg(test)]").next().unwrap();
            for rest in source.split("cmd(\"").skip(1) {
                let (command, rest) = rest.split_once('"').unwrap();
                let (_, rest) = rest.split_once(".arg(\"").unwrap();
                let (sub, _) = rest.split_once('"').unwrap();
                sent.insert(format!("+{command}|{sub}").to_lowercase());
            }
            if source.contains(".subscribe(") {
                sent.insert("+subscribe".to_owned());
            }
        }
        let rule = sent.into_iter().collect::<Vec<_>>().join(" ");
        let channel = watch::CHANNEL;
        let line = format!("\n    user markread on >PASSWORD resetchannels &{channel} {rule}\n");
        assert!(PAGE.contains(&line), "{line}");
    }
}
