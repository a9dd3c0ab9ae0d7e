//! How long clients waited for an acknowledgement.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::history::{History, Moment, Operation, Outcome};

/// Returns the longest outage, and the longest one by the kinds of the faults that it overlaps.
///
/// A client's outage is from the begin of a call to the end of the first one from it on that was acknowledged, be it the
/// same one. Calls that were refused count for nothing: they were answered, and would have been without a fault.
pub(super) fn longest(history: &History) -> (Duration, BTreeMap<String, Duration>) {
    let mut clients: BTreeMap<usize, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        clients.entry(operation.client).or_default().push(operation);
    }
    let mut longest = Duration::ZERO;
    let mut kinds: BTreeMap<String, Duration> = BTreeMap::new();
    for (from, to) in clients.into_values().flat_map(of_client) {
        let outage = to.saturating_sub(from);
        longest = longest.max(outage);
        for fault in history.faults.iter().filter(|fault| fault.from <= to && fault.to >= from) {
            let kind = kinds.entry(fault.kind.clone()).or_default();
            *kind = outage.max(*kind);
        }
    }
    (longest, kinds)
}

fn of_client(mut operations: Vec<&Operation>) -> Vec<(Moment, Moment)> {
    operations.sort_by_key(|operation| (operation.began, operation.ended));
    let mut outages = Vec::new();
    let mut open: Option<(Moment, Moment)> = None;
    for operation in operations {
        let (from, to) = open.unwrap_or((operation.began, operation.ended));
        let span = (from, to.max(operation.ended));
        match operation.outcome {
            Outcome::Refused(_) => {}
            Outcome::Unknown(_) => open = Some(span),
            Outcome::Marked { .. } | Outcome::Read(_) => {
                outages.push(span);
                open = None;
            }
        }
    }
    outages.extend(open);
    outages
}
