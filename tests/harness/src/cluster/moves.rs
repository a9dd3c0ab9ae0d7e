//! Moves of slots between masters, while clients use them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::RedisCluster;
use crate::eventually;

/// Keys in one `MIGRATE`.
const BATCH: usize = 100;

const MOVE_LIMIT: Duration = Duration::from_secs(60);

impl RedisCluster {
    /// Moves a slot key by key, as `redis-cli --cluster reshard` does. Returns how many keys it had.
    pub async fn move_slot(&self, slot: u16, to: usize) -> usize {
        let from = self.owner(slot).await;
        assert_ne!(from, to, "the slot is there already");
        let (source, target) = (self.node(from), self.node(to));
        let ids = [from, to].map(|node| self.id(node));
        target.run::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", ids[0])).await;
        source.run::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", ids[1])).await;
        let mut moved = 0;
        let mut connection = source.connection().await;
        loop {
            let keys: Vec<String> =
                source.run(&format!("CLUSTER GETKEYSINSLOT {slot} {BATCH}")).await;
            if keys.is_empty() {
                break;
            }
            moved += keys.len();
            let mut migrate = redis::cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.port).arg("").arg(0).arg(10_000).arg("KEYS");
            migrate.arg(keys).query_async::<String>(&mut connection).await.expect("MIGRATE");
        }
        // The target first, so that no slot is without a master.
        target.run::<()>(&format!("CLUSTER SETSLOT {slot} NODE {}", ids[1])).await;
        source.run::<()>(&format!("CLUSTER SETSLOT {slot} NODE {}", ids[1])).await;
        self.wait_for_owner(slot, to).await;
        moved
    }

    /// Moves slots at once, as Valkey 9 does (`CLUSTER MIGRATESLOTS`).
    pub async fn migrate_slots(&self, slots: RangeInclusive<u16>, to: usize) {
        let (first, last) = slots.into_inner();
        let source = self.node(self.owner(first).await);
        let id = self.id(to);
        let migrate = format!("CLUSTER MIGRATESLOTS SLOTSRANGE {first} {last} NODE {id}");
        source.run::<()>(&migrate).await;
        self.wait_for_owner(last, to).await;
        self.wait_for_owner(first, to).await;
    }

    async fn wait_for_owner(&self, slot: u16, to: usize) {
        eventually("a slot has moved", MOVE_LIMIT, async || {
            (self.try_owner(slot).await == Some(to)).then_some(())
        })
        .await;
    }
}
