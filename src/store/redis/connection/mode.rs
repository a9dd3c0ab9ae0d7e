//! Where the keys are: in one Redis, in the master of a group that Sentinels watch, or in a cluster.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisResult};

use super::address::RedisAddress;
use super::link::Connect;
use crate::store::redis::cluster::topology::Address;

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

    /// Creates a client with the current contents of the files.
    ///
    /// # Errors
    ///
    /// The invalid file, and its problem.
    pub(crate) fn client(&self) -> Result<Client, String> {
        match self {
            Self::Standalone(address) => address.client(),
            Self::Sentinel(_) => Err("--redis-mode sentinel is not supported yet".to_owned()),
            Self::Cluster(_) => Err("--redis-mode cluster is not supported yet".to_owned()),
        }
    }
}

impl Connect for RedisMode {
    type Client = Client;

    fn client(&self) -> Result<Client, String> {
        RedisMode::client(self)
    }

    async fn connect(
        client: &Client,
        config: &AsyncConnectionConfig,
    ) -> RedisResult<MultiplexedConnection> {
        RedisAddress::connect(client, config).await
    }
}
