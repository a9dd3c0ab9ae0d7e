//! A simulated Redis for unit tests. It speaks RESP over streams in memory, so that a function of the
//! test decides what it answers, and when on a paused clock.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ProtocolVersion, RedisConnectionInfo, RedisError,
};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::Connections;
use super::address::{RedisAddress, RedisFiles};
use super::failure::Failure;
use super::link::{Connect, Link};
use super::mode::RedisMode;
use crate::domain::RateLimit;
use crate::store::redis::partitions::Partitions;
use crate::store::redis::parts::{NodeParts, Shared};
use crate::store::redis::settings::{Access, Ack, RedisConfig};

/// The rate limit of [`parts`].
pub(crate) const RATE_LIMIT: RateLimit = RateLimit { calls: 100, window_ms: 60_000 };

/// A simulated Redis.
#[derive(Clone)]
pub(crate) struct FakeRedis(Arc<Inner>);

struct Inner {
    answer: Box<dyn Fn(&Command) -> Reply + Send + Sync>,
    reachable: Mutex<Reachable>,
    /// When connections were attempted.
    attempts: Mutex<Vec<Instant>>,
    /// Close the connections that were opened.
    connections: Mutex<Vec<CancellationToken>>,
}

/// What happens to an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reachable {
    Yes,
    Refuses,
    Hangs,
}

/// A command that arrived.
#[derive(Clone, Debug)]
pub(crate) struct Command {
    /// Number of the connection, from 0 in the order they were opened.
    pub(crate) connection: usize,
    /// The command's name and arguments.
    pub(crate) words: Vec<String>,
}

impl Command {
    /// Returns the name.
    pub(crate) fn name(&self) -> &str {
        &self.words[0]
    }
}

/// Completes with what is answered. `None` closes the connection.
pub(crate) type Reply = Pin<Box<dyn Future<Output = Option<Resp>> + Send>>;

/// Answers at once.
pub(crate) fn now(resp: Resp) -> Reply {
    Box::pin(async { Some(resp) })
}

/// Answers after some time.
pub(crate) fn after(time: Duration, resp: Resp) -> Reply {
    Box::pin(async move {
        sleep(time).await;
        Some(resp)
    })
}

/// Answers with what the test sends, and never if it drops the sender.
pub(crate) fn later() -> (oneshot::Sender<Option<Resp>>, Reply) {
    let (sender, receiver) = oneshot::channel();
    let reply = async {
        match receiver.await {
            Ok(reply) => reply,
            Err(_) => pending().await,
        }
    };
    (sender, Box::pin(reply))
}

/// Never answers, and so nothing after it on the same connection either.
pub(crate) fn never() -> Reply {
    Box::pin(pending())
}

/// An encoded value.
#[derive(Clone, Debug)]
pub(crate) struct Resp(String);

impl Resp {
    pub(crate) fn ok() -> Self {
        Self("+OK\r\n".to_owned())
    }

    pub(crate) fn nil() -> Self {
        Self("_\r\n".to_owned())
    }

    pub(crate) fn integer(value: u64) -> Self {
        Self(format!(":{value}\r\n"))
    }

    pub(crate) fn text(text: &str) -> Self {
        Self(format!("${}\r\n{text}\r\n", text.len()))
    }

    /// Encodes an error: its code, a space, its text.
    pub(crate) fn error(text: &str) -> Self {
        Self(format!("-{text}\r\n"))
    }

    pub(crate) fn array(values: impl IntoIterator<Item = Self>) -> Self {
        let values: Vec<_> = values.into_iter().map(|Self(value)| value).collect();
        Self(format!("*{}\r\n{}", values.len(), values.concat()))
    }
}

impl FakeRedis {
    /// Creates a Redis that answers by this function.
    pub(crate) fn new(answer: impl Fn(&Command) -> Reply + Send + Sync + 'static) -> Self {
        Self(Arc::new(Inner {
            answer: Box::new(answer),
            reachable: Mutex::new(Reachable::Yes),
            attempts: Mutex::default(),
            connections: Mutex::default(),
        }))
    }

    /// Decides what happens to attempts to connect from now on.
    pub(crate) fn set_reachable(&self, reachable: Reachable) {
        *self.0.reachable.lock().unwrap() = reachable;
    }

    /// Returns when connections were attempted.
    pub(crate) fn attempts(&self) -> Vec<Instant> {
        self.0.attempts.lock().unwrap().clone()
    }

    /// Closes one connection, by its number in the order they were opened.
    pub(crate) fn close_connection(&self, number: usize) {
        self.0.connections.lock().unwrap()[number].cancel();
    }

    /// Closes all connections that were opened so far.
    pub(crate) fn close_connections(&self) {
        for connection in self.0.connections.lock().unwrap().iter() {
            connection.cancel();
        }
    }

    /// Opens the connections that serve calls, and puts them to use. Returns how many they are.
    pub(crate) async fn connect_calls(&self, parts: &NodeParts) -> usize {
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let roles: Vec<_> = parts.connections.roles().filter(|role| role.serves_calls()).collect();
        for role in &roles {
            let calls = self.open(&config).await;
            parts.connections.put_to_use(*role, Link::unwatched(calls));
        }
        roles.len()
    }

    async fn open(&self, config: &AsyncConnectionConfig) -> MultiplexedConnection {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let closed = CancellationToken::new();
        let number = {
            let mut connections = self.0.connections.lock().unwrap();
            connections.push(closed.clone());
            connections.len() - 1
        };
        let redis = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = closed.cancelled() => {}
                () = redis.serve(number, far) => {}
            }
        });
        let info = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3);
        let opened = MultiplexedConnection::new_with_config(&info, near, config.clone()).await;
        let (connection, driver) = opened.expect("the handshake is answered");
        tokio::spawn(driver);
        connection
    }

    /// Reads commands and writes their replies in order, until one of the two ends.
    async fn serve(&self, connection: usize, stream: DuplexStream) {
        let (reader, mut writer) = tokio::io::split(stream);
        let (replies, mut queue) = mpsc::unbounded_channel();
        let read = async move {
            let mut reader = BufReader::new(reader);
            while let Ok(words) = read_words(&mut reader).await {
                let command = Command { connection, words };
                let reply = match command.name() {
                    "HELLO" | "CLIENT" => now(Resp::ok()),
                    _ => (self.0.answer)(&command),
                };
                if replies.send(reply).is_err() {
                    return;
                }
            }
        };
        let write = async move {
            while let Some(reply) = queue.recv().await {
                let Some(Resp(text)) = reply.await else { return };
                if writer.write_all(text.as_bytes()).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = read => {}
            () = write => {}
        }
    }
}

impl Connect for FakeRedis {
    type Client = Self;

    fn client(&self) -> Result<Self, String> {
        Ok(self.clone())
    }

    async fn connect(
        client: &Self,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        client.0.attempts.lock().unwrap().push(Instant::now());
        let reachable = *client.0.reachable.lock().unwrap();
        match reachable {
            Reachable::Yes => Ok(client.open(config).await),
            Reachable::Refuses => {
                let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
                Err(RedisError::from(refused).into())
            }
            Reachable::Hangs => pending().await,
        }
    }
}

thread_local! {
    /// The simulated Redis at each address, if the test has such a network.
    static NETWORK: RefCell<HashMap<(String, u16), FakeRedis>> = RefCell::default();
}

/// Makes all addresses of this thread's test those of simulated ones.
pub(crate) fn set_network(network: HashMap<(String, u16), FakeRedis>) {
    NETWORK.set(network);
}

/// Connects to the simulated Redis at an address. Returns `None` if there is none.
pub(super) async fn connect_to(
    address: &ConnectionAddr,
    config: &AsyncConnectionConfig,
) -> Option<Result<MultiplexedConnection, Failure>> {
    let ConnectionAddr::Tcp(host, port) = address else { return None };
    let redis = NETWORK.with_borrow(|network| network.get(&(host.clone(), *port)).cloned())?;
    Some(FakeRedis::connect(&redis, config).await)
}

async fn read_words(
    reader: &mut BufReader<ReadHalf<DuplexStream>>,
) -> Result<Vec<String>, io::Error> {
    let count = read_number(reader).await?;
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let mut word = vec![0; read_number(reader).await? + 2];
        reader.read_exact(&mut word).await?;
        word.truncate(word.len() - 2);
        words.push(String::from_utf8(word).expect("every word is UTF-8"));
    }
    Ok(words)
}

/// Reads a line: a byte for the type, then a number.
async fn read_number(reader: &mut BufReader<ReadHalf<DuplexStream>>) -> Result<usize, io::Error> {
    let mut line = String::new();
    reader.read_line(&mut line).await?;
    let number = line.get(1..).and_then(|number| number.trim_end().parse().ok());
    number.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Creates the parts of a node that has the only partition, for so many workers and without connections.
pub(crate) fn parts_of(workers: usize, ack: Option<Ack>) -> NodeParts {
    let shared = Shared::new(Partitions::single("events", "user:"), &config(ack), false);
    let served = shared.partitions.all().to_vec();
    NodeParts::new("", Connections::new(workers, ack), served, Arc::new(shared))
}

/// The settings of a server on one Redis.
pub(crate) fn config(ack: Option<Ack>) -> RedisConfig {
    let address = RedisAddress::new("redis://127.0.0.1:1", None, RedisFiles::default());
    RedisConfig {
        mode: RedisMode::Standalone(address.unwrap()),
        stream: "events".to_owned(),
        stream_maxlen: 0,
        stream_max_bytes: None,
        user_key_prefix: "user:".to_owned(),
        user_object_max_bytes: 1024,
        rate_limit: RATE_LIMIT,
        read_rate_limit: RATE_LIMIT,
        ack,
        access: Access::Serve,
    }
}
