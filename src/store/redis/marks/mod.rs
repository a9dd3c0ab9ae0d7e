//! Marks on their way to the script.

use self::acks::Way;
use self::script_call::TracedMark;
use super::node::Node;
use super::partitions::PartitionStore;
use super::retry::Route;
use super::store::RedisStore;
use crate::domain::{Mark, Outcome, UserId, Users};
use crate::store::{MarkResult, Marks, StoreError};
use crate::telemetry::Traceparent;

pub(crate) mod acks;
pub(crate) mod across_slots;
mod cluster_users;
pub(crate) mod group_commit;
pub(crate) mod script_call;
pub(crate) mod single_marks;
pub(crate) mod users;

#[async_trait::async_trait]
impl Marks for RedisStore {
    /// The mark may share its script call with others.
    async fn mark_read(&self, mark: Mark, traceparent: Option<Traceparent>) -> MarkResult {
        if let Some(denial) = self.cached_denial(&mark) {
            return Ok(denial);
        }
        let partition = self.partition(mark.reader);
        if self.fails_over() {
            // Boxed: it is larger than the call on one Redis.
            return Box::pin(self.mark_by_route(partition, mark, traceparent)).await;
        }
        let node = partition.node()?;
        let _permit = node.permit()?;
        let users = match self.users.cached(&mark) {
            Some(users) => users,
            // Boxed: most users are cached, and the read's future would enlarge every call's.
            None => Box::pin(self.read_users_at(&node, &[mark])).await?,
        };
        let _timing = self.timers.mark_read.start();
        let call = node.group_commit()?.mark(TracedMark { mark, traceparent }, users);
        self.spans.script("mark_read", 1).record(call).await
    }

    /// The marks are of one caller, and go in one script call.
    async fn mark_read_all(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let mut results: Vec<Option<MarkResult>> =
            marks.iter().map(|mark| self.cached_denial(mark).map(Ok)).collect();
        let open: Vec<Mark> = marks
            .iter()
            .zip(&results)
            .filter_map(|(mark, known)| known.is_none().then_some(*mark))
            .collect();
        if !open.is_empty() {
            let mut answers = self.mark_batch(&open, traceparent).await?.into_iter();
            for result in results.iter_mut().filter(|result| result.is_none()) {
                *result = answers.next();
            }
        }
        let missing = || Err(StoreError::missing_result());
        Ok(results.into_iter().map(|result| result.unwrap_or_else(missing)).collect())
    }

    fn denies_marks(&self, reader: UserId) -> bool {
        self.shared.denials.get(reader).is_some()
    }
}

impl RedisStore {
    /// Makes all marks go by `mark_read.lua`, as rare ones do, so that tests compare both ways.
    #[doc(hidden)]
    pub fn use_full_script_only(&self) {
        for node in self.shared.partitions.all().iter().filter_map(|one| one.node().ok()) {
            node.use_full_script_only();
        }
    }

    /// Makes each call have marks of one partition, whose keys it declares, so that benches compare both ways.
    #[doc(hidden)]
    pub fn use_declared_keys_only(&self) {
        for node in self.shared.partitions.all().iter().filter_map(|one| one.node().ok()) {
            node.use_declared_keys_only();
        }
    }

    fn cached_denial(&self, mark: &Mark) -> Option<Outcome> {
        let (quota, retry_after) = self.shared.denials.get(mark.reader)?;
        Some(Outcome::OverQuota { quota, retry_after })
    }

    /// Reads the users of marks of this partition.
    async fn read_users(
        &self,
        partition: &PartitionStore,
        marks: &[Mark],
    ) -> Result<Users, StoreError> {
        let mut route = self.route(partition).await?;
        loop {
            let read = self.read_users_at(&route.node, marks).await;
            if !route.is_to_be_sent_again(&read).await {
                return read;
            }
        }
    }

    /// Reads them from the marks' node, or in a cluster from all that have some.
    async fn read_users_at(&self, node: &Node, marks: &[Mark]) -> Result<Users, StoreError> {
        let mut users = self.users.look_up(marks);
        let unknown = users.unknown();
        if let (Some(cluster), Some(_)) = (&self.cluster, unknown.first()) {
            users.fill(self.read_users_of_cluster(cluster, &unknown).await);
        } else if let Some(first) = unknown.first() {
            let keys = &self.partition(*first).keys;
            let mut connection = node.connections().calls()?;
            let read = self.users.read(&unknown, keys, Way::Plain, &mut connection).await?;
            users.fill(read.into_iter().collect::<Result<_, _>>()?);
        }
        Ok(users.known())
    }

    /// Marks at the node that has the partition. If it provably did not run the mark, it is sent again.
    async fn mark_by_route(
        &self,
        partition: &PartitionStore,
        mark: Mark,
        traceparent: Option<Traceparent>,
    ) -> MarkResult {
        // Other nodes may be slow to say their users: that takes no room of this one.
        let users = match self.users.cached(&mark) {
            Some(users) => users,
            None => self.read_users(partition, &[mark]).await?,
        };
        let _timing = self.timers.mark_read.start();
        let traced = TracedMark { mark, traceparent };
        let call = async {
            let mut route = self.route(partition).await?;
            loop {
                let marked = mark_at(&route, traced, &users).await;
                if !route.is_to_be_sent_again(&marked).await {
                    return marked;
                }
            }
        };
        self.spans.script("mark_read", 1).record(call).await
    }

    async fn mark_batch(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let Some(first) = marks.first() else { return Ok(Vec::new()) };
        let partition = self.partition(first.reader);
        let mut route = self.route(partition).await?;
        let users = self.read_users(partition, marks).await?;
        let _timing = self.timers.mark_read.start();
        let traced: Vec<_> = marks.iter().map(|&mark| TracedMark { mark, traceparent }).collect();
        let call = async {
            loop {
                let marked = self.batch_at(&route, &traced, &users).await;
                if !route.is_to_be_sent_again(&marked).await {
                    return marked;
                }
            }
        };
        let span = self.spans.script("mark_read", marks.len());
        span.record_many(call, |results| results.iter().find_map(|result| result.as_ref().err()))
            .await
    }

    async fn batch_at(
        &self,
        route: &Route<'_>,
        marks: &[TracedMark],
        users: &Users,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let _permit = route.node.pass_batch(marks.len()).await?;
        let results = route.node.group_commit()?.run_script(route.way, marks, users).await?;
        // A node that ceased to be a master refuses each mark for itself. If all are, none was run.
        let refused: Vec<_> = results
            .iter()
            .map_while(|result| result.as_ref().err())
            .filter(|error| self.retries_at(error).is_some())
            .collect();
        match refused.first() {
            Some(first) if refused.len() == results.len() => Err((*first).clone()),
            _ => Ok(results),
        }
    }
}

async fn mark_at(route: &Route<'_>, mark: TracedMark, users: &Users) -> MarkResult {
    let _permit = route.node.permit()?;
    let group_commit = route.node.group_commit()?;
    match route.way {
        Way::Plain => group_commit.mark(mark, users.clone()).await,
        Way::Asking => {
            let mut results = group_commit.run_script(Way::Asking, &[mark], users).await?;
            results.pop().unwrap_or_else(|| Err(StoreError::missing_result()))
        }
    }
}
