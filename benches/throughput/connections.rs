//! The memory of idle connections, beside that of hyper alone.

use markread_harness::{Redis, Server};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use crate::bare_hyper;
use crate::load::{Calls, Connections};
use crate::noop::{Noop, Role};
use crate::process::rss_bytes;
use crate::report::thousands;
use crate::rounds::UNLIMITED;
use crate::workloads::{self, ADVANCING, NOOP, READERS};

const CONNECTIONS: u64 = 10_000;
/// Files that a process has open besides.
const OTHER_FILES: u64 = 500;
/// Fewer than the kernel queues until they are accepted.
const AT_A_TIME: u64 = 500;
const ENOUGH: [&str; 4] = ["--max-connections", "100000", "--max-connections-per-peer", "0"];

/// Bytes of resident memory of an idle connection, after one call on each.
#[derive(Serialize)]
pub(crate) struct IdleConnections {
    /// The number of connections that were open at once.
    opened: u64,
    server_bytes: f64,
    /// hyper alone, with the generated service.
    hyper_bytes: f64,
    /// The same service on the own listener.
    noop_bytes: f64,
}

impl IdleConnections {
    pub(crate) async fn measure(redis: &Redis) -> Self {
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        let files = most.min(CONNECTIONS + OTHER_FILES);
        // The servers inherit it.
        setrlimit(Resource::RLIMIT_NOFILE, files, most).unwrap();
        let opened = files - OTHER_FILES;
        let server = Server::on_with(redis, &[&UNLIMITED[..], &ENOUGH].concat()).await;
        let server_bytes =
            each(&server.address, server.id(), &workloads::marks(ADVANCING), opened).await;
        drop(server);
        let hyper = Noop::start_named(bare_hyper::NAME, &[]).await;
        let hyper_bytes = each(&hyper.address, hyper.id(), &workloads::marks(NOOP), opened).await;
        drop(hyper);
        let noop = Noop::start(Role::Bare, &ENOUGH).await;
        let noop_bytes = each(&noop.address, noop.id(), &workloads::marks(NOOP), opened).await;
        Self { opened, server_bytes, hyper_bytes, noop_bytes }
    }

    pub(crate) fn over_bare(&self) -> f64 {
        self.server_bytes / self.hyper_bytes
    }

    pub(crate) fn text(&self) -> String {
        let [server, hyper, noop] = [self.server_bytes, self.hyper_bytes, self.noop_bytes]
            .map(|each| thousands(each as u64));
        format!(
            "An idle connection, after one call on each of {opened} that are open at once: growth of \
             resident memory, bytes a connection.\n\n\
             | server | bytes |\n| --- | ---: |\n\
             | markread | {server} |\n\
             | hyper alone, with the same windows and buffers, and the generated service | {hyper} |\n\
             | `noop`: the generated service on markread's listener | {noop} |\n\n\
             - Windows are promises to a client, not memory: a stream's 64 KiB take the largest request \
             without a pause,\n  and the connection's 1 MiB take sixteen of those at once. An idle \
             connection holds nothing of them.\n\
             - What an idle connection does hold are h2's buffers, hyper's and markread's alike: 16 KiB for \
             frames to write, 8 KiB\n  for frames that are read, 4 KiB for headers. h2 allocates them with the \
             connection, and their size cannot be chosen.\n  The rest are its tables of header compression, \
             and the states of connection and task.\n\
             - Of each answer h2 takes up to 16 KiB at once, a frame of the usual size. An idle connection \
             has no answer.\n",
            opened = thousands(self.opened),
        )
    }
}

/// Returns the growth of a server's memory by each of so many connections.
async fn each(address: &str, server: u32, calls: &Calls, count: u64) -> f64 {
    // Whatever is allocated once, such as for each reader.
    Connections::open(address, 8).await.call_each(calls, 2 * READERS as usize).await;
    let before = rss_bytes(server);
    let mut open = Vec::new();
    while open.len() < (count / AT_A_TIME) as usize {
        let connections = Connections::open(address, AT_A_TIME as usize).await;
        connections.call_each(calls, AT_A_TIME as usize).await;
        open.push(connections);
    }
    let count = open.len() as u64 * AT_A_TIME;
    (rss_bytes(server) - before) as f64 / count as f64
}
