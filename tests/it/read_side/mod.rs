//! The read side: what is read, in one call or in pages, and what it costs.

mod buckets;
mod stores;
