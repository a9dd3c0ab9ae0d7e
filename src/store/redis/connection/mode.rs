//! Where the keys are: in one Redis, in the master of a group that Sentinels watch, or in a cluster.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult, Value, cmd};
use tokio::sync::OnceCell;
use tokio::time::timeout;

use super::address::RedisAddress;
use super::failure::Failure;
use super::link::Connect;
use crate::store::redis::cluster::topology::Address;
use crate::store::redis::sentinel::{Found, SentinelGroup, Sentinels};

/// Longest time to connect to what a Sentinel names: less than an attempt has, so that the cause is named.
const MASTER_MAX: Duration = Duration::from_millis(1500);

/// Where the keys are.
#[derive(Clone, Debug)]
pub enum RedisMode {
    /// In one Redis.
    Standalone(RedisAddress),
    /// In the master of a group that Sentinels watch.
    Sentinel(SentinelGroup),
    /// In the nodes of a cluster.
    Cluster(ClusterSeeds),
}

/// Nodes of a cluster, by which the others are found.
#[derive(Clone, Debug)]
pub struct ClusterSeeds {
    /// Their addresses. The other nodes have the same scheme and credentials.
    pub seeds: Vec<RedisAddress>,
    /// Shares of the readers.
    pub partitions: u16,
}

impl ClusterSeeds {
    /// Returns how a node is reached: as the first seed is, at another address.
    pub(crate) fn at(&self, address: &Address) -> Option<RedisAddress> {
        self.seeds.first().map(|seed| seed.at(address))
    }
}

impl RedisMode {
    /// Reads all files.
    ///
    /// # Errors
    ///
    /// The invalid file, and its problem.
    pub fn check_files(&self) -> Result<(), String> {
        let addresses = match self {
            Self::Standalone(address) => vec![address],
            Self::Sentinel(SentinelGroup { sentinels, master, .. }) => {
                sentinels.first().into_iter().chain([master]).collect()
            }
            Self::Cluster(ClusterSeeds { seeds, .. }) => seeds.first().into_iter().collect(),
        };
        addresses.into_iter().try_for_each(|address| address.client().map(drop))
    }

    /// Returns a name for it in traces, and its port if there is one.
    pub(crate) fn name(&self) -> (String, Option<u16>) {
        match self {
            Self::Standalone(address) => address.host_and_port(),
            Self::Sentinel(SentinelGroup { master_name, .. }) => (master_name.clone(), None),
            Self::Cluster(ClusterSeeds { seeds, .. }) => {
                seeds.first().map(RedisAddress::host_and_port).unwrap_or_default()
            }
        }
    }

    pub(crate) fn database(&self) -> i64 {
        match self {
            Self::Standalone(address) => address.database(),
            Self::Sentinel(SentinelGroup { master, .. }) => master.database(),
            Self::Cluster(_) => 0,
        }
    }
}

/// Opens connections to the one Redis that has the keys, wherever it is at the time.
#[derive(Debug)]
pub(crate) enum Connector {
    Standalone(Box<RedisAddress>),
    Sentinel(Arc<Sentinels>),
    Cluster,
}

/// The settings and files of one attempt to connect.
#[derive(Debug)]
pub(crate) enum ModeClient {
    Standalone(Client),
    /// The master, once it is looked up for the first of the attempt's connections.
    Sentinel(Arc<Sentinels>, OnceCell<(Found, Client)>),
}

impl Connector {
    pub(crate) fn new(mode: RedisMode) -> Self {
        match mode {
            RedisMode::Standalone(address) => Self::Standalone(Box::new(address)),
            RedisMode::Sentinel(group) => Self::Sentinel(Arc::new(Sentinels::new(group))),
            RedisMode::Cluster(_) => Self::Cluster,
        }
    }
}

impl Connect for Connector {
    type Client = ModeClient;

    fn client(&self) -> Result<ModeClient, String> {
        match self {
            Self::Standalone(address) => Ok(ModeClient::Standalone(address.client()?)),
            Self::Sentinel(sentinels) => {
                Ok(ModeClient::Sentinel(Arc::clone(sentinels), OnceCell::new()))
            }
            Self::Cluster => Err("a cluster has no one master".to_owned()),
        }
    }

    async fn connect(
        client: &ModeClient,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        match client {
            ModeClient::Standalone(client) => RedisAddress::connect(client, config).await,
            ModeClient::Sentinel(sentinels, master) => {
                let (found, client) = master
                    .get_or_try_init(|| look_up(sentinels))
                    .await
                    .map_err(Failure::NoAnswer)?;
                let connected = timeout(MASTER_MAX, connect_to_master(client, config)).await;
                let connected =
                    connected.unwrap_or_else(|_| Err(Failure::NoAnswer("no answer".to_owned())));
                match connected {
                    Ok(connection) => {
                        sentinels.note_use(found);
                        Ok(connection)
                    }
                    Err(failure) => {
                        sentinels.note_failure(found);
                        Err(failure.in_context(&format!(
                            "the master {} is at {}, says the Sentinel {}",
                            sentinels.group().master_name,
                            found.claim.place,
                            sentinels.name(found.sentinel),
                        )))
                    }
                }
            }
        }
    }

    async fn moved(&self) -> String {
        match self {
            Self::Sentinel(sentinels) => sentinels.moved().await,
            Self::Standalone(_) | Self::Cluster => pending().await,
        }
    }
}

async fn look_up(sentinels: &Sentinels) -> Result<(Found, Client), String> {
    let found = sentinels.find().await?;
    let client = sentinels.group().master_at(&found.claim.place)?;
    Ok((found, client))
}

/// Connects, and asks whether it is the master: a Sentinel may be behind.
pub(crate) async fn connect_to_master(
    client: &Client,
    config: &AsyncConnectionConfig,
) -> Result<MultiplexedConnection, Failure> {
    let mut connection = RedisAddress::connect(client, config).await?;
    let role: RedisResult<Vec<Value>> = cmd("ROLE").query_async(&mut connection).await;
    match role {
        Err(error) if error.code() == Some("NOPERM") => {
            Err(Failure::Refused("the Redis user lacks +role".to_owned()))
        }
        Err(error) => Err(error.into()),
        Ok(role) => match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err(Failure::Refused("it is a replica".to_owned())),
        },
    }
}
