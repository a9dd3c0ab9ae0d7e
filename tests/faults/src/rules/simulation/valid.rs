//! Histories that are right are accepted.

use super::super::{judge, taken};
use super::*;

fn accepted(losses: Losses) {
    let promise = losses.promise();
    for seed in 0..500 {
        let history = simulate(seed, losses);
        let violations = judge(&history, &promise);
        assert_eq!(violations, [], "{losses:?}, seed {seed}");
        assert_eq!(taken(&history, &promise).undecided, 0, "{losses:?}, seed {seed}");
    }
}

#[test]
fn runs_without_losses_are_accepted() {
    accepted(Losses::None);
}

#[test]
fn runs_with_total_losses_are_accepted() {
    accepted(Losses::Total);
}

#[test]
fn runs_with_partial_losses_are_accepted() {
    accepted(Losses::Partial);
}

#[test]
fn runs_in_which_failovers_undo_what_was_not_acknowledged_are_accepted() {
    accepted(Losses::Unacknowledged);
}

#[test]
fn losses_are_seen_where_there_are_some() {
    let count = |losses: Losses| {
        let promise = losses.promise();
        let taken = (0..50).map(|seed| taken(&simulate(seed, losses), &promise));
        taken
            .map(|taken| (taken.marks, taken.events))
            .reduce(|a, b| (a.0 + b.0, a.1 + b.1))
            .unwrap()
    };
    assert_eq!(count(Losses::None), (0, 0));
    assert_eq!(count(Losses::Unacknowledged), (0, 0));
    let (marks, events) = count(Losses::Total);
    assert!(marks > 500 && events > 500, "{marks} {events}");
    let (marks, events) = count(Losses::Partial);
    assert!(marks > 0 && events >= marks, "{marks} {events}");
}

/// What only losses explain is a violation where they are not promised.
#[test]
fn losses_that_are_not_promised_are_found() {
    let promise = Losses::None.promise();
    let found =
        (0..100).filter(|&seed| !judge(&simulate(seed, Losses::Partial), &promise).is_empty());
    assert!(found.count() > 50);
}
