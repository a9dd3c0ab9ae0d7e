//! Marks on their way to the script.

use self::script_call::TracedMark;
use super::store::RedisStore;
use crate::domain::{Mark, Outcome, UserId, Users};
use crate::store::{MarkResult, Marks, StoreError};
use crate::telemetry::Traceparent;

pub(crate) mod group_commit;
mod replicas;
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
        let _permit = self.permit()?;
        let users = match self.users.cached(&mark) {
            Some(users) => users,
            // Boxed: most users are cached, and the read's future would enlarge every call's.
            None => Box::pin(self.read_users(&[mark])).await?,
        };
        let _timing = self.timers.mark_read.start();
        let partition = self.partitions.for_reader(mark.reader);
        let call = partition.group_commit()?.mark(TracedMark { mark, traceparent }, users);
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
        self.denials.get(reader).is_some()
    }
}

impl RedisStore {
    /// Makes all marks go by `mark_read.lua`, as rare ones do, so that tests compare both ways.
    #[doc(hidden)]
    pub fn use_full_script_only(&self) {
        for group_commit in &self.partitions.only().group_commits {
            group_commit.use_full_script_only();
        }
    }

    fn cached_denial(&self, mark: &Mark) -> Option<Outcome> {
        let (quota, retry_after) = self.denials.get(mark.reader)?;
        Some(Outcome::OverQuota { quota, retry_after })
    }

    async fn read_users(&self, marks: &[Mark]) -> Result<Users, StoreError> {
        let Some(first) = marks.first() else { return Ok(Users::default()) };
        let partition = self.partitions.for_reader(first.reader);
        self.users.get(marks, &partition.keys, &mut partition.connections.calls()?).await
    }

    async fn mark_batch(
        &self,
        marks: &[Mark],
        traceparent: Option<Traceparent>,
    ) -> Result<Vec<MarkResult>, StoreError> {
        let Some(first) = marks.first() else { return Ok(Vec::new()) };
        let _permit = self.permit()?;
        let users = self.read_users(marks).await?;
        let _timing = self.timers.mark_read.start();
        let traced: Vec<_> = marks.iter().map(|&mark| TracedMark { mark, traceparent }).collect();
        let group_commit = self.partitions.for_reader(first.reader).group_commit()?;
        let call = group_commit.run_script(&traced, &users);
        let span = self.spans.script("mark_read", marks.len());
        span.record_many(call, |results| results.iter().find_map(|result| result.as_ref().err()))
            .await
    }
}
