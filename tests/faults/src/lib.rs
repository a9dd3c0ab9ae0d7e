//! The fault harness: real servers, relays and Redis processes under a random load, faults injected, and
//! every acknowledged answer held against cursors, streams, watchers and receivers.
//!
//! `tests/faults/run --help` has the command line. The parts, from the top:
//!
//! ```text
//! main       one run: the world is started, loaded, broken, settled, read and judged
//! faults     the kinds of faults, and the plan that a seed chooses
//! load       what clients call, and what watchers hear
//! world      the processes: Redis in each mode, servers, relays, receivers
//! proxies    toxiproxy, between them and in front of them
//! rules      what must hold of a history: the checker
//! account    the counts that are printed
//! history    what happened, as all of the above record and read it
//! ```

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a run that cannot go on panics, and prints its account"
)]

pub mod account;
pub mod faults;
pub mod history;
pub mod load;
pub mod plan;
pub mod proxies;
pub mod rules;
pub mod run;
pub mod world;
