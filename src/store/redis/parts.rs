//! Parts of the store that the supervisor and group commit share.

use std::sync::Arc;

use super::connection::Connections;
use super::denials::Denials;
use super::keys::Keys;
use super::stream_limit::StreamLimit;
use crate::domain::RateLimit;

/// Parts of the store that work on one Redis.
#[derive(Clone)]
pub(crate) struct StoreParts {
    pub(crate) connections: Arc<Connections>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) denials: Arc<Denials>,
    pub(crate) rate_limit: RateLimit,
    pub(crate) stream_limit: Arc<StreamLimit>,
}
