//! Which of the places that Sentinels name is followed.
//!
//! A Sentinel that was cut off, or was told something else, names another master than the others do. Each
//! failover has a greater configuration epoch than those before it, by a vote of the Sentinels.

use crate::store::redis::cluster::topology::Address;

/// Where the master is, as a Sentinel says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) place: Address,
    /// The epoch of the failover that made it the master.
    pub(crate) epoch: u64,
}

/// What each Sentinel said last, by its number; `None` of one that does not answer.
#[derive(Debug)]
pub(super) struct Claims(Vec<Option<Claim>>);

/// Where the master seems to have moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) to: Claim,
    /// True if the former one may still answer as a master.
    pub(super) is_certain: bool,
}

/// Where the next connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// To where this Sentinel says.
    Follow(Claim, usize),
    /// To the former master: what is said instead is no reason to leave it.
    Stay,
}

impl Claims {
    /// Creates them for so many Sentinels.
    pub(super) fn new(sentinels: usize) -> Self {
        Self(vec![None; sentinels])
    }

    pub(super) fn set(&mut self, sentinel: usize, claim: Option<Claim>) {
        if let Some(known) = self.0.get_mut(sentinel) {
            *known = claim;
        }
    }

    fn all(&self) -> impl Iterator<Item = (usize, &Claim)> {
        let numbered = self.0.iter().enumerate();
        numbered.filter_map(|(sentinel, claim)| Some((sentinel, claim.as_ref()?)))
    }

    /// Returns how many name a place.
    fn count(&self, place: &Address) -> usize {
        self.all().filter(|(_, claim)| claim.place == *place).count()
    }

    /// Returns whether more than half of all Sentinels name a place, also counting those that do not answer.
    fn are_mostly(&self, place: &Address) -> bool {
        2 * self.count(place) > self.0.len()
    }

    /// Returns whether more than half of all agree on one place.
    pub(super) fn agree(&self) -> bool {
        self.all().any(|(_, claim)| self.are_mostly(&claim.place))
    }

    /// Returns the claim of the greatest epoch; of several the one that most agree on, and rather one whose
    /// place has not failed.
    fn best(&self, failed: &[Address]) -> Option<(usize, &Claim)> {
        let epoch = self.all().map(|(_, claim)| claim.epoch).max()?;
        let latest = self.all().filter(|(_, claim)| claim.epoch == epoch);
        latest.min_by_key(|(sentinel, Claim { place, .. })| {
            let agreeing = self.count(place);
            (failed.contains(place), usize::MAX - agreeing, *sentinel)
        })
    }

    /// Returns where to connect, if a place is known that was the master before.
    pub(super) fn choose(&self, before: Option<&Claim>, failed: &[Address]) -> Option<Choice> {
        let (sentinel, claim) = self.best(failed)?;
        if let Some(before) = before
            && claim.place != before.place
            && !self.are_mostly(&claim.place)
            // An earlier epoch is out of date.
            && (claim.epoch < before.epoch
                || claim.epoch == before.epoch && !failed.contains(&before.place))
        {
            return Some(Choice::Stay);
        }
        Some(Choice::Follow(claim.clone(), sentinel))
    }

    /// Returns where the master has moved to, if there is reason to leave the one that is in use.
    pub(super) fn moved_from(&self, known: &Claim) -> Option<Move> {
        let (_, best) = self.best(&[])?;
        let is_unanimous = self.count(&best.place) == self.0.len();
        if best.place == known.place || best.epoch <= known.epoch && !is_unanimous {
            return None;
        }
        let is_certain = 2 * self.count(&best.place) > self.all().count();
        Some(Move { to: best.clone(), is_certain })
    }

    /// Returns the greatest epoch in which a place became the master.
    pub(super) fn epoch_of(&self, place: &Address) -> Option<u64> {
        self.all().filter(|(_, claim)| claim.place == *place).map(|(_, claim)| claim.epoch).max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(host: &str, epoch: u64) -> Claim {
        Claim { place: Address { host: host.to_owned(), port: 6379 }, epoch }
    }

    /// What three Sentinels say: `-` of one that does not answer.
    fn said(claims: [(&str, u64); 3]) -> Claims {
        let said = |(host, epoch)| (host != "-").then(|| claim(host, epoch));
        Claims(claims.into_iter().map(said).collect())
    }

    const SILENT: (&str, u64) = ("-", 0);

    #[test]
    fn a_living_master_is_left_for_a_later_one_of_most_that_answer_or_one_of_all() {
        let known = claim("a", 3);
        let moved = |claims| {
            let moved = said(claims).moved_from(&known);
            moved.map(|Move { to, is_certain }| (to.place.host, is_certain))
        };
        let to_b = |is_certain| Some(("b".to_owned(), is_certain));
        assert_eq!(moved([SILENT; 3]), None);
        assert_eq!(moved([("a", 3); 3]), None);
        // One word is not enough, whoever else is silent.
        assert_eq!(moved([("a", 3), ("b", 3), SILENT]), None);
        assert_eq!(moved([SILENT, ("b", 3), SILENT]), None);
        assert_eq!(moved([SILENT, ("b", 2), ("b", 2)]), None);
        // A later failover counts, but one against one only if the master is gone.
        assert_eq!(moved([("a", 3), ("b", 4), SILENT]), to_b(false));
        assert_eq!(moved([("a", 3), ("a", 3), ("b", 4)]), to_b(false));
        assert_eq!(moved([("a", 3), ("b", 4), ("b", 4)]), to_b(true));
        assert_eq!(moved([SILENT, ("b", 4), SILENT]), to_b(true));
        // All were told so.
        assert_eq!(moved([("b", 0); 3]), to_b(true));
    }

    #[test]
    fn a_connection_goes_to_the_latest_master_that_has_not_failed() {
        let host = |claims, before: Option<&Claim>, failed: &[&str]| {
            let failed: Vec<_> = failed.iter().map(|host| claim(host, 0).place).collect();
            match said(claims).choose(before, &failed)? {
                Choice::Follow(claim, sentinel) => {
                    Some(format!("{} by {sentinel}", claim.place.host))
                }
                Choice::Stay => Some("stay".to_owned()),
            }
        };
        assert_eq!(host([SILENT; 3], None, &[]), None);
        let first = |claims, failed| host(claims, None, failed).unwrap();
        assert_eq!(first([("a", 3), ("a", 3), ("b", 4)], &[]), "b by 2");
        assert_eq!(first([("a", 3), ("b", 3), ("b", 3)], &[]), "b by 1");
        assert_eq!(first([("a", 3), ("b", 3), SILENT], &[]), "a by 0");
        assert_eq!(first([("a", 3), ("b", 3), SILENT], &["a"]), "b by 1");
        // Never back to an earlier one.
        assert_eq!(first([("a", 3), ("b", 4), SILENT], &["b"]), "b by 1");
        let a = claim("a", 3);
        let again = |claims, failed| host(claims, Some(&a), failed).unwrap();
        assert_eq!(again([SILENT, ("b", 3), SILENT], &[]), "stay");
        assert_eq!(again([SILENT, ("b", 3), SILENT], &["a"]), "b by 1");
        assert_eq!(again([SILENT, ("b", 2), SILENT], &["a"]), "stay");
        assert_eq!(again([SILENT, ("b", 4), SILENT], &[]), "b by 1");
        assert_eq!(again([SILENT, ("b", 0), ("b", 0)], &[]), "b by 1");
    }

    #[test]
    fn most_agree_if_more_than_half_of_all_do() {
        assert!(!said([("a", 3), ("b", 3), SILENT]).agree());
        assert!(said([("a", 3), SILENT, ("a", 4)]).agree());
        assert_eq!(said([("a", 3), SILENT, ("a", 4)]).epoch_of(&claim("a", 0).place), Some(4));
    }
}
