//! OAuth 1.0a over HTTP: `--oauth1-credentials-file`.

use std::fmt::Write;
use std::path::PathBuf;

use markread_harness::{READER, Redis, Server};
use tempfile::TempDir;

mod accepted;
mod beside;
mod credentials_file;
mod nonces;
mod origins;
mod refused;
pub(crate) mod signer;
mod store;

use signer::Client;

/// A client with its own consumer and token.
pub(crate) fn client(name: &str, user: u64) -> Client {
    Client {
        consumer_key: format!("consumer-{name}"),
        consumer_secret: format!("consumer-secret-of-{name}"),
        token: format!("{user}-token-{name}"),
        token_secret: format!("token-secret-of-{name}"),
        user,
    }
}

/// The client of the reader in Twitter's example.
pub(crate) fn reader() -> Client {
    client("reader", READER)
}

/// A file for `--oauth1-credentials-file`, in its own directory.
pub(crate) struct CredentialsFile(TempDir);

impl CredentialsFile {
    pub(crate) fn of(clients: &[&Client]) -> Self {
        let file = Self(tempfile::tempdir().unwrap());
        std::fs::write(file.path(), toml(clients)).unwrap();
        file
    }

    pub(crate) fn of_reader() -> Self {
        Self::of(&[&reader()])
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("credentials.toml")
    }

    /// Starts a server that accepts these clients' signatures and no other credentials.
    pub(crate) async fn serve(&self, redis: &Redis, flags: &[&str]) -> Server {
        self.serve_in(redis, flags, &[]).await
    }

    /// The same, with these environment variables.
    async fn serve_in(&self, redis: &Redis, flags: &[&str], variables: &[(&str, &str)]) -> Server {
        let (url, file) = (redis.url(), self.path());
        let own = ["--redis-url", &url, "--oauth1-credentials-file", file.to_str().unwrap()];
        let server = Server::spawn_in(&[&own, flags].concat(), false, variables).await;
        server.wait_until_ready().await;
        server
    }
}

/// Asserts that a server serves the reader's signature, and so uses a nonce.
pub(crate) async fn assert_signature_served(server: &Server) {
    reader().call(&server.address).send().await.assert_served("a signature");
}

/// The contents of a credentials file.
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
            // A JSON string is a valid TOML string.
            writeln!(toml, "{name} = {}", serde_json::json!(value)).unwrap();
        }
    }
    toml
}

/// The keys of the nonces in Redis, in order.
async fn nonces(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<String> = redis.run("KEYS markread:oauth1:*").await;
    keys.sort();
    keys
}

/// Asserts that Redis holds only what a server writes at its start.
async fn assert_nothing_written(redis: &Redis) {
    assert_eq!(redis.run::<Vec<String>>("KEYS *").await, ["markread:layout"]);
}
