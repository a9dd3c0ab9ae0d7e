//! Erases dead letters of webhooks that name a user.

use redis::cmd;

use super::AdminError;
use super::erase::KeyProgress;
use super::store::{Node, StoreAdmin, StoreScan};
use crate::domain::{EntryId, Event, Position, UserId};
use crate::store::redis::keys::Keys;
use crate::store::redis::relay::{fill_letters, parse_letters};
use crate::store::redis::scripts::Script;
use crate::store::relay::{DeadLetter, LetterId, StoredLetter};

/// Letters that one step reads.
const LETTERS_PER_STEP: usize = 100;

impl StoreAdmin {
    /// Erases the dead letters that are for a user, or whose event names the user as reader or as recipient.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`]; some of them may have been erased.
    pub async fn erase_dead_letters(
        &mut self,
        user: UserId,
        mut report: impl FnMut(KeyProgress),
    ) -> Result<u64, AdminError> {
        let pattern = format!("{}*", Keys::DEAD_LETTERS_PREFIX);
        let script = Script::dead_letters();
        let (mut erased, mut scan) = (0, StoreScan::default());
        while let Some((node, streams)) = self.scan(&mut scan, &pattern, "stream").await? {
            let Some(node) = self.nodes.get_mut(node) else { continue };
            for stream in streams {
                erased += node.erase_letters(&script, &stream, user).await?;
                report(KeyProgress { scans: scan.positions(), erased });
            }
        }
        Ok(erased)
    }
}

impl Node {
    async fn erase_letters(
        &mut self,
        script: &Script,
        stream: &str,
        user: UserId,
    ) -> Result<u64, AdminError> {
        let (mut erased, mut after) = (0, EntryId::ZERO);
        loop {
            let fill = |call| fill_letters(call, stream, after, LETTERS_PER_STEP);
            let letters = parse_letters(&self.connection.run(script, fill).await?)?;
            let Some(last) = letters.last() else { return Ok(erased) };
            after = last.at;
            let mut remove = cmd("XDEL");
            remove.arg(stream);
            let mut any = false;
            for StoredLetter { at, letter } in &letters {
                if letter.as_ref().is_some_and(|letter| is_about(letter, user)) {
                    any = true;
                    remove.arg(at.to_string());
                }
            }
            if any {
                erased += self.connection.query::<u64>(&remove).await?;
            }
        }
    }
}

fn is_about(letter: &DeadLetter, user: UserId) -> bool {
    let for_user = match letter.id {
        LetterId::Delivery(delivery) => Some(delivery.for_user),
        LetterId::Entry(..) => None,
    };
    let payload = letter.payload.as_deref().and_then(|payload| std::str::from_utf8(payload).ok());
    // Where it was in the stream does not matter.
    let event = payload.and_then(|payload| Event::parse(Position::from(EntryId::ZERO), payload));
    let names = |event: Event| event.mark.reader == user || event.mark.recipient == user;
    for_user == Some(user) || event.is_some_and(names)
}
