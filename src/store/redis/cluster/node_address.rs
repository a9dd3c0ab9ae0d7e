//! The address of a node of a cluster, and who must be there: addresses are given to other nodes, of other
//! clusters even, when machines are replaced.

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, RedisError, cmd};

use crate::store::redis::connection::address::RedisAddress;
use crate::store::redis::connection::failure::Failure;
use crate::store::redis::connection::link::Connect;

/// A node's address and ID.
#[derive(Clone)]
pub(super) struct NodeAddress {
    pub(super) address: RedisAddress,
    pub(super) id: String,
}

impl Connect for NodeAddress {
    type Client = (Client, String);

    fn client(&self) -> Result<Self::Client, String> {
        Ok((self.address.client()?, self.id.clone()))
    }

    async fn connect(
        (client, id): &Self::Client,
        config: &AsyncConnectionConfig,
    ) -> Result<MultiplexedConnection, Failure> {
        let mut connection = RedisAddress::connect(client, config).await?;
        let mut ask = cmd("CLUSTER");
        ask.arg("MYID");
        let answered: Result<String, RedisError> = ask.query_async(&mut connection).await;
        if answered? != *id {
            return Err(Failure::Refused(
                "another node than the cluster's answers at this address".to_owned(),
            ));
        }
        Ok(connection)
    }
}
