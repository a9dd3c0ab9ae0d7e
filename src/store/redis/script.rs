//! Scripts: each is sent by its digest, and once with its source where Redis has lost it.

use redis::{Cmd, Value, cmd};

use super::errors::unexpected;
use crate::store::StoreError;

/// A script that Redis runs.
#[derive(Debug)]
pub(super) struct Script {
    source: &'static str,
    sha1: String,
}

/// Makes a script of a file, with what all share in front of it.
macro_rules! script {
    ($file:literal) => {
        $crate::store::redis::script::Script::new(concat!(
            include_str!("common.lua"),
            "\n",
            include_str!($file)
        ))
    };
}
pub(super) use script;

impl Script {
    pub(super) fn new(source: &'static str) -> Self {
        let sha1 = redis::Script::new(source).get_hash().to_owned();
        Self { source, sha1 }
    }

    /// Loads it, so that the first call finds it.
    pub(super) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.source);
        load
    }

    /// A call by its digest, to be given keys and arguments.
    pub(super) fn by_digest(&self) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.sha1);
        call
    }

    /// The same with the script itself, for a Redis that has lost it; which loads it again.
    pub(super) fn by_source(&self) -> Cmd {
        let mut call = cmd("EVAL");
        call.arg(self.source);
        call
    }
}

/// A number in a reply, which is none below 0.
pub(super) fn integer(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(integer) => u64::try_from(*integer).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}

/// A text in a reply.
pub(super) fn text(value: &Value) -> Result<&str, StoreError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}
