//! Looks for an order that explains everything that was seen of a register.
//!
//! Setbacks part the time into eras. Whatever ended before a setback is in an era before it, whatever began
//! after it in a later one; the few operations that were under way may be in either. So for each setback, one after the
//! other, every moment at which something begins or ends is tried, with every way to divide those. What
//! failed once is not tried again. [`labels`](super::labels) come first: they find most violations at once.

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::history::Moment;

use super::super::setbacks::{Reach, Setback};
use super::era::{Begin, Era, Past};
use super::{Register, Seen, Sight};

/// How many eras are looked at before the search is given up.
const LOOKS: usize = 1_000_000;

/// How many operations may be under way at a setback.
const UNDER_WAY: usize = 24;

/// What the search found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// There is an order; this many acknowledged marks are certainly gone in it.
    Explained {
        /// How many.
        taken: usize,
    },
    /// There is none.
    Impossible,
    /// There are too many to try.
    GaveUp,
}

/// Looks for an order.
pub(super) fn run(register: &Register, setbacks: &[Setback]) -> Verdict {
    let mut search =
        Search { register, setbacks, failed: HashMap::new(), looks: 0, gave_up: false };
    let begin = Step { from: Moment::ZERO, past: Past::default(), carried: Vec::new(), begun: 0 };
    match search.explain(0, begin) {
        Some(eras) => Verdict::Explained { taken: taken(&eras) },
        None if search.gave_up => Verdict::GaveUp,
        None => Verdict::Impossible,
    }
}

struct Search<'a> {
    register: &'a Register,
    setbacks: &'a [Setback],
    /// From when on an era cannot be explained, by what else it depends on.
    failed: HashMap<u64, Moment>,
    looks: usize,
    gave_up: bool,
}

/// Where the search is: at the begin of an era.
struct Step {
    from: Moment,
    past: Past,
    /// What no era has explained yet, of the first `begun` that were seen.
    carried: Vec<Seen>,
    begun: usize,
}

/// An era that was explained.
struct Explained {
    reach: Reach,
    begin: Begin,
    advanced: Vec<u64>,
}

/// Counts the advances that are certainly gone.
fn taken(eras: &[Explained]) -> usize {
    let mut left: Vec<u64> = Vec::new();
    let mut taken = 0;
    for era in eras.iter().rev() {
        let before = left.len();
        match (era.reach, era.begin) {
            (Reach::Nothing, _) => left.clear(),
            (_, Begin::Unseen) | (Reach::Acknowledged, _) => {}
            (Reach::AnyState, Begin::At(first)) => left.retain(|&message| message <= first),
            (Reach::AnyState, Begin::Below(least)) => left.retain(|&message| message < least),
        }
        taken += before - left.len();
        left.extend(&era.advanced);
    }
    taken
}

impl Search<'_> {
    /// Explains what is left, from the begin of an era on, and returns the eras, the last one first.
    fn explain(&mut self, era: usize, mut step: Step) -> Option<Vec<Explained>> {
        let setback = self.setbacks.get(era).copied();
        let by = setback.map_or(Moment::MAX, |setback| setback.to);
        let to_come = &self.register.seen[step.begun..];
        let began = to_come.partition_point(|seen| seen.began <= by);
        step.carried.extend_from_slice(&to_come[..began]);
        step.begun += began;
        let Some(setback) = setback else {
            let (_, explained) = self.look(era, &step, Moment::MAX, &step.carried, &[])?;
            return Some(vec![explained]);
        };
        for at in moments(self.register, setback, &step) {
            let division = Division::at(at, setback.reach, &step.carried);
            if division.under_way.len() > UNDER_WAY {
                self.gave_up = true;
                return None;
            }
            // What ended before this moment did so before all later ones.
            let settled = division.settled();
            self.look(era, &step, Moment::MAX, &settled, &[])?;
            if !self.can_follow(era, &step, at, &division) {
                continue;
            }
            for choice in choices(division.under_way.len()) {
                if let Some(eras) = self.divide(era, &step, at, division.choose(choice)) {
                    return Some(eras);
                }
                if self.gave_up {
                    return None;
                }
            }
        }
        None
    }

    /// Whether the next era can be explained, as far as it is the same however this moment divides what is under
    /// way. If not, those divisions need not be tried.
    fn can_follow(&mut self, era: usize, step: &Step, at: Moment, division: &Division) -> bool {
        self.looks += 1;
        let until = self.setbacks.get(era + 1).map(|next| next.from);
        let is_settled = |seen: &&Seen| until.is_none_or(|until| seen.ended < until);
        let to_come = &self.register.seen[step.begun..];
        let to_come = &to_come
            [..to_come.partition_point(|seen| until.is_none_or(|until| seen.began <= until))];
        let later = || division.after.iter().chain(to_come);
        let open = division.under_way.iter().chain(later().filter(|seen| !is_settled(seen)));
        let seen = unexplained(later().filter(is_settled), open);
        // Whatever is not in this era counts as earlier: so a setback may restore it.
        let (reach, begun) = (self.setbacks[era].reach, self.register.seen.len());
        let bounds = Era { from: at, to: Moment::MAX, reach, seen: &seen, later: &[], begun };
        step.past.forgetful().add(self.register, bounds).is_some()
    }

    /// Explains an era, and what is left after it.
    fn divide(
        &mut self,
        era: usize,
        step: &Step,
        at: Moment,
        (before, after): (Vec<Seen>, Vec<Seen>),
    ) -> Option<Vec<Explained>> {
        let (past, explained) = self.look(era, step, at, &before, &after)?;
        let key = key(era, &past, &after);
        // A later begin explains less.
        if self.failed.get(&key).is_some_and(|&from| from <= at) {
            return None;
        }
        let next = Step { from: at, past, carried: after, begun: step.begun };
        let Some(mut eras) = self.explain(era + 1, next) else {
            self.failed.insert(key, at);
            return None;
        };
        eras.push(explained);
        Some(eras)
    }

    /// Explains one era.
    fn look(
        &mut self,
        era: usize,
        step: &Step,
        to: Moment,
        seen: &[Seen],
        later: &[Seen],
    ) -> Option<(Past, Explained)> {
        self.looks += 1;
        self.gave_up |= self.looks > LOOKS;
        if self.gave_up {
            return None;
        }
        let before = era.checked_sub(1).and_then(|before| self.setbacks.get(before));
        let reach = before.map_or(Reach::Nothing, |setback| setback.reach);
        let era = Era { from: step.from, to, reach, seen, later, begun: step.begun };
        let mut past = step.past.clone();
        let begin = past.add(self.register, era)?;
        let advanced = seen.iter().filter_map(|seen| match seen.sight {
            Sight::Advanced(message) => Some(message),
            Sight::Found { .. } => None,
        });
        Some((past, Explained { reach, begin, advanced: advanced.collect() }))
    }
}

/// The moments at which a setback is tried: between two of them nothing begins or ends.
fn moments(register: &Register, setback: Setback, step: &Step) -> Vec<Moment> {
    let earliest = setback.from.max(step.from);
    let ends = step.carried.iter().flat_map(|seen| [seen.began, seen.ended]);
    let begins = register.unknown.values().flatten().copied();
    let within = ends.chain(begins).filter(|&at| at > earliest && at <= setback.to);
    let mut moments: Vec<_> = within.collect();
    if earliest <= setback.to {
        moments.push(earliest);
    }
    moments.sort();
    moments.dedup();
    moments
}

/// What was seen, as a setback divides it.
struct Division {
    before: Vec<Seen>,
    under_way: Vec<Seen>,
    after: Vec<Seen>,
}

impl Division {
    fn at(at: Moment, reach: Reach, left: &[Seen]) -> Self {
        let mut division = Self { before: Vec::new(), under_way: Vec::new(), after: Vec::new() };
        for &seen in left {
            // Right after everything is gone there is no cursor, for whoever saw none.
            let is_after = reach == Reach::Nothing && seen.sight.cursor() == 0;
            if seen.ended < at {
                division.before.push(seen);
            } else if seen.began > at || is_after {
                division.after.push(seen);
            } else {
                division.under_way.push(seen);
            }
        }
        division.under_way.sort_by_key(|seen| seen.sight.cursor());
        division
    }

    /// What is before the setback at this moment or a later one, and explained by nothing that may be after it.
    fn settled(&self) -> Vec<Seen> {
        unexplained(self.before.iter(), self.under_way.iter().chain(&self.after))
    }

    /// Those whose bit is set come after the setback.
    fn choose(&self, choice: u32) -> (Vec<Seen>, Vec<Seen>) {
        let (mut before, mut after) = (self.before.clone(), self.after.clone());
        for (bit, &seen) in self.under_way.iter().enumerate() {
            if choice >> bit & 1 == 1 {
                after.push(seen);
            } else {
                before.push(seen);
            }
        }
        (before, after)
    }
}

/// What was seen of cursors to which nothing of `open` advanced.
fn unexplained<'a>(
    seen: impl Iterator<Item = &'a Seen>,
    open: impl Iterator<Item = &'a Seen>,
) -> Vec<Seen> {
    let advances = open.filter(|seen| matches!(seen.sight, Sight::Advanced(_)));
    let advances: HashSet<_> = advances.map(|seen| seen.sight.cursor()).collect();
    seen.filter(|seen| !advances.contains(&seen.sight.cursor())).copied().collect()
}

/// All ways to divide so many operations, likely ones first: if nothing was lost, those with the greatest cursors
/// come after the setback; if something was, those with the least.
fn choices(count: usize) -> impl Iterator<Item = u32> {
    let all = (1_u32 << count) - 1;
    let greatest = (0..=count).map(move |before| all >> before << before);
    let least = (0..count).map(move |after| (1 << after) - 1);
    let likely: Vec<_> = greatest.chain(least).collect();
    let tried: HashSet<_> = likely.iter().copied().collect();
    likely.into_iter().chain((0..=all).filter(move |choice| !tried.contains(choice)))
}

fn key(era: usize, past: &Past, left: &[Seen]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (era, past).hash(&mut hasher);
    for seen in left {
        (seen.began, seen.ended, seen.sight.cursor(), seen.sight.acknowledges()).hash(&mut hasher);
    }
    hasher.finish()
}
