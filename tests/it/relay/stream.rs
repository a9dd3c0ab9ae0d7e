//! What Redis says that a webhook's feed has done.

use std::collections::HashSet;

use markread_harness::Redis;
use markread_harness::events::STREAM;

/// The last entry that the feed has read, the stream's last one, the entries that were read and not
/// acknowledged, and those of dead letters: at one moment.
const SCRIPT: &str = r"
    local group = 'markread-relay:' .. ARGV[1]
    local function members(list)
        local of = {}
        for i = 1, #list, 2 do of[list[i]] = list[i + 1] end
        return of
    end
    if redis.call('EXISTS', KEYS[1]) == 0 then return {'0-0', '0-0', {}, {}} end
    local last, pending = '0-0', {}
    for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
        if members(info).name == group then
            last = members(info)['last-delivered-id']
            for i, entry in ipairs(redis.call('XPENDING', KEYS[1], group, '-', '+', 1000000)) do
                pending[i] = entry[1]
            end
        end
    end
    local letters = {}
    for i, letter in ipairs(redis.call('XRANGE', KEYS[2], '-', '+')) do
        letters[i] = members(letter[2]).entry_id
    end
    return {last, members(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id'], pending, letters}
";

/// A moment of a webhook's feed: IDs of entries.
pub(super) struct Snapshot {
    /// The last one that was read.
    last_read: String,
    /// The last one of the stream.
    last: String,
    pending: HashSet<String>,
    pub(super) letters: HashSet<String>,
}

impl Snapshot {
    /// Takes one.
    pub(super) async fn take(redis: &Redis, webhook: &str) -> Self {
        let mut eval = redis::cmd("EVAL");
        eval.arg(SCRIPT).arg(2).arg(STREAM).arg(format!("markread:dead_letters:{webhook}"));
        eval.arg(webhook);
        let (last_read, last, pending, letters) =
            eval.query_async(&mut redis.connection().await).await.unwrap();
        Self { last_read, last, pending, letters }
    }

    /// Whether everything is acknowledged.
    pub(super) fn is_done(&self) -> bool {
        self.pending.is_empty() && order(&self.last_read) >= order(&self.last)
    }

    /// Those of some entries that are acknowledged.
    pub(super) fn acknowledged(&self, entries: &[String]) -> HashSet<String> {
        let is = |id: &&String| order(id) <= order(&self.last_read) && !self.pending.contains(*id);
        entries.iter().filter(is).cloned().collect()
    }
}

fn order(id: &str) -> (u64, u64) {
    let (ms, sequence) = id.split_once('-').unwrap();
    (ms.parse().unwrap(), sequence.parse().unwrap())
}
