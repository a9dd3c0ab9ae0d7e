//! Replacements of single connections, while the others stay in use.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, sleep_until, timeout};

use super::failure::Failure;
use super::link::{Connect, Link, Role, runtime_of};
use super::supervisor::{CONNECT_TIMEOUT, RECONNECT_MS, connecting_timed_out};
use crate::chance::random_range;
use crate::net::workers::Workers;
use crate::store::redis::parts::NodeParts;
use crate::telemetry::LogThrottle;

/// Opens connections beside the ones in use, each for one role. What is under way ends when it is dropped.
pub(super) struct Replacements<C> {
    connect: Arc<C>,
    workers: Workers,
    losses: Arc<Notify>,
    parts: NodeParts,
    opening: JoinSet<Replacement>,
    progress: HashMap<Role, Progress>,
    loss_log: LogThrottle,
}

/// A new connection for a role, or why there is none.
pub(super) type Replacement = (Role, Result<Link, Failure>);

/// Attempts to replace the connection of one role.
#[derive(Default)]
struct Progress {
    /// The task of the attempt that is under way.
    task: Option<Id>,
    has_failed: bool,
    /// When another attempt may begin.
    not_before: Option<Instant>,
}

impl<C: Connect> Replacements<C> {
    pub(super) fn new(
        connect: Arc<C>,
        workers: Workers,
        losses: Arc<Notify>,
        parts: NodeParts,
    ) -> Self {
        let opening = JoinSet::new();
        let (progress, loss_log) = Default::default();
        Self { connect, workers, losses, parts, opening, progress, loss_log }
    }

    /// Starts to open a connection for a role, unless that is under way. The first attempt begins at once:
    /// a connection that ends alone tells nothing about the other servers of this Redis.
    pub(super) fn start(&mut self, role: Role) {
        let progress = self.progress(role);
        if progress.task.is_some() {
            return;
        }
        let is_first = !progress.has_failed;
        let begin = progress.not_before.unwrap_or_else(Instant::now).max(Instant::now());
        let pause = Duration::from_millis(random_range(RECONNECT_MS));
        progress.not_before = Some(begin + pause);
        let (connect, losses) = (Arc::clone(&self.connect), Arc::clone(&self.losses));
        let tracked = self.parts.tracked_by(role);
        let opening = async move {
            sleep_until(begin).await;
            let open = async {
                let client = connect.client().map_err(Failure::NoAnswer)?;
                Link::open::<C>(&client, &losses, tracked).await
            };
            let opened = timeout(CONNECT_TIMEOUT, open).await;
            (role, opened.unwrap_or_else(|_| Err(connecting_timed_out())))
        };
        let task = self.opening.spawn_on(opening, &runtime_of(role, &self.workers));
        self.progress(role).task = Some(task.id());
        if is_first && let Some(suppressed) = self.loss_log.permit() {
            let connection = role.name();
            tracing::info!(connection, suppressed, "a connection to Redis ended, and is replaced");
        }
    }

    /// Returns the next connection that was opened, or could not be.
    pub(super) async fn next(&mut self) -> Replacement {
        loop {
            match self.opening.join_next().await {
                Some(Ok((role, opened))) => {
                    self.progress(role).task = None;
                    return (role, opened);
                }
                Some(Err(panicked)) => {
                    let mut progress = self.progress.iter();
                    let ended = progress.find(|(_, known)| known.task == Some(panicked.id()));
                    if let Some((&role, _)) = ended {
                        self.progress(role).task = None;
                        return (role, Err(Failure::NoAnswer(panicked.to_string())));
                    }
                }
                None => pending().await,
            }
        }
    }

    /// Notes that a connection is replaced.
    pub(super) fn note_success(&mut self, role: Role) {
        if std::mem::take(&mut self.progress(role).has_failed) {
            tracing::info!(connection = role.name(), "the connection to Redis is replaced");
        }
    }

    /// Notes that a connection could not be replaced.
    pub(super) fn note_failure(&mut self, role: Role, cause: &str) {
        if !std::mem::replace(&mut self.progress(role).has_failed, true) {
            let connection = role.name();
            tracing::warn!(connection, ?cause, "a lost connection to Redis cannot be replaced yet");
        }
    }

    fn progress(&mut self, role: Role) -> &mut Progress {
        self.progress.entry(role).or_default()
    }
}
