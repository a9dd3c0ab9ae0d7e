//! Every command that the service sends to Redis, by itself or in a script, and who needs it. The probe
//! ([`super::probe::permissions`]), the rules in `docs/production.md` and the tests go by this table. What is
//! sent to Sentinels stands in [`super::sentinel`].

use super::keys::{Keys, Partition};
use super::settings::Access;

/// Who needs a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// `serve`: without it calls fail, or leave behind what they should not, so it is not ready.
    Calls,
    /// `serve --replicas-ack`: the same, with this flag.
    ReplicasAck,
    /// `serve --redis-mode cluster`: the same, in a cluster.
    Cluster,
    /// `serve` and `admin` with `--redis-mode sentinel`: without it they do not know a master.
    Sentinel,
    /// `serve --fsync-ack`: the same, with this flag.
    FsyncAck,
    /// `serve`, which is ready without it. The text says what is lost.
    Optional(&'static str),
    /// `serve --stream-max-bytes`, which is ready without it. The text says what is lost.
    StreamMaxBytes(&'static str),
    /// `relay` and `webhook` alone. All that they need is in [`RELAY`].
    Relay,
    /// `admin` alone.
    Admin,
    /// `admin move --finish`, which ends without it too. The text says what is lost.
    Finish(&'static str),
}

/// A command.
#[derive(Debug)]
pub(crate) struct Permission {
    /// The name as in ACL rules: `xinfo|stream`.
    pub(crate) command: &'static str,
    pub(crate) need: Need,
    /// Calls of it that the probe tries, one for each kind of key. Words in braces are keys.
    pub(crate) calls: &'static [&'static str],
}

const fn row(command: &'static str, need: Need, calls: &'static [&'static str]) -> Permission {
    Permission { command, need, calls }
}

const STATISTICS: &str = "no metrics of Redis and of consumer groups, and no warnings about settings. \
     Without `info`, one lost connection to Redis has all replaced";
const LARGE_PAGES: &str = "pages read hashes of more than 256 conversations whole";
const LARGE_MOVES: &str = "readers with a hash of more than 256 conversations are not moved to another \
     layout: no pages after `upgrade-layout`";
const UNBOUNDED: &str = "the stream's size is not bounded, which is a warning";
const NOT_DURABLE: &str = "the command says that the old servers must be stopped before their Redis \
     restarts. Without `wait` and `waitaof`, which others of this table need, the same";

/// The table.
pub(crate) const PERMISSIONS: &[Permission] = &[
    // Redis lets every user run HELLO.
    row("hello", Need::Calls, &[]),
    row("script|load", Need::Calls, &["SCRIPT LOAD x"]),
    row("evalsha", Need::Calls, &["EVALSHA x 0"]),
    row("eval", Need::Calls, &["EVAL x 0"]),
    row("get", Need::Calls, &["GET {quota}", "GET {read_quota}"]),
    row("getrange", Need::Calls, &["GETRANGE {user} 0 1"]),
    row("set", Need::Calls, &["SET {nonce} 1 NX PX 1"]),
    row("incrby", Need::Calls, &["INCRBY {quota} 1", "INCRBY {read_quota} 1"]),
    row("del", Need::Calls, &["DEL {quota}", "DEL {read_quota}", "DEL {nonce}"]),
    row("pexpireat", Need::Calls, &["PEXPIREAT {quota} 1", "PEXPIREAT {read_quota} 1"]),
    row("pexpiretime", Need::Calls, &["PEXPIRETIME {quota}", "PEXPIRETIME {read_quota}"]),
    row("time", Need::Calls, &["TIME"]),
    row("exists", Need::Calls, &["EXISTS {bucket}", "EXISTS {stream}"]),
    row("hdel", Need::Calls, &["HDEL {cursors} f", "HDEL {bucket} f"]),
    row("hget", Need::Calls, &["HGET {layout} f", "HGET {cursors} f", "HGET {bucket} f"]),
    row("hgetall", Need::Calls, &["HGETALL {cursors}", "HGETALL {bucket}"]),
    row("hlen", Need::Calls, &["HLEN {cursors}", "HLEN {bucket}"]),
    row("hmget", Need::Calls, &["HMGET {layout} f", "HMGET {cursors} f", "HMGET {bucket} f"]),
    row("hrandfield", Need::Optional(LARGE_MOVES), &[]),
    row("hscan", Need::Optional(LARGE_PAGES), &[]),
    row("hset", Need::Calls, &["HSET {layout} f v", "HSET {cursors} f v", "HSET {bucket} f v"]),
    row("hsetnx", Need::Calls, &["HSETNX {layout} f v"]),
    row("xadd", Need::Calls, &["XADD {stream} * f v"]),
    row("xread", Need::Calls, &["XREAD STREAMS {stream} 0"]),
    row("xrange", Need::Calls, &["XRANGE {stream} - +"]),
    row("xrevrange", Need::Calls, &["XREVRANGE {stream} + -"]),
    row("xinfo|stream", Need::Calls, &["XINFO STREAM {stream}"]),
    row("xinfo|groups", Need::Optional(STATISTICS), &[]),
    row("info", Need::Optional(STATISTICS), &[]),
    row("config|get", Need::Optional(STATISTICS), &[]),
    row("wait", Need::ReplicasAck, &["WAIT 1 1"]),
    row("cluster|myid", Need::Cluster, &["CLUSTER MYID"]),
    row("cluster|nodes", Need::Cluster, &["CLUSTER NODES"]),
    row("cluster|slots", Need::Cluster, &["CLUSTER SLOTS"]),
    row("asking", Need::Cluster, &["ASKING"]),
    row("client|tracking", Need::Cluster, &["CLIENT TRACKING ON"]),
    row("role", Need::Sentinel, &[]),
    row("waitaof", Need::FsyncAck, &["WAITAOF 1 0 1"]),
    row("memory|usage", Need::StreamMaxBytes(UNBOUNDED), &[]),
    row("pexpire", Need::Relay, &[]),
    row("sadd", Need::Relay, &[]),
    row("smismember", Need::Relay, &[]),
    row("sscan", Need::Relay, &[]),
    row("xlen", Need::Relay, &[]),
    row("xgroup|create", Need::Relay, &[]),
    row("xgroup|setid", Need::Relay, &[]),
    row("xreadgroup", Need::Relay, &[]),
    row("xpending", Need::Relay, &[]),
    row("xclaim", Need::Relay, &[]),
    row("xack", Need::Relay, &[]),
    row("scan", Need::Admin, &[]),
    row("unlink", Need::Admin, &[]),
    row("srem", Need::Admin, &[]),
    row("xdel", Need::Admin, &[]),
    row("type", Need::Admin, &[]),
    row("rename", Need::Admin, &[]),
    row("bgsave", Need::Finish(NOT_DURABLE), &[]),
];

/// The commands that `markread relay` and `markread webhook` need, of those in the table, and calls of them
/// that their probe tries. Without those that it does not try, they are ready.
pub(crate) const RELAY: &[(&str, &[&str])] = &[
    ("hello", &[]),
    ("script|load", &["SCRIPT LOAD x"]),
    ("evalsha", &["EVALSHA x 0"]),
    ("eval", &["EVAL x 0"]),
    ("get", &["GET {lease}"]),
    ("set", &["SET {lease} 1 PX 1", "SET {check} 1 NX PX 1"]),
    ("del", &["DEL {lease}", "DEL {state}"]),
    ("time", &["TIME"]),
    ("exists", &["EXISTS {stream}"]),
    ("hdel", &["HDEL {processes} f"]),
    ("hget", &["HGET {layout} f"]),
    ("hgetall", &["HGETALL {processes}", "HGETALL {state}"]),
    ("hmget", &["HMGET {layout} f"]),
    ("hset", &["HSET {layout} f v", "HSET {processes} f v", "HSET {state} f v"]),
    ("hsetnx", &["HSETNX {layout} f v"]),
    ("xadd", &["XADD {dead_letters} * f v"]),
    ("xread", &["XREAD STREAMS {stream} 0"]),
    ("xrange", &["XRANGE {stream} - +", "XRANGE {dead_letters} - +"]),
    ("xrevrange", &["XREVRANGE {stream} + -"]),
    ("xinfo|stream", &["XINFO STREAM {stream}"]),
    ("xinfo|groups", &["XINFO GROUPS {stream}"]),
    ("info", &[]),
    ("config|get", &[]),
    ("pexpire", &["PEXPIRE {lease} 1", "PEXPIRE {processes} 1", "PEXPIRE {check} 1"]),
    ("sadd", &["SADD {subscriptions} 1"]),
    ("smismember", &["SMISMEMBER {subscriptions} 1"]),
    ("sscan", &["SSCAN {subscriptions} 0"]),
    ("xlen", &["XLEN {stream}", "XLEN {dead_letters}"]),
    ("xgroup|create", &["XGROUP CREATE {stream} g 0"]),
    ("xgroup|setid", &["XGROUP SETID {stream} g 0"]),
    ("xreadgroup", &["XREADGROUP GROUP g c STREAMS {stream} >"]),
    ("xpending", &["XPENDING {stream} g"]),
    ("xclaim", &["XCLAIM {stream} g c 0 1"]),
    ("xack", &["XACK {stream} g 1"]),
    ("srem", &["SREM {subscriptions} 1"]),
    ("xdel", &["XDEL {dead_letters} 1"]),
];

/// The commands that `markread admin` needs, of those in the table.
#[cfg(test)]
const ADMIN: [&str; 27] = [
    "hello",
    "evalsha",
    "eval",
    "set",
    "time",
    "exists",
    "hdel",
    "hget",
    "hgetall",
    "hlen",
    "hmget",
    "hrandfield",
    "hscan",
    "hset",
    "hsetnx",
    "xrange",
    "xinfo|stream",
    "info",
    "config|get",
    "wait",
    "scan",
    "unlink",
    "srem",
    "xdel",
    "type",
    "rename",
    "bgsave",
];

/// A kind of keys that calls use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyKind {
    /// Its name in [`Permission::calls`], with the braces.
    pub(crate) name: &'static str,
    /// A key of this kind that no call uses.
    pub(crate) key: String,
    /// What an ACL rule must have to allow these keys.
    pub(crate) pattern: String,
}

/// Returns the kinds of keys that a process uses.
pub(crate) fn key_kinds(access: Access, keys: &Keys) -> Vec<KeyKind> {
    match access {
        Access::Serve => key_kinds_of_calls(keys),
        Access::Relay => key_kinds_of_relay(keys),
    }
}

/// The kinds of keys that the relay uses.
fn key_kinds_of_relay(keys: &Keys) -> Vec<KeyKind> {
    // A rule names no single tag.
    let (any_tag, of_stream) = match keys.partition() {
        Partition::Only => ("", keys.stream().to_owned()),
        Partition::Tagged { tag, .. } => ("*", keys.stream().replace(&format!("{{{tag}}}"), "*")),
    };
    let kind = |name, key: String, pattern: String| KeyKind { name, key, pattern };
    let of_relay = |name, key| kind(name, key, format!("~markread:{any_tag}relay:*"));
    // No webhook has an empty name.
    let of_none = |name, prefix: &str| kind(name, prefix.to_owned(), format!("~{prefix}*"));
    vec![
        kind("{layout}", keys.layout(), format!("~markread:{any_tag}layout")),
        of_relay("{lease}", keys.relay_lease_prefix()),
        of_relay("{processes}", Keys::RELAY_PROCESSES.to_owned()),
        of_relay("{state}", Keys::RELAY_STATE_PREFIX.to_owned()),
        of_relay("{check}", Keys::RELAY_CHECK_PREFIX.to_owned()),
        of_none("{subscriptions}", Keys::SUBSCRIPTIONS_PREFIX),
        of_none("{dead_letters}", Keys::DEAD_LETTERS_PREFIX),
        kind("{stream}", keys.stream().to_owned(), format!("~{of_stream}")),
    ]
}

/// The kinds of keys that calls use. The user objects, which are only read, come last.
fn key_kinds_of_calls(keys: &Keys) -> Vec<KeyKind> {
    let kind = |name, key: String, pattern: String| KeyKind { name, key, pattern };
    // No user has the ID 0.
    let of_nobody = |name, prefix: &str| kind(name, format!("{prefix}0"), format!("~{prefix}*"));
    let bucket = format!("{}0:k0", keys.cursors_prefix());
    let stream = format!("~{}", keys.stream());
    if let Partition::Tagged { tag, .. } = keys.partition() {
        // A rule names no single tag.
        let of_all = |text: &str| text.replace(&format!("{{{tag}}}"), "*");
        let own = |name, key: String| kind(name, key, "~markread:*".to_owned());
        return vec![
            own("{layout}", keys.layout()),
            kind("{stream}", keys.stream().to_owned(), of_all(&stream)),
            own("{quota}", format!("{}0", keys.quota_prefix())),
            own("{read_quota}", format!("{}0", keys.read_quota_prefix())),
            own("{cursors}", format!("{}0", keys.cursors_prefix())),
            own("{bucket}", bucket),
            own("{nonce}", format!("{}0", keys.nonces_prefix())),
            user_kind(keys),
        ];
    }
    vec![
        kind("{layout}", keys.layout(), format!("~{}", keys.layout())),
        kind("{stream}", keys.stream().to_owned(), stream),
        of_nobody("{quota}", &keys.quota_prefix()),
        of_nobody("{read_quota}", &keys.read_quota_prefix()),
        of_nobody("{cursors}", &keys.cursors_prefix()),
        kind("{bucket}", bucket, format!("~{}*", keys.cursors_prefix())),
        of_nobody("{nonce}", &keys.nonces_prefix()),
        user_kind(keys),
    ]
}

fn user_kind(keys: &Keys) -> KeyKind {
    let (key, pattern) =
        (format!("{}0", keys.user_prefix()), format!("%R~{}*", keys.user_prefix()));
    KeyKind { name: "{user}", key, pattern }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/production.md");

    /// Commands with a subcommand, which ACL rules name together.
    const CONTAINERS: [&str; 7] =
        ["client", "cluster", "config", "memory", "script", "xgroup", "xinfo"];

    fn named(is_wanted: impl Fn(Need) -> bool) -> Vec<String> {
        let rows = PERMISSIONS.iter().filter(|row| is_wanted(row.need));
        rows.map(|row| format!("+{}", row.command)).collect()
    }

    /// The words in quotes that follow `start` in a source.
    fn words_after<'a>(source: &'a str, start: &str, quote: char) -> Vec<(String, &'a str)> {
        let pieces = source.split(start).skip(1);
        pieces
            .filter_map(|p| p.split_once(quote).map(|(w, rest)| (w.to_lowercase(), rest)))
            .collect()
    }

    /// The commands that a file sends, its tests excluded.
    fn commands_of(path: &Path) -> BTreeSet<String> {
        let source = fs::read_to_string(path).unwrap();
        let is_lua = path.extension().is_some_and(|extension| extension == "lua");
        let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let source = source.split("#[cfg(test)]\npub(crate) mod tests {").next().unwrap();
        let mut found = words_after(source, "call('", '\'');
        if is_lua {
            found.extend(words_after(source, "try('", '\''));
        } else {
            found.extend(words_after(source, "cmd(\"", '"'));
        }
        let name = |(word, rest): (String, &str)| {
            if !CONTAINERS.contains(&&*word) {
                return word;
            }
            let in_script = rest.strip_prefix(", '").and_then(|rest| rest.split_once('\''));
            let sub = in_script.map_or_else(
                || words_after(rest, ".arg(\"", '"').swap_remove(0).0,
                |(sub, _)| sub.to_lowercase(),
            );
            format!("{word}|{sub}")
        };
        found.into_iter().map(name).collect()
    }

    fn commands_in(folder: &Path) -> BTreeSet<String> {
        let mut commands = BTreeSet::new();
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if ["sentinel", "tests", "simulation.rs"].iter().any(|name| path.ends_with(name)) {
                continue;
            }
            if path.is_dir() {
                commands.extend(commands_in(&path));
            } else if !path.ends_with("tests.rs") && !path.ends_with("fake.rs") {
                commands.extend(commands_of(&path));
            }
        }
        commands
    }

    #[test]
    fn the_table_has_what_is_sent_and_nothing_else() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis");
        let mut sent = commands_in(&folder);
        // The redis crate greets with it.
        sent.insert("hello".to_owned());
        let table: BTreeSet<_> = PERMISSIONS.iter().map(|row| row.command.to_owned()).collect();
        assert_eq!(sent, table);
        assert_eq!(table.len(), PERMISSIONS.len());
    }

    #[test]
    fn each_call_is_of_its_row_and_has_keys_that_exist() {
        let keys = Keys::new(Partition::Only, "events", "user:");
        let of_calls = PERMISSIONS.iter().map(|row| (Access::Serve, row.command, row.calls));
        let of_relay = RELAY.iter().map(|(command, calls)| (Access::Relay, *command, *calls));
        for (access, name, calls) in of_calls.chain(of_relay) {
            let kinds = key_kinds(access, &keys);
            for call in calls {
                let command = call.to_lowercase().replacen(' ', "|", name.matches('|').count());
                assert_eq!(command.split(' ').next(), Some(name));
                let braces = call.split(' ').filter(|word| word.starts_with('{'));
                assert!(braces.clone().count() < 2, "{call}");
                for name in braces {
                    assert!(kinds.iter().any(|kind| kind.name == name), "{name}");
                }
            }
        }
    }

    /// The commands of the relay, as in ACL rules, in the order of the table.
    fn rule_of_relay() -> String {
        let is_needed =
            |row: &&Permission| RELAY.iter().any(|(command, _)| *command == row.command);
        let rows: Vec<_> = PERMISSIONS.iter().filter(is_needed).collect();
        assert_eq!(rows.len(), RELAY.len(), "each is in the table");
        let alone = PERMISSIONS.iter().filter(|row| row.need == Need::Relay);
        assert!(alone.clone().all(|row| is_needed(&row)));
        rows.iter().map(|row| format!("+{}", row.command)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_rule_of_the_relay_is_documented() {
        let rule = rule_of_relay();
        let patterns = |partition| {
            let keys = Keys::new(partition, "direct_message_mark_read_events", "user:");
            let kinds = key_kinds(Access::Relay, &keys);
            let mut patterns: Vec<_> = kinds.into_iter().map(|kind| kind.pattern).collect();
            patterns.dedup();
            patterns.join(" ")
        };
        let keys = patterns(Partition::Only);
        let line = format!("\n    user markread-relay on >PASSWORD {keys} {rule}\n");
        assert!(PAGE.contains(&line), "{line}");
        let conf = include_str!("../../../helm/markread/files/valkey.conf");
        let of_chart = conf.lines().find(|line| line.starts_with("user markread-relay on "));
        assert!(of_chart.is_some_and(|line| line.ends_with(&format!(" {rule}"))), "{rule}");
        let keys = patterns(Partition::Tagged { tag: 1, count: 64 });
        let of_cluster = named(|need| need == Need::Cluster).join(" ");
        let line = format!("\n    user markread-relay on >PASSWORD {keys} {rule} {of_cluster}\n");
        assert!(PAGE.contains(&line), "{line}");
    }

    #[test]
    fn the_rule_of_the_docs_and_the_chart_is_that_of_the_table() {
        let keys = "~markread:* ~direct_message_mark_read_events %R~user:*";
        // Redis 7.0 does not know WAITAOF, and refuses a rule that has it.
        let is_in_rule = |need| {
            !matches!(
                need,
                Need::FsyncAck
                    | Need::StreamMaxBytes(_)
                    | Need::Cluster
                    | Need::Relay
                    | Need::Admin
                    | Need::Finish(_)
                    | Need::Sentinel
            )
        };
        let rule = named(is_in_rule).join(" ");
        let line = format!("\n    user markread on >PASSWORD {keys} {rule}\n");
        assert!(PAGE.contains(&line), "{line}");
        let of_cluster = named(|need| need == Need::Cluster).join(" ");
        let keys_of_cluster = "~markread:* ~direct_message_mark_read_events:* %R~user:*";
        let line =
            format!("\n    user markread on >PASSWORD {keys_of_cluster} {rule} {of_cluster}\n");
        assert!(PAGE.contains(&line), "{line}");
        let conf = include_str!("../../../helm/markread/files/valkey.conf");
        let of_bytes = named(|need| matches!(need, Need::StreamMaxBytes(_))).join(" ");
        let of_fsync = named(|need| need == Need::FsyncAck).join(" ");
        let rule = format!(
            " {rule}{{{{ with .streamMaxBytes }}}} {of_bytes}{{{{ end }}}}\
             {{{{ if .fsyncAck }}}} {of_fsync}{{{{ end }}}}\n"
        );
        assert!(conf.contains(&rule), "{rule}");
    }

    #[test]
    fn the_rule_of_admin_is_documented() {
        let keys = "~markread:* ~direct_message_mark_read_events";
        let rows = PERMISSIONS.iter().filter(|row| ADMIN.contains(&row.command));
        let rule: Vec<_> = rows.map(|row| format!("+{}", row.command)).collect();
        assert_eq!(rule.len(), ADMIN.len(), "each is in the table");
        let line = format!("\n    user markread-admin on >PASSWORD {keys} {}\n", rule.join(" "));
        assert!(PAGE.contains(&line), "{line}");
        let (keys, more) = (format!("{keys}:*"), "+cluster|nodes +cluster|slots");
        let line =
            format!("\n    user markread-admin on >PASSWORD {keys} {} {more}\n", rule.join(" "));
        assert!(PAGE.contains(&line), "{line}");
        let alone = PERMISSIONS.iter().filter(|row| row.need == Need::Admin);
        assert!(alone.clone().all(|row| ADMIN.contains(&row.command)));
    }

    /// A line of the documentation's table.
    fn line(who: &str, commands: &[String], without: &str) -> String {
        let commands: Vec<_> =
            commands.iter().map(|name| format!("`{}`", name.replace('|', "\\|"))).collect();
        format!("\n| {who} | {} | {without} |\n", commands.join(" "))
    }

    #[test]
    fn the_documented_table_is_that_of_the_code() {
        let not_ready = "the server is not ready, and names it";
        let mut lines = vec![
            line("`serve`", &named(|need| need == Need::Calls), not_ready),
            line("`serve --replicas-ack`", &named(|need| need == Need::ReplicasAck), not_ready),
            line("`serve --redis-mode cluster`", &named(|need| need == Need::Cluster), not_ready),
            line("`serve --fsync-ack`", &named(|need| need == Need::FsyncAck), not_ready),
            line("`--redis-mode sentinel`", &named(|need| need == Need::Sentinel), not_ready),
            line(
                "`relay` and `webhook`",
                &named(|need| need == Need::Relay),
                "the relay is not ready, and names it; the command ends with status 1",
            ),
        ];
        for row in PERMISSIONS {
            let (who, without) = match row.need {
                Need::Calls
                | Need::ReplicasAck
                | Need::FsyncAck
                | Need::Cluster
                | Need::Sentinel
                | Need::Relay => continue,
                Need::Admin => ("`markread admin`".to_owned(), "the command ends with status 1"),
                Need::Finish(without) => ("`markread admin move --finish`".to_owned(), without),
                Need::Optional(without) => ("optional".to_owned(), without),
                Need::StreamMaxBytes(without) => ("`serve --stream-max-bytes`".to_owned(), without),
            };
            lines.push(line(&who, &named(|need| need == row.need), without));
        }
        for line in lines {
            assert!(PAGE.contains(&line), "{line}");
        }
    }
}
