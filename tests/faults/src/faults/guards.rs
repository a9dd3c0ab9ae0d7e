//! What undoes a fault when it is dropped, so that one that panics leaves nothing behind.

use std::time::Duration;

use markread_harness::Redis;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(5);

/// A process that is stopped by SIGSTOP, until this is dropped.
pub(super) struct Stopped(Pid);

impl Stopped {
    pub(super) fn new(process: u32) -> Self {
        let process = Pid::from_raw(process.try_into().unwrap());
        kill(process, Signal::SIGSTOP).unwrap();
        Self(process)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // If it has ended, there is nothing to undo.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// A Redis that is stopped by SIGSTOP, and counts as not running, until this is dropped.
pub(super) struct Frozen<'a>(&'a Redis);

impl<'a> Frozen<'a> {
    pub(super) fn new(redis: &'a Redis) -> Self {
        redis.freeze();
        Self(redis)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw();
    }
}

/// A setting of a Redis that was changed, until this is dropped. Its connection stays open meanwhile, so that
/// the way back is not closed by the setting itself.
pub(super) struct Setting {
    connection: redis::Connection,
    name: &'static str,
    before: String,
}

impl Setting {
    pub(super) fn new(redis: &Redis, name: &'static str, value: &str) -> Self {
        let client = redis::Client::open(redis.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(LIMIT).expect("Redis runs");
        connection.set_read_timeout(Some(LIMIT)).unwrap();
        let get = redis::cmd("CONFIG").arg("GET").arg(name).query(&mut connection);
        let (_, before): (String, String) = get.expect("a setting of Redis");
        let mut setting = Self { connection, name, before };
        setting.set(value).expect("Redis takes the setting");
        setting
    }

    fn set(&mut self, value: &str) -> redis::RedisResult<()> {
        redis::cmd("CONFIG").arg("SET").arg(self.name).arg(value).query(&mut self.connection)
    }

    /// Closes all connections of clients but its own.
    pub(super) fn kill_clients(&mut self) {
        let kill = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").to_owned();
        kill.query::<u64>(&mut self.connection).expect("CLIENT KILL");
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        let before = std::mem::take(&mut self.before);
        if self.set(&before).is_err() {
            // A Redis that was ended starts with its own settings.
            eprintln!("{} was not set back to {before}", self.name);
        }
    }
}
