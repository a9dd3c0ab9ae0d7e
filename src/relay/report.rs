//! Gauges that need the store: how far feeds are behind, and how many dead letters there are.

use std::collections::BTreeMap;
use std::iter::repeat;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt, iter};
use tokio::time::{Instant, timeout};

use super::Context;
use super::endpoint::Endpoint;
use super::ownership::Ownership;
use crate::domain::WebhookName;
use crate::store::relay::{FeedId, FeedLag};

/// Time between two reports.
const INTERVAL: Duration = Duration::from_secs(5);

/// Calls of the store at the same time, and the longest time of one.
const CALLS_AT_ONCE: usize = 8;
const CALL_TIMEOUT: Duration = Duration::from_secs(2);

/// The reports of a process.
pub(super) struct Reports {
    context: Arc<Context>,
    next_at: Instant,
    running: Option<BoxFuture<'static, ()>>,
}

impl Reports {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context, next_at: Instant::now(), running: None }
    }

    /// Begins a report if it is time, and none is under way.
    pub(super) fn begin(&mut self, ownership: &Ownership) {
        if self.running.is_none() && Instant::now() >= self.next_at {
            let (context, endpoints) = (Arc::clone(&self.context), ownership.endpoints());
            self.running = Some(report(context, endpoints, ownership.feeds()).boxed());
        }
    }

    /// Waits for the end of the report that is under way.
    pub(super) async fn advance(&mut self) {
        match &mut self.running {
            Some(running) => running.await,
            None => std::future::pending().await,
        }
        self.running = None;
        self.next_at = Instant::now() + INTERVAL;
    }
}

async fn report(context: Arc<Context>, endpoints: Vec<Arc<Endpoint>>, feeds: Vec<FeedId>) {
    let mut partitions: BTreeMap<usize, Vec<WebhookName>> = BTreeMap::new();
    for FeedId { webhook, partition } in feeds {
        partitions.entry(partition).or_default().push(webhook);
    }
    let lags = iter(partitions).map(|(partition, webhooks)| {
        let context = Arc::clone(&context);
        async move {
            let lags = timeout(CALL_TIMEOUT, context.store.lags(partition, &webhooks)).await;
            let lags = lags.ok().and_then(Result::ok).unwrap_or_default();
            let lags = lags.into_iter().map(Some).chain(repeat(None));
            webhooks.into_iter().zip(lags).collect::<Vec<_>>()
        }
    });
    let lags: Vec<_> = lags.buffer_unordered(CALLS_AT_ONCE).collect().await;
    let mut sums = sum(lags.into_iter().flatten().collect());
    let now_ms = (context.clock)();
    for endpoint in endpoints {
        let letters = context.store.count_dead_letters(&endpoint.name);
        if let Ok(Ok(letters)) = timeout(CALL_TIMEOUT, letters).await {
            endpoint.metrics.set_dead_letters(letters);
        }
        // If no lag is known, the gauges stay as they were.
        if let Some(lag) = sums.remove(&endpoint.name).unwrap_or(Some(FeedLag::default())) {
            let ms = lag.oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest.ms));
            endpoint.metrics.set_lag(lag.entries, Duration::from_millis(ms));
        }
    }
}

/// Sums the lags that are known, of each webhook.
fn sum(lags: Vec<(WebhookName, Option<FeedLag>)>) -> BTreeMap<WebhookName, Option<FeedLag>> {
    let mut sums: BTreeMap<_, Option<FeedLag>> = BTreeMap::new();
    for (webhook, lag) in lags {
        let sum = sums.entry(webhook).or_default();
        if let Some(lag) = lag {
            *sum = Some(add(sum.unwrap_or_default(), lag));
        }
    }
    sums
}

fn add(sum: FeedLag, lag: FeedLag) -> FeedLag {
    let oldest = match (sum.oldest, lag.oldest) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    FeedLag { entries: sum.entries.saturating_add(lag.entries), oldest }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EntryId;

    #[test]
    fn lags_are_summed_and_the_oldest_entry_counts() {
        let lag = |entries, ms: Option<u64>| FeedLag {
            entries,
            oldest: ms.map(|ms| EntryId { ms, count: 0 }),
        };
        assert_eq!(add(lag(1, Some(5)), lag(2, Some(3))), lag(3, Some(3)));
        assert_eq!(add(lag(0, None), lag(2, Some(3))), lag(2, Some(3)));
        assert_eq!(add(lag(1, Some(1)), lag(0, None)), lag(1, Some(1)));
    }

    #[test]
    fn a_partition_that_does_not_answer_leaves_the_lag_of_the_others() {
        let name = |name: &str| name.parse::<WebhookName>().unwrap();
        let lag = |entries| Some(FeedLag { entries, oldest: None });
        let lags =
            vec![(name("v"), lag(2)), (name("v"), None), (name("v"), lag(3)), (name("w"), None)];
        let sums = sum(lags);
        assert_eq!((sums[&name("v")], sums[&name("w")]), (lag(5), None));
    }
}
