//! Which master has which slot, as nodes of the cluster see it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd, pipe};
use tokio::time::Instant;

use super::tags::SLOTS;
use crate::store::StoreError;
use crate::store::redis::connection::address::RedisAddress;
use crate::store::redis::errors::{classify, server_text, unexpected};

/// How long what was known is kept while all nodes that are asked say otherwise: about twelve looks.
const KEPT_MAX: Duration = Duration::from_secs(60);

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
    pub(in crate::store::redis) fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':').filter(|(host, _)| is_host(host))?;
        Some(Self { host: host.to_owned(), port: port.parse().ok()? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Longest host that is taken.
const HOST_MAX_BYTES: usize = 255;

/// Returns whether a server's text may be a host, or is empty. It comes into messages.
pub(crate) fn is_host(text: &str) -> bool {
    let is_of_host = |byte: u8| byte.is_ascii_alphanumeric() || b".-:_[]%".contains(&byte);
    text.len() <= HOST_MAX_BYTES && text.bytes().all(is_of_host)
}

/// A master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store::redis) struct Master {
    /// The ID that it keeps, whatever its address is.
    pub(super) id: String,
    /// The address that it announces.
    pub(in crate::store::redis) address: Address,
    /// All by which other nodes may name it.
    pub(super) names: Vec<Address>,
    /// Of two that claim a slot the one with the greater epoch has it.
    epoch: u64,
    /// The first and the last slot of each of its ranges.
    slots: Vec<(u16, u16)>,
}

/// The cluster as one node sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store::redis) struct View {
    /// The ID of the node that was asked.
    asked: String,
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

    pub(in crate::store::redis) fn parse(
        nodes: &str,
        slots: &Value,
        asked: &Address,
    ) -> Result<Self, StoreError> {
        let announced = announced(slots, asked)?;
        let lines = nodes.lines().map(NodeLine::parse).collect::<Option<Vec<_>>>();
        let malformed = || StoreError::corrupt("a line of CLUSTER NODES is malformed");
        let lines = lines.ok_or_else(malformed)?;
        let is_by_name = |line: &NodeLine<'_>| {
            announced.get(line.id).is_some_and(|known| line.host_name() == Some(&*known.host))
        };
        let has_host_names = lines.iter().any(is_by_name);
        let mut view = Self::default();
        for line in lines {
            view.nodes.insert(line.id.to_owned());
            view.moving.extend(&line.moving);
            if line.has("myself") {
                line.id.clone_into(&mut view.asked);
            }
            if !line.is_usable_master() {
                continue;
            }
            let by_ip = line.address(asked);
            let by_name = by_ip.as_ref().and_then(|by_ip| {
                Some(Address { host: line.host_name()?.to_owned(), port: by_ip.port })
            });
            let preferred = if has_host_names { by_name.clone() } else { None };
            let address = announced.get(line.id).cloned().or(preferred).or(by_ip.clone());
            let Some(address) = address else { continue };
            let names = [Some(address.clone()), by_ip, by_name].into_iter().flatten().collect();
            let (id, epoch, slots) = (line.id.to_owned(), line.epoch, line.slots);
            view.masters.push(Master { id, address, names, epoch, slots });
        }
        Ok(view)
    }

    /// Returns whether the node that was asked knows others of these nodes; or knows none, and is all there
    /// is. One that was removed from its cluster, or is in another one by now, does not.
    pub(super) fn is_of(&self, members: &BTreeSet<String>) -> bool {
        let others = self.nodes.iter().filter(|id| **id != self.asked);
        let knows_others = others.clone().any(|id| members.contains(id));
        let is_alone = members.len() == 1 && others.count() == 0;
        members.is_empty() || knows_others || is_alone && members.contains(&self.asked)
    }

    /// Returns the slots that are on their way to the node that was asked, or from it.
    pub(in crate::store::redis) fn moving(&self) -> &BTreeSet<u16> {
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

    /// The host name that it announces, if it does.
    fn host_name(&self) -> Option<&'a str> {
        // The address, the host name, and more.
        self.address.split(',').nth(1).filter(|name| !name.is_empty() && is_host(name))
    }

    /// Its IP address and port, by which `CLUSTER SLOTS` may not name it.
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
        let port = u16::try_from(*port).ok().filter(|_| is_host(&host)).ok_or_else(malformed)?;
        announced.insert(text(id).ok_or_else(malformed)?, Address { host, port });
    }
    Ok(announced)
}

/// All masters, and which of them has each slot, by the views of several nodes.
#[derive(Clone, Debug, Default)]
pub(in crate::store::redis) struct Topology {
    /// By ID.
    masters: BTreeMap<String, Master>,
    /// The IDs of all nodes, replicas included.
    pub(in crate::store::redis) nodes: BTreeSet<String>,
    /// The IDs of those that were asked.
    asked: BTreeSet<String>,
    /// Since when claims are kept that nobody makes, by the ID of their master.
    kept_since: BTreeMap<String, Instant>,
}

impl Topology {
    pub(in crate::store::redis) fn new(views: Vec<View>) -> Self {
        Self::merge(Self::default(), views)
    }

    /// Adds views of more nodes.
    pub(super) fn merge(mut all: Self, views: Vec<View>) -> Self {
        for View { asked, masters, nodes, .. } in views {
            all.nodes.extend(nodes);
            for master in masters {
                // What a node says of itself is newer than what others say at the same epoch.
                let is_newer = all.masters.get(&master.id).is_none_or(|known| {
                    master.epoch > known.epoch || master.epoch == known.epoch && master.id == asked
                });
                if is_newer {
                    all.masters.insert(master.id.clone(), master);
                }
            }
            all.asked.insert(asked);
        }
        all
    }

    /// Takes over claims that were known before, and that nodes which were not asked themselves have given up for
    /// no greater epoch: those that were asked hear of a change late, or are cut off, and see the past. Not for
    /// ever: slots of a master that has failed may be given to another by hand, which needs no epoch.
    pub(super) fn remember(&mut self, before: &Self, now: Instant) {
        let mut absent = Vec::new();
        for (id, known) in before.masters.iter().filter(|(id, _)| !self.asked.contains(*id)) {
            let since = before.kept_since.get(id).copied().unwrap_or(now);
            match self.masters.get_mut(id) {
                _ if now - since > KEPT_MAX => {}
                Some(seen)
                    if seen.epoch < known.epoch
                        || seen.epoch == known.epoch && seen.slots != known.slots =>
                {
                    (seen.epoch, seen.slots) = (known.epoch, known.slots.clone());
                    self.kept_since.insert(id.clone(), since);
                }
                None if self.nodes.contains(id) => absent.push((known, since)),
                _ => {}
            }
        }
        // One that is no master any more has been succeeded, by a greater epoch, in all of its slots.
        let owners = self.owners();
        let is_lost = |slot: u16| {
            let owner = owners.get(usize::from(slot)).copied().flatten();
            move |known: &Master| owner.is_none_or(|owner| owner.epoch < known.epoch)
        };
        absent.retain(|(known, _)| {
            let mut slots = known.slots.iter().flat_map(|(first, last)| *first..=*last);
            slots.any(|slot| is_lost(slot)(known))
        });
        let absent: Vec<_> =
            absent.into_iter().map(|(known, since)| (known.clone(), since)).collect();
        for (known, since) in absent {
            self.kept_since.insert(known.id.clone(), since);
            self.masters.insert(known.id.clone(), known);
        }
    }

    /// Returns all masters.
    pub(super) fn masters(&self) -> impl Iterator<Item = &Master> {
        self.masters.values()
    }

    /// Returns the addresses of all masters.
    pub(super) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.masters().map(|master| &master.address)
    }

    /// Returns the master of each slot.
    pub(in crate::store::redis) fn owners(&self) -> Vec<Option<&Master>> {
        let mut owners = vec![None; usize::from(SLOTS)];
        let mut by_epoch: Vec<_> = self.masters().collect();
        by_epoch.sort_by_key(|master| master.epoch);
        for master in by_epoch {
            for (first, last) in &master.slots {
                let range = usize::from(*first)..=usize::from(*last);
                if let Some(range) = owners.get_mut(range) {
                    range.fill(Some(master));
                }
            }
        }
        owners
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

    fn owner_of(topology: &Topology, slot: usize) -> Option<String> {
        topology.owners()[slot].map(|master| master.address.host.clone())
    }

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
        let expected = ["one.example:7000", "seed:7000", "10.0.0.3:7000", "10.0.0.4:7000"];
        assert_eq!(addresses, expected);
    }

    #[test]
    fn each_slot_has_one_owner() {
        let topology = Topology::new(vec![view()]);
        let owner = |slot| owner_of(&topology, slot).unwrap();
        assert_eq!([0, 93, 5460, 9000].map(owner), ["one.example"; 4]);
        assert_eq!([5461, 8999, 9001, 10_922].map(owner), ["seed"; 4]);
        assert_eq!([10_923, 16_383].map(owner), ["10.0.0.3"; 2]);
        assert_eq!(owner_of(&Topology::default(), 0), None);
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
            assert_eq!(owner_of(&topology, 1).unwrap(), "10.0.0.5");
            assert_eq!(owner_of(&topology, 9000).unwrap(), "one.example");
        }
    }

    #[test]
    fn what_is_known_of_a_greater_epoch_is_not_forgotten() {
        let view = |asked: &str, nodes: &[(&str, &str)]| {
            let line = |(id, rest): &(&str, &str)| {
                let flags = if *id == asked { "myself," } else { "" };
                format!("{id} {id}:7000@17000 {flags}{rest}\n")
            };
            let nodes: String = nodes.iter().map(line).collect();
            View::parse(
                &nodes,
                &Value::Array(vec![]),
                &Address { host: asked.to_owned(), port: 7000 },
            )
            .unwrap()
        };
        let all = "master - 0 0 3 connected 0-16383";
        let (none, gone) = ("master - 0 0 3 connected", "slave b 0 0 4 connected");
        let (waits, took) = ("slave a 0 0 3 connected", "master - 0 0 4 connected 0-16383");
        let took_later = "master - 0 0 5 connected 0-16383";
        for (name, before, now, expected) in [
            ("a promotion", [("a", gone), ("b", took)], ("c", [("a", all), ("b", waits)]), "b"),
            (
                "it gave up itself",
                [("a", gone), ("b", took)],
                ("b", [("a", none), ("b", waits)]),
                "",
            ),
            (
                "a later one",
                [("a", gone), ("b", took)],
                ("c", [("a", took_later), ("b", waits)]),
                "a",
            ),
            (
                "at the same epoch",
                [("a", all), ("b", waits)],
                ("c", [("a", none), ("b", waits)]),
                "a",
            ),
        ] {
            let of_c = [("c", "master - 0 0 1 connected")];
            let before = Topology::new(vec![view("a", &[&before[..], &of_c].concat())]);
            let mut topology = Topology::new(vec![view(now.0, &[&now.1[..], &of_c].concat())]);
            topology.remember(&before, Instant::now());
            assert_eq!(owner_of(&topology, 1).unwrap_or_default(), expected, "{name}");
            // A node that nobody knows any more is forgotten.
            topology.nodes.remove("a");
            let mut without = Topology { masters: BTreeMap::new(), ..topology };
            without.remember(&before, Instant::now());
            assert!(!without.masters.contains_key("a"), "{name}");
        }
    }

    #[test]
    fn what_was_known_is_forgotten_while_nobody_says_so_for_long() {
        let view = |nodes: &str| {
            let asked = Address { host: "c".to_owned(), port: 7000 };
            let c = "c c:7000@17000 myself,master - 0 0 1 connected";
            View::parse(&format!("{c}{nodes}\n"), &Value::Array(vec![]), &asked).unwrap()
        };
        // The slots of one that has failed were given to another by hand; one that is known as a master is a replica.
        let failed = [
            "\na a:7000@17000 master,fail - 0 0 3 connected 0-9",
            " 0-9\na a:7000@17000 master,fail - 0 0 3 connected",
        ];
        let replica = [failed[0], " 0-9\na a:7000@17000 slave c 0 0 3 connected"];
        for [before, now] in [failed, replica] {
            let (mut last, mut clock) = (Topology::new(vec![view(before)]), Instant::now());
            for expected in ["a", "a", "a", "c", "c"] {
                let mut topology = Topology::new(vec![view(now)]);
                topology.remember(&last, clock);
                assert_eq!(owner_of(&topology, 1).unwrap(), expected, "{now}");
                last = topology;
                clock += KEPT_MAX * 2 / 5;
            }
        }
    }

    #[test]
    fn of_two_views_of_a_master_the_one_of_the_greater_epoch_holds() {
        let older = "a 10.0.0.1:7000@17000 myself,master - 0 0 3 connected 0-16383\n";
        let newer = "\
a 10.0.0.9:7000@17000 master - 0 0 4 connected 0-16383
b 10.0.0.2:7000@17000 myself,master - 0 0 2 connected
";
        let parse = |text| View::parse(text, &Value::Array(vec![]), &asked()).unwrap();
        for views in [vec![parse(older), parse(newer)], vec![parse(newer), parse(older)]] {
            assert_eq!(owner_of(&Topology::new(views), 1).unwrap(), "10.0.0.9");
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
    fn a_node_that_left_its_cluster_is_not_asked_about_it() {
        let members: BTreeSet<_> = ["a", "b", "c"].map(str::to_owned).into();
        let of = |nodes: &str| {
            View::parse(nodes, &Value::Array(vec![]), &asked()).unwrap().is_of(&members)
        };
        let line = |id: &str, flags: &str| format!("{id} 10.0.0.1:1@2 {flags} - 0 0 1 connected\n");
        let removed = line("c", "myself,master");
        let joined_another = [line("c", "myself,master"), line("x", "master")].concat();
        let is_in = [line("n", "myself,master"), line("a", "master")].concat();
        assert!(!of(&removed) && !of(&joined_another) && of(&is_in));
        let alone = BTreeSet::from(["c".to_owned()]);
        let view = View::parse(&removed, &Value::Array(vec![]), &asked()).unwrap();
        assert!(view.is_of(&alone) && view.is_of(&BTreeSet::new()));
    }

    #[test]
    fn a_node_is_known_by_its_ip_address_and_its_host_name() {
        let names = |view: &View, id: &str| -> Vec<String> {
            let master = view.masters.iter().find(|master| master.id == id).unwrap();
            master.names.iter().map(ToString::to_string).collect()
        };
        let view = view();
        assert!(names(&view, "a").contains(&"10.0.0.1:7000".to_owned()));
        assert!(names(&view, "a").contains(&"one.example:7000".to_owned()));
        assert!(names(&view, "b").contains(&"10.0.0.2:7000".to_owned()));
    }

    #[test]
    fn an_address_has_a_host_that_may_be_one() {
        for host in ["", "10.0.0.1", "::1", "[fe80::1%eth0]", "redis_1.example-a.com"] {
            assert_eq!(Address::parse(&format!("{host}:1")).unwrap().host, host);
        }
        for host in ["a b", "a\n", "é", &"h".repeat(HOST_MAX_BYTES + 1)] {
            assert_eq!(Address::parse(&format!("{host}:1")), None, "{host:?}");
        }
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
        let odd = |host: &str| Value::Array(vec![slots(0, 1, text(host), 1, "a")]);
        let long = "h".repeat(HOST_MAX_BYTES + 1);
        for slots in [Value::Int(1), Value::Array(vec![Value::Int(1)]), odd("a\nb"), odd(&long)] {
            assert!(View::parse("", &slots, &asked()).is_err());
        }
    }
}
