//! An attack, how the server is started for it, and the limits that the run must keep.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;

use crate::cgroup::CpuShare;
use crate::stage::Stage;

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An attack with its limits.
#[derive(Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) attack: fn(Arc<Stage>) -> Running,
    /// Flags of the server. What the binary does not know is left out.
    pub(crate) flags: Vec<String>,
    /// Shell commands before the server is started, in its process.
    pub(crate) prelude: String,
    /// Whether marks of a well-behaved client are measured beside the attack.
    pub(crate) neighbour: bool,
    /// How many times the p50 without the attack the neighbour's may be.
    pub(crate) p50_times: f64,
    /// What the attack may add to the server's anonymous memory, in MiB.
    pub(crate) memory_mib: u64,
    /// What the server may use of CPU, in cores: one for its worker, and half of one for what accepts, measures
    /// memory and answers operators.
    pub(crate) cpu_cores: f64,
    /// How many of the neighbour's calls may be refused.
    pub(crate) refusals: usize,
    /// Whether the server has [`LIMIT_MIB`](crate::report::LIMIT_MIB) of memory. Then it may slow the
    /// neighbour down and refuse it, to live.
    pub(crate) is_limited: bool,
    /// The share of a CPU that Redis has.
    pub(crate) redis_in: Option<Arc<CpuShare>>,
    /// Files that the flags name.
    _files: Option<Arc<dyn Any + Send + Sync>>,
}

impl Case {
    pub(crate) fn new(name: &str, attack: fn(Arc<Stage>) -> Running) -> Self {
        Self {
            name: name.to_owned(),
            attack,
            flags: Vec::new(),
            prelude: String::new(),
            neighbour: true,
            p50_times: 3.0,
            memory_mib: 128,
            cpu_cores: 1.5,
            refusals: 0,
            is_limited: false,
            redis_in: None,
            _files: None,
        }
    }

    /// Adds flags of the server; spaces separate them.
    pub(crate) fn flags(mut self, flags: &str) -> Self {
        self.flags.extend(flags.split_whitespace().map(str::to_owned));
        self
    }

    /// Runs shell commands before the server.
    pub(crate) fn after(mut self, prelude: &str) -> Self {
        self.prelude += prelude;
        self
    }

    /// Leaves the neighbour out, whom the flags would refuse.
    pub(crate) fn without_neighbour(self) -> Self {
        Self { neighbour: false, ..self }
    }

    pub(crate) fn p50_times(self, p50_times: f64) -> Self {
        Self { p50_times, ..self }
    }

    pub(crate) fn memory_mib(self, memory_mib: u64) -> Self {
        Self { memory_mib, ..self }
    }

    pub(crate) fn refusals(self, refusals: usize) -> Self {
        Self { refusals, ..self }
    }

    /// Gives Redis a share of a CPU.
    pub(crate) fn redis_in(self, share: &Arc<CpuShare>) -> Self {
        Self { redis_in: Some(Arc::clone(share)), ..self }
    }

    /// Keeps files until the case has run.
    pub(crate) fn keeping(self, files: impl Any + Send + Sync) -> Self {
        Self { _files: Some(Arc::new(files)), ..self }
    }

    /// The same attack on a server with limited memory.
    pub(crate) fn limited(self, how: &str) -> Self {
        Self { name: format!("{} {how}", self.name), is_limited: true, ..self }
    }
}

/// Makes a case of a name and an asynchronous function.
macro_rules! case {
    ($name:expr, $attack:expr) => {
        $crate::case::Case::new($name, |stage| Box::pin($attack(stage)))
    };
}
pub(crate) use case;
