//! What each kind of fault may lose, by what Redis keeps and when it acknowledges.

use crate::world::{Durability, Mode};

/// What a fault does to a master of Redis, as far as that matters for what it keeps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Risk {
    /// Nothing, or nothing by which something could be lost.
    Nothing,
    /// It is erased.
    Erased,
    /// It is ended in order, and started again with what it has saved.
    Restarted,
    /// It is killed, and started again with what is on the disk.
    Killed,
    /// Its append-only file cannot be written: it ends itself where each answer waits for that.
    Filled,
    /// It is unreachable for a while, so that a replica may take its place meanwhile.
    Stalled,
    /// A replica takes its place, whether or not that has everything.
    Replaced,
}

/// Everything is certainly gone.
const TOTAL: &[bool] = &[true];

/// The newest part may be gone.
const PARTIAL: &[bool] = &[false];

/// The newest part may be gone, and once more what was acknowledged since.
const TWICE: &[bool] = &[false, false];

impl Risk {
    /// What may be lost, one after another: each time everything (`true`), or the newest part (`false`).
    #[allow(clippy::match_same_arms, reason = "each line has a reason of its own")]
    pub fn losses(self, mode: Mode, durability: Durability) -> &'static [bool] {
        use Durability::{Always, AlwaysReplica, Everysec, None, Snapshots};
        let has_replicas = mode != Mode::Standalone;
        match (self, durability) {
            (Self::Erased, _) => TOTAL,
            (Self::Nothing, _) | (_, AlwaysReplica) => &[],
            // What a replica did not have yet; and what the old master acknowledged after the promotion.
            (Self::Stalled, _) if has_replicas => TWICE,
            (Self::Replaced, _) => PARTIAL,
            (Self::Stalled, _) => &[],
            // It may start empty, and be replaced after that by a replica that is not.
            (Self::Restarted | Self::Killed, None) if has_replicas => TWICE,
            (Self::Restarted | Self::Killed, None) => TOTAL,
            (Self::Filled, Always) if has_replicas => PARTIAL,
            (Self::Filled, _) => &[],
            // A master that is shut down saves its data, and waits until its replicas have them.
            (Self::Restarted, _) => &[],
            (Self::Killed, Snapshots | Everysec) if has_replicas => TWICE,
            (Self::Killed, Snapshots | Everysec) => PARTIAL,
            (Self::Killed, Always) if has_replicas => PARTIAL,
            (Self::Killed, Always) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Risk; 7] = [
        Risk::Nothing,
        Risk::Erased,
        Risk::Restarted,
        Risk::Killed,
        Risk::Filled,
        Risk::Stalled,
        Risk::Replaced,
    ];

    #[test]
    fn only_an_erasure_loses_something_where_every_acknowledgement_is_durable() {
        let modes = [Mode::Standalone, Mode::Sentinel, Mode::Cluster];
        for risk in ALL {
            for mode in modes {
                let losses = risk.losses(mode, Durability::AlwaysReplica);
                assert_eq!(losses.is_empty(), risk != Risk::Erased, "{risk:?} {mode:?}");
            }
            if risk != Risk::Replaced {
                let losses = risk.losses(Mode::Standalone, Durability::Always);
                assert_eq!(losses.is_empty(), risk != Risk::Erased, "{risk:?}");
            }
        }
    }

    #[test]
    fn a_restart_without_persistence_loses_everything() {
        for risk in [Risk::Restarted, Risk::Killed] {
            assert_eq!(risk.losses(Mode::Standalone, Durability::None), TOTAL);
        }
        let kept = [Durability::Snapshots, Durability::Everysec, Durability::Always];
        for durability in kept {
            let losses = Risk::Restarted.losses(Mode::Standalone, durability);
            assert!(losses.is_empty(), "{durability:?}");
        }
    }
}
