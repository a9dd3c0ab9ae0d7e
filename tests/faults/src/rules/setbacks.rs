//! What faults may take away from a partition.

use std::time::Duration;

use crate::history::{Conversation, History, Injected, Loss, Moment};

use super::{Gaps, Promise};

/// How far a fault may set a partition back.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) enum Reach {
    /// To nothing, and it certainly does.
    Nothing,
    /// To any earlier state, or not at all.
    AnyState,
    /// To any earlier state that has all of which a mark was acknowledged, or not at all.
    Acknowledged,
}

/// That a partition may be set back, once, at a moment from `from` to `to`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(super) struct Setback {
    pub(super) from: Moment,
    pub(super) to: Moment,
    pub(super) reach: Reach,
}

impl Setback {
    /// Whether something acknowledged may be gone by it.
    pub(super) fn loses(&self) -> bool {
        self.reach != Reach::Acknowledged
    }

    /// Whether it may have happened after one of two moments and before the other.
    pub(super) fn is_between(&self, earlier: Moment, later: Moment) -> bool {
        self.to >= earlier && self.from <= later
    }
}

/// Returns the setbacks of each partition.
pub(super) fn of_all(history: &History, promise: &Promise) -> Vec<Vec<Setback>> {
    (0..promise.partitions).map(|partition| of(history, promise, partition)).collect()
}

/// Returns the setbacks of a partition, by the time at which they begin.
pub(super) fn of(history: &History, promise: &Promise, partition: usize) -> Vec<Setback> {
    let mut setbacks = Vec::new();
    for (index, fault) in history.faults.iter().enumerate() {
        let losses = fault.losses.iter().filter(|loss| concerns(loss, partition));
        let losses: Vec<_> = losses.filter(|loss| is_believed(loss, promise)).collect();
        setbacks.extend(losses.iter().map(|loss| Setback {
            from: loss.from,
            to: loss.to,
            reach: if loss.is_total { Reach::Nothing } else { Reach::AnyState },
        }));
        if promise.undoes_unacknowledged && losses.is_empty() {
            let next = history.faults.get(index + 1).map_or(Moment::MAX, |next| next.from);
            let to = fault.to.saturating_add(promise.settling).min(next).max(fault.from);
            setbacks.push(Setback { from: fault.from, to, reach: Reach::Acknowledged });
        }
    }
    setbacks.sort_by_key(|setback| setback.from);
    setbacks
}

/// Whether what was seen at a moment may have been taken, or was taken already and remembered for some time.
pub(super) fn takes(setbacks: &[Setback], seen: Moment, memory: Duration) -> bool {
    setbacks.iter().any(|setback| setback.to.saturating_add(memory) >= seen)
}

/// Whether a fault may be the reason of a gap at this moment.
pub(super) fn explains_gap(fault: &Injected, promise: &Promise, at: Moment) -> bool {
    let is_near = fault.from <= at && at <= fault.to.saturating_add(promise.redelivery);
    let is_allowed = match &promise.gaps {
        Gaps::Any => true,
        Gaps::Of(kinds) => kinds.contains(&fault.kind),
    };
    is_near && (is_allowed || fault.losses.iter().any(|loss| is_believed(loss, promise)))
}

/// Whether the stream was erased while its IDs were ahead of Redis's clock. Until the new ones have passed the old ones
/// whoever resumes gets a gap (`docs/production.md`, "What is lost when"): for longer than a run.
pub(super) fn has_ids_ahead(history: &History, at: Moment) -> bool {
    let mut before = history.faults.iter().take_while(|fault| fault.from <= at);
    before.any(|fault| fault.kind == "store-clock-jumps")
        && before.any(|fault| fault.losses.iter().any(|loss| loss.is_total))
}

fn concerns(loss: &Loss, partition: usize) -> bool {
    loss.partitions.as_ref().is_none_or(|partitions| partitions.contains(&partition))
}

fn is_believed(loss: &Loss, promise: &Promise) -> bool {
    loss.is_total || promise.partial_losses
}

/// Returns the partition that has a conversation, as `docs/contract.md` says: its reader's.
pub(super) fn partition(conversation: Conversation, partitions: usize) -> usize {
    let mut hash = conversation.reader;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
    }
    hash ^= hash >> 33;
    let partitions = u128::try_from(partitions).expect("a number of partitions");
    usize::try_from((u128::from(hash) * partitions) >> 64).expect("one of the partitions")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{Durability, Mode};

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(seconds)
    }

    #[test]
    fn ids_are_ahead_once_a_stream_is_erased_after_a_jump() {
        let fault = |kind: &str, from, is_total| Injected {
            kind: kind.to_owned(),
            from: at(from),
            to: at(from),
            losses: vec![Loss { from: at(from), to: at(from), partitions: None, is_total }],
        };
        let ahead = |faults| has_ids_ahead(&History { faults, ..History::default() }, at(9));
        let jump = |from| fault("store-clock-jumps", from, false);
        assert!(ahead(vec![jump(1), fault("flushall", 2, true)]));
        assert!(!ahead(vec![fault("flushall", 1, true), jump(2)]));
        assert!(!ahead(vec![jump(1), fault("redis-killed", 2, false)]));
        assert!(!ahead(vec![jump(1), fault("flushall", 10, true)]));
    }

    fn with(is_total: bool, partitions: Option<Vec<usize>>) -> History {
        let losses = vec![Loss { from: at(1), to: at(2), partitions, is_total }];
        let fault = Injected { kind: "fault".to_owned(), from: at(1), to: at(3), losses };
        History { faults: vec![fault], ..History::default() }
    }

    #[test]
    fn the_documented_partition_is_found() {
        let conversation = Conversation { reader: 2_244_994_945, recipient: 1 };
        assert_eq!(partition(conversation, 64), 20);
        assert_eq!(partition(conversation, 1), 0);
    }

    #[test]
    fn a_partial_loss_counts_only_where_the_promise_allows_it() {
        let reach = |mode, durability, is_total| {
            let promise = Promise::new(mode, durability, 1);
            of(&with(is_total, None), &promise, 0).iter().map(|setback| setback.reach).collect()
        };
        let everysec: Vec<_> = reach(Mode::Standalone, Durability::Everysec, false);
        assert_eq!(everysec, [Reach::AnyState]);
        let always: Vec<_> = reach(Mode::Standalone, Durability::Always, false);
        assert_eq!(always, []);
        let flushed: Vec<_> = reach(Mode::Standalone, Durability::Always, true);
        assert_eq!(flushed, [Reach::Nothing]);
        let sentinel: Vec<_> = reach(Mode::Sentinel, Durability::Always, false);
        assert_eq!(sentinel, [Reach::AnyState]);
        let replicated: Vec<_> = reach(Mode::Sentinel, Durability::AlwaysReplica, false);
        assert_eq!(replicated, [Reach::Acknowledged]);
    }

    #[test]
    fn a_loss_concerns_its_partitions() {
        let promise = Promise::new(Mode::Cluster, Durability::None, 4);
        let history = with(true, Some(vec![2]));
        assert_eq!(of(&history, &promise, 2)[0].reach, Reach::Nothing);
        assert_eq!(of(&history, &promise, 1)[0].reach, Reach::Acknowledged);
    }
}
