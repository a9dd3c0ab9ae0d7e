//! The store on a cluster: one link per master, and partition to slot to master in one table.

pub(crate) mod tags;
