//! Whether the server's Redis user may run what calls need, and whether Redis has these commands.
//!
//! `may_serve.lua` asks Redis's own check of each command and key (`redis.acl_check_cmd`), so that
//! nothing is run, nothing is written and nothing is added to `ACL LOG`. `ACL DRYRUN` would need a right
//! that no server has.

use std::collections::{BTreeSet, HashMap};

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value, pipe};

use super::fsync;
use crate::store::StoreError;
use crate::store::redis::connection::failure::Failure;
use crate::store::redis::errors::server_text;
use crate::store::redis::keys::{Keys, Partition};
use crate::store::redis::permissions::{KeyKind, Need, PERMISSIONS, RELAY, key_kinds};
use crate::store::redis::scripts::Script;
use crate::store::redis::settings::{Access, Ack};

/// Codes by which a node of a cluster refuses keys.
const CLUSTER_CODES: [&str; 4] = ["CROSSSLOT", "MOVED", "ASK", "CLUSTERDOWN"];

/// Why a node of a cluster is of no use.
pub(crate) const IS_CLUSTER: &str = "Redis is in cluster mode: set --redis-mode cluster";

/// The key of user objects, which are only read.
const USER: &str = "{user}";

/// Checks permissions.
#[derive(Debug)]
pub(crate) struct PermissionProbe {
    script: Script,
    kinds: Vec<KeyKind>,
    tries: Vec<Try>,
    access: Access,
    is_for_cluster: bool,
    /// Whether Redis must have marks on its disk.
    fsync: bool,
}

/// A call that is tried.
#[derive(Debug)]
struct Try {
    shows: Shows,
    /// The kind of its keys, if it has any.
    keys: Option<&'static str>,
    words: Vec<String>,
}

/// What it shows if the user may not make a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// The user has no right to the command, or to the keys.
    Command(&'static str),
    /// The user has no right to write the keys: nothing runs a script with them.
    Keys,
    /// The user has no right to GETRANGE, rather than to the keys of user objects.
    NotUserKeys,
}

/// What is missing.
#[derive(Debug, Default, PartialEq, Eq)]
struct Missing {
    /// Commands that Redis does not have.
    commands: BTreeSet<String>,
    /// Rights that the user does not have, as in ACL rules.
    rights: BTreeSet<String>,
}

/// The replies: to the tries, the numbers of those that are refused; and to a call with a mark's keys.
type Replies = (RedisResult<Vec<i64>>, RedisResult<Value>);

impl PermissionProbe {
    /// Creates a probe for these keys, for what is done with them, and for the acknowledgement that marks
    /// must have.
    pub(crate) fn new(keys: &Keys, access: Access, ack: Option<Ack>) -> Self {
        let kinds = key_kinds(access, keys);
        let mut tries = Vec::new();
        let mut add = |shows, call: &str| {
            let kind_of = |word| kinds.iter().find(|kind: &&KeyKind| kind.name == word);
            let keys = call.split(' ').find_map(kind_of).map(|kind| kind.name);
            let words = call.split(' ').map(|word| kind_of(word).map_or(word, |kind| &kind.key));
            tries.push(Try { shows, keys, words: words.map(str::to_owned).collect() });
        };
        for kind in kinds.iter().filter(|kind| kind.name != USER) {
            // The user may run one of the two, or there would be no reply.
            add(Shows::Keys, &format!("EVALSHA x 1 {}", kind.name));
            add(Shows::Keys, &format!("EVAL x 1 {}", kind.name));
        }
        if access == Access::Serve {
            add(Shows::NotUserKeys, "GETRANGE {layout} 0 1");
        }
        let fsync = ack.is_some_and(|ack| ack.fsync);
        let is_needed = |need| match need {
            Need::Calls => access == Access::Serve,
            Need::ReplicasAck => ack.is_some_and(|ack| ack.replicas > 0),
            Need::FsyncAck => fsync,
            Need::Cluster => keys.partition() != Partition::Only,
            // ROLE is sent to each new connection, which fails without it.
            Need::Sentinel
            | Need::Optional(_)
            | Need::StreamMaxBytes(_)
            | Need::Relay
            | Need::Admin
            | Need::Finish(_) => false,
        };
        for row in PERMISSIONS.iter().filter(|row| is_needed(row.need)) {
            row.calls.iter().for_each(|call| add(Shows::Command(row.command), call));
        }
        if access == Access::Relay {
            for (command, calls) in RELAY {
                calls.iter().for_each(|call| add(Shows::Command(command), call));
            }
        }
        let is_for_cluster = keys.partition() != Partition::Only;
        Self { script: Script::may_serve(), kinds, tries, access, is_for_cluster, fsync }
    }

    /// Checks that a call would not fail for lack of a permission or a command.
    ///
    /// The keys are those of a partition that this Redis has, if it has any.
    pub(crate) async fn check(
        &self,
        connection: &mut MultiplexedConnection,
        keys: Option<&Keys>,
        log: &mut MissingLog,
    ) -> Result<(), Failure> {
        if self.fsync {
            fsync::check(connection).await?;
        }
        let missing = match self.ask(connection, keys).await? {
            Ok((_, Err(error))) if is_cluster(&error) && !self.is_for_cluster => {
                return Err(refused(IS_CLUSTER));
            }
            // The check of the partition names it.
            Ok((tried, Err(error))) if is_cluster(&error) => self.interpret(&tried?),
            Ok((tried, of_a_mark)) => {
                let missing = self.interpret(&tried?);
                if missing == Missing::default() {
                    of_a_mark?;
                }
                missing
            }
            Err(missing) => missing,
        };
        let cause = missing.to_text();
        log.note(&cause);
        if cause.is_empty() { Ok(()) } else { Err(refused(&cause)) }
    }

    /// Runs the script in whichever way Redis allows: by its source, which is one call in any case; or by
    /// its digest. The inner error is what is missing if it allows neither.
    async fn ask(
        &self,
        connection: &mut MultiplexedConnection,
        keys: Option<&Keys>,
    ) -> Result<Result<Replies, Missing>, Failure> {
        let mut missing = Missing::default();
        let by_source = self.calls(pipe(), Script::by_source, keys);
        let replies: Replies = by_source.query_async(connection).await?;
        match &replies.0 {
            Err(error) if missing.add_command("eval", error) => {}
            _ => return Ok(Ok(replies)),
        }
        let mut load = pipe();
        load.add_command(self.script.load());
        let by_digest = self.calls(load, Script::by_digest, keys);
        let (loaded, tried, of_a_mark): (RedisResult<Value>, RedisResult<Vec<i64>>, _) =
            by_digest.query_async(connection).await?;
        let mut is_missing = false;
        if let Err(error) = &loaded {
            is_missing |= missing.add_command("script|load", error);
        }
        if let Err(error) = &tried {
            is_missing |= missing.add_command("evalsha", error);
        }
        Ok(if is_missing { Err(missing) } else { Ok((tried, of_a_mark)) })
    }

    fn calls(&self, mut calls: Pipeline, by: fn(&Script) -> Cmd, keys: Option<&Keys>) -> Pipeline {
        let mut tries = by(&self.script);
        tries.arg(0);
        for Try { words, .. } in &self.tries {
            tries.arg(words.len()).arg(words);
        }
        let names: &[_] = match self.access {
            Access::Serve => &["{layout}", "{stream}", "{quota}", "{cursors}"],
            Access::Relay => &["{layout}", "{stream}", "{lease}"],
        };
        let kinds = keys.map(|keys| key_kinds(self.access, keys)).unwrap_or_default();
        let key = |name: &&str| kinds.iter().find(|kind| kind.name == *name);
        let keys: Vec<_> = names.iter().filter_map(key).map(|kind| &*kind.key).collect();
        let mut of_a_mark = by(&self.script);
        of_a_mark.arg(keys.len()).arg(keys);
        calls.add_command(tries).add_command(of_a_mark).ignore_errors();
        calls
    }

    /// Says what is missing if these tries are refused: by their numbers, which are below 0 where Redis
    /// does not have the command.
    fn interpret(&self, refused: &[i64]) -> Missing {
        let tried = |number: &i64| {
            let index = usize::try_from(number.unsigned_abs()).ok()?.checked_sub(1)?;
            Some((self.tries.get(index)?, *number < 0))
        };
        let mut missing = Missing::default();
        let mut scripts_without: HashMap<_, u32> = HashMap::new();
        let mut getrange_is_refused = false;
        for (Try { shows, keys, .. }, is_unknown) in refused.iter().filter_map(tried) {
            match (shows, keys) {
                (Shows::Keys, Some(keys)) => *scripts_without.entry(*keys).or_default() += 1,
                (Shows::NotUserKeys, _) => getrange_is_refused = true,
                (Shows::Command(command), _) if is_unknown => {
                    missing.commands.insert(command.to_uppercase().replace('|', " "));
                }
                _ => {}
            }
        }
        let lacks = |keys: &str| scripts_without.get(keys) == Some(&2);
        for (Try { shows, keys, .. }, is_unknown) in refused.iter().filter_map(tried) {
            let Shows::Command(command) = shows else { continue };
            let is_the_keys = match *keys {
                Some(USER) => !getrange_is_refused || lacks("{layout}"),
                Some(keys) => lacks(keys),
                None => false,
            };
            if is_unknown {
                continue;
            }
            let pattern = self.kinds.iter().find(|kind| is_the_keys && Some(kind.name) == *keys);
            missing.rights.insert(match pattern {
                Some(kind) => kind.pattern.clone(),
                None => format!("+{command}"),
            });
        }
        let own: BTreeSet<_> = self.kinds.iter().map(|kind| kind.pattern.clone()).collect();
        let own: BTreeSet<_> =
            own.into_iter().filter(|pattern| pattern.starts_with("~markread:")).collect();
        // The rule of calls has them in one.
        if self.access == Access::Serve && own.is_subset(&missing.rights) {
            missing.rights.retain(|right| !own.contains(right));
            missing.rights.insert("~markread:*".to_owned());
        }
        missing
    }
}

/// What was missing at the last check of one Redis, so that the log says so once.
#[derive(Debug, Default)]
pub(crate) struct MissingLog {
    /// The node's name, in a cluster.
    redis: Option<String>,
    logged: String,
}

impl MissingLog {
    pub(crate) fn new(redis: Option<&str>) -> Self {
        Self { redis: redis.map(str::to_owned), logged: String::new() }
    }

    /// Logs a cause when it changes.
    fn note(&mut self, cause: &str) {
        let redis = self.redis.as_deref();
        if self.logged != cause {
            match cause {
                "" => tracing::info!(redis, "nothing that calls need is missing in Redis any more"),
                cause => tracing::warn!(redis, ?cause, "Redis refuses what calls need"),
            }
            cause.clone_into(&mut self.logged);
        }
    }
}

impl Missing {
    /// Adds a command if this error means that it is missing. Returns whether it does.
    fn add_command(&mut self, command: &str, error: &RedisError) -> bool {
        let text = server_text(error).unwrap_or_default();
        if text.starts_with("ERR unknown command") {
            self.commands.insert(command.to_uppercase().replace('|', " "))
        } else {
            text.starts_with("NOPERM") && self.rights.insert(format!("+{command}"))
        }
    }

    /// Names what is missing, or returns an empty text if nothing is.
    fn to_text(&self) -> String {
        let list = |names: &BTreeSet<String>| {
            names.iter().map(|name| &**name).collect::<Vec<_>>().join(" ")
        };
        let mut causes = Vec::new();
        if !self.rights.is_empty() {
            causes.push(format!("the Redis user lacks {}", list(&self.rights)));
        }
        if !self.commands.is_empty() {
            let commands = list(&self.commands);
            causes.push(format!(
                "Redis does not have {commands}: rename-command may have removed it"
            ));
        }
        causes.join(", and ")
    }
}

/// Returns whether a node of a cluster refused keys.
pub(crate) fn is_cluster(error: &RedisError) -> bool {
    let text = server_text(error).unwrap_or_default();
    CLUSTER_CODES.contains(&text.split(' ').next().unwrap_or_default())
}

pub(super) fn refused(cause: &str) -> Failure {
    Failure::Refused(StoreError::unavailable(cause).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> PermissionProbe {
        let keys = Keys::new(Partition::Only, "events", "user:");
        PermissionProbe::new(&keys, Access::Serve, None)
    }

    /// What is missing if Redis refuses the tries for which a function returns true.
    fn missing(is_refused: impl Fn(&[&str]) -> bool) -> String {
        missing_of(&probe(), is_refused)
    }

    fn missing_of(probe: &PermissionProbe, is_refused: impl Fn(&[&str]) -> bool) -> String {
        let numbered = (1..).zip(&probe.tries);
        let refused = numbered.filter(|(_, tried)| {
            is_refused(&tried.words.iter().map(|word| &**word).collect::<Vec<_>>())
        });
        probe.interpret(&refused.map(|(number, _)| number).collect::<Vec<_>>()).to_text()
    }

    #[test]
    fn a_command_is_told_from_its_keys() {
        assert_eq!(missing(|_| false), "");
        assert_eq!(missing(|words| words[0] == "HSET"), "the Redis user lacks +hset");
        let is_of = |words: &[&str], key: &str| words.iter().any(|word| word.starts_with(key));
        let table = [
            ("markread:cursors:", "~markread:cursors:*"),
            ("markread:quota:", "~markread:quota:*"),
            ("markread:", "~markread:*"),
            ("events", "~events"),
            ("user:", "%R~user:*"),
        ];
        for (key, pattern) in table {
            let cause = missing(|words| is_of(words, key));
            assert_eq!(cause, format!("the Redis user lacks {pattern}"));
        }
        let cause = missing(|words| words[0] == "GETRANGE" || is_of(words, "events"));
        assert_eq!(cause, "the Redis user lacks +getrange ~events");
        let cause = missing(|words| words[0] == "EVALSHA");
        assert_eq!(cause, "the Redis user lacks +evalsha");
    }

    #[test]
    fn the_relay_is_tried_for_what_it_needs() {
        for (partition, layout, relay, stream) in [
            (Partition::Only, "~markread:layout", "~markread:relay:*", "~events"),
            (
                Partition::Tagged { tag: 7, count: 64 },
                "~markread:*layout",
                "~markread:*relay:*",
                "~events:*",
            ),
        ] {
            let keys = Keys::new(partition, "events", "user:");
            let probe = PermissionProbe::new(&keys, Access::Relay, None);
            assert_eq!(missing_of(&probe, |_| false), "");
            let cause = missing_of(&probe, |words| words[0] == "XREADGROUP");
            assert_eq!(cause, "the Redis user lacks +xreadgroup");
            for (key, pattern) in [
                (keys.layout(), layout),
                (keys.stream().to_owned(), stream),
                (keys.relay_lease_prefix(), relay),
                (Keys::RELAY_PROCESSES.to_owned(), relay),
                (Keys::SUBSCRIPTIONS_PREFIX.to_owned(), "~markread:subscriptions:*"),
            ] {
                let cause = missing_of(&probe, |words| words.contains(&&*key));
                assert_eq!(cause, format!("the Redis user lacks {pattern}"));
            }
            let is_own = |word: &&str| word.starts_with("markread:");
            let cause = missing_of(&probe, |words| words.iter().any(is_own));
            assert!(
                cause.contains(layout) && cause.contains("~markread:dead_letters:*"),
                "{cause}"
            );
            let of_calls = ["INCRBY", "GETRANGE", "PEXPIREAT", "WAIT"];
            assert!(!probe.tries.iter().any(|tried| of_calls.contains(&&*tried.words[0])));
        }
    }

    #[test]
    fn a_command_that_redis_does_not_have_is_named_as_such() {
        let probe = probe();
        let index = probe.tries.iter().position(|tried| tried.words[0] == "XINFO").unwrap();
        let text = probe.interpret(&[-i64::try_from(index + 1).unwrap()]).to_text();
        assert!(text.starts_with("Redis does not have XINFO STREAM: "), "{text}");
    }

    #[test]
    fn wait_is_needed_by_its_flag_only() {
        let has_wait = |probe: &PermissionProbe| probe.tries.iter().any(|t| t.words[0] == "WAIT");
        assert!(!has_wait(&probe()));
        let keys = Keys::new(Partition::Only, "events", "user:");
        let timeout = std::time::Duration::from_secs(1);
        let ack = Ack { replicas: 1, fsync: false, timeout, connections: 1 };
        assert!(has_wait(&PermissionProbe::new(&keys, Access::Serve, Some(ack))));
        let fsync = PermissionProbe::new(
            &keys,
            Access::Serve,
            Some(Ack { replicas: 0, fsync: true, ..ack }),
        );
        assert!(!has_wait(&fsync));
        assert!(fsync.tries.iter().any(|tried| tried.words[0] == "WAITAOF"));
    }
}
