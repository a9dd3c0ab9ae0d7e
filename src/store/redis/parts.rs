//! Parts of the store that the supervisor and group commit share.

use std::sync::Arc;

use super::connection::Connections;
use super::connection::layout::KnownLayout;
use super::connection::stream_history::StreamHistory;
use super::denials::Denials;
use super::keys::Keys;
use super::probe::permissions::PermissionProbe;
use super::settings::ReplicasAck;
use super::stream_limit::StreamLimit;
use crate::domain::RateLimit;

/// Parts of the store that work on one Redis.
#[derive(Clone)]
pub(crate) struct StoreParts {
    pub(crate) connections: Arc<Connections>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) layout: Arc<KnownLayout>,
    pub(crate) stream_history: Arc<StreamHistory>,
    /// Readers whose quota of marks is used up.
    pub(crate) denials: Arc<Denials>,
    pub(crate) rate_limit: RateLimit,
    pub(crate) replicas_ack: Option<ReplicasAck>,
    /// Readers whose quota of reads is used up.
    pub(crate) read_denials: Arc<Denials>,
    pub(crate) read_rate_limit: RateLimit,
    pub(crate) stream_limit: Arc<StreamLimit>,
    pub(crate) permissions: Arc<PermissionProbe>,
}

impl StoreParts {
    /// Forgets all denials: another Redis may answer, or this one was flushed.
    pub(crate) fn clear_denials(&self) {
        self.denials.clear();
        self.read_denials.clear();
    }

    /// Notes that the layout was absent: Redis was probably flushed.
    pub(crate) fn note_absent_layout(&self) {
        self.clear_denials();
        self.stream_history.note_absent_layout();
    }
}
