//! How far a move has come, kept at the destination: what is lost there is lost with it.

use std::collections::HashMap;
use std::str::FromStr;

use redis::{RedisResult, cmd};

use super::follower::Follower;
use crate::domain::EntryId;
use crate::store::Losses;
use crate::store::redis::admin::cursors::CursorAdmin;

/// Replaces a hash. Without MULTI, which would need a right of its own.
const REPLACE: &str = "
    redis.call('UNLINK', KEYS[1])
    redis.call('HSET', KEYS[1], unpack(ARGV))
    return redis.status_reply('OK')";

const SOURCE: &str = "source";
const OWNERS: &str = "owners";
const DONE: &str = "done";

/// How far the SCAN of one Redis process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// The next step begins here.
    At(u64),
    /// Everything was read.
    Done,
}

/// How far a move has come.
#[derive(Clone, Debug, Default)]
pub(super) struct MoveState {
    /// The ID of the store that is moved.
    pub(super) source: String,
    /// Which node has which partition of it.
    pub(super) owners: String,
    /// By the run IDs of its Redis processes: a process that was restarted gives other positions.
    pub(super) scans: HashMap<String, Scan>,
    /// By its partitions.
    pub(super) followers: HashMap<usize, Follower>,
}

impl MoveState {
    /// Reads what a move to this store has written; `None` if there was none.
    pub(super) async fn load(to: &mut CursorAdmin) -> RedisResult<Option<Self>> {
        let mut read = cmd("HGETALL");
        read.arg(to.shared.keys.migration());
        let fields: HashMap<String, String> = to.connection.query(&read).await?;
        Ok(Self::parse(&fields))
    }

    pub(super) async fn save(&self, to: &mut CursorAdmin) -> RedisResult<()> {
        let mut replace = cmd("EVAL");
        replace.arg(REPLACE).arg(1).arg(to.shared.keys.migration());
        for (field, value) in self.fields() {
            replace.arg(field).arg(value);
        }
        to.connection.query(&replace).await
    }

    fn fields(&self) -> Vec<(String, String)> {
        let (source, owners) = (self.source.clone(), self.owners.clone());
        let mut fields = vec![(SOURCE.to_owned(), source), (OWNERS.to_owned(), owners)];
        for (run_id, scan) in &self.scans {
            let position = match scan {
                Scan::At(position) => position.to_string(),
                Scan::Done => DONE.to_owned(),
            };
            fields.push((format!("scan:{run_id}"), position));
        }
        for (partition, Follower { after, losses, .. }) in &self.followers {
            let Losses { gap_before, max_removed } = losses;
            fields.push((
                format!("after:{partition}"),
                format!("{after} {gap_before} {max_removed}"),
            ));
        }
        fields
    }

    fn parse(fields: &HashMap<String, String>) -> Option<Self> {
        let (source, owners) = (fields.get(SOURCE)?.clone(), fields.get(OWNERS)?.clone());
        let mut state = Self { source, owners, ..Self::default() };
        for (field, value) in fields {
            match field.split_once(':') {
                Some(("scan", run_id)) => {
                    let scan = parse_scan(value)?;
                    state.scans.insert(run_id.to_owned(), scan);
                }
                Some(("after", partition)) => {
                    state.followers.insert(partition.parse().ok()?, parse_follower(value)?);
                }
                _ => {}
            }
        }
        Some(state)
    }
}

fn parse_scan(text: &str) -> Option<Scan> {
    if text == DONE { Some(Scan::Done) } else { text.parse().ok().map(Scan::At) }
}

fn parse_follower(text: &str) -> Option<Follower> {
    let ids: Vec<_> = text.split(' ').map(EntryId::from_str).collect::<Result<_, _>>().ok()?;
    let [after, gap_before, max_removed] = ids[..] else { return None };
    Some(Follower::new(after, Losses { gap_before, max_removed }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_read_again() {
        let id = |ms| EntryId { ms, count: 1 };
        let losses = Losses { gap_before: id(2), max_removed: id(3) };
        let state = MoveState {
            source: "abc".to_owned(),
            owners: "a:1 b:2".to_owned(),
            scans: HashMap::from([("r".to_owned(), Scan::At(7)), ("s".to_owned(), Scan::Done)]),
            followers: HashMap::from([(63, Follower::new(id(5), losses))]),
        };
        let fields: HashMap<_, _> = state.fields().into_iter().collect();
        let read = MoveState::parse(&fields).unwrap();
        assert_eq!((&read.source, &read.owners), (&state.source, &state.owners));
        assert_eq!(read.scans, state.scans);
        let Follower { after, losses: read_losses, .. } = read.followers[&63];
        assert_eq!((after, read_losses), (id(5), losses));
        // What somebody else put there is not a state.
        for (field, value) in [("scan:r", "x"), ("after:0", "1-1 2-2"), ("after:x", "1-1 2-2 3-3")]
        {
            let mut fields = fields.clone();
            fields.insert(field.to_owned(), value.to_owned());
            assert!(MoveState::parse(&fields).is_none(), "{field}");
        }
        assert!(MoveState::parse(&HashMap::new()).is_none());
    }
}
