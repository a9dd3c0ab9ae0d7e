//! Reads cursors of all readers, and runs the scripts of operators.

use std::sync::Arc;

use redis::{Cmd, Value};

use super::AdminError;
use super::connection::{AdminConnection, Tries};
use crate::domain::{
    Conversation, CursorRecord, EntryId, ListPosition, PAGE_MAX_CURSORS, RateLimit, ReadCursor,
    ReadOutcome, UserId,
};
use crate::store::redis::connection::layout::{self, Layout, placement, placement_before_move};
use crate::store::redis::errors::is_layout_change;
use crate::store::redis::keys::Keys;
use crate::store::redis::placement::Placement;
use crate::store::redis::reads::{PageCall, PageReply, ReadScripts, in_order_of};
use crate::store::redis::scripts::Script;
use crate::store::redis::stream;
use crate::store::{Entries, LogBounds, StoreError, StoreErrorKind};

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
    pub(super) scripts: Arc<Scripts>,
}

/// The scripts, which all partitions share.
pub(super) struct Scripts {
    reads: ReadScripts,
    pub(super) put: Script,
    pub(super) erase_reader: Script,
    pub(super) erase_recipient: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        Self {
            // Reads take no quota.
            reads: ReadScripts::new(RateLimit { calls: 1, window_ms: 1 }),
            put: Script::put_cursors(),
            erase_reader: Script::erase_reader(),
            erase_recipient: Script::erase_recipient(),
        }
    }
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
    /// Creates it for a partition whose layout is not known yet.
    pub(super) fn new(connection: AdminConnection, keys: Keys, scripts: &Arc<Scripts>) -> Self {
        Self {
            connection,
            shared: Arc::new(Shared { keys, scripts: Arc::clone(scripts) }),
            placement: Arc::new(Placement::Plain),
            version: Placement::Plain.version(),
            accepts_moved: false,
        }
    }

    /// Works also if the cursors were moved to another Redis.
    pub(super) fn accept_moved(&mut self) {
        self.accepts_moved = true;
    }

    /// Reads the layout, and writes it if it is absent. Returns whether it was.
    pub(super) async fn create_layout(&mut self) -> Result<bool, AdminError> {
        let read = layout::check(self.connection.redis(), &self.shared.keys, None).await;
        let Layout { was_absent, placement } = read?;
        let placement = placement.map_err(AdminError::Layout)?;
        self.version = placement.version();
        self.placement = Arc::new(placement);
        Ok(was_absent)
    }

    /// Reads the bounds of the stream with the name in these keys.
    pub(super) async fn bounds(&mut self, keys: &Keys) -> Result<LogBounds, AdminError> {
        let tries = Tries::begin();
        loop {
            match stream::bounds(self.connection.redis(), keys).await {
                Err(error) if self.connection.finds_again(&error, tries).await => {}
                bounds => return Ok(bounds?),
            }
        }
    }

    /// Reads entries of that stream after an ID.
    pub(super) async fn entries(
        &mut self,
        keys: &Keys,
        after: EntryId,
        limit: usize,
    ) -> Result<Entries, AdminError> {
        let tries = Tries::begin();
        loop {
            match stream::range(self.connection.redis(), keys.stream(), after, limit).await {
                Err(error) if self.connection.finds_again(&error, tries).await => {}
                entries => return Ok(entries?),
            }
        }
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
            let tries = Tries::begin();
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
                        Err(error) if self.connection.finds_again(&error, tries).await => {
                            left.push((*reader, *position));
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
        let Shared { keys, scripts } = &*shared;
        let reads = &scripts.reads;
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
