//! Scripts: each is sent by its digest, and once with its source where Redis has lost it.

use redis::{Cmd, Value, cmd};

use crate::store::StoreError;
use crate::store::redis::errors::unexpected;

/// A script that Redis runs.
#[derive(Debug)]
pub(crate) struct Script {
    source: &'static str,
    sha1: String,
}

/// Makes a script of a file, with what all share in front of it.
macro_rules! script {
    ($file:literal) => {
        $crate::store::redis::scripts::Script::new(concat!(
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/src/store/redis/scripts/common.lua"
            )),
            "\n",
            include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/redis/scripts/", $file))
        ))
    };
}
pub(crate) use script;

impl Script {
    pub(crate) fn new(source: &'static str) -> Self {
        let sha1 = redis::Script::new(source).get_hash().to_owned();
        Self { source, sha1 }
    }

    /// Loads it, so that the first call finds it.
    pub(crate) fn load(&self) -> Cmd {
        let mut load = cmd("SCRIPT");
        load.arg("LOAD").arg(self.source);
        load
    }

    /// A call by its digest, to be given keys and arguments.
    pub(crate) fn by_digest(&self) -> Cmd {
        let mut call = cmd("EVALSHA");
        call.arg(&self.sha1);
        call
    }

    /// The same with the script itself, for a Redis that has lost it; which loads it again.
    pub(crate) fn by_source(&self) -> Cmd {
        let mut call = cmd("EVAL");
        call.arg(self.source);
        call
    }
}

/// A number in a reply, which is none below 0.
pub(crate) fn integer(value: &Value) -> Result<u64, StoreError> {
    match value {
        Value::Int(integer) => u64::try_from(*integer).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}

/// A text in a reply.
pub(crate) fn text(value: &Value) -> Result<&str, StoreError> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected(value)),
        _ => Err(unexpected(value)),
    }
}
