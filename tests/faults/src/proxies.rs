//! Proxies between clients and servers, and between servers and Redis: one toxiproxy process, which can delay
//! what it passes on, limit its bandwidth, cut it off and go silent.

use std::collections::HashMap;
use std::process::Stdio;
use std::time::Duration;

use markread_harness::server::http1;
use markread_harness::{eventually, free_port};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

const START_LIMIT: Duration = Duration::from_secs(10);

/// The variable with the path of toxiproxy's server, as `tests/tools/install.sh` builds it.
pub const BINARY: &str = "MARKREAD_TEST_TOXIPROXY";

/// One of the two directions of a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Stream {
    /// What the client sends.
    Up,
    /// What it is answered.
    Down,
}

/// A toxiproxy process. It is killed when this is dropped.
pub struct Proxies {
    _process: Child,
    /// The address of its HTTP API.
    api: String,
    /// The address of each proxy, by its name.
    addresses: HashMap<String, String>,
}

impl Proxies {
    /// Starts toxiproxy, or returns `None` where [`BINARY`] does not name it.
    pub async fn start() -> Option<Self> {
        let binary = std::env::var_os(BINARY)?;
        let port = free_port().to_string();
        // Delays vary in the same way in each run.
        let process = Command::new(binary)
            .args(["-host", "127.0.0.1", "-port", &port, "-seed", "1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("toxiproxy is installed");
        let api = format!("127.0.0.1:{port}");
        let proxies = Self { _process: process, api, addresses: HashMap::new() };
        eventually("toxiproxy answers", START_LIMIT, async || {
            proxies.try_call("GET", "/version", None).await
        })
        .await;
        Some(proxies)
    }

    /// Returns the address of the proxy with this name in front of an address. If there is one already, it
    /// passes on to the new address, and keeps its own.
    pub async fn to(&mut self, name: &str, upstream: &str) -> String {
        let known = self.addresses.get(name).cloned();
        let path = match known {
            Some(_) => format!("/proxies/{name}"),
            None => "/proxies".to_owned(),
        };
        let listen = known.unwrap_or_else(|| format!("127.0.0.1:{}", free_port()));
        let proxy = json!({"name": name, "listen": listen, "upstream": upstream, "enabled": true});
        self.call("POST", &path, Some(&proxy)).await;
        self.addresses.insert(name.to_owned(), listen.clone());
        listen
    }

    /// Adds a toxic of toxiproxy to a proxy: open connections and new ones are affected.
    pub async fn toxic(&self, name: &str, stream: Stream, kind: &str, attributes: Value) {
        let stream = match stream {
            Stream::Up => "upstream",
            Stream::Down => "downstream",
        };
        let toxic = json!({"type": kind, "stream": stream, "attributes": attributes});
        self.call("POST", &format!("/proxies/{name}/toxics"), Some(&toxic)).await;
    }

    /// Removes all toxics of a proxy. What a silent connection had held back is lost, and it is closed.
    pub async fn heal(&self, name: &str) {
        let path = format!("/proxies/{name}/toxics");
        let toxics = self.call("GET", &path, None).await;
        for toxic in toxics.as_array().expect("a list of toxics") {
            let toxic = toxic["name"].as_str().expect("a toxic's name");
            self.call("DELETE", &format!("{path}/{toxic}"), None).await;
        }
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let answer = self.try_call(method, path, body).await;
        answer.unwrap_or_else(|| panic!("toxiproxy refused {method} {path} {body:?}"))
    }

    async fn try_call(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Value> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", self.api);
        let request = format!("{head}content-length: {length}\r\n\r\n{body}");
        let (head, body) = http1(&self.api, &request).await?;
        let status: u16 = head.split(' ').nth(1)?.parse().ok()?;
        (200..300).contains(&status).then(|| serde_json::from_str(&body).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::time::timeout;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// Starts a server that answers each connection's first bytes with a thousand of its own.
    async fn echo(byte: u8) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                tokio::spawn(async move {
                    while stream.read(&mut [0; 10]).await.is_ok_and(|read| read > 0) {
                        let _ = stream.write_all(&[byte; 1000]).await;
                    }
                });
            }
        });
        address
    }

    /// Asks once, and returns what was answered until so much was there or the connection was closed.
    async fn answer(address: &str) -> Vec<u8> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut bytes = vec![0; 1000];
        let mut read = 0;
        let all = async {
            stream.write_all(b"?").await.unwrap();
            while read < bytes.len() {
                match stream.read(&mut bytes[read..]).await {
                    Ok(more @ 1..) => read += more,
                    _ => break,
                }
            }
        };
        timeout(LIMIT, all).await.expect("it is answered in time");
        bytes.truncate(read);
        bytes
    }

    #[tokio::test]
    async fn proxies_delay_cut_and_go_silent_until_they_are_healed() {
        let Some(mut proxies) = Proxies::start().await else {
            eprintln!("NOT RUN: {BINARY} is not set");
            return;
        };
        let address = proxies.to("a", &echo(1).await).await;
        assert_eq!(answer(&address).await, [1; 1000]);

        proxies.toxic("a", Stream::Up, "latency", json!({"latency": 200, "jitter": 0})).await;
        let began = Instant::now();
        assert_eq!(answer(&address).await, [1; 1000]);
        assert!(began.elapsed() >= Duration::from_millis(200));
        proxies.heal("a").await;

        proxies.toxic("a", Stream::Down, "limit_data", json!({"bytes": 400})).await;
        assert_eq!(answer(&address).await, [1; 400]);
        proxies.heal("a").await;

        proxies.toxic("a", Stream::Down, "timeout", json!({"timeout": 0})).await;
        let silent = timeout(Duration::from_millis(300), answer(&address)).await;
        assert!(silent.is_err(), "it answered {silent:?}");
        proxies.heal("a").await;
        assert_eq!(answer(&address).await, [1; 1000]);

        // The address stays, when what is behind it is elsewhere.
        assert_eq!(proxies.to("a", &echo(2).await).await, address);
        assert_eq!(answer(&address).await, [2; 1000]);
    }
}
