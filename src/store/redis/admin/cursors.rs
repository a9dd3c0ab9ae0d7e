//! Reads cursors of all readers, and runs the scripts of operators.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, RedisResult, Value, cmd, pipe};

use super::{AdminError, SCAN_COUNT, layout_fields};
use crate::domain::{
    Conversation, CursorRecord, ListPosition, PAGE_MAX_CURSORS, RateLimit, ReadCursor, ReadOutcome,
    UserId,
};
use crate::store::redis::connection::address::RedisAddress;
use crate::store::redis::connection::layout::{self, Layout, placement};
use crate::store::redis::errors::{classify, is_layout_change, lost_script};
use crate::store::redis::keys::{Keys, Partition};
use crate::store::redis::placement::Placement;
use crate::store::redis::reads::{PageCall, PageReply, ReadScripts, in_order_of};
use crate::store::redis::scripts::Script;
use crate::store::{StoreError, StoreErrorKind};

/// How long Redis may take over one command.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a call is sent again since the layout has changed.
const LAYOUT_ATTEMPTS: usize = 5;

/// Readers whose pages are read in one pipeline: at most a few MB.
const READERS_AT_ONCE: usize = 32;

/// Reads and changes cursors in one Redis.
#[derive(Clone)]
pub struct CursorAdmin {
    pub(super) connection: MultiplexedConnection,
    pub(super) shared: Arc<Shared>,
    /// What the layout named when it was read last.
    pub(super) placement: Arc<Placement>,
}

/// What all calls share.
pub(super) struct Shared {
    pub(super) keys: Keys,
    reads: ReadScripts,
    pub(super) put: Script,
    pub(super) erase_reader: Script,
    pub(super) erase_recipient: Script,
}

impl std::fmt::Debug for CursorAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CursorAdmin").finish_non_exhaustive()
    }
}

/// Readers that one step of SCAN has found.
#[derive(Debug)]
pub struct Readers {
    /// Each of them once.
    pub readers: Vec<UserId>,
    /// Where the next step begins; 0 if this was the last one.
    pub next: u64,
}

/// A reader whose cursors could not be read.
#[derive(Debug)]
pub struct ReaderProblem {
    /// The reader.
    pub reader: UserId,
    /// Why.
    pub problem: String,
}

impl CursorAdmin {
    /// Connects to a Redis that has a layout, and whose stream of events has this name.
    ///
    /// # Errors
    ///
    /// [`AdminError`]; nothing was written.
    pub async fn connect(address: &RedisAddress, stream: &str) -> Result<Self, AdminError> {
        let mut admin = Self::connect_only(address, stream).await?;
        admin.read_layout().await?;
        Ok(admin)
    }

    /// Connects, and writes the layout if it is absent. Returns also whether it was.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn connect_or_create(address: &RedisAddress) -> Result<(Self, bool), AdminError> {
        let mut admin = Self::connect_only(address, "").await?;
        let read = layout::check(&mut admin.connection, &admin.shared.keys, None).await;
        let Layout { was_absent, placement } = read?;
        admin.placement = Arc::new(placement.map_err(AdminError::Layout)?);
        Ok((admin, was_absent))
    }

    async fn connect_only(address: &RedisAddress, stream: &str) -> Result<Self, AdminError> {
        let client = address.client().map_err(AdminError::Failed)?;
        let config =
            redis::AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        // The prefix of user objects does not matter here, and reads take no quota.
        let keys = Keys::new(Partition::Only, stream.to_owned(), String::new());
        let reads = ReadScripts::new(RateLimit { calls: 1, window_ms: 1 });
        let shared = Shared {
            keys,
            reads,
            put: Script::put_cursors(),
            erase_reader: Script::erase_reader(),
            erase_recipient: Script::erase_recipient(),
        };
        Ok(Self { connection, shared: Arc::new(shared), placement: Arc::new(Placement::Plain) })
    }

    /// Reads the layout again. One that is absent is not written: whatever was there is gone.
    async fn read_layout(&mut self) -> Result<(), AdminError> {
        let fields = layout_fields(&mut self.connection, &self.shared.keys).await?;
        self.placement = Arc::new(placement(fields).map_err(AdminError::Layout)?);
        Ok(())
    }

    /// Does one step of SCAN over the readers who have cursors.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`].
    pub async fn readers(&mut self, from: u64) -> Result<Readers, AdminError> {
        let prefix = self.shared.keys.cursors_prefix();
        let (next, keys) = self.scan(from, &format!("{prefix}*"), "hash").await?;
        // A bucket's key has more than the reader behind the prefix.
        let reader = |key: &String| key.strip_prefix(&prefix)?.parse::<UserId>().ok();
        let mut readers: Vec<_> = keys.iter().filter_map(reader).collect();
        readers.sort_unstable();
        readers.dedup();
        Ok(Readers { readers, next })
    }

    pub(super) async fn scan(
        &mut self,
        from: u64,
        pattern: &str,
        kind: &str,
    ) -> RedisResult<(u64, Vec<String>)> {
        let mut step = cmd("SCAN");
        step.arg(from).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
        step.arg("TYPE").arg(kind);
        step.query_async(&mut self.connection).await
    }

    /// Reads all cursors of some readers, a page of each at a time, and passes each page on. If a
    /// reader's cursors are being moved, they are moved first. Returns the readers whose cursors cannot
    /// be read.
    ///
    /// # Errors
    ///
    /// [`AdminError`], or that of `write`.
    pub async fn read_all(
        &mut self,
        readers: &[UserId],
        mut write: impl AsyncFnMut(&[CursorRecord]) -> Result<(), AdminError>,
    ) -> Result<Vec<ReaderProblem>, AdminError> {
        let mut problems = Vec::new();
        for readers in readers.chunks(READERS_AT_ONCE) {
            let beginning = ListPosition::beginning(self.placement.order());
            let mut open: Vec<_> = readers.iter().map(|reader| (*reader, beginning)).collect();
            let mut attempts = 0..LAYOUT_ATTEMPTS;
            while !open.is_empty() {
                let mut left = Vec::new();
                let mut is_changed = false;
                for ((reader, position), page) in open.iter().zip(self.pages(&open).await?) {
                    if is_layout_change(&page) && attempts.next().is_some() {
                        is_changed = true;
                        left.push((*reader, *position));
                        continue;
                    }
                    match page {
                        Ok(PageReply::Moving) => left.push((*reader, *position)),
                        Ok(PageReply::Page(page)) => {
                            left.extend(page.next.map(|next| (*reader, next)));
                            write(&records(*reader, &page.cursors)).await?;
                        }
                        Err(error) if error.kind == StoreErrorKind::Corrupt => {
                            let problem = error.to_string();
                            problems.push(ReaderProblem { reader: *reader, problem });
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                if is_changed {
                    self.read_layout().await?;
                }
                open = left;
            }
        }
        Ok(problems)
    }

    /// Reads a page of each reader, in one pipeline.
    async fn pages(
        &self,
        open: &[(UserId, ListPosition)],
    ) -> Result<Vec<Result<PageReply, StoreError>>, AdminError> {
        let Shared { keys, reads, .. } = &*self.shared;
        let pages: Vec<_> = open
            .iter()
            .map(|(caller, position)| PageCall {
                caller: *caller,
                position: in_order_of(&self.placement, *position),
                limit: PAGE_MAX_CURSORS,
                is_free: true,
            })
            .collect();
        let fill = |call: Cmd, page: &PageCall| reads.fill_list(call, keys, &self.placement, page);
        let replies = self.run_all(&reads.list, &pages, fill).await?;
        let parse = |(page, reply)| {
            let parsed = reads.parse_page(&self.placement, page, reply);
            match parsed.map_err(|error| reads.list.locate(error))? {
                ReadOutcome::Served { read, .. } => Ok(read),
                ReadOutcome::OverQuota { .. } => {
                    Err(StoreError::corrupt("a read without a quota was refused for it"))
                }
            }
        };
        Ok(pages.iter().zip(&replies).map(parse).collect())
    }

    /// Runs a script once for each item, in one pipeline.
    async fn run_all<T>(
        &self,
        script: &Script,
        items: &[T],
        fill: impl Fn(Cmd, &T) -> Cmd,
    ) -> Result<Vec<Value>, StoreError> {
        let calls = |call: fn(&Script) -> Cmd| {
            let mut calls = pipe();
            for item in items {
                calls.add_command(fill(call(script), item));
            }
            calls
        };
        let connection = &mut self.connection.clone();
        let replies: Result<Vec<Value>, RedisError> =
            calls(Script::by_digest).query_async(connection).await;
        let replies = match replies {
            Err(error) if lost_script(&error) => {
                calls(Script::by_source).query_async(connection).await
            }
            replies => replies,
        };
        let replies = replies.map_err(|error| script.locate(classify(error)))?;
        if replies.len() != items.len() {
            return Err(StoreError::corrupt("a pipeline has another number of replies"));
        }
        Ok(replies)
    }

    /// Runs a script. A call that was not run, since the layout had changed, is sent again.
    pub(super) async fn run(
        &mut self,
        script: &Script,
        fill: impl Fn(Cmd, &str) -> Cmd,
    ) -> Result<Value, AdminError> {
        let mut attempts = 0..LAYOUT_ATTEMPTS;
        loop {
            let version = self.placement.version();
            let call = |call| fill(call, version);
            let reply: RedisResult<Value> =
                match call(script.by_digest()).query_async(&mut self.connection).await {
                    Err(error) if lost_script(&error) => {
                        call(script.by_source()).query_async(&mut self.connection).await
                    }
                    sent => sent,
                };
            let reply = reply.map_err(|error| script.locate(classify(error)));
            if !is_layout_change(&reply) || attempts.next().is_none() {
                return Ok(reply?);
            }
            self.read_layout().await?;
        }
    }
}

fn records(reader: UserId, cursors: &[ReadCursor]) -> Vec<CursorRecord> {
    let record = |cursor: &ReadCursor| CursorRecord {
        conversation: Conversation { reader, recipient: cursor.recipient },
        last_read_event_id: cursor.last_read_event_id,
        read_at_ms: Some(cursor.read_at_ms),
    };
    cursors.iter().map(record).collect()
}
