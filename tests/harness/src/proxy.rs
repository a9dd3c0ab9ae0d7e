//! A TCP proxy in front of a Redis, which ends idle connections or forgets one.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::Redis;

/// A proxy. It ends when it is dropped, with its connections.
pub struct Proxy {
    address: SocketAddr,
    /// The connections, in the order they were accepted.
    connections: Arc<Mutex<Vec<Arc<Accepted>>>>,
    task: JoinHandle<()>,
}

/// A connection that was accepted.
#[derive(Default)]
struct Accepted {
    /// Notified when it is to be forgotten.
    forget: Notify,
    /// The proxy's own address on the connection to Redis.
    upstream: OnceLock<SocketAddr>,
}

impl Proxy {
    /// Starts a proxy that keeps every connection.
    pub async fn to(redis: &Redis) -> Self {
        Self::start(redis, None).await
    }

    /// Starts a proxy that closes a connection on which nothing was sent for so long.
    pub async fn closing_idle(redis: &Redis, idle_limit: Duration) -> Self {
        Self::start(redis, Some(idle_limit)).await
    }

    async fn start(redis: &Redis, idle_limit: Option<Duration>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections: Arc<Mutex<Vec<Arc<Accepted>>>> = Arc::default();
        let (port, accepted) = (redis.port, Arc::clone(&connections));
        let task = tokio::spawn(async move {
            let mut pipes = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let connection = Arc::<Accepted>::default();
                accepted.lock().unwrap().push(Arc::clone(&connection));
                pipes.spawn(async move { pipe(client, port, idle_limit, &connection).await });
            }
        });
        Self { address, connections, task }
    }

    /// The URL of the Redis behind it.
    pub fn url(&self) -> String {
        format!("redis://{}", self.address)
    }

    /// The number of connections that were accepted so far.
    pub fn accepted(&self) -> usize {
        self.connections.lock().unwrap().len()
    }

    /// Passes nothing on any more on one connection, by the address that Redis sees. Both ends stay open.
    pub fn forget(&self, address: SocketAddr) {
        let connections = self.connections.lock().unwrap();
        let mut with_address = connections.iter();
        let found = with_address.find(|known| known.upstream.get() == Some(&address));
        found.expect("it was accepted").forget.notify_one();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Passes on what is sent, until one side ends or nothing was sent for so long.
async fn pipe(
    mut client: TcpStream,
    port: u16,
    idle_limit: Option<Duration>,
    connection: &Accepted,
) {
    let Ok(mut redis) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    connection.upstream.get_or_init(|| redis.local_addr().unwrap());
    let (mut to_redis, mut to_client) = (vec![0; 16 * 1024], vec![0; 16 * 1024]);
    loop {
        let idle = async {
            match idle_limit {
                Some(limit) => sleep(limit).await,
                None => pending().await,
            }
        };
        let passed = tokio::select! {
            read = client.read(&mut to_redis) => match read {
                Ok(bytes @ 1..) => redis.write_all(&to_redis[..bytes]).await,
                _ => return,
            },
            read = redis.read(&mut to_client) => match read {
                Ok(bytes @ 1..) => client.write_all(&to_client[..bytes]).await,
                _ => return,
            },
            () = idle => return,
            () = connection.forget.notified() => pending().await,
        };
        if passed.is_err() {
            return;
        }
    }
}
