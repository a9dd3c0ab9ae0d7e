//! OAuth 1.0a at the HTTP edge: `--oauth1-credentials-file`.

use std::fmt::Write;
use std::path::PathBuf;

use tempfile::TempDir;

use super::super::harness::{READER, Redis, Server};

mod accepted;
mod beside;
mod credentials_file;
mod nonces;
mod origins;
mod refused;
mod signer;
mod store;

use signer::Client;

/// A client of these tests: consumer and token of its own.
fn client(name: &str, user: u64) -> Client {
    Client {
        consumer_key: format!("consumer-{name}"),
        consumer_secret: format!("consumer-secret-of-{name}"),
        token: format!("{user}-token-{name}"),
        token_secret: format!("token-secret-of-{name}"),
        user,
    }
}

/// The seed's reader.
fn reader() -> Client {
    client("reader", READER)
}

/// A file of `--oauth1-credentials-file`, in a directory of its own.
struct CredentialsFile(TempDir);

impl CredentialsFile {
    fn of(clients: &[&Client]) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        std::fs::write(file.path(), toml(clients)).unwrap();
        file
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("credentials.toml")
    }

    /// A server that takes their signatures, and nothing else, with more flags.
    async fn serve(&self, redis: &Redis, flags: &[&str]) -> Server {
        self.serve_in(redis, flags, &[]).await
    }

    /// The same, with these variables in its environment.
    async fn serve_in(&self, redis: &Redis, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let (url, file) = (redis.url(), self.path());
        let own = ["--redis-url", &url, "--oauth1-credentials-file", file.to_str().unwrap()];
        let server = Server::spawn_in(&[&own, flags].concat(), false, variables).await;
        server.wait_until_ready().await;
        server
    }
}

/// What stands in such a file.
fn toml(clients: &[&Client]) -> String {
    let mut toml = String::new();
    for client in clients {
        let user = client.user.to_string();
        toml += "[[credential]]\n";
        for (name, value) in [
            ("consumer_key", &client.consumer_key),
            ("consumer_secret", &client.consumer_secret),
            ("access_token", &client.token),
            ("access_token_secret", &client.token_secret),
            ("user_id", &user),
        ] {
            // A string of JSON is one of TOML.
            writeln!(toml, "{name} = {}", serde_json::json!(value)).unwrap();
        }
    }
    toml
}

/// The nonces in Redis: keys, in order.
async fn nonces(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis.run("KEYS markread:oauth1:*").await;
    keys.sort();
    keys
}

/// Nothing but what the server writes at its start.
async fn assert_nothing_written(redis: &Redis) {
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}
