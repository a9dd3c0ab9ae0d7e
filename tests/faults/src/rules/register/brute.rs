//! Tries every order: what [`search`](super::search) must agree with.

use std::collections::{BTreeSet, HashSet};

use crate::history::Moment;

use super::super::setbacks::{Reach, Setback};
use super::{Register, Seen, Sight};

#[derive(Clone, Copy)]
enum Step {
    Seen(Seen),
    Unknown(u64, Moment),
    Setback(Setback),
}

impl Step {
    fn began(self) -> Moment {
        match self {
            Self::Seen(seen) => seen.began,
            Self::Unknown(_, began) => began,
            Self::Setback(setback) => setback.from,
        }
    }

    fn ended(self) -> Moment {
        match self {
            Self::Seen(seen) => seen.ended,
            Self::Unknown(..) => Moment::MAX,
            Self::Setback(setback) => setback.to,
        }
    }
}

#[derive(Clone, Eq, Hash, PartialEq)]
struct State {
    /// Bits of the steps that are done.
    done: u32,
    cursor: u64,
    held: BTreeSet<u64>,
    acknowledged: u64,
}

/// Whether there is an order that explains everything.
pub(super) fn is_explained(register: &Register, setbacks: &[Setback]) -> bool {
    let unknown = register.unknown.iter().flat_map(|(&message, begins)| {
        begins.iter().map(move |&began| Step::Unknown(message, began))
    });
    let seen = register.seen.iter().copied().map(Step::Seen);
    let setbacks = setbacks.iter().copied().map(Step::Setback);
    let steps: Vec<_> = seen.chain(unknown).chain(setbacks).collect();
    let state = State { done: 0, cursor: 0, held: BTreeSet::from([0]), acknowledged: 0 };
    explains(&steps, state, &mut HashSet::new())
}

fn explains(steps: &[Step], state: State, failed: &mut HashSet<State>) -> bool {
    let left: Vec<_> = (0..steps.len()).filter(|bit| state.done >> bit & 1 == 0).collect();
    if left.iter().all(|&bit| matches!(steps[bit], Step::Unknown(..))) {
        return true;
    }
    if failed.contains(&state) {
        return false;
    }
    for &bit in &left {
        let step = steps[bit];
        if left.iter().any(|&other| steps[other].ended() < step.began()) {
            continue;
        }
        let mut next = state.clone();
        next.done |= 1 << bit;
        if take(step, next).into_iter().any(|next| explains(steps, next, failed)) {
            return true;
        }
    }
    failed.insert(state);
    false
}

/// The states that may follow a step.
fn take(step: Step, mut state: State) -> Vec<State> {
    match step {
        Step::Seen(Seen { sight, .. }) => {
            let cursor = sight.cursor();
            let is_right = match sight {
                Sight::Advanced(message) => state.cursor < message,
                Sight::Found { .. } => state.cursor == cursor,
            };
            if !is_right {
                return Vec::new();
            }
            state.cursor = cursor;
            if sight.acknowledges() {
                state.acknowledged = state.acknowledged.max(cursor);
            }
        }
        Step::Unknown(message, _) => state.cursor = state.cursor.max(message),
        Step::Setback(setback) => return set_back(setback.reach, &state),
    }
    state.held.insert(state.cursor);
    vec![state]
}

fn set_back(reach: Reach, state: &State) -> Vec<State> {
    let acknowledged = if reach == Reach::Acknowledged { state.acknowledged } else { 0 };
    let to = |cursor| State { cursor, acknowledged, ..state.clone() };
    match reach {
        Reach::Nothing => vec![to(0)],
        Reach::AnyState | Reach::Acknowledged => {
            state.held.range(acknowledged..).copied().map(to).collect()
        }
    }
}
