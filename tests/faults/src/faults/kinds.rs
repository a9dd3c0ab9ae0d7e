//! The table of all kinds.

use super::network::Trouble::{Cut, Narrow, Silent, Slow};
use super::processes::End::{Killed, Restarted, Stopped};
use super::{
    Injection, Kind, Risk, clock, cluster, commands, descriptors, disk, network, processes,
    receivers, sentinel, stores,
};
use crate::world::Mode::{self, Cluster, Sentinel, Standalone};
use crate::world::World;
use rand::rngs::StdRng;

const ALL: &[Mode] = &[Standalone, Sentinel, Cluster];
const WITH_REPLICAS: &[Mode] = &[Sentinel, Cluster];

type Run = for<'a> fn(&'a mut World, &'a mut StdRng) -> Injection<'a>;

const fn kind(
    name: &'static str,
    modes: &'static [Mode],
    risk: Risk,
    does: &'static str,
    run: Run,
) -> Kind {
    Kind { name, modes, risk, does, run }
}

/// All kinds.
#[rustfmt::skip]
pub const KINDS: &[Kind] = &[
    kind("server-killed", ALL, Risk::Nothing, "kill -9 of a server, which starts again",
        |world, random| Box::pin(processes::server(world, random, Killed))),
    kind("server-stopped", ALL, Risk::Nothing, "SIGSTOP of a server for 1 to 3 s",
        |world, random| Box::pin(processes::server(world, random, Stopped))),
    kind("server-restarted", ALL, Risk::Nothing, "SIGTERM of a server, which drains and starts again",
        |world, random| Box::pin(processes::server(world, random, Restarted))),
    kind("relay-killed", ALL, Risk::Nothing, "kill -9 of a relay, which starts again",
        |world, random| Box::pin(processes::relay(world, random, Killed))),
    kind("relay-stopped", ALL, Risk::Nothing, "SIGSTOP of a relay for 1 to 3 s",
        |world, random| Box::pin(processes::relay(world, random, Stopped))),
    kind("relay-restarted", ALL, Risk::Nothing, "SIGTERM of a relay, which drains and starts again",
        |world, random| Box::pin(processes::relay(world, random, Restarted))),
    kind("receiver-down", ALL, Risk::Nothing, "a receiver refuses, hangs, closes or answers 5xx for 2 s",
        |world, random| Box::pin(receivers::down(world, random))),

    kind("redis-killed", ALL, Risk::Killed, "kill -9 of a master, which starts again with its data",
        |world, random| Box::pin(stores::master(world, random, Killed))),
    kind("redis-stopped", ALL, Risk::Stalled, "SIGSTOP of a master for 1 to 3 s",
        |world, random| Box::pin(stores::master(world, random, Stopped))),
    kind("redis-restarted", ALL, Risk::Restarted, "SHUTDOWN of a master, which starts again",
        |world, random| Box::pin(stores::master(world, random, Restarted))),
    kind("replica-killed", WITH_REPLICAS, Risk::Nothing, "kill -9 of a replica, which starts again",
        |world, random| Box::pin(stores::replica(world, random, Killed))),
    kind("replica-stopped", WITH_REPLICAS, Risk::Nothing, "SIGSTOP of a replica for 1 to 3 s",
        |world, random| Box::pin(stores::replica(world, random, Stopped))),
    kind("replica-promoted", &[Standalone], Risk::Nothing, "a replica takes the place and the address of Redis",
        |world, _| Box::pin(stores::replica_promoted(world))),

    kind("script-flush", ALL, Risk::Nothing, "SCRIPT FLUSH on each master, several times",
        |world, random| Box::pin(commands::script_flush(world, random))),
    kind("client-kill", ALL, Risk::Nothing, "CLIENT KILL TYPE normal on a master every 60 ms",
        |world, random| Box::pin(commands::client_kill(world, random))),
    kind("client-pause", ALL, Risk::Stalled, "CLIENT PAUSE of writes or of everything for 0.5 to 1.5 s",
        |world, random| Box::pin(commands::client_pause(world, random))),
    kind("debug-sleep", ALL, Risk::Stalled, "DEBUG SLEEP for 0.5 to 1.5 s",
        |world, random| Box::pin(commands::debug_sleep(world, random))),
    kind("maxmemory", ALL, Risk::Nothing, "a master has no memory for writes for 1 to 2 s",
        |world, random| Box::pin(commands::maxmemory(world, random))),
    kind("flushall", ALL, Risk::Erased, "FLUSHALL on each master",
        |world, _| Box::pin(commands::flushall(world))),

    kind("sentinel-failover", &[Sentinel], Risk::Replaced, "the master is killed, a replica promoted",
        |world, random| Box::pin(sentinel::failover(world, random))),
    kind("sentinel-failover-asked", &[Sentinel], Risk::Stalled, "SENTINEL FAILOVER while the master runs",
        |world, random| Box::pin(sentinel::asked(world, random))),
    kind("sentinel-killed", &[Sentinel], Risk::Nothing, "kill -9 of a Sentinel, which starts again",
        |world, random| Box::pin(sentinel::sentinel_killed(world, random))),

    kind("slot-moved", &[Cluster], Risk::Nothing, "a partition's slot moves to another master",
        |world, random| Box::pin(cluster::slot_moved(world, random))),
    kind("cluster-master-killed", &[Cluster], Risk::Replaced, "a master is killed, its replica promoted",
        |world, random| Box::pin(cluster::master_killed(world, random))),
    kind("cluster-failover-asked", &[Cluster], Risk::Nothing, "CLUSTER FAILOVER on a replica",
        |world, random| Box::pin(cluster::failover_asked(world, random))),
    kind("cluster-flush-one", &[Cluster], Risk::Erased, "FLUSHALL on one master",
        |world, random| Box::pin(cluster::flush_one(world, random))),

    kind("client-slow", ALL, Risk::Nothing, "between clients and a server: 50 to 300 ms of delay",
        |world, random| Box::pin(network::trouble(world, random, "client", Slow))),
    kind("client-narrow", ALL, Risk::Nothing, "between clients and a server: 1 to 10 KB/s",
        |world, random| Box::pin(network::trouble(world, random, "client", Narrow))),
    kind("client-cut", ALL, Risk::Nothing, "between clients and a server: cut in the middle of a reply",
        |world, random| Box::pin(network::trouble(world, random, "client", Cut))),
    kind("client-silent", ALL, Risk::Nothing, "between clients and a server: silent for 1 to 3 s",
        |world, random| Box::pin(network::trouble(world, random, "client", Silent))),
    kind("store-slow", &[Standalone], Risk::Nothing, "between a server and Redis: 50 to 300 ms of delay",
        |world, random| Box::pin(network::trouble(world, random, "store", Slow))),
    kind("store-narrow", &[Standalone], Risk::Nothing, "between a server and Redis: 1 to 10 KB/s",
        |world, random| Box::pin(network::trouble(world, random, "store", Narrow))),
    kind("store-cut", &[Standalone], Risk::Nothing, "between a server and Redis: cut in the middle of a reply",
        |world, random| Box::pin(network::trouble(world, random, "store", Cut))),
    kind("store-silent", &[Standalone], Risk::Nothing, "between a server and Redis: silent for 1 to 3 s",
        |world, random| Box::pin(network::trouble(world, random, "store", Silent))),

    kind("disk-full", ALL, Risk::Filled, "a master's append-only file cannot grow",
        |world, random| Box::pin(disk::full(world, random))),
    kind("descriptors-used-up", ALL, Risk::Nothing, "a server can open no more sockets for 1 to 2 s",
        |world, random| Box::pin(descriptors::of_server(world, random))),
    kind("clients-used-up", ALL, Risk::Stalled, "a master takes no more clients for 1 to 2 s",
        |world, random| Box::pin(descriptors::of_store(world, random))),
    kind("clock-jumps", ALL, Risk::Nothing, "a server's clock jumps by up to half an hour",
        |world, random| Box::pin(clock::of_server(world, random))),
    kind("store-clock-jumps", &[Standalone], Risk::Restarted, "a Valkey's clock jumps by up to half an hour",
        |world, random| Box::pin(clock::of_store(world, random))),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_kind_has_a_name_of_its_own_and_each_mode_has_more_than_fifteen() {
        let names: HashSet<_> = KINDS.iter().map(|kind| kind.name).collect();
        assert_eq!(names.len(), KINDS.len());
        for mode in ALL {
            let kinds = KINDS.iter().filter(|kind| kind.modes.contains(mode)).count();
            assert!(kinds > 15, "{mode:?} has {kinds}");
        }
    }
}
