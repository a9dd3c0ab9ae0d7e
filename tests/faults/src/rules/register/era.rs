//! The time between two setbacks, in which a cursor only moves forward.
//!
//! Each value that was seen in it, but the first if a setback left it there, was set once, by the mark that
//! advanced to it or by one of unknown outcome. The moments at which values were set rise with the values. A value was
//! set by the end of whoever saw it, and the next one no sooner than the last of those began. So the earliest
//! possible moments, value by value, decide: if one comes too late, there are no others.

use std::collections::BTreeMap;

use crate::history::Moment;

use super::super::setbacks::Reach;
use super::{Register, Seen, Sight};

/// What earlier eras leave to the next one, beside what they explained.
#[derive(Clone, Debug, Default, Hash)]
pub(super) struct Past {
    /// The greatest cursor that was acknowledged and that no loss can have taken.
    acknowledged: u64,
    /// How many marks of unknown outcome are used up, by message: the first ones.
    used: BTreeMap<u64, usize>,
}

/// A part of what was seen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Era<'a> {
    /// When it begins.
    pub(super) from: Moment,
    /// When it ends.
    pub(super) to: Moment,
    /// How it begins.
    pub(super) reach: Reach,
    /// What was seen in it.
    pub(super) seen: &'a [Seen],
    /// What was seen later, of the first `begun` of the register.
    pub(super) later: &'a [Seen],
    /// How many of all that was seen, by the begin, are in this era, earlier, or in `later`.
    pub(super) begun: usize,
}

/// Who saw a value.
struct Value {
    /// When the mark began and ended that set it.
    setter: Option<(Moment, Moment)>,
    /// When the last of those began that found it.
    last_began: Moment,
    /// When the first of those ended that found it.
    first_ended: Moment,
}

/// Returns the values that were seen, or nothing if two marks set the same one.
fn values(seen: &[Seen]) -> Option<BTreeMap<u64, Value>> {
    let mut values: BTreeMap<u64, Value> = BTreeMap::new();
    for one in seen {
        let value = values.entry(one.sight.cursor()).or_insert(Value {
            setter: None,
            last_began: Moment::ZERO,
            first_ended: Moment::MAX,
        });
        if let Sight::Advanced(_) = one.sight {
            if value.setter.is_some() {
                return None;
            }
            value.setter = Some((one.began, one.ended));
        } else {
            value.last_began = value.last_began.max(one.began);
            value.first_ended = value.first_ended.min(one.ended);
        }
    }
    Some(values)
}

/// What an era began with, as far as it shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Begin {
    /// The cursor was exactly this.
    At(u64),
    /// It was below this.
    Below(u64),
    /// Nothing was seen.
    Unseen,
}

impl Past {
    /// Returns the same without what was acknowledged, which allows more.
    pub(super) fn forgetful(&self) -> Self {
        Self { acknowledged: 0, used: self.used.clone() }
    }

    /// Whether an era can be explained after the earlier ones; if so, adds it to them.
    pub(super) fn add(&mut self, register: &Register, era: Era<'_>) -> Option<Begin> {
        let values = values(era.seen)?;
        if era.reach != Reach::Acknowledged {
            self.acknowledged = 0;
        }
        let begin = self.begin(register, era, &values)?;
        let mut earliest = era.from;
        for (&cursor, value) in &values {
            if !matches!(begin, Begin::At(first) if first == cursor) {
                earliest = self.set(register, cursor, value, earliest)?;
            }
            if earliest > value.first_ended || earliest > era.to {
                return None;
            }
            earliest = earliest.max(value.last_began);
        }
        let acknowledged = era.seen.iter().filter(|seen| seen.sight.acknowledges());
        let acknowledged = acknowledged.map(|seen| seen.sight.cursor()).max();
        self.acknowledged = self.acknowledged.max(acknowledged.unwrap_or(0));
        Some(begin)
    }

    /// Chooses the cursor at the begin, or returns nothing if none is allowed. The least value that was seen needs
    /// nobody to set it if it was there before and the era may begin with it. Any other choice explains less.
    fn begin(
        &self,
        register: &Register,
        era: Era<'_>,
        values: &BTreeMap<u64, Value>,
    ) -> Option<Begin> {
        let Some((&least, value)) = values.first_key_value() else {
            return Some(Begin::Unseen);
        };
        let is_restored = match era.reach {
            Reach::Nothing => least == 0,
            Reach::AnyState | Reach::Acknowledged => {
                value.setter.is_none() && self.held(register, era, least)
            }
        };
        if is_restored {
            return (least >= self.acknowledged).then_some(Begin::At(least));
        }
        (least > self.acknowledged).then_some(Begin::Below(least))
    }

    /// Whether the cursor had this value in an earlier era: a mark set it that is neither in this one nor later.
    fn held(&self, register: &Register, era: Era<'_>, cursor: u64) -> bool {
        let begun = register
            .advances
            .get(&cursor)
            .map_or(0, |advances| advances.partition_point(|&index| index < era.begun));
        let is_it = |seen: &&Seen| seen.sight == Sight::Advanced(cursor);
        let not_before = era.later.iter().chain(era.seen).filter(is_it).count();
        cursor == 0 || self.used.contains_key(&cursor) || begun > not_before
    }

    /// Returns when a value can be set at the earliest, if somebody can set it by then.
    fn set(
        &mut self,
        register: &Register,
        cursor: u64,
        value: &Value,
        earliest: Moment,
    ) -> Option<Moment> {
        if let Some((began, ended)) = value.setter {
            let earliest = earliest.max(began);
            return (earliest <= ended).then_some(earliest);
        }
        let used = self.used.get(&cursor).copied().unwrap_or(0);
        let began = register.unknown.get(&cursor)?.get(used)?;
        self.used.insert(cursor, used + 1);
        Some(earliest.max(*began))
    }
}
