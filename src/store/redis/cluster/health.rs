//! The health of a cluster: it is ready as long as any partition is served.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::Cluster;
use crate::store::StoreHealth;
use crate::store::redis::partitions::PartitionStore;
use crate::telemetry::{LogThrottle, metrics};

/// Longest time between two looks at the partitions.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long partitions are not served before the log says so.
const LOG_AFTER: Duration = Duration::from_millis(900);

impl Cluster {
    /// Returns whether all partitions are served.
    pub(super) fn is_served(&self) -> bool {
        self.shared.partitions.all().iter().all(|partition| problem(partition).is_none())
    }

    /// Reports the health, for ever.
    pub(super) async fn report_health(&self) -> Infallible {
        let mut log = OutageLog::default();
        loop {
            self.report(&mut log);
            if let Some(changes) = &self.shared.changes {
                let _ = timeout(INTERVAL, changes.health.notified()).await;
            }
        }
    }

    fn report(&self, log: &mut OutageLog) {
        let partitions = self.shared.partitions.all();
        let mut unserved = BTreeMap::<String, Vec<usize>>::new();
        for partition in partitions {
            if let Some(cause) = problem(partition) {
                unserved.entry(cause).or_default().push(partition.number);
            }
        }
        let count: usize = unserved.values().map(Vec::len).sum();
        let text = describe(&unserved);
        metrics::set_partitions_unserved(count);
        log.note(&text);
        let health = if count == partitions.len() {
            StoreHealth::Away(text)
        } else {
            let mut warnings = self.warnings();
            metrics::set_store_warnings(warnings.len());
            if count > 0 {
                warnings.push(Cow::Owned(text));
            }
            StoreHealth::Ready { warnings }
        };
        self.health.send_if_modified(|known| {
            let changed = *known != health;
            *known = health;
            changed
        });
    }

    /// The warnings of all nodes, each once.
    fn warnings(&self) -> Vec<Cow<'static, str>> {
        let mut all = Vec::new();
        for node in self.all_nodes() {
            if let StoreHealth::Ready { warnings } = &*node.connections().health().borrow() {
                let new: Vec<_> =
                    warnings.iter().filter(|warning| !all.contains(*warning)).cloned().collect();
                all.extend(new);
            }
        }
        all
    }
}

/// Logs which partitions are not served.
#[derive(Default)]
struct OutageLog {
    since: Option<Instant>,
    logged: String,
    /// Of changes within an outage.
    changes: LogThrottle,
}

impl OutageLog {
    /// Notes which partitions are not served. What lasts no longer than a failover between two probes is not
    /// logged.
    fn note(&mut self, text: &str) {
        if text.is_empty() {
            self.since = None;
            if !std::mem::take(&mut self.logged).is_empty() {
                tracing::info!("all partitions are served");
            }
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_new =
            self.logged.is_empty() || self.logged != text && self.changes.permit().is_some();
        if is_new && since.elapsed() >= LOG_AFTER {
            tracing::warn!(cause = ?text, "partitions are not served");
            text.clone_into(&mut self.logged);
        }
    }
}

/// Returns why a partition is not served, if it is not.
fn problem(partition: &Arc<PartitionStore>) -> Option<String> {
    let not_yet = || partition.trouble().unwrap_or_else(|| "not connected yet".to_owned());
    let Some(node) = partition.assigned() else { return Some(not_yet()) };
    let health = node.connections().health().borrow().clone();
    match health {
        StoreHealth::Away(cause) => Some(format!("{}: {cause}", node.parts.name)),
        StoreHealth::Ready { .. } if partition.node().is_err() => Some(not_yet()),
        StoreHealth::Ready { .. } => partition.trouble(),
    }
}

/// Names the partitions by the causes: `partitions 0-3 7 are not served: …`.
fn describe(unserved: &BTreeMap<String, Vec<usize>>) -> String {
    let of_cause = |(cause, numbers): (&String, &Vec<usize>)| {
        let (noun, verb) =
            if numbers.len() == 1 { ("partition", "is") } else { ("partitions", "are") };
        format!("{noun} {} {verb} not served: {cause}", ranges(numbers))
    };
    unserved.iter().map(of_cause).collect::<Vec<_>>().join("; ")
}

/// Writes ascending numbers as ranges.
fn ranges(numbers: &[usize]) -> String {
    let chunks = numbers.chunk_by(|one, next| one + 1 == *next);
    let texts = chunks.filter_map(|chunk| match chunk {
        [] => None,
        [only] => Some(only.to_string()),
        [first, .., last] => Some(format!("{first}-{last}")),
    });
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_that_are_not_served_are_named_by_cause() {
        let unserved = BTreeMap::from([
            ("10.0.0.1:6379: a probe timed out".to_owned(), vec![0, 1, 2, 7]),
            ("no node of the cluster has its slot".to_owned(), vec![9]),
        ]);
        assert_eq!(
            describe(&unserved),
            "partitions 0-2 7 are not served: 10.0.0.1:6379: a probe timed out; partition 9 is not \
             served: no node of the cluster has its slot"
        );
        assert_eq!(describe(&BTreeMap::new()), "");
    }
}
