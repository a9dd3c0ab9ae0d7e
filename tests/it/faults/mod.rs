//! What callers see while Redis fails, and what becomes of their marks.

mod absence;
pub(crate) mod connections;
mod kills;
mod layout;
mod load;
mod marks;
mod outages;
mod sentinel;
