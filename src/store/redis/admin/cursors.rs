//! Reads cursors of all readers, and runs the scripts of operators.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::AdminError;
use super::connection::{AdminConnection, Readers};
use crate::domain::{
    Conversation, CursorRecord, ListPosition, PAGE_MAX_CURSORS, RateLimit, ReadCursor, ReadOutcome,
    UserId,
};
use crate::store::redis::connection::layout::{self, Layout, placement, placement_before_move};
use crate::store::redis::connection::mode::RedisMode;
use crate::store::redis::errors::is_layout_change;
use crate::store::redis::keys::{Keys, Partition};
use crate::store::redis::placement::Placement;
use crate::store::redis::reads::{PageCall, PageReply, ReadScripts, in_order_of};
use crate::store::redis::scripts::Script;
use crate::store::{StoreError, StoreErrorKind};

/// How often a call, or the calls of one pipeline, are sent again since the layout has changed.
const LAYOUT_ATTEMPTS: usize = 5;

/// Readers whose pages are read in one pipeline: at most a few MB.
pub(super) const READERS_AT_ONCE: usize = 32;

/// Reads and changes cursors in one Redis.
#[derive(Clone)]
pub struct CursorAdmin {
    pub(super) connection: AdminConnection,
    pub(super) shared: Arc<Shared>,
    /// What the layout named when it was read last.
    pub(super) placement: Arc<Placement>,
    /// The layout's version at that time.
    pub(super) version: &'static str,
    /// Whether it also works on a Redis whose cursors were moved to another one.
    accepts_moved: bool,
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
    pub async fn connect(mode: &RedisMode, stream: &str) -> Result<Self, AdminError> {
        let mut admin = Self::connect_only(mode, stream).await?;
        admin.read_layout().await?;
        Ok(admin)
    }

    /// The same, also if the cursors were moved to another Redis.
    pub(super) async fn connect_to_move(
        mode: &RedisMode,
        stream: &str,
    ) -> Result<Self, AdminError> {
        let mut admin = Self::connect_only(mode, stream).await?;
        admin.accepts_moved = true;
        admin.read_layout().await?;
        Ok(admin)
    }

    /// Connects, and writes the layout if it is absent. Returns also whether it was.
    ///
    /// # Errors
    ///
    /// [`AdminError`].
    pub async fn connect_or_create(mode: &RedisMode) -> Result<(Self, bool), AdminError> {
        let mut admin = Self::connect_only(mode, "").await?;
        let read = layout::check(admin.connection.redis(), &admin.shared.keys, None).await;
        let Layout { was_absent, placement } = read?;
        let placement = placement.map_err(AdminError::Layout)?;
        admin.version = placement.version();
        admin.placement = Arc::new(placement);
        Ok((admin, was_absent))
    }

    async fn connect_only(mode: &RedisMode, stream: &str) -> Result<Self, AdminError> {
        // The prefix of user objects does not matter here, and reads take no quota.
        let keys = Keys::new(Partition::Only, stream, "");
        let connection = AdminConnection::connect(mode, &keys).await?;
        let reads = ReadScripts::new(RateLimit { calls: 1, window_ms: 1 });
        let shared = Shared {
            keys,
            reads,
            put: Script::put_cursors(),
            erase_reader: Script::erase_reader(),
            erase_recipient: Script::erase_recipient(),
        };
        Ok(Self {
            connection,
            shared: Arc::new(shared),
            placement: Arc::new(Placement::Plain),
            version: Placement::Plain.version(),
            accepts_moved: false,
        })
    }

    /// Reads the layout again. One that is absent is not written: whatever was there is gone.
    pub(super) async fn read_layout(&mut self) -> Result<(), AdminError> {
        let fields = self.connection.layout_fields(&self.shared.keys).await?;
        let count = self.shared.keys.partition().count();
        let read = if self.accepts_moved {
            placement_before_move(fields, count)
        } else {
            placement(fields, count).map(|placement| (placement.clone(), placement.version()))
        };
        let (placement, version) = read.map_err(AdminError::Layout)?;
        self.placement = Arc::new(placement);
        self.version = version;
        Ok(())
    }

    /// Does one step of SCAN over the readers who have cursors.
    ///
    /// # Errors
    ///
    /// [`AdminError::Failed`].
    pub async fn readers(&mut self, from: u64) -> Result<Readers, AdminError> {
        Ok(self.connection.readers(&self.shared.keys, from).await?)
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
                let mut changed = None;
                for ((reader, position), page) in open.iter().zip(self.pages(&open).await?) {
                    if is_layout_change(&page) {
                        changed = page.err();
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
                if let Some(error) = changed {
                    attempts.next().ok_or(error)?;
                    self.read_layout().await?;
                }
                open = left;
            }
        }
        Ok(problems)
    }

    /// Reads a page of each reader, in one pipeline.
    async fn pages(
        &mut self,
        open: &[(UserId, ListPosition)],
    ) -> Result<Vec<Result<PageReply, StoreError>>, AdminError> {
        let shared = Arc::clone(&self.shared);
        let Shared { keys, reads, .. } = &*shared;
        let pages: Vec<_> = open
            .iter()
            .map(|(caller, position)| PageCall {
                caller: *caller,
                version: self.version,
                position: in_order_of(&self.placement, *position),
                limit: PAGE_MAX_CURSORS,
                is_free: true,
            })
            .collect();
        let fill = |call: Cmd, page: &PageCall| reads.fill_list(call, keys, &self.placement, page);
        let replies = self.connection.run_all(&reads.list, &pages, fill).await?;
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

    /// Runs a script. A call that was not run, since the layout had changed, is sent again.
    pub(super) async fn run(
        &mut self,
        script: &Script,
        fill: impl Fn(Cmd, &str) -> Cmd,
    ) -> Result<Value, AdminError> {
        let mut attempts = 0..LAYOUT_ATTEMPTS;
        loop {
            let version = self.version;
            let reply = self.connection.run(script, |call| fill(call, version)).await;
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
