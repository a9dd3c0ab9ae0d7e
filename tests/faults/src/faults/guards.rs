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

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::thread::sleep;

    use super::super::descriptors::Limit;
    use super::*;

    /// The first field of a line of a file in a process's folder in /proc.
    fn field(redis: &Redis, file: &str, line: &str) -> String {
        let text = std::fs::read_to_string(format!("/proc/{}/{file}", redis.id())).unwrap();
        let rest = text.lines().find_map(|known| known.strip_prefix(line)).unwrap();
        rest.split_whitespace().next().unwrap().to_owned()
    }

    /// Waits until a process is stopped: a signal takes a moment.
    fn wait_until_stopped(redis: &Redis) {
        let is_stopped = || field(redis, "status", "State:") == "T";
        let stopped = (0..1000).any(|_| {
            is_stopped() || {
                sleep(LIMIT / 1000);
                false
            }
        });
        assert!(stopped, "it is not stopped");
    }

    #[tokio::test]
    async fn a_fault_that_panics_leaves_nothing_behind() {
        let redis = Redis::start().await;
        let open = "Max open files";
        let before = field(&redis, "limits", open);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _setting = Setting::new(&redis, "maxmemory", "1");
            let _limit = Limit::new(redis.id(), "nofile", open, 20).unwrap();
            let _frozen = Frozen::new(&redis);
            assert_eq!(field(&redis, "limits", open), "20");
            wait_until_stopped(&redis);
            assert!(!redis.is_running());
            panic!("in the middle of a fault");
        }));
        let problem = panicked.unwrap_err();
        assert_eq!(problem.downcast_ref(), Some(&"in the middle of a fault"));
        assert_eq!(field(&redis, "limits", open), before);
        assert!(redis.is_running());
        let (_, limit): (String, u64) = redis.run("CONFIG GET maxmemory").await;
        assert_eq!(limit, 0);
        {
            let _stopped = Stopped::new(redis.id());
            wait_until_stopped(&redis);
        }
        redis.run::<()>("PING").await;
    }
}
