//! What Redis says that a webhook's feed has done.

use std::collections::HashSet;

use markread_harness::Redis;
use markread_harness::events::STREAM;

/// All entries, those that the feed has read and not acknowledged, those that it has not read, and its dead
/// letters' entries: at one moment.
const SCRIPT: &str = r"
    local group = 'markread-relay:' .. ARGV[1]
    local last = '0-0'
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        local of = {}
        for i = 1, #info, 2 do of[info[i]] = info[i + 1] end
        if of.name == group then last = of['last-delivered-id'] end
    end
    local function ids(entries)
        local out = {}
        for i, entry in ipairs(entries) do out[i] = entry[1] end
        return out
    end
    local letters = {}
    for i, letter in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
        local of = {}
        for j = 1, #letter[2], 2 do of[letter[2][j]] = letter[2][j + 1] end
        letters[i] = of.entry_id
    end
    return {
        ids(redis.call('XRANGE', KEYS[1], '-', '+')),
        ids(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000)),
        ids(redis.call('XRANGE', KEYS[1], '(' .. last, '+')),
        letters,
    }
";

/// A moment of a webhook's feed: IDs of entries.
pub(super) struct Snapshot {
    pub(super) all: HashSet<String>,
    pub(super) pending: HashSet<String>,
    pub(super) unread: HashSet<String>,
    pub(super) letters: HashSet<String>,
}

impl Snapshot {
    /// Takes one. The group must be there.
    pub(super) async fn take(redis: &Redis, webhook: &str) -> Self {
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(2).arg(STREAM).arg(format!("markread:dead_letters:{webhook}"));
        eval.arg(webhook);
        let (all, pending, unread, letters) =
            eval.query_async(&mut redis.connection().await).await.unwrap();
        Self { all, pending, unread, letters }
    }

    /// The entries that are acknowledged.
    pub(super) fn acknowledged(&self) -> HashSet<String> {
        self.all
            .iter()
            .filter(|id| !self.pending.contains(*id) && !self.unread.contains(*id))
            .cloned()
            .collect()
    }
}
