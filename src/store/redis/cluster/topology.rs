//! Which master has which slot, as nodes of the cluster see it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd, pipe};

use super::tags::SLOTS;
use crate::store::StoreError;
use crate::store::redis::connection::address::RedisAddress;
use crate::store::redis::errors::{classify, server_text, unexpected};

/// The address of a node, as it announces it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Returns the address of a connection, if it is one of TCP.
    pub(super) fn of(address: &RedisAddress) -> Option<Self> {
        let (host, port) = address.host_and_port();
        Some(Self { host, port: port? })
    }

    /// Parses an address in an error: `127.0.0.1:7001`, `::1:7001` or `host:7001`. The host may be empty.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A master.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Master {
    address: Address,
    /// Of two that claim a slot the one with the greater epoch has it.
    epoch: u64,
    /// The first and the last slot of each of its ranges.
    slots: Vec<(u16, u16)>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    masters: Vec<Master>,
    /// The IDs of all nodes.
    nodes: BTreeSet<String>,
    /// The slots that are on their way to the node that was asked, or from it.
    moving: BTreeSet<u16>,
}

impl View {
    /// Asks a node, which was reached at an address.
    pub(super) async fn ask(
        connection: &mut MultiplexedConnection,
        asked: &Address,
    ) -> Result<Self, StoreError> {
        let mut ask = pipe();
        ask.add_command(cmd("CLUSTER").arg("NODES").to_owned());
        ask.add_command(cmd("CLUSTER").arg("SLOTS").to_owned());
        let asked_for: Result<(String, Value), RedisError> = ask.query_async(connection).await;
        let (nodes, slots) = asked_for.map_err(explain)?;
        Self::parse(&nodes, &slots, asked)
    }

    fn parse(nodes: &str, slots: &Value, asked: &Address) -> Result<Self, StoreError> {
        let announced = announced(slots, asked)?;
        let mut view = Self::default();
        for line in nodes.lines() {
            let Some(node) = NodeLine::parse(line) else {
                return Err(StoreError::corrupt("a line of CLUSTER NODES is malformed"));
            };
            view.nodes.insert(node.id.to_owned());
            view.moving.extend(&node.moving);
            if !node.is_usable_master() {
                continue;
            }
            let address = announced.get(node.id).cloned().or_else(|| node.address(asked));
            if let Some(address) = address {
                view.masters.push(Master { address, epoch: node.epoch, slots: node.slots });
            }
        }
        Ok(view)
    }

    /// Returns the slots that are on their way to the node that was asked, or from it.
    pub(super) fn moving(&self) -> &BTreeSet<u16> {
        &self.moving
    }

    /// Returns whether two nodes know each other's cluster.
    pub(super) fn is_of_same_cluster(&self, other: &Self) -> bool {
        !self.nodes.is_disjoint(&other.nodes)
    }
}

/// Says what is wrong with a Redis that is not one of a cluster.
fn explain(error: RedisError) -> StoreError {
    let text = server_text(&error).unwrap_or_default();
    if text.contains("cluster support disabled") {
        return StoreError::unavailable(
            "Redis is not in cluster mode: set --redis-mode standalone, or --redis-url to nodes of a cluster",
        );
    }
    classify(error)
}

/// A line of `CLUSTER NODES`.
struct NodeLine<'a> {
    id: &'a str,
    /// `host:port@port,hostname`; the host may be empty.
    address: &'a str,
    flags: Vec<&'a str>,
    epoch: u64,
    slots: Vec<(u16, u16)>,
    /// Slots on their way, which a node knows of itself alone.
    moving: Vec<u16>,
}

impl<'a> NodeLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.split(' ');
        let (id, address, flags) = (words.next()?, words.next()?, words.next()?);
        // Its master, the last ping and the last pong come before the epoch, the link's state after it.
        let epoch = words.nth(3)?.parse().ok()?;
        words.next()?;
        // A slot on its way is in brackets, and still this node's.
        let (moving, ranges): (Vec<_>, Vec<_>) =
            words.filter(|range| !range.is_empty()).partition(|range| range.starts_with('['));
        let slots = ranges.into_iter().map(parse_range).collect::<Option<_>>()?;
        let moving =
            moving.iter().filter_map(|slot| slot.get(1..)?.split_once('-')?.0.parse().ok());
        let (flags, moving) = (flags.split(',').collect(), moving.collect());
        Some(Self { id, address, flags, epoch, slots, moving })
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.contains(&flag)
    }

    /// One that has failed keeps its slots until a replica takes them over.
    fn is_usable_master(&self) -> bool {
        let is_gone = self.has("handshake") || self.has("noaddr");
        self.has("master") && !is_gone && (!self.has("fail") || !self.slots.is_empty())
    }

    /// Of a node without slots, which `CLUSTER SLOTS` does not have.
    fn address(&self, asked: &Address) -> Option<Address> {
        let (address, _) = self.address.split_once('@')?;
        let Address { host, port } = Address::parse(address)?;
        let host = if host.is_empty() { asked.host.clone() } else { host };
        (port != 0).then_some(Address { host, port })
    }
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && last < SLOTS).then_some((first, last))
}

/// Returns the address that each master announces, by its ID: as the cluster prefers it, an IP address or a
/// host name. An unknown one is that of the node that was asked.
fn announced(slots: &Value, asked: &Address) -> Result<HashMap<String, Address>, StoreError> {
    let malformed = || StoreError::corrupt("the reply to CLUSTER SLOTS is malformed");
    let Value::Array(ranges) = slots else { return Err(unexpected(slots)) };
    let mut announced = HashMap::new();
    for range in ranges {
        let Value::Array(range) = range else { return Err(malformed()) };
        let Some(Value::Array(master)) = range.get(2) else { return Err(malformed()) };
        let [host, Value::Int(port), id, ..] = &master[..] else { return Err(malformed()) };
        let text =
            |value: &Value| redis::from_redis_value_ref::<Option<String>>(value).ok().flatten();
        let host = text(host).filter(|host| !host.is_empty() && host != "?");
        let host = host.unwrap_or_else(|| asked.host.clone());
        let port = u16::try_from(*port).map_err(|_| malformed())?;
        announced.insert(text(id).ok_or_else(malformed)?, Address { host, port });
    }
    Ok(announced)
}

/// All masters, and which of them has each slot, by the views of several nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Topology {
    /// The ranges of slots of each master.
    masters: BTreeMap<Address, (u64, Vec<(u16, u16)>)>,
}

impl Topology {
    pub(super) fn new(views: Vec<View>) -> Self {
        let mut all = Self::default();
        for Master { address, epoch, slots } in views.into_iter().flat_map(|view| view.masters) {
            let known = all.masters.entry(address).or_default();
            // A later view of the same master replaces an older one.
            if known.1.is_empty() || epoch >= known.0 {
                *known = (epoch, slots);
            }
        }
        all
    }

    /// Returns the addresses of all masters.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.masters.keys()
    }

    /// Returns the master that has a slot.
    pub(super) fn owner(&self, slot: u16) -> Option<&Address> {
        let has = |slots: &[(u16, u16)]| slots.iter().any(|(a, b)| (*a..=*b).contains(&slot));
        let owners = self.masters.iter().filter(|(_, (_, slots))| has(slots));
        owners.max_by_key(|(_, (epoch, _))| *epoch).map(|(address, _)| address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Address {
        Address { host: "seed".to_owned(), port: 6379 }
    }

    fn text(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn slots(first: i64, last: i64, host: Value, port: i64, id: &str) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), text(id), Value::Array(vec![])]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node])
    }

    const NODES: &str = "\
a 10.0.0.1:7000@17000,one.example myself,master - 0 0 3 connected 0-5460 [93-<-b] 9000
b 10.0.0.2:7000@17000 master - 0 1 2 connected 5461-8999 9001-10922
c 10.0.0.3:7000@17000 master,fail - 0 1 1 disconnected 10923-16383
d 10.0.0.4:7000@17000 master - 0 1 0 connected
e 10.0.0.5:7000@17000 slave a 0 1 3 connected
f 10.0.0.6:7000@17000 master,fail - 0 1 0 disconnected
g :0@0 master,noaddr - 0 1 0 disconnected
";

    fn view() -> View {
        let of_a = slots(0, 5460, text("one.example"), 7000, "a");
        let of_b = slots(5461, 8999, Value::Nil, 7000, "b");
        View::parse(NODES, &Value::Array(vec![of_a, of_b]), &asked()).unwrap()
    }

    #[test]
    fn masters_have_the_addresses_that_they_announce() {
        let topology = Topology::new(vec![view()]);
        let addresses: Vec<_> = topology.addresses().map(ToString::to_string).collect();
        assert_eq!(view().moving(), &BTreeSet::from([93]));
        let expected = ["10.0.0.3:7000", "10.0.0.4:7000", "one.example:7000", "seed:7000"];
        assert_eq!(addresses, expected);
    }

    #[test]
    fn each_slot_has_one_owner() {
        let topology = Topology::new(vec![view()]);
        let owner = |slot| topology.owner(slot).map(|address| address.host.clone()).unwrap();
        assert_eq!([0, 93, 5460, 9000].map(owner), ["one.example"; 4]);
        assert_eq!([5461, 8999, 9001, 10_922].map(owner), ["seed"; 4]);
        assert_eq!([10_923, 16_383].map(owner), ["10.0.0.3"; 2]);
        assert_eq!(Topology::default().owner(0), None);
    }

    #[test]
    fn of_two_claims_the_one_of_the_greater_epoch_holds() {
        let promoted = "\
a 10.0.0.1:7000@17000 master,fail - 0 0 3 connected
e 10.0.0.5:7000@17000 myself,master - 0 0 4 connected 0-5460
";
        let promoted = View::parse(promoted, &Value::Array(vec![]), &asked()).unwrap();
        for views in [vec![view(), promoted.clone()], vec![promoted, view()]] {
            let topology = Topology::new(views);
            assert_eq!(topology.owner(1).unwrap().host, "10.0.0.5");
            assert_eq!(topology.owner(9000).unwrap().host, "one.example");
        }
    }

    #[test]
    fn nodes_of_two_clusters_do_not_know_each_other() {
        let other = "x 10.0.1.1:7000@17000 myself,master - 0 0 1 connected 0-16383\n";
        let other = View::parse(other, &Value::Array(vec![]), &asked()).unwrap();
        assert!(!view().is_of_same_cluster(&other));
        assert!(view().is_of_same_cluster(&view()));
    }

    #[test]
    fn malformed_answers_are_errors() {
        let none = || Value::Array(vec![]);
        for nodes in [
            "a",
            "a b c",
            "a h:1@1 master - 0 0 x connected",
            "a h:1@1 master - 0 0 1 up 9-1",
            "a h:1@1 master - 0 0 1 up 16384",
        ] {
            assert!(View::parse(nodes, &none(), &asked()).is_err(), "{nodes}");
        }
        for slots in [Value::Int(1), Value::Array(vec![Value::Int(1)])] {
            assert!(View::parse("", &slots, &asked()).is_err());
        }
    }
}
