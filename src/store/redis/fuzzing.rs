//! What `tests/fuzz` reaches of the store: replies of Redis, of its scripts, of clusters and of Sentinels.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use redis::{Value, from_redis_value};

use super::admin::put;
use super::cluster::redirect::NotRun;
use super::cluster::topology::{Address, Topology, View};
use super::errors::classify_text;
use super::marks::script_call::{MarkReadScript, TracedMark};
use super::nonces::NonceScript;
use super::placement::Placement;
use super::reads::{PageCall, ReadScripts, parse_move};
use super::relay::{entries, leases, parse_letters, processes, state};
use super::stream_limit::StreamLimit;
use super::{PutOutcome, sentinel, stream};
use crate::domain::{
    Conversation, EntryId, ListOrder, ListPosition, Mark, RateLimit, ReadCursor, ReadOutcome,
    UserId,
};
use crate::store::relay::{FeedEntry, RelayProcess, StoredLetter, WebhookState};
use crate::store::{Entries, LogBounds, MarkResult, StoreError};

/// The quota in replies.
pub const RATE_LIMIT: RateLimit = RateLimit { calls: 300, window_ms: 900_000 };

/// Entries of the stream, as `XRANGE` returns them.
///
/// # Errors
///
/// If the reply is malformed.
pub fn stream_entries(entries: &[Value]) -> Result<Entries, StoreError> {
    stream::parse(entries)
}

/// The span of the stream, and which of some entries are in their place.
///
/// # Errors
///
/// If the reply is malformed.
pub fn stream_span(
    reply: &Value,
    entries: &[EntryId],
) -> Result<(LogBounds, Vec<EntryId>), StoreError> {
    stream::parse_span(reply, entries).map(|(span, present)| (span.bounds, present))
}

/// The results of marks, and the places of rare ones.
///
/// # Errors
///
/// If the reply is malformed.
pub fn marks(marks: &[Mark], reply: &Value) -> Result<(Vec<MarkResult>, Vec<usize>), StoreError> {
    static SCRIPT: LazyLock<MarkReadScript> = LazyLock::new(|| {
        let limit = Arc::new(StreamLimit::new(1000, None, 1));
        MarkReadScript::new(limit, RATE_LIMIT, false)
    });
    let traced: Vec<_> =
        marks.iter().map(|mark| TracedMark { mark: *mark, traceparent: None }).collect();
    SCRIPT.parse(&traced, reply).map(|reply| (reply.results, reply.rare))
}

static READS: LazyLock<ReadScripts> = LazyLock::new(|| ReadScripts::new(RATE_LIMIT));

/// The cursors of conversations.
///
/// # Errors
///
/// If the reply is malformed.
pub fn states(
    conversations: &[Conversation],
    reply: &Value,
) -> Result<Option<Vec<Option<ReadCursor>>>, StoreError> {
    match READS.parse_states(conversations, reply)? {
        ReadOutcome::Served { read, .. } => Ok(Some(read)),
        ReadOutcome::OverQuota { .. } => Ok(None),
    }
}

/// A page of cursors.
///
/// # Errors
///
/// If the reply is malformed.
pub fn page(caller: UserId, limit: usize, reply: &Value) -> Result<String, StoreError> {
    let position = ListPosition::beginning(ListOrder::Plain);
    let call = PageCall { caller, version: "1", position, limit, is_free: false };
    READS.parse_page(&Placement::Plain, &call, reply).map(|page| format!("{page:?}"))
}

/// Replies of other scripts, each parsed by all parsers of them.
pub fn other_replies(reply: &Value) -> Vec<bool> {
    static NONCES: LazyLock<NonceScript> = LazyLock::new(|| NonceScript::new(RATE_LIMIT));
    vec![
        parse_move(reply).is_ok(),
        NONCES.parse(reply).is_ok(),
        leases::parse_done(reply.clone()).is_ok(),
    ]
}

/// The outcomes of an import's cursors.
///
/// # Errors
///
/// If the reply is malformed.
pub fn put_outcomes(reply: &Value, expected: usize) -> Result<Vec<Option<PutOutcome>>, StoreError> {
    let reply = put::parse(reply, expected)?;
    Ok(reply.outcomes.into_iter().map(Result::ok).collect())
}

/// Entries of a feed.
///
/// # Errors
///
/// If the reply is malformed.
pub fn feed_entries(values: Vec<Value>) -> Result<Vec<FeedEntry>, StoreError> {
    entries::parse_entries(values.into_iter())
}

/// Dead letters.
///
/// # Errors
///
/// If the reply is malformed.
pub fn dead_letters(reply: &Value) -> Result<Vec<StoredLetter>, StoreError> {
    parse_letters(reply)
}

/// The fields of a webhook's state.
///
/// # Errors
///
/// The name of a field that is invalid.
#[allow(clippy::implicit_hasher, reason = "the parser takes this one")]
pub fn webhook_state(fields: &HashMap<String, Vec<u8>>) -> Result<WebhookState, &'static str> {
    state::parse(fields)
}

/// Writes the fields of a webhook's state.
pub fn webhook_state_fields(state: &WebhookState) -> HashMap<String, Vec<u8>> {
    let fields = state::fields(state).into_iter();
    fields.map(|(name, value)| (name.to_owned(), value.into_bytes())).collect()
}

/// A relay process.
pub fn relay_process(id: &[u8], stored: &[u8]) -> Option<RelayProcess> {
    processes::parse(&[id.to_vec(), stored.to_vec()])
}

/// The address of each slot's master, by `CLUSTER NODES` and `CLUSTER SLOTS`; and the slots on their way.
///
/// # Errors
///
/// If a reply is malformed.
pub fn slot_owners(
    nodes: &str,
    slots: &Value,
    asked: &str,
) -> Result<(Vec<Option<String>>, Vec<u16>), StoreError> {
    let asked = Address { host: asked.to_owned(), port: 6379 };
    let view = View::parse(nodes, slots, &asked)?;
    let moving = view.moving().iter().copied().collect();
    let topology = Topology::new(vec![view]);
    let owners = topology.owners().into_iter();
    Ok((owners.map(|owner| owner.map(|master| master.address.to_string())).collect(), moving))
}

/// Where an error says that a call is to be sent instead: `None` if it may have run. The address is empty if
/// the error names none.
pub fn redirection(error: &str) -> Option<String> {
    match NotRun::of(&classify_text(error))? {
        NotRun::Ask(address) => Some(address),
        NotRun::Moved | NotRun::Later => Some(String::new()),
    }
}

/// Parses the address in an error, and writes it again.
pub fn address(text: &str) -> Option<String> {
    Address::parse(text).map(|address| address.to_string())
}

/// The master that a Sentinel names, by its replies to `SENTINEL MASTER` and `GET-MASTER-ADDR-BY-NAME`.
pub fn sentinel_master(master: Value, place: Value) -> Option<(String, u64)> {
    let master: HashMap<String, String> = from_redis_value(master).ok()?;
    let epoch = master.get("config-epoch")?.parse().ok()?;
    let (host, port): (String, String) = from_redis_value::<Option<_>>(place).ok()??;
    Some((sentinel::parse(host, &port)?.to_string(), epoch))
}
